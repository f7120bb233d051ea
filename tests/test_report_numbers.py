"""How the report writes numbers: powers, counts, times, signs and intervals."""

import math

import numpy as np
import pytest

from harness.analysis.intervals import Interval
from reports import numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e-3, "1e-3"), (1.2e-3, "1.2e-3"), (3.14e11, "3.1e11"), (9.96e-4, "1e-3"), (0.0, "0"), (1.0, "1e0"), (math.nan, "\N{EN DASH}")],
)
def test_powers(value: float, text: str) -> None:
    assert numbers.power(value) == text


@pytest.mark.parametrize(("value", "text"), [(87_289, "87.3k"), (999_999, "1M"), (1_232_000, "1.23M"), (812, "812"), (3.1e9, "3.1B")])
def test_short_counts(value: float, text: str) -> None:
    assert numbers.short(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(190, "3:10"), (59.6, "1:00"), (3_730, "1:02:10"), (0, "0:00"), (35_999, "9:59:59"), (750_831, "209 h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert numbers.duration(seconds) == text


@pytest.mark.parametrize(("half", "decimals"), [(0.34, 1), (0.12, 2), (0.029, 3), (3.4, 0), (1.2, 1), (40.0, 0), (math.nan, 2), (0.0, 2)])
def test_the_interval_decides_the_digits(half: float, decimals: int) -> None:
    assert numbers.decimals_of(half, 2) == decimals


def test_signs_and_intervals_as_text() -> None:
    assert numbers.fixed(-0.004, 2) == "0.00"
    assert numbers.fixed(-0.98, 2) == "\N{MINUS SIGN}0.98"
    assert numbers.bracketed(Interval(96.31, 95.97, 96.65, 3), 2) == "96.31 [95.97, 96.65]"
    assert numbers.plus_minus(Interval(96.31, np.nan, np.nan, 1), 2) == "96.31"
    assert not numbers.known(True) and numbers.known(np.int64(3)) and not numbers.known(None)
