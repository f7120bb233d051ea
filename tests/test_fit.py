"""Fits of additive power laws: recovery of known laws, convergence that is told honestly, refusals."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy import optimize

from harness.analysis import bootstrap, log_huber
from harness.analysis.additive import Law, Points, bounds, law, objective, points, theta_of
from harness.analysis.condition import condition_number
from harness.analysis.descent import descend
from harness.analysis.fit import fit
from harness.analysis.power_law import fit_power_law, fit_power_laws
from harness.analysis.projection import at, project, starts
from harness.analysis.surface import Columns, allocation, fit_surface, optimum

TRUTH = Law(1.81686, (482.01, 2085.43), (0.34781, 0.36585))
SIZES = np.geomspace(1e5, 2e7, 12)
ESTIMATORS = ["log-Huber", "VPNLS"]


def runs_of(sizes: np.ndarray = SIZES, ratios: tuple[float, ...] = (5, 20, 80), noise: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """A row for each size and ratio of tokens to parameters, with losses of the true surface and multiplicative noise."""
    n, ratio = (a.ravel() for a in np.meshgrid(sizes, ratios, indexing="ij"))
    drawn = np.exp(noise * np.random.default_rng(seed).normal(size=n.size))
    return pd.DataFrame({"n_params": n, "train_tokens": ratio * n, "test_loss": TRUTH.loss(n, ratio * n) * drawn})


def data_of(runs: pd.DataFrame) -> Points:
    return points(runs[["n_params", "train_tokens"]].to_numpy(), runs["test_loss"].to_numpy())


# Identification.


@pytest.mark.parametrize("ratios,expected", [((10, 20, 40), 246.7), ((5, 20, 80), 144.6)])
def test_condition_of_designs_that_work(ratios: tuple[float, ...], expected: float) -> None:
    variables = runs_of(ratios=ratios)[["n_params", "train_tokens"]].to_numpy()
    assert condition_number(variables, TRUTH.exponents) == pytest.approx(expected, abs=0.06)


def test_tokens_in_one_ratio_to_parameters_identify_nothing() -> None:
    runs = runs_of(ratios=(20,))
    assert condition_number(runs[["n_params", "train_tokens"]].to_numpy(), TRUTH.exponents) == pytest.approx(2e7, rel=0.05)
    found = fit_surface(runs, n_draws=0)
    assert {found.log_huber.status, found.vpnls.status} == {"not identified"}
    assert "e+07" in found.vpnls.reason and np.isnan(found.vpnls.constants["alpha"].value) and np.isnan(found.vpnls.law.E)
    assert np.isnan(found.vpnls.predict(1e8, 2e9).loss)


# Recovery.


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("irreducible", [None, TRUTH.E])
def test_a_noise_free_surface_is_recovered(estimator: str, irreducible: float | None) -> None:
    found = fit_surface(runs_of(), irreducible=irreducible, n_draws=0)
    one = found.log_huber if estimator == "log-Huber" else found.vpnls
    assert one.status == "converged"
    assert (one.law.E, *one.law.factors, *one.law.exponents) == pytest.approx((TRUTH.E, *TRUTH.factors, *TRUTH.exponents), rel=1e-6)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("E,irreducible", [(1.7, None), (1.7, 1.7), (0.0, 0.0)])
def test_a_noise_free_power_law_is_recovered(estimator: str, E: float, irreducible: float | None) -> None:
    runs = pd.DataFrame({"train_flops": np.geomspace(1e14, 1e19, 8)})
    runs["test_loss"] = E + 3000 * runs["train_flops"] ** -0.21
    found = fit_power_law(runs, "train_flops", irreducible=irreducible, estimator=estimator, n_draws=0)  # type: ignore[arg-type]
    assert found.status == "converged"
    assert (found.law.E, *found.law.factors, *found.law.exponents) == pytest.approx((E, 3000, 0.21), rel=1e-6, abs=1e-9)


def test_a_fixed_floor_moves_the_exponent_and_all_choices_are_shown() -> None:
    runs = runs_of(ratios=(1e6,))
    table = fit_power_laws(runs, "n_params", floor=TRUTH.E, n_draws=0).set_index("irreducible")
    assert list(table.index) == ["free", "0", "floor"]
    assert table.loc["floor", "alpha"] == pytest.approx(TRUTH.exponents[0], abs=0.01)
    assert table.loc["0", "alpha"] < 0.7 * table.loc["floor", "alpha"]


@pytest.mark.parametrize("factor", [1e-3, 0.6931, 1e4])
def test_units_of_the_loss_and_of_the_variables_change_nothing_else(factor: float) -> None:
    runs = runs_of(noise=0.005)
    one = fit_surface(runs, n_draws=20)
    scaled = runs.assign(test_loss=runs["test_loss"] * factor, n_params=runs["n_params"] / factor)
    other = fit_surface(scaled, n_draws=20)
    for a, b in ((one.log_huber, other.log_huber), (one.vpnls, other.vpnls)):
        for name in ("alpha", "beta"):
            assert b.constants[name].value == pytest.approx(a.constants[name].value, rel=1e-5)
            assert b.constants[name].low == pytest.approx(a.constants[name].low, rel=1e-3)
        assert b.constants["E"].value / a.constants["E"].value == pytest.approx(factor, rel=1e-5)


def test_the_estimators_agree_within_their_intervals_under_noise() -> None:
    found = fit_surface(runs_of(noise=0.005), n_draws=200)
    assert found.gap == ()
    assert found.log_huber.law.exponents != found.vpnls.law.exponents


def test_few_wild_losses_pull_the_squared_error_and_not_log_huber() -> None:
    runs = runs_of(noise=0.002)
    runs.loc[[0, 1], "test_loss"] *= 1.3
    found = fit_surface(runs, n_draws=0)
    away = {fit.estimator: abs(fit.law.exponents[0] - TRUTH.exponents[0]) for fit in (found.log_huber, found.vpnls)}
    assert away["log-Huber"] < 0.02 < 5 * 0.02 < away["VPNLS"]


# Convergence.


def natural_objective(n: np.ndarray, d: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """The mean of Huber's loss and its gradient by (ln A, ln B, ln E, alpha, beta), as Hoffmann et al. wrote it."""

    def value(p: np.ndarray) -> tuple[float, np.ndarray]:
        terms = np.exp([p[0] - p[3] * np.log(n), p[1] - p[4] * np.log(d), np.full(y.size, p[2])])
        r = np.log(terms.sum(axis=0) / y)
        pull = np.clip(r, -1e-3, 1e-3) * terms / terms.sum(axis=0)
        loss = np.where(np.abs(r) <= 1e-3, r**2 / 2, 1e-3 * (np.abs(r) - 5e-4)).mean()
        gradient = [pull[0], pull[1], pull[2], -pull[0] * np.log(n), -pull[1] * np.log(d)]
        return float(loss), np.mean(gradient, axis=1)

    return value


