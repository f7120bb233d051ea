"""The error of the chosen learning rates in intervals: as wide as a Monte Carlo through the whole chain says, in every kind of fit."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from harness.analysis.additive import Law, points, theta_of
from harness.analysis.bootstrap import Shared
from harness.analysis.descent import descend
from harness.analysis.held_out import power_law_fitter, predict_size
from harness.analysis.isoflop import fit_isoflop
from harness.analysis.learning_rate import Optimum
from harness.analysis.power_law import fit_power_law
from harness.analysis.rate_error import rate_error, shared_by_rung, with_rate_error
from harness.analysis.specification import Choices, curve
from tests.test_isoflop import profiles

LAW = Law(1.5, (5.0,), (0.2,))
SIZES, SEEDS = np.geomspace(2e4, 1e6, 8), 3
NOISE, CURVATURE, SPREAD = 0.003, 0.05, 0.3
N = np.repeat(SIZES, SEEDS)
RUNG = np.repeat(np.arange(SIZES.size), SEEDS)


def optima(spread: float = SPREAD) -> dict[str, Optimum]:
    """Bowls whose optimum is known to within a standard deviation of `spread` in the log rate."""
    ends = np.exp([-1.96 * spread, 1.96 * spread])
    bowl = SimpleNamespace(fitted_low=ends[0], fitted_high=ends[1], cost_at=lambda lr: CURVATURE * np.log(lr) ** 2)
    return {str(rung): cast(Optimum, bowl) for rung in range(SIZES.size)}


def study(seed: int) -> np.ndarray:
    """The losses of a ladder whose rungs were each trained at a rate that is off by a draw of its error."""
    rng = np.random.default_rng(seed)
    cost = CURVATURE * rng.normal(0, SPREAD, SIZES.size) ** 2
    return (LAW.loss(N) + cost[RUNG]) * np.exp(NOISE * rng.normal(size=N.size))


def table(loss: np.ndarray, spread: float = SPREAD) -> pd.DataFrame:
    return with_rate_error(pd.DataFrame({"rung": RUNG.astype(str), "n_params": N, "test_loss": loss}), optima(spread))


def test_the_error_is_the_root_of_the_mean_square_of_what_a_rate_costs() -> None:
    drawn = CURVATURE * np.random.default_rng(0).normal(0, SPREAD, 1_000_000) ** 2
    assert rate_error(optima()["0"]) == pytest.approx(np.sqrt((drawn**2).mean()), rel=0.01)
    past = SimpleNamespace(fitted_low=0.1, fitted_high=1.0, cost_at=lambda lr: 0.02 if lr < 1 else np.nan)
    assert rate_error(past) == pytest.approx(0.02 * np.sqrt(3) / 1.96**2)  # type: ignore[arg-type]
    none = SimpleNamespace(fitted_low=np.nan, fitted_high=np.nan, cost_at=lambda lr: np.nan)
    assert rate_error(cast(Optimum, none)) == 0.0


def test_the_interval_of_the_exponent_is_as_wide_as_the_spread_of_studies_that_go_through_the_chain() -> None:
    data = points(N[:, None], LAW.loss(N), irreducible=LAW.E)
    losses = np.array([study(1000 + k) for k in range(400)]) / data.scale
    found = descend(np.repeat(theta_of(LAW, data)[None], 400, axis=0), data, np.ones_like(losses), "log-huber", losses).theta[:, -1]
    truth = np.ptp(np.quantile(found, [0.025, 0.975]))
    with_it, without = [], []
    for k in range(8):
        runs = table(study(k))
        for widths, shared in ((with_it, shared_by_rung(runs)), (without, None)):
            alpha = fit_power_law(runs, "n_params", irreducible=LAW.E, n_draws=200, shared=shared).constants["alpha"]
            widths.append(alpha.high - alpha.low)
    assert np.mean(with_it) / truth == pytest.approx(1, abs=0.2)
    # Without it they hold the seeds' noise, and of the rates only what the draw of runs shows by chance.
    assert np.mean(without) / truth < 0.8


def test_groups_of_one_run_get_their_mean_only_since_the_draw_of_runs_has_the_rest() -> None:
    sigma = np.full(4, np.sqrt(3))
    alone = Shared(np.arange(4), sigma).draws(50, 0)
    assert alone == pytest.approx(np.ones((50, 4)))
    many = Shared(np.zeros(4), sigma).draws(20_000, 0)
    assert (many == many[:, :1]).all() and many.min() > 0
    assert many[:, 0].mean() == pytest.approx(1, abs=0.05) and many[:, 0].var() == pytest.approx(2 * 3 / 4, rel=0.05)


def test_a_held_out_prediction_holds_the_rates_of_the_smaller_rungs_and_its_own() -> None:
    runs, width = table(study(1)), []
    own = runs.assign(rate_error=np.where(runs["n_params"] == SIZES[-1], 5 * runs["rate_error"], runs["rate_error"]))
    for those, shared in ((runs, None), (runs, shared_by_rung), (own, shared_by_rung)):
        fitter = power_law_fitter(irreducible=LAW.E, n_draws=300, shared=shared)
        found = predict_size(those, float(SIZES[-1]), fitter, shared=shared)
        width.append(found.high - found.low)
    assert width[0] < width[1] < width[2]
    # Its own excess alone: the square of a normal number, its 2.5 and 97.5 percentiles .001 and 5.02.
    alone = 5 * rate_error(optima()["0"]) / np.sqrt(3) * 5.02
    assert alone < width[2] < 1.5 * alone


def test_every_cell_of_the_specification_curve_holds_it_for_the_runs_that_it_keeps() -> None:
    runs = table(study(2))
    larger = SIZES[0] < N
    choices = Choices(["n_params"], {"none": np.full(N.size, True), "smallest size": larger}, {"floor": LAW.E}, ("VPNLS",))
    cells = [curve(runs, choices, n_draws=100, shared=shared) for shared in (None, shared_by_rung)]
    width = [(one["high"] - one["low"]).to_numpy() for one in cells]
    assert (width[1] > 1.2 * width[0]).all() and (cells[0]["value"] == cells[1]["value"]).all()
    kept = runs[larger]
    own = fit_power_law(kept, "n_params", irreducible=LAW.E, estimator="VPNLS", n_draws=100, shared=shared_by_rung(kept)).constants["alpha"]
    assert (cells[1].loc[1, "low"], cells[1].loc[1, "high"]) == (own.low, own.high)


def test_profiles_at_equal_compute_hold_it() -> None:
    runs = profiles(8, noise=0.001)
    size = np.log(runs["n_params"]).round(0)
    shared: Any = Shared(size.to_numpy(), np.full(len(runs), 0.01))
    alone, held = (fit_isoflop(runs, n_draws=100, shared=s).b for s in (None, shared))
    assert held.value == alone.value and held.high - held.low > 1.5 * (alone.high - alone.low)
