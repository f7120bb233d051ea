"""Intervals of a mean: against the textbook, and by their coverage."""

import numpy as np
import pytest
from scipy import stats

from harness.analysis.intervals import Interval, difference, mean_interval, welch


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


def test_welch_agrees_with_scipy_and_is_b_minus_a() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.normal(90, 2, 3), rng.normal(95, 0.5, 6)
    got = welch(a, b, level=0.9)
    theirs = stats.ttest_ind(b, a, equal_var=False).confidence_interval(0.9)
    assert (got.low, got.high) == pytest.approx((theirs.low, theirs.high), rel=1e-12)
    assert got.mean == pytest.approx(b.mean() - a.mean(), rel=1e-12) and got.n == 3


def test_a_difference_from_one_value_has_no_interval_and_that_of_equal_ones_no_width() -> None:
    got = welch([1.0], [2.0, 3.0])
    assert got.mean == 1.5 and np.isnan(got.low) and np.isnan(got.high)
    assert welch([1.0, 1.0], [3.0, 3.0]) == Interval(2.0, 2.0, 2.0, 2)


def test_symmetric_intervals_add_in_squares_and_skewed_ones_on_their_own_sides() -> None:
    got = difference(Interval(1.0, -2.0, 4.0, 1), Interval(7.0, 3.0, 11.0, 1))
    assert (got.mean, got.low, got.high) == (6.0, 1.0, 11.0)
    # Below are B's distance down and A's distance up.
    got = difference(Interval(0.0, -12.0, 3.0, 1), Interval(0.0, -4.0, 5.0, 1))
    assert (got.low, got.high) == (-5.0, 13.0)
    assert np.isnan(difference(Interval(0.0, np.nan, np.nan, 1), Interval(0.0, -4.0, 5.0, 1)).low)


def test_differences_of_skewed_estimates_cover_the_truth_as_often_as_promised() -> None:
    rng = np.random.default_rng(5)
    # Variances of 12 normal values, with their exact and very skewed intervals.
    degrees, draws = 11, rng.normal(0, [[[2.0]], [[1.0]]], (2, 4000, 12)).var(axis=2, ddof=1)
    ends = degrees / stats.chi2.ppf([0.975, 0.025], degrees)
    a, b = ([Interval(v, v * ends[0], v * ends[1], 12) for v in own] for own in draws)
    covered = np.mean([d.low <= -3.0 <= d.high for d in map(difference, a, b)])
    assert 0.94 < covered < 0.96
