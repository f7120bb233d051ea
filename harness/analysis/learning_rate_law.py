"""The law lr*(N) = c N^-p over rungs: from their fitted optima and intervals to a prediction for another size.

Only resolved rungs enter. Their intervals set the weights; redrawn many times, the optima give the interval of p. Scatter beyond what
the intervals explain widens it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import stats

MIN_RUNGS = 3
# A rung whose interval is narrower than this factor in rate still doesn't outweigh all others.
NARROWEST = 0.02
NAN = float("nan")


@dataclass(frozen=True)
class Prediction:
    """A rate with its interval: that of the law, and the scatter of rungs about it."""

    lr: float
    low: float
    high: float


@dataclass(frozen=True)
class HeldOut:
    """The largest rung against the law of the smaller ones; `ratio` is predicted over found."""

    n_params: float
    predicted: Prediction
    found: float
    found_low: float
    found_high: float
    ratio: float
    agrees: bool
    cost: float = NAN
    """Loss paid at the largest rung for the predicted rate, over its fitted minimum, in nats per token; NaN where it isn't known."""


@dataclass(frozen=True)
class Law:
    """lr*(N) = c N^-p. `status` is fitted or `too few`; `scatter`: standard deviation of log rate beyond the rungs' intervals."""

    status: str
    reason: str
    c: float
    p: float
    p_low: float
    p_high: float
    n_rungs: int
    scatter: float
    level: float
    held_out: HeldOut | None
    centre: float = field(default=NAN, repr=False)
    # Drawn (log rate at the centre, slope) pairs, one a row.
    draws: np.ndarray = field(default_factory=lambda: np.empty((0, 2)), repr=False, compare=False)

    def predict(self, n_params: float) -> Prediction:
        """The optimal rate of a model with this many parameters; NaN without a law."""
        if self.status != "fitted":
            return Prediction(NAN, NAN, NAN)
        return _predict(np.log(self.c), self.p, self.draws, self.centre, np.log(n_params), self.scatter, self.level)


def law(
    rungs: pd.DataFrame,
    seed: int = 0,
    level: float = 0.95,
    interval_level: float = 0.95,
    n_draws: int = 4000,
    optima: Sequence[np.ndarray] | None = None,
) -> Law:
    """Fit the law to resolved rungs.

    Args:
        rungs: columns n_params, lr_status, fitted_lr, fitted_low, fitted_high; a row per rung.
        interval_level: the level of the rungs' intervals.
        optima: for each row, draws of its optimum (log rate) from its trials, for a bootstrap through the whole chain. None: draws from
            a normal distribution as wide as the interval.
    """
    known = rungs[["fitted_lr", "fitted_low", "fitted_high"]].astype(float).notna().all(axis=1)
    known &= rungs["lr_status"] == "resolved"
    used = rungs.assign(row=range(len(rungs)))[known].sort_values(["n_params", "fitted_lr"])
    sizes = used["n_params"].nunique()
    if sizes < MIN_RUNGS:
        why = f"{sizes} of {len(rungs)} rungs have a resolved optimum; a law needs {MIN_RUNGS} sizes"
        return Law("too few", why, NAN, NAN, NAN, NAN, sizes, NAN, level, None)
    x, y, sd = _logs(used, interval_level)
    rng = np.random.default_rng(seed)
    away = rng.normal(size=(n_draws, x.size)) * sd
    if optima is not None:
        away = np.column_stack([rng.choice(optima[row], n_draws) for row in used["row"]]) - y
    intercept, p, draws, centre, scatter = _fit(x, y, sd, away, rng)
    low, high = _bounds(-draws[:, 1], level)
    why = f"lr* falls as N^-{p:.2f} ({100 * level:g} % interval {low:.2f} to {high:.2f}) over {len(used)} rungs"
    held_out = _leave_largest_out(x, y, used.iloc[-1], sd, away, rng, level)
    return Law("fitted", why, float(np.exp(intercept)), p, low, high, len(used), scatter, level, held_out, centre, draws)


