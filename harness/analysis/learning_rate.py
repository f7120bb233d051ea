"""The learning rate as a measured quantity: the optimum of one rung's trials with its interval and a status.

Trials go in; the rate to use, the fitted optimum and a sentence come out. The fitted minimum is not the best trial, which
flatters itself. Only a `resolved` optimum may carry a conclusion; the others fall back on the best completed trial's rate.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pandas as pd

from harness.analysis.bowl import STATED_DOF, Bowl, fit_bowl, shape_p_value, valley_p_value
from harness.analysis.learning_rate_law import HeldOut, Law, Prediction, law

__all__ = ["HeldOut", "Law", "Optimum", "Prediction", "law", "optimum"]

Status = Literal["resolved", "edge", "flat", "unresolved"]
Side = Literal["low", "high", "cliff"]

MIN_COMPLETED = 5
MIN_RATES = 4
# Trials, pruned ones among them, whose order says whether there is a bowl when too few completed for a fit.
MIN_ORDERED = 10
# A bowl that pure noise would imitate more often than this is called flat.
SHAPE_LEVEL = 0.01
# An interval over this share of the range says nothing about where the optimum is.
FLAT_SHARE = 0.6
OPEN_SHARE = 0.5
# A trial this many times the noise above the best is clearly worse: the optimum is not past it.
BRACKET_NOISE = 4.0
# Called resolved, an optimum past the end would be missed for good: so a wider interval must keep clear of the ends.
TOUCH_LEVEL = 0.99
# A completed trial that has lost this share of what the best one learned, at a higher rate, fell off a cliff rather than stands on a slope.
CLIFF_SHARE = 0.5
# A pruned one that was this near, in the same measure, to having learned nothing fell as well.
NOTHING_SHARE = 0.1
# Where the loss still falls at the highest rate below a cliff that is further away than this, in log rate, the optimum lies between.
GAP = 0.3
# A share of that way which noise may well make.
SLIGHT_SHARE = 0.04
# Over seeds the loss of ladder runs had a standard deviation of .3 to 1 % of itself (20k to 230k, docs/log.md).
SEED_NOISE_SHARE = 0.007
# Beyond this log rate an extrapolated minimum is only a direction.
FAR = 20.0
NAN = float("nan")


@dataclass(frozen=True)
class Optimum:
    """What a search of one rung says about its learning rate. Rates are peaks, losses nats per token; NaN where there is none.

    `lr` is the rate to use. `regret`: the fit's loss at `lr` over the fit's minimum. `highest_stable_lr`: the highest rate that
    neither diverged nor collapsed. `cliff_lr`: the lowest rate that did, above every other one. `noise`: residual standard deviation;
    `seed_noise`: what was added to it. The fitted curve holds over `window_low` to `window_high`.
    """

    lr: float
    status: Status
    reason: str
    fitted_lr: float
    fitted_low: float
    fitted_high: float
    fitted_val_loss: float
    best_lr: float
    best_val_loss: float
    regret: float
    highest_stable_lr: float
    cliff_lr: float
    n_completed: int
    n_pruned: int
    n_diverged: int
    n_collapsed: int
    edge_side: Side | None
    noise: float = NAN
    seed_noise: float = NAN
    window_low: float = NAN
    window_high: float = NAN
    bowl: Bowl | None = field(default=None, repr=False, compare=False)
    # Log rates where the minimum might have come out, between the rates that bracket it.
    draws: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False, compare=False)
    # Log rates and losses of the completed trials.
    points: np.ndarray = field(default_factory=lambda: np.empty((2, 0)), repr=False, compare=False)

    def loss_at(self, lr: float) -> float:
        """The fitted loss at a rate, to price a default or a prediction; NaN outside the window of the fit."""
        if self.bowl is None or not self.window_low <= lr <= self.window_high:
            return NAN
        return self.bowl.at(np.log(lr))

    def cost_at(self, lr: float) -> float:
        """Loss paid for a rate over the fitted minimum: by the fit in its window, else on the line between the trials; NaN past those."""
        loss, x = self.loss_at(lr), self.points[0]
        if np.isnan(loss) and x.size and x.min() <= np.log(lr) <= x.max():
            loss = float(np.interp(np.log(lr), *self.points))
        return max(loss - self.fitted_val_loss, 0.0) if np.isfinite(loss) else NAN


@dataclass(frozen=True)
class _Tried:
    """The trials of a search, sorted by rate: completed ones as log rate and loss, the others as log rates."""

    x: np.ndarray
    y: np.ndarray
    pruned: np.ndarray
    diverged: np.ndarray
    """Trials past the cliff: those that diverged, and those that collapsed."""
    n_collapsed: int
    seed_noise: float
    note: str
    losses: np.ndarray
    """All trials' losses in order of rate, those of pruned ones where they stopped, infinite where diverged."""

    @property
    def best(self) -> int:
        return int(np.argmin(self.y))

    @property
    def cliff(self) -> float:
        """Log of the lowest rate past the cliff that lies above every completed one; infinite if none."""
        above = self.diverged[self.diverged > self.x.max()]
        return float(above.min()) if above.size else np.inf