def test_default_tolerances_on_the_mean_stop_where_they_began_and_are_not_called_converged() -> None:
    rng = np.random.default_rng(3)
    flops = np.repeat([6e18, 1e19, 3e19, 6e19, 1e20, 3e20, 6e20, 1e21, 3e21], 27)
    n = np.sqrt(flops / 120) * np.exp(rng.uniform(-1.2, 1.2, flops.size))
    runs = pd.DataFrame({"n_params": n, "train_tokens": flops / 6 / n})
    runs["test_loss"] = TRUTH.loss(n, flops / 6 / n) * np.exp(0.01 * rng.normal(size=n.size))
    data = data_of(runs)
    value = natural_objective(*(runs[c].to_numpy() for c in ("n_params", "train_tokens", "test_loss")))
    begun = np.array([6.0073404, 6.0179186, 0.5267228, 0.33917084, 0.2849083])
    stopped = optimize.minimize(value, begun, jac=True, method="L-BFGS-B")
    assert stopped.success and stopped.nit <= 2 and np.abs(stopped.x - begun).max() < 1e-3

    def theta(p: np.ndarray) -> np.ndarray:
        return theta_of(Law(float(np.exp(p[2])), (float(np.exp(p[0])), float(np.exp(p[1]))), (float(p[3]), float(p[4]))), data)

    ends = theta(stopped.x)[None]
    found = log_huber.Descents(theta(begun)[None], ends, objective(ends, data, "log-huber"), np.array([stopped.nit]))
    verdict = log_huber.verdict(found.best, found, data)
    assert not verdict.converged
    assert verdict.reason.startswith("not converged: the gradient is") and "1 of 1 starts ended where they began" in verdict.reason
    assert found.objective[0] == pytest.approx(data.n * stopped.fun)
    done = log_huber.minimise(data, theta(begun)[None])
    assert log_huber.verdict(done.best, done, data).converged
    assert done.objective[0] < found.objective[0] and abs(law(done.best, data).exponents[1] - TRUTH.exponents[1]) < 0.04


def test_wide_tolerances_on_the_mean_are_not_called_converged_here_either() -> None:
    data = data_of(runs_of(noise=0.005))
    wide = log_huber.Solver(ftol=2.220446049250313e-09, gtol=1e-5, factor=1 / data.n, most_steps=15000)
    found = log_huber.minimise(data, starts(data, np.array([[0.2, 0.2], [0.4, 0.4], [0.7, 0.2], [0.9, 0.9]])), wide)
    assert not log_huber.verdict(found.best, found, data).converged


