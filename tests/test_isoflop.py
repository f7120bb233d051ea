"""IsoFLOP profiles: the bias that a parabola has without noise, edges, exponents, intervals."""

import numpy as np
import pandas as pd
import pytest

from harness.analysis.additive import Law
from harness.analysis.isoflop import Method, budgets, fit_isoflop, grid_bias, parabola_bias
from harness.analysis.surface import optimum

TRUTH = Law(1.69, (406.4, 410.7), (0.34, 0.28))
BUDGETS = np.geomspace(1e17, 1e21, 5)


def profiles(k: float, points: int = 15, noise: float = 0.0, seed: int = 0, drift: float = 0.0) -> pd.DataFrame:
    """Runs with tokens from 1/k to k times the optimum of each budget, moved by a factor e^drift a budget."""
    rng, frames = np.random.default_rng(seed), []
    for i, flops in enumerate(BUDGETS):
        d = optimum(TRUTH, flops)[1] * np.geomspace(1 / k, k, points) * np.exp(drift * i)
        n = flops / 6 / d
        loss = TRUTH.loss(n, d) + noise * rng.normal(size=points)
        frames.append(pd.DataFrame({"n_params": n, "train_tokens": d, "train_flops": flops, "test_loss": loss}))
    return pd.concat(frames, ignore_index=True)


@pytest.mark.parametrize("k,percent", [(2, -0.327), (4, -1.301), (8, -2.903), (16, -5.100)])
def test_the_bias_of_a_parabola_without_noise(k: float, percent: float) -> None:
    found = fit_isoflop(profiles(k), n_draws=0)
    truth = optimum(TRUTH, 1e24)[1]
    assert truth == pytest.approx(4.035834749563681e12, rel=1e-12)
    assert 100 * (found.at(1e24)[1] / truth - 1) == pytest.approx(percent, abs=5e-4)
    assert found.b.value == pytest.approx(0.34 / 0.62, abs=1e-9) and round(found.b.value, 6) == 0.548387
    assert found.total == pytest.approx(1, abs=1e-9)
    closed = parabola_bias(np.linspace(-np.log(k), np.log(k), 15), 0.34, 0.28)
    assert 100 * np.expm1(closed) == pytest.approx(percent, abs=5e-4)


def test_the_bias_of_a_studys_own_grid() -> None:
    few = profiles(2, points=3).iloc[:3].assign(train_flops=1e23)
    found = grid_bias(pd.concat([profiles(4), few]), TRUTH)
    assert found["bias"].tolist() == pytest.approx([-0.01301] * 5 + [np.nan], abs=5e-6, nan_ok=True)
    assert found["n"].tolist() == [15] * 5 + [3]


def test_the_bias_does_not_depend_on_how_flops_are_counted() -> None:
    # The same runs, were each parameter and token counted at 9 FLOPs instead of 6: the budget is larger, the optimum the same.
    found = grid_bias(profiles(8).assign(train_flops=lambda runs: 1.5 * runs["train_flops"]), TRUTH)
    assert found["bias"].tolist() == pytest.approx([-0.02903] * 5, abs=5e-6)


def test_akima_has_far_less_bias() -> None:
    found = fit_isoflop(profiles(8), method="akima", n_draws=0)
    assert abs(found.at(1e24)[1] / optimum(TRUTH, 1e24)[1] - 1) < 0.005
    assert found.b.value == pytest.approx(0.548387, abs=1e-3)


@pytest.mark.parametrize("method", ["parabola", "akima"])
@pytest.mark.parametrize("shift,end", [(50.0, "largest"), (0.02, "smallest")])
def test_a_minimum_at_the_edge_is_no_vertex(method: Method, shift: float, end: str) -> None:
    runs = profiles(4)
    first = runs["train_flops"] == BUDGETS[0]
    d = runs.loc[first, "train_tokens"] * shift
    n = BUDGETS[0] / 6 / d
    runs.loc[first, ["n_params", "train_tokens", "test_loss"]] = np.column_stack([n, d, TRUTH.loss(n, d)])
    found = fit_isoflop(runs, method=method, n_draws=0)
    assert [p.status for p in found.profiles] == ["edge"] + ["resolved"] * 4
    assert end in found.profiles[0].reason and np.isnan(found.profiles[0].n_params)
    assert found.status == "fitted" and found.b.value == pytest.approx(0.548387, abs=2e-3)
    assert list(found.table["status"]) == [p.status for p in found.profiles]