def optimum(
    trials: pd.DataFrame,
    low: float,
    high: float,
    seed: int = 0,
    level: float = 0.95,
    noise: float = 0.0,
    ceiling: float = math.inf,
    noise_dof: float = STATED_DOF,
) -> Optimum:
    """The learning rate of a rung from its search.

    Args:
        trials: columns lr, val_loss (nats per token), status (completed, pruned, diverged, failed). A completed or pruned trial
            without a finite loss counts as diverged, and `reason` says so.
        low, high: the range searched.
        noise: standard deviation over seeds, measured or stated (`stated_noise`): the trials share a seed and can't show it.
        ceiling: the loss of a model that has learned nothing of use, such as the unigram entropy. A completed trial that falls back half
            of the way from the best to there, at a higher rate, has collapsed, and counts as a cliff like a diverged one; so does a
            pruned trial that was still there.
        noise_dof: the degrees of freedom that the noise was measured with.
    """
    tried = _sort(trials, noise, ceiling)
    if tried.y.size < MIN_COMPLETED or np.unique(tried.x).size < MIN_RATES:
        rates = np.unique(tried.x).size
        why = f"{tried.y.size} completed trials at {rates} rates; a fit needs {MIN_COMPLETED} at {MIN_RATES}"
        # Of a search without a bowl the pruner may leave too few; the order of them all shows that there is none.
        ordered = tried.losses.size >= MIN_ORDERED and not tried.diverged.size
        shapeless = ordered and valley_p_value(tried.losses, seed) > SHAPE_LEVEL
        why += f", and the order of all {tried.losses.size} shows no bowl" if shapeless else ""
        return _falling(tried, low, ceiling, why) or _outcome(tried, "flat" if shapeless else "unresolved", why)
    # A parabola finds a shallow bowl in noise; the order of all trials finds a lopsided one, which a parabola over the range doesn't fit.
    p_value = shape_p_value(tried.x, tried.y)
    if p_value > SHAPE_LEVEL:
        p_value = min(p_value, valley_p_value(tried.losses, seed))
    if p_value > SHAPE_LEVEL:
        why = (
            f"losses of {tried.y.size} completed trials from {_rate(tried.x.min())} to {_rate(tried.x.max())} differ by "
            f"{np.ptp(tried.y):.3g} nats without a bowl that stands out from their noise (p = {p_value:.2g})"
        )
        return _falling(tried, low, ceiling, why) or _outcome(tried, "flat", why)
    return _judge(tried, fit_bowl(tried.x, tried.y, seed, noise, noise_dof), np.log(low), np.log(high), level)


def collapsed(trials: pd.DataFrame, ceiling: float) -> np.ndarray:
    """Which trials of one search (columns lr, val_loss, status) collapsed, as `optimum` judges it: booleans, as ordered."""
    y = trials["val_loss"].to_numpy(float)
    completed, pruned = ((trials["status"] == status).to_numpy() & np.isfinite(y) for status in ("completed", "pruned"))
    return _collapsed(np.log(trials["lr"].to_numpy(float)), y, completed, pruned, ceiling)


def stated_noise(trials: pd.DataFrame) -> float:
    """What seeds are taken to change in the loss near the best trial, where it hasn't been measured (nats per token)."""
    best = trials.loc[trials["status"] == "completed", "val_loss"].min()
    return SEED_NOISE_SHARE * float(best) if np.isfinite(best) else 0.0