def test_an_answer_that_only_one_start_finds_is_not_converged() -> None:
    data = data_of(runs_of(noise=0.005))
    found = log_huber.minimise(data, starts(data, np.array([[0.2, 0.2], [0.4, 0.4], [0.7, 0.2], [0.9, 0.9]])))
    assert log_huber.verdict(found.best, found, data).converged
    alone = log_huber.Descents(found.starts, found.ends + np.array([[0], [1], [1], [1]]), found.objective, found.iterations)
    verdict = log_huber.verdict(found.ends[0], alone, data)
    assert not verdict.converged and "1 of 4 starts" in verdict.reason


def test_the_estimate_is_where_an_independent_search_ends() -> None:
    runs = runs_of(noise=0.005, seed=3)
    n, d, y = (runs[c].to_numpy() for c in ("n_params", "train_tokens", "test_loss"))

    def value(p: np.ndarray) -> float:
        r = np.log((np.exp(p[0]) + np.exp(p[1] - p[3] * np.log(n)) + np.exp(p[2] - p[4] * np.log(d))) / y)
        return float(np.where(np.abs(r) <= 1e-3, r**2 / 2, 1e-3 * (np.abs(r) - 5e-4)).sum())

    found = fit_surface(runs, n_draws=0).log_huber
    begin = np.array([np.log(found.law.E), *np.log(found.law.factors), *found.law.exponents])
    options = {"xatol": 1e-9, "fatol": 1e-15, "maxiter": 20000, "maxfev": 20000, "adaptive": True}
    other = optimize.minimize(value, begin * 1.02, method="Nelder-Mead", options=options)
    assert found.objective == pytest.approx(value(begin), rel=1e-9)
    assert found.objective <= other.fun * (1 + 1e-9)


def test_replicates_of_log_huber_end_where_many_starts_end() -> None:
    data = data_of(runs_of(noise=0.01))
    estimate, _ = log_huber.estimate(data)
    weights = bootstrap.replicates(data, 3, seed=1)
    found = descend(np.repeat(estimate[None], 3, axis=0), data, weights, "log-huber")
    for i in range(3):
        again = Points(data.x, data.y, weights[i], data.run, data.centre, data.scale)
        theta, verdict = log_huber.estimate(again)
        assert verdict.converged
        assert found.theta[i] == pytest.approx(theta, abs=2e-3)
        assert found.objective[i] == pytest.approx(objective(theta[None], again, "log-huber")[0], rel=1e-5)


# Variable projection.


def test_a_node_solves_the_linear_part_without_negative_values() -> None:
    data = data_of(runs_of(noise=0.3, seed=5))
    grid = np.array([[0.05, 0.05], [0.3, 0.4], [2.0, 0.1], [3.0, 3.0]])
    error, solved = at(data, grid, data.weights[None], data.y[None])
    for g, (alpha, beta) in enumerate(grid):
        columns = np.column_stack([np.ones(data.n), np.exp(-alpha * data.x[:, 0]), np.exp(-beta * data.x[:, 1])])
        expected, norm = optimize.nnls(columns, data.y)
        assert solved[0, g] == pytest.approx(expected, abs=1e-6)
        assert error[0, g] == pytest.approx(norm**2, rel=1e-8)


def test_weights_equal_repeated_rows() -> None:
    runs = runs_of(noise=0.01)
    data, times = data_of(runs), np.arange(len(runs)) % 3 + 1.0
    repeated = data_of(runs.loc[np.repeat(runs.index, times.astype(int))])
    weighted = law(descend(project(data, times[None]), data, times[None], "squared", tolerance=1e-13).theta[0], data)
    again = law(
        descend(project(repeated, repeated.weights[None]), repeated, repeated.weights[None], "squared", tolerance=1e-13).theta[0], repeated
    )
    assert weighted.exponents == pytest.approx(again.exponents, rel=1e-5)


def test_sigma_is_a_standard_deviation() -> None:
    runs = runs_of(noise=0.003).assign(sigma=0.01)
    runs.loc[[0, 1], "test_loss"] *= 1.3
    runs.loc[[0, 1], "sigma"] = 10.0
    found = fit_surface(runs, Columns(sigma="sigma"), n_draws=0).vpnls
    assert found.law.exponents[0] == pytest.approx(TRUTH.exponents[0], abs=0.03)
    equal = fit_surface(runs.assign(sigma=7.0), Columns(sigma="sigma"), n_draws=0).vpnls
    assert equal.law.exponents == pytest.approx(fit_surface(runs, n_draws=0).vpnls.law.exponents, rel=1e-6)


