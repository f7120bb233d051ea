"""Intervals of a mean: against the textbook, and by their coverage."""

import numpy as np
import pytest
from scipy import stats

from harness.analysis.intervals import mean_interval


def test_agrees_with_the_printed_t_table() -> None:
    # t(0.975, 2 degrees of freedom) = 4.302653; the standard deviation of 1, 2, 3 is 1.
    got = mean_interval([1.0, 2.0, 3.0])
    assert (got.mean, got.n) == (2.0, 3)
    assert got.half_width == pytest.approx(4.302653 / np.sqrt(3), rel=1e-6)
    assert got.high - got.mean == pytest.approx(got.mean - got.low, rel=1e-12)


def test_agrees_with_scipy_at_another_level() -> None:
    values = np.random.default_rng(1).normal(90, 2, 7)
    got = mean_interval(values, level=0.8)
    assert (got.low, got.high) == pytest.approx(stats.t.interval(0.8, 6, values.mean(), stats.sem(values)), rel=1e-12)


def test_three_seeds_cover_the_truth_as_often_as_promised() -> None:
    rng = np.random.default_rng(0)
    intervals = [mean_interval(rng.normal(5.0, 0.3, 3)) for _ in range(3000)]
    covered = np.mean([i.low <= 5.0 <= i.high for i in intervals])
    assert 0.94 < covered < 0.96


def test_one_value_has_a_mean_and_no_interval() -> None:
    got = mean_interval([4.2])
    assert (got.mean, got.n) == (4.2, 1)
    assert np.isnan(got.low) and np.isnan(got.high)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_and_counted(bad: float) -> None:
    with pytest.raises(ValueError, match="1 of 3 values"):
        mean_interval([1.0, bad, 2.0])


def test_no_values_are_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])
