"""How often the learning rate's interval holds a known optimum, and its status the truth, where the real samplers place their trials."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.analysis.learning_rate import optimum
from harness.search import Trial, gap_rates
from tests.searching import BEST, CEILING, HIGH, LOW, SHAPES, X_HIGH, X_LOW, coverage, repeated

TPE: dict[str, Any] = {"sampler": "tpe", "pruner": "median", "trials": 12}
GRID: dict[str, Any] = {"sampler": "grid", "pruner": "none", "trials": 12}
LONG: dict[str, Any] = {"sampler": "tpe", "pruner": "none", "trials": 20}
ABOVE, BELOW = (X_HIGH + 0.7, X_HIGH + 2), (X_LOW - 2, X_LOW - 0.7)
BOWLS = [name for name in SHAPES if name != "flat"]
TIMES = 200


def bounds(answered: float) -> tuple[float, float]:
    """90 to 98 %, and one standard error of a share counted in so many searches (about .02 below, .01 above)."""
    low, high, n = 0.90, 0.98, answered * TIMES
    return low - math.sqrt(low * (1 - low) / n), high + math.sqrt(high * (1 - high) / n)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(("noise", "given"), [(0.005, 0.005), (0.02, 0.02), (0.02, None)], ids=["low", "high", "high, as stated"])
@pytest.mark.parametrize("shape", BOWLS)
def test_where_the_noise_is_known_the_interval_holds_the_optimum_in_90_to_98_percent(
    shape: str, noise: float, given: float | None, request: pytest.FixtureRequest
) -> None:
    if (shape, given) == ("lopsided", None):
        request.applymarker(pytest.mark.xfail(reason="2 % of noise taken for .7 %: held in 87 % (docs/log.md)", strict=True))
    covered, answered = coverage(repeated(shape, noise, TIMES, given=given, **TPE))
    low, high = bounds(answered)
    assert low <= covered <= high and answered >= 0.6


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("noise", [0.005, 0.02])
@pytest.mark.parametrize("search", [TPE, GRID, LONG], ids=["tpe", "grid", "tpe, 20 trials"])
@pytest.mark.parametrize("shape", BOWLS)
def test_the_interval_holds_the_optimum_of_every_shape(shape: str, search: dict[str, Any], noise: float) -> None:
    covered, answered = coverage(repeated(shape, noise, 200, **search))
    # Two standard errors of a share counted in 200.
    assert 0.90 - 0.03 <= covered <= 0.98 + 0.02 and answered >= 0.6


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_over_all_shapes_the_interval_is_neither_too_sure_nor_too_wide() -> None:
    shares = [coverage(repeated(shape, noise, 30, **search))[0] for shape in BOWLS for noise in (0.005, 0.02) for search in (TPE, GRID)]
    assert 0.92 <= float(np.mean(shares)) <= 0.98


def test_a_few_searches_of_a_lopsided_bowl_and_of_one_with_a_cliff() -> None:
    """The fast form of the above: an interval half as wide, or one that takes a cliff for a slope, fails it."""
    for shape in ("lopsided", "collapse"):
        covered, answered = coverage(repeated(shape, 0.01, 40, **TPE))
        assert covered >= 0.85 and answered >= 0.7


@pytest.mark.parametrize("times", [12, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(3000)])])
@pytest.mark.parametrize("search", [TPE, GRID], ids=["tpe", "grid"])
@pytest.mark.parametrize(("where", "side"), [(ABOVE, "high"), (BELOW, "low")], ids=["above", "below"])
@pytest.mark.parametrize("shape", ["symmetric", "deep", "lopsided"])
def test_an_optimum_outside_of_the_range_is_always_an_edge(
    shape: str, where: tuple[float, float], side: str, search: dict[str, Any], times: int
) -> None:
    found = [one for _, one in repeated(shape, 0.01, times, where, **search)]
    assert {(one.status, one.edge_side) for one in found} == {("edge", side)}


@pytest.mark.parametrize("times", [20, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(3000)])])
@pytest.mark.parametrize("search", [TPE, GRID], ids=["tpe", "grid"])
def test_a_flat_bowl_is_flat(search: dict[str, Any], times: int) -> None:
    found = [one for _, one in repeated("flat", 0.01, times, **search)]
    assert np.mean([one.status == "flat" for one in found]) >= 0.95


def test_a_collapsed_trial_is_a_cliff_and_does_not_pull_the_minimum() -> None:
    """The trials of 230k in docs/log.md: at 1.1e-2 nothing was left but the frequencies of characters."""
    rates = [2e-4, 5e-4, 1.2e-3, 2.2e-3, 3.9e-3, 6e-3]
    losses = [BEST + 0.05 * math.log(lr / 4e-3) ** 2 for lr in rates]
    good = pd.DataFrame({"lr": rates, "val_loss": losses, "status": "completed"})
    fallen = pd.DataFrame({"lr": [1.1e-2], "val_loss": [2.6], "status": ["completed"]})
    both = pd.concat([good, fallen])
    found, without = optimum(both, LOW, HIGH, ceiling=CEILING), optimum(both, LOW, HIGH)
    assert (found.status, found.n_collapsed, found.n_diverged, found.n_completed) == ("resolved", 1, 0, 6)
    assert found.cliff_lr == pytest.approx(1.1e-2) and found.highest_stable_lr == pytest.approx(6e-3)
    assert found.fitted_low <= 4e-3 <= found.fitted_high and "collapsed, counted as a cliff: 0.011" in found.reason
    # Taken for a point of the bowl it hides the bowl.
    assert found.fitted_lr == pytest.approx(4e-3, rel=0.02) and without.status == "flat"
    diverged = optimum(pd.concat([good, fallen.assign(status="diverged", val_loss=np.nan)]), LOW, HIGH, ceiling=CEILING)
    assert (found.lr, found.fitted_low, found.fitted_high) == (diverged.lr, diverged.fitted_low, diverged.fitted_high)


# Trials of 87k on real headlines (rate, nats a token): pruned ones above the cliff knew nothing but the frequencies of characters.
BELOW_THE_CLIFF = {
    2.7e-5: 3.086,
    2.01e-4: 2.746,
    5.2e-4: 2.574,
    9.27e-4: 2.482,
    1e-3: 2.470,
    2.69e-3: 2.373,
    3.34e-3: 2.337,
    3.83e-3: 2.317,
}
FALLEN, PRUNED = {1.1e-2: 2.903}, {1.32e-5: 3.477, 1.15e-4: 3.088, 1.59e-2: 2.956, 2.37e-2: 2.956}


def frame(losses: dict[str, dict[float, float]]) -> pd.DataFrame:
    rows = [(lr, loss, status) for status, group in losses.items() for lr, loss in group.items()]
    return pd.DataFrame(rows, columns=["lr", "val_loss", "status"])


def test_a_loss_that_falls_until_a_cliff_far_away_is_an_edge_until_trials_stand_between() -> None:
    trials = frame({"completed": BELOW_THE_CLIFF | FALLEN, "pruned": PRUNED})
    found = optimum(trials, LOW, HIGH, noise=0.016, ceiling=2.956)
    assert (found.status, found.edge_side) == ("edge", "cliff") and found.lr == pytest.approx(3.83e-3)
    # Of the pruned ones only those that fell count as a cliff; where low rates were pruned says nothing of one.
    assert (found.n_collapsed, found.n_pruned) == (3, 2) and found.cliff_lr == pytest.approx(1.1e-2)
    assert found.highest_stable_lr == pytest.approx(3.83e-3)
    between = gap_rates([Trial(0, lr, "completed", loss, ()) for lr, loss in (BELOW_THE_CLIFF | FALLEN).items()], found.cliff_lr, 2)
    assert between == pytest.approx([5.44e-3, 7.74e-3], rel=1e-3)
    best = frame({"completed": BELOW_THE_CLIFF | FALLEN | dict(zip(between, (2.295, 2.330), strict=True)), "pruned": PRUNED})
    inside = optimum(best, LOW, HIGH, noise=0.016, ceiling=2.956)
    assert inside.status == "resolved" and 4e-3 < inside.lr < 7e-3 and inside.fitted_low <= inside.lr <= inside.fitted_high
    falling = frame(
        {"completed": BELOW_THE_CLIFF | FALLEN | dict(zip((*between, 9.8e-3), (2.287, 2.25, 2.22), strict=True)), "pruned": PRUNED}
    )
    below = optimum(falling, LOW, HIGH, noise=0.016, ceiling=2.956)
    assert below.status == "resolved" and "just below the cliff" in below.reason
    assert below.lr == pytest.approx(9.8e-3) and below.fitted_low <= below.lr <= below.fitted_high


def test_trials_pruned_where_nothing_was_learned_close_the_range_above() -> None:
    """Trials of 20k on real headlines: without them the search went on past 3e-2, where six trials had fallen."""
    rates = [2.7e-5, 2.01e-4, 1e-3, 1.08e-3, 2.33e-3, 2.47e-3, 4.33e-3, 6.63e-3, 8.74e-3, 1.02e-2, 1.1e-2]
    losses = [3.177, 2.975, 2.684, 2.668, 2.546, 2.539, 2.497, 2.461, 2.464, 2.486, 2.488]
    completed, pruned = dict(zip(rates, losses, strict=True)), {2.12e-5: 3.498, 1.42e-4: 3.143, 2.11e-4: 3.098}
    told: dict[str, Any] = {"low": LOW, "high": HIGH, "noise": 0.017, "ceiling": 2.956}
    fell = optimum(frame({"completed": completed, "pruned": pruned | {2.03e-2: 2.956, 2.88e-2: 2.956}}), **told)
    assert fell.status == "resolved" and 5e-3 < fell.lr < 1e-2 and fell.cliff_lr == pytest.approx(2.03e-2)
    slow = optimum(frame({"completed": completed, "pruned": pruned | {2.03e-2: 2.7, 2.88e-2: 2.7}}), **told)
    assert slow.n_collapsed == 0 and slow.highest_stable_lr == pytest.approx(2.88e-2)


def test_slow_trials_below_the_best_are_no_cliff() -> None:
    rates = list(np.geomspace(LOW, HIGH, 10))
    losses = [BEST + min(0.72, 0.04 * math.log(lr / 1.5e-2) ** 2) for lr in rates]
    found = optimum(pd.DataFrame({"lr": rates, "val_loss": losses, "status": "completed"}), LOW, HIGH, ceiling=CEILING)
    assert found.n_collapsed == 0 and found.n_completed == 10


def test_the_cost_of_a_rate_is_read_off_the_fit_and_between_trials_off_the_line() -> None:
    rates = list(np.geomspace(LOW, HIGH, 13))
    losses = [BEST + 0.04 * math.log(lr / 2e-3) ** 2 for lr in rates]
    found = optimum(pd.DataFrame({"lr": rates, "val_loss": losses, "status": "completed"}), LOW, HIGH)
    assert found.cost_at(4e-3) == pytest.approx(0.04 * math.log(2) ** 2, abs=1e-3)
    far = 2.5e-5
    assert math.isnan(found.loss_at(far)) and found.cost_at(far) == pytest.approx(0.04 * math.log(far / 2e-3) ** 2, abs=0.01)
    assert math.isnan(found.cost_at(0.1)) and found.cost_at(found.fitted_lr) == 0
