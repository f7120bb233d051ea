"""Correlation between two metrics, with what it can and cannot claim.

Two series that both follow size correlate by construction, so three readings stand side by side: across runs (with an
interval), within each run (with its spread over runs), and partial, with the size held fixed. A value that is not finite makes
the answer NaN: no pair is left out in silence.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from harness.analysis.intervals import Values


@dataclass(frozen=True)
class Correlation:
    """Pearson's r with its interval, and Spearman's rho, over n pairs; NaN where it is not defined."""

    r: float
    n: int
    rho: float
    low: float
    high: float


@dataclass(frozen=True)
class Within:
    """r inside each run, then mean, standard deviation and extremes over runs; `undefined` runs had too few or constant values."""

    by_run: pd.Series
    mean: float
    spread: float
    low: float
    high: float
    n: int
    undefined: int


def pearson(x: Values, y: Values) -> float:
    """Pearson's r; NaN for fewer than three pairs, a constant series, or a value that is not finite."""
    a, b = _pairs(x, y)
    if a.size < 3 or not _finite(a, b) or _constant(a) or _constant(b):
        return float("nan")
    u, v = a - a.mean(), b - b.mean()
    # Scaling before the product keeps the squares of very large or very small values finite.
    u, v = u / np.abs(u).max(), v / np.abs(v).max()
    return float(np.clip(u @ v / np.sqrt((u @ u) * (v @ v)), -1.0, 1.0))


def correlate(x: Values, y: Values, level: float = 0.95) -> Correlation:
    """r, rho and the Fisher-z interval of r.

    The interval holds for independent pairs, so for one pair a run. Evaluations inside one run follow each other: use `within`.
    """
    a, b = _pairs(x, y)
    r = pearson(a, b)
    rho = pearson(stats.rankdata(a), stats.rankdata(b)) if _finite(a, b) else float("nan")
    low, high = fisher_interval(r, a.size, level)
    return Correlation(r, a.size, rho, low, high)


def fisher_interval(r: float, n: int, level: float = 0.95, controlled: int = 0) -> tuple[float, float]:
    """Bounds of r by Fisher's z, standard error 1 / sqrt(n - 3 - controlled variables); NaN below four free pairs."""
    free = n - 3 - controlled
    if not np.isfinite(r) or free < 1:
        return float("nan"), float("nan")
    if abs(r) >= 1.0:
        return r, r
    half = stats.norm.ppf((1 + level) / 2) / np.sqrt(free)
    return float(np.tanh(np.arctanh(r) - half)), float(np.tanh(np.arctanh(r) + half))


def partial(x: Values, y: Values, given: Values) -> float:
    """r of what is left of x and y after a straight line in `given` (such as log N) is taken out of each.

    NaN for fewer than four triples, or where nothing is left.
    """
    a, b = _pairs(x, y)
    a, g = _pairs(a, given)
    if a.size < 4 or not _finite(a, b, g):
        return float("nan")
    left_a, left_b = _residual(a, g), _residual(b, g)
    # What rounding leaves of an exact line is not a signal.
    if _is_rounding(left_a, a) or _is_rounding(left_b, b):
        return float("nan")
    return pearson(left_a, left_b)


def within(frame: pd.DataFrame, x: str, y: str, by: str) -> Within:
    """r over the rows of each run (`by` names the run's column), and its mean and spread over runs."""
    by_run = pd.Series({key: pearson(rows[x], rows[y]) for key, rows in frame.groupby(by, sort=True)}, name="r", dtype=float)
    known = by_run.dropna()
    nan = float("nan")
    if known.empty:
        return Within(by_run, nan, nan, nan, nan, 0, len(by_run))
    spread = float(known.std(ddof=1)) if len(known) > 1 else nan
    return Within(by_run, float(known.mean()), spread, float(known.min()), float(known.max()), len(known), len(by_run) - len(known))


def _pairs(x: Values, y: Values) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(x, dtype=float).ravel(), np.asarray(y, dtype=float).ravel()
    if a.size != b.size:
        raise ValueError(f"correlation: {a.size} values against {b.size}; they must come in pairs")
    return a, b


def _finite(*series: np.ndarray) -> bool:
    return all(bool(np.isfinite(a).all()) for a in series)


def _constant(a: np.ndarray) -> bool:
    return bool(np.ptp(a) == 0)


def _residual(a: np.ndarray, given: np.ndarray) -> np.ndarray:
    g = given - given.mean()
    left = a - a.mean()
    return np.asarray(left if _constant(given) else left - (left @ g) / (g @ g) * g)


def _is_rounding(left: np.ndarray, whole: np.ndarray) -> bool:
    return bool(np.abs(left).max() <= 1e-12 * max(np.abs(whole).max(), np.finfo(float).tiny))