def test_a_parabola_that_opens_downwards_is_no_optimum() -> None:
    runs = profiles(4)
    x = np.tile(np.linspace(-1, 1, 15), 5)
    runs["test_loss"] = 3 - x**2 - 2 * (np.abs(x) < 0.05)
    found = fit_isoflop(runs, n_draws=0)
    assert {p.status for p in found.profiles} == {"not convex"} and found.status == "too few"
    assert "0 of 5 budgets" in found.reason and np.isnan(found.a.value)


def test_too_few_sizes_and_too_few_budgets() -> None:
    few = fit_isoflop(profiles(4, points=3), n_draws=0)
    assert {p.status for p in few.profiles} == {"too few"} and few.status == "too few"
    two = profiles(4).query("train_flops < 2e18")
    assert fit_isoflop(two, n_draws=0).status == "too few"


def test_achieved_flops_that_differ_a_little_are_one_budget() -> None:
    flops = np.array([1e17, 1.03e17, 1.05e17, 1e18, 0.99e18, 1e17])
    assert budgets(flops).tolist() == [0, 0, 0, 1, 1, 0]


def test_the_interval_covers_the_exponent_under_noise() -> None:
    inside = 0
    for seed in range(10):
        found = fit_isoflop(profiles(8, noise=0.003, seed=seed), n_draws=60, seed=seed)
        assert found.n_draws > 50
        inside += found.b.low <= 0.34 / 0.62 <= found.b.high
    assert inside >= 7


def test_grids_that_drift_bias_the_exponent_and_the_closed_form_says_by_how_much() -> None:
    found = fit_isoflop(profiles(16, drift=0.25), n_draws=0)
    shifts = [parabola_bias(np.linspace(-np.log(16), np.log(16), 15) + 0.25 * i, 0.34, 0.28) for i in range(5)]
    expected = 0.34 / 0.62 + np.polyfit(np.log(BUDGETS), shifts, 1)[0]
    assert abs(expected - 0.34 / 0.62) > 1e-3
    assert found.b.value == pytest.approx(expected, abs=1e-6)


def test_the_interval_of_an_optimum_covers_it_and_the_band_is_that_of_the_lines() -> None:
    # What the method would find without noise: its bias is held above.
    inside, truth = 0, [profile.n_params for profile in fit_isoflop(profiles(4), n_draws=0).profiles]
    for seed in range(10):
        found = fit_isoflop(profiles(4, noise=0.003, seed=seed), n_draws=100, seed=seed)
        third = found.profiles[2]
        inside += sum(profile.low <= n <= profile.high for profile, n in zip(found.profiles, truth, strict=True))
        low, high = found.band(BUDGETS[2])
        assert low < found.at(BUDGETS[2])[0] < high and high / low < third.high / third.low
    assert inside >= 44
    assert np.isnan(fit_isoflop(profiles(4), n_draws=0).profiles[2].low) and np.isnan(fit_isoflop(profiles(4), n_draws=0).band(1e19)[0])


def test_where_one_budget_alone_is_resolved_its_optimum_still_has_an_interval() -> None:
    found = fit_isoflop(profiles(4, noise=0.003).query("train_flops < 2e17"), n_draws=100)
    (profile,) = found.profiles
    assert found.status == "too few" and profile.low < profile.n_params < profile.high and not len(found.lines)


@pytest.mark.parametrize("shift,end", [(5.0, "high"), (0.22, "low")])
def test_an_interval_that_reaches_past_the_sizes_is_open(shift: float, end: str) -> None:
    runs = profiles(6, points=12).query("train_flops < 2e17")
    d = runs["train_tokens"] * shift
    n = BUDGETS[0] / 6 / d
    loss = TRUTH.loss(n.to_numpy(), d.to_numpy()) + 0.06 * np.random.default_rng(0).normal(size=len(runs))
    (profile,) = fit_isoflop(runs.assign(n_params=n, train_tokens=d, test_loss=loss), n_draws=400).profiles
    assert profile.status == "resolved"
    assert (profile.low == 0, np.isinf(profile.high)) == (end == "low", end == "high")
