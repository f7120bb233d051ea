"""From the trials of several rungs to the law, on simulated searches whose exponent is known."""

import math

import numpy as np
import pandas as pd
import pytest

from harness.analysis.learning_rate import optimum, stated_noise
from harness.analysis.learning_rate_ladder import LadderLaw, ladder_law
from harness.analysis.learning_rate_law import line
from tests.searching import BEST, HIGH, LOW

SIZES = {"20k": 2e4, "40k": 4e4, "87k": 8.7e4, "230k": 2.3e5, "557k": 5.57e5}
P, NOISE, CEILING = 0.4, 0.006, 3.4
NO_LADDER = pd.DataFrame({"rung": [], "val_loss": []})


def best_rate(n_params: float) -> float:
    return 2e-3 * math.pow(2e4 / n_params, P)


def study(seed: int, curvature: float = 0.06) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The searches of all rungs as they are recorded, and their trials."""
    rng = np.random.default_rng([5, seed])
    searches, trials = [], []
    for rung, n_params in SIZES.items():
        lr = np.geomspace(LOW, HIGH, 14) * math.exp(rng.uniform(-0.2, 0.2))
        loss = BEST + curvature * np.log(lr / best_rate(n_params)) ** 2 + NOISE * rng.normal(size=lr.size)
        own = pd.DataFrame({"rung": rung, "lr": lr, "val_loss": loss, "status": "completed"})
        found = optimum(own, LOW, HIGH, noise=stated_noise(own), ceiling=CEILING)
        searches.append({"rung": rung, "n_params": n_params, "lr_status": found.status, "low": LOW, "high": HIGH})
        trials.append(own)
    return pd.DataFrame(searches), pd.concat(trials, ignore_index=True)


def found(seed: int, ladder: pd.DataFrame = NO_LADDER) -> LadderLaw:
    searches, trials = study(seed)
    return ladder_law(searches, trials, ladder, CEILING)


def test_the_exponent_and_its_interval_come_from_the_trials() -> None:
    got = [found(seed).law for seed in range(40)]
    assert all(law.status == "fitted" and law.n_rungs >= 4 for law in got)
    assert np.mean([law.p for law in got]) == pytest.approx(P, abs=0.03)
    covered = np.mean([law.p_low <= P <= law.p_high for law in got])
    # The stated seed noise is larger than what these trials have.
    assert covered >= 0.9
    assert 0.02 < np.median([law.p_high - law.p_low for law in got]) < 0.4


def test_the_largest_rung_is_predicted_by_the_others_and_the_price_of_that_is_read_off_its_bowl() -> None:
    got = [found(seed).law for seed in range(10)]
    for law in got:
        held = law.held_out
        assert held is not None and held.n_params == 5.57e5
        assert held.predicted.lr == pytest.approx(best_rate(5.57e5), rel=0.4)
        assert held.cost == pytest.approx(0.06 * math.log(held.ratio) ** 2, abs=0.01)
    assert np.mean([law.held_out.agrees for law in got if law.held_out]) >= 0.9


def test_only_rungs_whose_recorded_status_is_resolved_enter_and_a_predicted_one_has_no_optimum() -> None:
    searches, trials = study(0)
    searches.loc[1, "lr_status"] = "edge"
    searches = pd.concat([searches, searches.tail(1).assign(rung="2M", n_params=2e6, lr_status="predicted")])
    got = ladder_law(searches, trials, NO_LADDER, CEILING)
    assert got.law.n_rungs == 4 and list(got.optima) == list(SIZES)


def test_without_a_search_there_is_no_law() -> None:
    searches, trials = study(0)
    assert ladder_law(searches.iloc[:0], trials.iloc[:0], NO_LADDER, CEILING).law.status == "too few"
    assert ladder_law(searches.head(2), trials, NO_LADDER, CEILING).law.status == "too few"


def test_measured_seed_noise_takes_the_place_of_the_stated_one_once_there_are_seeds_enough() -> None:
    def ladder(sd: float, seeds: int) -> pd.DataFrame:
        spread = sd * np.linspace(-1, 1, seeds)
        return pd.DataFrame([{"rung": rung, "val_loss": BEST * (1 + e)} for rung in SIZES for e in spread])

    assert found(0, ladder(0.001, 1)).noise == "stated" == found(0).noise
    few, calm, rough = found(0), found(0, ladder(0.001, 3)), found(0, ladder(0.03, 3))
    assert calm.noise == rough.noise == "measured"
    assert width(calm) < width(few) < width(rough)


def width(one: LadderLaw) -> float:
    return one.law.p_high - one.law.p_low


def test_two_rungs_are_enough_to_predict_a_third() -> None:
    rates = {n: best_rate(n) for n in (2e4, 8e4)}
    rows = [{"n_params": n, "fitted_lr": lr, "fitted_low": lr / 1.3, "fitted_high": lr * 1.3} for n, lr in rates.items()]
    assert math.exp(line(pd.DataFrame(rows), 3.2e5)) == pytest.approx(best_rate(3.2e5), rel=1e-6)
