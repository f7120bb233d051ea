"""The learning-rate optimum and its law, on simulated searches whose truth is known."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from harness.analysis.learning_rate import Optimum, law, optimum

LOW, HIGH = 1e-5, 3e-2
X_LOW, X_HIGH = np.log(LOW), np.log(HIGH)
Shape = Callable[[float], float]


def quadratic(curvature: float) -> Shape:
    return lambda d: curvature * d * d


def cubic(curvature: float) -> Shape:
    return lambda d: curvature * d * d * (1 + 0.12 * float(np.clip(d, -4, 4)))


def linex(curvature: float) -> Shape:
    """Linear below the optimum, exponential above it: the shape of a bowl that ends in divergence."""
    return lambda d: 2 * curvature / 0.64 * float(np.expm1(0.8 * d) - 0.8 * d)


def search(rng: np.random.Generator, n: int, shape: Shape, x0: float, noise: float) -> pd.DataFrame:
    """Half the trials spread over the range, half near the best so far, as a search places them."""
    spread = n // 2
    x = list(X_LOW + (X_HIGH - X_LOW) * (np.arange(spread) + rng.uniform(size=spread)) / spread)
    y = [1.9 + shape(v - x0) + noise * rng.normal() for v in x]
    for _ in range(n - spread):
        x.append(float(np.clip(x[int(np.argmin(y))] + 0.6 * rng.normal(), X_LOW, X_HIGH)))
        y.append(1.9 + shape(x[-1] - x0) + noise * rng.normal())
    return pd.DataFrame({"lr": np.exp(x), "val_loss": y, "status": "completed"})


INSIDE = (X_LOW + 2, X_HIGH - 2)


def repeat(n: int, shape: Shape, noise: float, times: int, where: tuple[float, float] = INSIDE) -> list[tuple[float, Optimum]]:
    found = []
    for i in range(times):
        rng = np.random.default_rng([7, i])
        x0 = rng.uniform(*where)
        found.append((float(np.exp(x0)), optimum(search(rng, n, shape, x0, noise), LOW, HIGH)))
    return found


def coverage(found: list[tuple[float, Optimum]], answered: float = 0.9) -> float:
    with_interval = [(lr, o) for lr, o in found if np.isfinite(o.fitted_low)]
    assert len(with_interval) >= answered * len(found)
    return float(np.mean([o.fitted_low <= lr <= o.fitted_high for lr, o in with_interval]))


def trials(rates: list[float], losses: list[float], status: str | list[str] = "completed") -> pd.DataFrame:
    return pd.DataFrame({"lr": rates, "val_loss": losses, "status": status})


@pytest.fixture
def bowl_trials() -> pd.DataFrame:
    return search(np.random.default_rng(5), 12, quadratic(0.08), np.log(2e-3), 0.004)


# Calibration.


def test_the_interval_covers_a_known_optimum() -> None:
    assert 0.90 <= coverage(repeat(12, quadratic(0.03), 0.007, 200)) <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("curvature", [0.03, 0.1])
@pytest.mark.parametrize("noise", [0.002, 0.007, 0.02])
@pytest.mark.parametrize("n", [8, 12, 16])
def test_the_interval_covers_at_every_size_and_noise(n: int, noise: float, curvature: float) -> None:
    # Eight trials in noise of 0.02 nats leave a quarter of the shallow bowls as edges, without an interval.
    assert 0.90 <= coverage(repeat(n, quadratic(curvature), noise, 1000), 0.7 if n == 8 else 0.9) <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize(
    "n,shape,noise,least", [(12, cubic(0.03), 0.007, 0.9), (16, cubic(0.1), 0.002, 0.9), (12, linex(0.03), 0.007, 0.85)]
)
def test_asymmetry_costs_little_coverage(n: int, shape: Shape, noise: float, least: float) -> None:
    assert coverage(repeat(n, shape, noise, 400)) >= least


@pytest.mark.parametrize("where,side", [((X_HIGH + 1, X_HIGH + 2), "high"), ((X_LOW - 2, X_LOW - 1), "low")])
def test_an_optimum_outside_the_range_is_always_an_edge(where: tuple[float, float], side: str) -> None:
    found = repeat(12, quadratic(0.1), 0.007, 200, where)
    assert {(o.status, o.edge_side) for _, o in found} == {("edge", side)}
    assert np.isnan(found[0][1].fitted_lr)


@pytest.mark.parametrize("n", [8, 16])
def test_a_flat_bowl_is_flat(n: int) -> None:
    found = repeat(n, lambda d: 0.0, 0.01, 200)
    assert np.mean([o.status == "flat" for _, o in found]) >= 0.95
    assert all(o.lr == o.best_lr for _, o in found if o.status == "flat")


def test_most_clear_bowls_are_resolved_and_beat_the_best_trial() -> None:
    found = repeat(12, quadratic(0.03), 0.007, 100)
    resolved = [(lr, o) for lr, o in found if o.status == "resolved"]
    assert len(resolved) >= 80
    fitted = np.mean([np.log(o.lr / lr) ** 2 for lr, o in resolved])
    assert fitted < 0.5 * np.mean([np.log(o.best_lr / lr) ** 2 for lr, o in resolved])


# What must not matter.


def test_a_constant_added_to_the_losses_moves_nothing(bowl_trials: pd.DataFrame) -> None:
    a, b = optimum(bowl_trials, LOW, HIGH), optimum(bowl_trials.assign(val_loss=bowl_trials["val_loss"] + 90), LOW, HIGH)
    assert a.status == b.status == "resolved"
    assert (b.lr, b.fitted_low, b.fitted_high) == pytest.approx((a.lr, a.fitted_low, a.fitted_high), rel=1e-6)
    assert b.fitted_val_loss == pytest.approx(a.fitted_val_loss + 90, abs=1e-6)


def test_scaled_rates_scale_the_optimum(bowl_trials: pd.DataFrame) -> None:
    a, b = optimum(bowl_trials, LOW, HIGH), optimum(bowl_trials.assign(lr=7 * bowl_trials["lr"]), 7 * LOW, 7 * HIGH)
    assert (b.lr, b.fitted_low, b.fitted_high) == pytest.approx((7 * a.lr, 7 * a.fitted_low, 7 * a.fitted_high), rel=1e-6)


def test_the_order_of_trials_does_not_matter_and_the_seed_decides(bowl_trials: pd.DataFrame) -> None:
    assert optimum(bowl_trials.sample(frac=1, random_state=3), LOW, HIGH) == optimum(bowl_trials, LOW, HIGH)
    assert optimum(bowl_trials, LOW, HIGH, seed=1).fitted_low != optimum(bowl_trials, LOW, HIGH).fitted_low


def test_one_ruined_trial_near_the_optimum_is_resisted() -> None:
    rates = np.geomspace(3e-4, 1.2e-2, 11)
    losses = 1.9 + 0.05 * np.log(rates / 2e-3) ** 2 + np.random.default_rng(2).normal(0, 0.003, 11)
    ruined = losses + np.where(np.arange(11) == 3, 0.1, 0)
    clean, resisted = optimum(trials(list(rates), list(losses)), LOW, HIGH), optimum(trials(list(rates), list(ruined)), LOW, HIGH)
    assert resisted.fitted_low <= 2e-3 <= resisted.fitted_high
    assert abs(np.log(resisted.fitted_lr / clean.fitted_lr)) < 0.15


# Exact answers and what is said of them.


def test_an_exact_quadratic_gives_its_vertex_loss_and_curve() -> None:
    rates = list(np.geomspace(2e-4, 1e-2, 9))
    got = optimum(trials(rates, [1.5 + 0.04 * np.log(r / 1.3e-3) ** 2 for r in rates]), LOW, HIGH)
    assert got.status == "resolved"
    assert (got.lr, got.fitted_val_loss) == pytest.approx((1.3e-3, 1.5), rel=1e-4)
    assert got.loss_at(2.6e-3) == pytest.approx(1.5 + 0.04 * np.log(2) ** 2, abs=1e-4)
    assert got.regret == pytest.approx(0, abs=1e-9)
    assert np.isnan(got.loss_at(HIGH))


def test_an_optimum_below_the_cliff_is_resolved() -> None:
    rates = [1e-4, 3e-4, 6e-4, 1e-3, 2e-3, 3e-3, 5e-3, 8e-3]
    losses = [2.6, 2.3, 2.17, 2.06, 1.95, 1.9, 1.85, 1.82]
    got = optimum(trials([*rates, 1e-2, 2e-2], [*losses, 9.0, np.nan], ["completed"] * 8 + ["diverged"] * 2), LOW, HIGH)
    assert (got.status, got.edge_side) == ("resolved", None)
    assert (got.highest_stable_lr, got.cliff_lr) == pytest.approx((8e-3, 1e-2))
    assert got.lr <= 8e-3 and got.fitted_high <= 1e-2 * (1 + 1e-9)
    without = optimum(trials(rates, losses), LOW, HIGH)
    assert (without.status, without.edge_side) == ("edge", "high")


def test_divergence_right_above_the_lowest_rate_is_an_edge_below() -> None:
    rates, losses = [2e-5, 4e-5, 8e-5, 1.6e-4, 3e-4, 6e-4], [1.5, 1.6, 1.75, 1.95, 2.2, 9]
    got = optimum(trials(rates, losses, ["completed"] * 5 + ["diverged"]), LOW, HIGH)
    assert (got.status, got.edge_side) == ("edge", "low")


@pytest.mark.parametrize("loss", [np.nan, np.inf])
def test_a_completed_trial_without_a_finite_loss_is_counted_as_diverged_and_named(bowl_trials: pd.DataFrame, loss: float) -> None:
    got = optimum(pd.concat([bowl_trials, trials([2.5e-2], [loss])]), LOW, HIGH)
    assert (got.n_completed, got.n_diverged) == (12, 1)
    assert "0.025" in got.reason and "diverged" in got.reason


def test_pruned_and_failed_trials_do_not_enter_the_fit(bowl_trials: pd.DataFrame) -> None:
    more = pd.concat([bowl_trials, trials([1e-3, 4e-3, 2e-2], [0.1, np.nan, 3.0], ["pruned", "failed", "pruned"])])
    a, b = optimum(bowl_trials, LOW, HIGH), optimum(more, LOW, HIGH)
    assert b.lr == a.lr
    assert (b.n_pruned, b.n_diverged) == (2, 0)
    assert b.highest_stable_lr == pytest.approx(max(2e-2, a.highest_stable_lr))


@pytest.mark.parametrize("count", [0, 1, 4])
def test_few_trials_are_unresolved_and_the_best_is_used(bowl_trials: pd.DataFrame, count: int) -> None:
    few = bowl_trials.head(count)
    got = optimum(few, LOW, HIGH)
    assert (got.status, got.n_completed) == ("unresolved", count)
    assert np.isnan(got.lr) if not count else got.lr == pytest.approx(few.sort_values("val_loss")["lr"].iloc[0])


def test_where_the_pruner_leaves_too_few_the_order_of_all_says_whether_there_is_a_bowl() -> None:
    rates, status = list(np.geomspace(LOW, HIGH, 12)), ["completed" if i in (2, 5, 7, 8) else "pruned" for i in range(12)]
    noise = list(2.0 + np.random.default_rng(4).normal(0, 0.01, 12))
    bowl = [2.0 + 0.05 * np.log(lr / 1e-3) ** 2 for lr in rates]
    flat, unresolved = optimum(trials(rates, noise, status), LOW, HIGH), optimum(trials(rates, bowl, status), LOW, HIGH)
    assert (flat.status, flat.n_completed, unresolved.status) == ("flat", 4, "unresolved")
    # Divergence says nothing of that kind.
    lost = optimum(trials(rates, noise, [*status[:9], "diverged", "diverged", "diverged"]), LOW, HIGH)
    assert lost.status == "unresolved"


def test_equal_losses_are_flat() -> None:
    assert optimum(trials(list(np.geomspace(LOW, HIGH, 8)), [2.0] * 8), LOW, HIGH).status == "flat"


def test_a_known_seed_noise_widens_the_interval(bowl_trials: pd.DataFrame) -> None:
    a, b = optimum(bowl_trials, LOW, HIGH), optimum(bowl_trials, LOW, HIGH, noise=0.01)
    assert b.fitted_low < a.fitted_low and b.fitted_high > a.fitted_high


# The law.


def rungs(p: float, sd: float, sizes: list[float], rng: np.random.Generator | None = None) -> pd.DataFrame:
    n = np.array(sizes)
    centre = np.log(5.0) - p * np.log(n) + (sd * rng.normal(size=n.size) if rng else 0)
    bounds = {"fitted_low": np.exp(centre - 1.96 * sd), "fitted_high": np.exp(centre + 1.96 * sd)}
    return pd.DataFrame({"n_params": n, "fitted_lr": np.exp(centre), **bounds, "lr_status": "resolved"})


SIZES = [2e4, 8.7e4, 2.3e5, 5.57e5]


def test_an_exact_law_is_recovered_and_predicts() -> None:
    got = law(rungs(0.6, 0.1, SIZES))
    assert (got.status, got.n_rungs) == ("fitted", 4)
    assert (got.c, got.p) == pytest.approx((5.0, 0.6), rel=1e-9)
    predicted = got.predict(5e6)
    assert predicted.lr == pytest.approx(5.0 * 5e6**-0.6, rel=1e-9)
    assert predicted.low < predicted.lr < predicted.high
    assert got.held_out is not None and got.held_out.ratio == pytest.approx(1.0, rel=1e-9) and got.held_out.agrees


def test_the_interval_of_p_covers() -> None:
    found = [law(rungs(0.5, 0.15, SIZES, np.random.default_rng([3, i])), n_draws=1000) for i in range(300)]
    assert 0.92 <= np.mean([f.p_low <= 0.5 <= f.p_high for f in found]) <= 0.99


def test_a_wide_rung_weighs_little() -> None:
    frame = rungs(0.5, 0.05, SIZES)
    frame.loc[3, ["fitted_lr", "fitted_low", "fitted_high"]] *= [3.0, 0.3, 30.0]
    assert law(frame).p == pytest.approx(0.5, abs=0.02)


def test_a_largest_rung_off_the_law_is_caught() -> None:
    frame = rungs(0.5, 0.05, SIZES)
    frame.loc[3, ["fitted_lr", "fitted_low", "fitted_high"]] /= 10
    got = law(frame).held_out
    assert got is not None and not got.agrees and got.ratio == pytest.approx(10, rel=0.01)


def test_only_resolved_rungs_make_a_law() -> None:
    got = law(rungs(0.5, 0.1, SIZES).assign(lr_status=["resolved", "edge", "flat", "resolved"]))
    assert got.status == "too few" and "2 of 4" in got.reason
    assert np.isnan(got.p) and np.isnan(got.predict(1e6).lr)


def test_scatter_beyond_the_intervals_widens_the_interval_of_p() -> None:
    frame = rungs(0.5, 0.02, SIZES)
    frame[["fitted_lr", "fitted_low", "fitted_high"]] = frame[["fitted_lr", "fitted_low", "fitted_high"]].mul([1.3, 0.7, 1.4, 0.8], axis=0)
    calm, rough = law(rungs(0.5, 0.02, SIZES)), law(frame)
    assert calm.scatter == 0 and rough.scatter > 0.2
    assert rough.p_high - rough.p_low > 5 * (calm.p_high - calm.p_low)