def _sort(trials: pd.DataFrame, noise: float, ceiling: float) -> _Tried:
    ordered = trials.sort_values(["lr", "val_loss", "status"])
    x, y, status = np.log(ordered["lr"].to_numpy(float)), ordered["val_loss"].to_numpy(float), ordered["status"].to_numpy()
    lost = np.isin(status, ["completed", "pruned"]) & ~np.isfinite(y)
    completed, pruned = (status == "completed") & ~lost, (status == "pruned") & ~lost
    collapsed = _collapsed(x, y, completed, pruned, ceiling)
    completed, pruned = completed & ~collapsed, pruned & ~collapsed
    names = ", ".join(_rate(v) for v in x[lost])
    note = f"; without a finite loss, counted as diverged: {names}" if lost.any() else ""
    note += f"; collapsed, counted as a cliff: {', '.join(_rate(v) for v in x[collapsed])}" if collapsed.any() else ""
    diverged = (status == "diverged") | lost | collapsed
    losses = np.where(diverged, np.inf, y)[completed | pruned | diverged]
    return _Tried(x[completed], y[completed], x[pruned], x[diverged], int(collapsed.sum()), noise, note, losses)


def _collapsed(x: np.ndarray, y: np.ndarray, completed: np.ndarray, pruned: np.ndarray, ceiling: float) -> np.ndarray:
    """Which trials lost, at a higher rate, most of what the best one learned: completed ones half of it, pruned ones nearly all."""
    if not completed.any() or not np.isfinite(ceiling):
        return np.zeros(x.size, dtype=bool)
    best = int(np.flatnonzero(completed)[np.argmin(y[completed])])
    learned = ceiling - y[best]
    lost = (completed & (y >= ceiling - CLIFF_SHARE * learned)) | (pruned & (y >= ceiling - NOTHING_SHARE * learned))
    fell: np.ndarray = lost & (x > x[best]) & (y > y[best])
    return fell


def _falling(tried: _Tried, low: float, ceiling: float, why: str) -> Optimum | None:
    """An edge below, where most of the range fell off the cliff and none below the best is clearly worse; else None."""
    if not tried.y.size or not tried.diverged.size or tried.y.size + tried.diverged.size < MIN_COMPLETED:
        return None
    best, scale = tried.x[tried.best], ceiling - tried.y.min()
    margin = BRACKET_NOISE * max(tried.seed_noise, SLIGHT_SHARE * scale if np.isfinite(scale) else 0.0)
    worse = np.concatenate([tried.diverged, tried.pruned, tried.x[tried.y > tried.y.min() + margin]])
    level = tried.y.size >= MIN_COMPLETED and tried.y[-1] <= tried.y.min() + margin
    if level or (worse < best).any():
        return None
    end = f"the lower the rate, the better, down to {_rate(best)}: the optimum may lie past the low end {low:.2g} of the range"
    return _outcome(tried, "edge", f"{end} ({why})", side="low")


def _judge(tried: _Tried, bowl: Bowl, low: float, high: float, level: float) -> Optimum:
    """Status of a fitted bowl: does it have a minimum, inside what was tried, and is it known well enough?"""
    best = float(tried.x[tried.best])
    bottom, top = _brackets(tried, BRACKET_NOISE * bowl.noise_bound, low, high)
    below, above = bowl.interval(level, bottom, top)
    inside = bottom < bowl.vertex < top
    # A bracket that is open at an end counts in place of the range, but only where it is not itself a small part of it.
    is_open = (bottom <= low or top >= high) and top - bottom > OPEN_SHARE * (high - low)
    vague = inside and above - below > FLAT_SHARE * (top - bottom if is_open else high - low)
    side = _over(tried, bowl.vertex, low, high) or (None if vague else _touched(*bowl.interval(TOUCH_LEVEL, bottom, top), low, high))
    if side is not None:
        end = _rate(low if side == "low" else high)
        why = f"best trial {_rate(best)}, {_where(bowl.vertex, side)}: the optimum may lie past the {side} end {end} of the range"
        return _outcome(tried, "edge", why, side=side)
    if vague:
        why = f"the interval {_rate(below)} to {_rate(above)} spans most of the range"
        return _outcome(tried, "flat", why, bowl, below, above)
    by_cliff = np.isfinite(tried.cliff) and bowl.vertex >= tried.x.max()
    if by_cliff and tried.cliff - tried.x.max() > GAP:
        why = f"the loss still falls at {_rate(tried.x.max())}: the optimum lies between there and the cliff at {_rate(tried.cliff)}"
        return _outcome(tried, "edge", why, side="cliff")
    if not inside and not by_cliff:
        return _outcome(tried, "unresolved", f"the {bowl.n} trials near the best, {_rate(best)}, don't curve upwards")
    minimum = _rate(float(np.clip(bowl.vertex, tried.x.min(), tried.x.max())))
    drawn, below = np.clip(bowl.draws, bottom, top), min(below, tried.x.max())
    why = f"minimum {minimum}, {100 * level:g} % interval {_rate(below)} to {_rate(above)}, from {bowl.n} trials"
    if by_cliff:
        why += f", just below the cliff at {_rate(tried.cliff)}"
    return replace(_outcome(tried, "resolved", why, bowl, below, above), draws=drawn)