# Intervals.


def test_points_of_one_run_do_not_make_intervals_narrower() -> None:
    runs = runs_of(noise=0.01)
    tripled = pd.concat([runs.assign(run=range(len(runs)))] * 3, ignore_index=True)
    by_run = fit_surface(tripled, Columns(run="run"), n_draws=100).vpnls.constants["alpha"]
    single = fit_surface(runs, n_draws=100).vpnls.constants["alpha"]
    by_point = fit_surface(tripled, n_draws=100).vpnls.constants["alpha"]
    assert by_run.high - by_run.low == pytest.approx(single.high - single.low, rel=1e-3)
    assert by_point.high - by_point.low < 0.75 * (single.high - single.low)


def test_an_error_that_a_rung_shares_widens_the_interval() -> None:
    runs = runs_of(noise=0.002)
    shared = bootstrap.Shared(runs["n_params"].to_numpy(), np.full(len(runs), 0.05))
    without, with_it = (fit_surface(runs, n_draws=100, shared=s).vpnls.constants["alpha"] for s in (None, shared))
    assert with_it.high - with_it.low > 2 * (without.high - without.low)
    assert with_it.value == without.value


def test_the_same_seed_gives_the_same_interval() -> None:
    runs = runs_of(noise=0.01)
    a, b, c = (fit_surface(runs, n_draws=100, seed=s).log_huber.constants["beta"] for s in (1, 1, 2))
    assert a == b and a.low != c.low


# What has no answer.


def test_a_law_without_an_irreducible_loss_says_that_e_is_at_its_bound() -> None:
    runs = pd.DataFrame({"n_params": np.geomspace(1e5, 1e8, 10)})
    runs["test_loss"] = 40 * runs["n_params"] ** -0.2 * (1 - 0.02 * np.log(runs["n_params"] / 3e6))
    found = fit_power_law(runs, "n_params", n_draws=0)
    assert (found.status, found.law.E) == ("at a bound", 0.0)
    assert "E is 0" in found.reason


def test_a_loss_that_does_not_fall_with_tokens_says_so() -> None:
    n, d = (a.ravel() for a in np.meshgrid(SIZES, [1e7, 1e8, 1e9]))
    runs = pd.DataFrame({"n_params": n, "train_tokens": d, "test_loss": 1.5 + 400 * n**-0.35})
    found = fit_surface(runs, n_draws=0)
    assert {found.log_huber.status, found.vpnls.status} == {"at a bound"}
    assert "B is 0: the loss does not fall with this variable" in found.log_huber.reason and found.log_huber.reason == found.vpnls.reason


@pytest.mark.parametrize(
    "runs,what",
    [
        (runs_of(sizes=np.array([1e5, 1e6])), "alpha needs 3"),
        (runs_of(sizes=np.array([1e6])), "alpha needs 3"),
        (runs_of().assign(train_tokens=1e8), "beta needs 3"),
        (runs_of().iloc[[0, 4, 8, 10, 20]], "5 constants need more than 5"),
    ],
)
def test_too_few_runs_have_no_fit_and_a_reason(runs: pd.DataFrame, what: str) -> None:
    for found in (fit_surface(runs).log_huber, fit_surface(runs).vpnls):
        assert found.status == "too few" and what in found.reason and not found.is_usable


def test_bounds_hold_every_parameter_a_law_can_have() -> None:
    low, high = bounds(data_of(runs_of()))
    assert (low < high).all() and high[0] == pytest.approx(data_of(runs_of()).y.min())
    assert fit(data_of(runs_of()), "VPNLS", n_draws=0).theta.shape == low.shape


# What follows from a surface.


def test_tokens_a_parameter_from_unrounded_constants() -> None:
    exact = Law(np.exp(0.5267228), (float(np.exp(6.0073404)), float(np.exp(6.0179186))), (0.33917084, 0.2849083))
    rounded = Law(1.69, (406.4, 410.7), (0.34, 0.28))
    for surface, expected in ((exact, 59.0), (rounded, 92.8)):
        n, d = optimum(surface, 5.88e23)
        assert 6 * n * d == pytest.approx(5.88e23)
        assert d / n == pytest.approx(expected, abs=0.05)


def test_the_optimum_has_the_least_loss_of_its_budget_and_allocation_is_its_slope() -> None:
    n, d = optimum(TRUTH, 1e20)
    losses = TRUTH.loss(n * np.array([0.99, 1, 1.01]), d / np.array([0.99, 1, 1.01]))
    assert losses.argmin() == 1
    a, b = allocation(TRUTH)
    assert a + b == pytest.approx(1)
    assert optimum(TRUTH, 1e21)[0] / n == pytest.approx(10**a)