def line(rungs: pd.DataFrame, n_params: float) -> float:
    """The log rate at a size on the weighted line through two resolved rungs or more, whose columns are those of `law`."""
    x, y, sd = _logs(rungs, 0.95)
    fitted, _ = _lines(x, y[None, :], sd)
    return float(fitted[0, 0] + fitted[0, 1] * np.log(n_params))


def _logs(rungs: pd.DataFrame, interval_level: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log sizes, log rates, and the latter's standard deviations from their intervals."""
    x, y = np.log(rungs["n_params"].to_numpy(float)), np.log(rungs["fitted_lr"].to_numpy(float))
    width = np.log(rungs["fitted_high"].to_numpy(float) / rungs["fitted_low"].to_numpy(float))
    return x, y, np.maximum(width / (2 * stats.norm.ppf((1 + interval_level) / 2)), NARROWEST)


def _fit(
    x: np.ndarray, y: np.ndarray, sd: np.ndarray, away: np.ndarray, rng: np.random.Generator
) -> tuple[float, float, np.ndarray, float, float]:
    """(log c, p, draws, centre, scatter) by weighted least squares, and a parametric bootstrap of the same steps.

    `away`: how far each rung's optimum may lie from where it was found, a draw a row.
    """
    centre = float(np.average(x, weights=sd**-2))
    line, scatter = _lines(x - centre, y[None, :], sd)
    expected = line[0, 0] + line[0, 1] * (x - centre)
    drawn = expected + away + scatter[0] * rng.normal(size=away.shape)
    draws, _ = _lines(x - centre, drawn, sd)
    return float(line[0, 0] - line[0, 1] * centre), float(-line[0, 1]), draws, centre, float(scatter[0])


def _lines(u: np.ndarray, y: np.ndarray, sd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted lines through each row of y, and the scatter beyond sd by the method of moments (DerSimonian and Laird, 1986)."""
    first, residual = _weighted(u, y, np.broadcast_to(sd**-2, y.shape))
    w = sd**-2
    X = np.column_stack([np.ones_like(u), u])
    hat = X @ np.linalg.solve((X.T * w) @ X, X.T * w)
    free = u.size - 2
    excess = (w * residual**2).sum(axis=1) - free
    scatter = np.sqrt(np.maximum(excess, 0) / float((w * (1 - np.diag(hat))).sum())) if free else np.zeros(len(y))
    second, _ = _weighted(u, y, 1 / (sd**2 + scatter[:, None] ** 2))
    return (second if free else first), scatter


def _weighted(u: np.ndarray, y: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    total = w.sum(axis=1)
    mean_u, mean_y = (w * u).sum(axis=1) / total, (w * y).sum(axis=1) / total
    away = u - mean_u[:, None]
    slope = (w * away * y).sum(axis=1) / (w * away**2).sum(axis=1)
    level = mean_y - slope * mean_u
    return np.column_stack([level, slope]), y - level[:, None] - slope[:, None] * u


def _bounds(draws: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _predict(log_c: float, p: float, draws: np.ndarray, centre: float, x: float, scatter: float, level: float) -> Prediction:
    expected = log_c - p * x
    spread = float(np.hypot(np.std(draws[:, 0] + draws[:, 1] * (x - centre)), scatter)) * float(stats.norm.ppf((1 + level) / 2))
    return Prediction(float(np.exp(expected)), float(np.exp(expected - spread)), float(np.exp(expected + spread)))


def _leave_largest_out(
    x: np.ndarray, y: np.ndarray, largest: pd.Series, sd: np.ndarray, away: np.ndarray, rng: np.random.Generator, level: float
) -> HeldOut | None:
    smaller = x < x[-1]
    if np.unique(x[smaller]).size < 2:
        return None
    log_c, p, draws, centre, scatter = _fit(x[smaller], y[smaller], sd[smaller], away[:, smaller], rng)
    predicted = _predict(log_c, p, draws, centre, float(x[-1]), scatter, level)
    found, below, above = (float(largest[name]) for name in ("fitted_lr", "fitted_low", "fitted_high"))
    agrees = predicted.low <= above and below <= predicted.high
    return HeldOut(float(largest["n_params"]), predicted, found, below, above, predicted.lr / found, agrees)