def _brackets(tried: _Tried, margin: float, low: float, high: float) -> tuple[float, float]:
    """The log rates between which the optimum must lie: on each side the nearest clearly worse trial, the cliff, or the end."""
    best, worse = tried.x[tried.best], tried.x[tried.y > tried.y.min() + margin]
    return float(max([low, *worse[worse < best]])), float(min([high, tried.cliff, *worse[worse > best]]))


def _over(tried: _Tried, vertex: float, low: float, high: float) -> Side | None:
    """The end of the range that the best trial or the minimum is at or over; divergence is a bracket, not an end."""
    best, bounds = tried.x[tried.best], np.concatenate([tried.x, tried.pruned])
    if not np.isfinite(tried.cliff) and (vertex >= high or best >= bounds.max()):
        return "high"
    return "low" if vertex <= low or best <= bounds.min() else None


def _touched(below: float, above: float, low: float, high: float) -> Side | None:
    """The end of the range that the interval reaches: what lies past it can't be ruled out."""
    return "high" if above >= high else "low" if below <= low else None


def _outcome(
    tried: _Tried, status: Status, why: str, bowl: Bowl | None = None, below: float = NAN, above: float = NAN, side: Side | None = None
) -> Optimum:
    x, y, best = tried.x, tried.y, tried.best if tried.y.size else None
    best_x, best_y = (float(x[best]), float(y[best])) if best is not None else (NAN, NAN)
    fitted, used, fitted_loss, regret = NAN, best_x, NAN, NAN
    if bowl is not None:
        fitted = float(np.clip(bowl.vertex, x.min(), x.max()))
        used = fitted if status == "resolved" else best_x
        fitted_loss = bowl.at(fitted)
        regret = max(bowl.at(used) - fitted_loss, 0.0)
    stable = np.concatenate([x, tried.pruned])
    return Optimum(
        lr=_exp(used),
        status=status,
        reason=f"{status}: {why}{tried.note}",
        fitted_lr=_exp(fitted),
        fitted_low=_exp(below),
        fitted_high=_exp(above),
        fitted_val_loss=fitted_loss,
        best_lr=_exp(best_x),
        best_val_loss=best_y,
        regret=regret,
        highest_stable_lr=_exp(stable.max()) if stable.size else NAN,
        cliff_lr=_exp(tried.cliff) if x.size and np.isfinite(tried.cliff) else NAN,
        n_completed=y.size,
        n_pruned=tried.pruned.size,
        n_diverged=tried.diverged.size - tried.n_collapsed,
        n_collapsed=tried.n_collapsed,
        edge_side=side,
        noise=bowl.noise if bowl else NAN,
        seed_noise=tried.seed_noise,
        window_low=_exp(bowl.low) if bowl else NAN,
        window_high=_exp(bowl.high) if bowl else NAN,
        bowl=bowl,
        points=np.array([x, y]),
    )


def _where(vertex: float, side: Side) -> str:
    return f"fitted minimum {_rate(vertex)}" if abs(vertex) < FAR else f"losses still fall towards the {side} end"


def _exp(x: float) -> float:
    return float(np.exp(x))


def _rate(x: float) -> str:
    return f"{np.exp(x):.2g}"
