"""Correlation: against scipy and by construction, and the cases where there is none to state."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from harness.analysis.correlation import correlate, fisher_interval, partial, pearson, within

RNG_SEED = 3


def _related(n: int, r: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    x = rng.normal(size=n)
    return x, r * x + np.sqrt(1 - r * r) * rng.normal(size=n)


def test_pearson_and_spearman_agree_with_scipy_ties_included() -> None:
    rng = np.random.default_rng(RNG_SEED)
    x, y = np.round(rng.normal(size=40), 1), np.round(rng.normal(size=40), 1)
    got = correlate(x, y)
    expected = stats.pearsonr(x, y)
    interval = expected.confidence_interval(0.95)
    assert got.r == pytest.approx(expected.statistic, rel=1e-10)
    assert got.rho == pytest.approx(stats.spearmanr(x, y).statistic, rel=1e-10)
    assert (got.low, got.high) == pytest.approx((interval.low, interval.high), rel=1e-10)
    assert got.n == 40


@pytest.mark.parametrize("shift,scale", [(0.0, 1e200), (0.0, 1e-200), (1e6, 1.0)])
def test_pearson_does_not_depend_on_shift_and_scale(shift: float, scale: float) -> None:
    x, y = _related(20, 0.6, np.random.default_rng(RNG_SEED))
    assert pearson(x * scale + shift, y) == pytest.approx(pearson(x, y), rel=1e-8)


def test_an_exact_line_is_one_and_never_more() -> None:
    x = np.linspace(0.1, 0.7, 7)
    assert pearson(x, 3 * x + 1) == pytest.approx(1.0, abs=1e-12)
    assert abs(pearson(x, -x)) <= 1.0
    assert correlate(x, x).high <= 1.0


@pytest.mark.parametrize("x,y", [([1.0, 2.0], [2.0, 1.0]), ([], []), ([1, 1, 1, 1], [1, 2, 3, 4]), ([1, 2, np.nan, 3], [1, 2, 3, 4])])
def test_what_has_no_correlation_is_nan_without_a_warning(x: list[float], y: list[float]) -> None:
    got = correlate(x, y)
    assert np.isnan([got.r, got.rho, got.low, got.high]).all()


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="3 values against 2"):
        pearson([1, 2, 3], [1, 2])


def test_the_fisher_interval_covers_as_often_as_promised() -> None:
    rng = np.random.default_rng(0)
    intervals = [correlate(*_related(10, 0.7, rng)) for _ in range(2000)]
    assert 0.935 < np.mean([c.low <= 0.7 <= c.high for c in intervals]) < 0.965


def test_three_pairs_give_r_without_an_interval() -> None:
    got = correlate([1, 2, 3], [1, 3, 2])
    assert got.r == pytest.approx(0.5)
    assert np.isnan(got.low) and np.isnan(got.high)


def test_a_controlled_variable_costs_one_pair() -> None:
    assert fisher_interval(0.4, 12, controlled=1) == fisher_interval(0.4, 11)


def test_partial_removes_what_size_explains() -> None:
    rng = np.random.default_rng(RNG_SEED)
    log_n = np.linspace(10, 16, 400)
    nll, top1 = -log_n + 0.1 * rng.normal(size=400), log_n + 0.1 * rng.normal(size=400)
    assert pearson(nll, top1) < -0.99
    assert abs(partial(nll, top1, log_n)) < 0.15


def test_partial_equals_the_formula_from_three_correlations() -> None:
    rng = np.random.default_rng(RNG_SEED)
    g = rng.normal(size=30)
    x, y = g + rng.normal(size=30), rng.normal(size=30) - 0.5 * g
    xy, xg, yg = pearson(x, y), pearson(x, g), pearson(y, g)
    assert partial(x, y, g) == pytest.approx((xy - xg * yg) / np.sqrt((1 - xg**2) * (1 - yg**2)), rel=1e-9)


def test_partial_is_nan_where_size_explains_everything() -> None:
    g = np.linspace(10, 16, 9)
    assert np.isnan(partial(2 * g, np.cos(g), g))
    assert np.isnan(partial([1, 2, 3], [3, 1, 2], [1, 2, 4]))


def test_within_takes_the_mean_over_runs_and_names_the_undefined() -> None:
    nll, top1 = [4, 3, 2, 1, 9, 8, 7, 5, 1, 2], [1, 2, 3, 4, 5, 6, 7, 8, 1, 2]
    frame = pd.DataFrame({"key": ["b"] * 4 + ["a"] * 4 + ["c"] * 2, "nll": nll, "top1": top1})
    got = within(frame, "nll", "top1", "key")
    assert got.by_run["b"] == pytest.approx(-1.0)
    assert got.by_run["a"] == pytest.approx(pearson([9, 8, 7, 5], [5, 6, 7, 8]))
    assert np.isnan(got.by_run["c"])
    assert (got.n, got.undefined) == (2, 1)
    assert got.mean == pytest.approx(got.by_run[["a", "b"]].mean())
    assert got.low <= got.mean <= got.high


def test_pooling_can_hide_what_happens_within_runs() -> None:
    rows = [{"key": k, "x": 10 * k + t, "y": 10 * k - t} for k in range(3) for t in range(4)]
    frame = pd.DataFrame(rows)
    assert pearson(frame["x"], frame["y"]) > 0.9
    assert within(frame, "x", "y", "key").mean == pytest.approx(-1.0)


def test_within_no_rows_is_nan() -> None:
    got = within(pd.DataFrame({"key": [], "x": [], "y": []}), "x", "y", "key")
    assert np.isnan(got.mean) and got.n == 0
