"""What a larger batch costs in tokens and saves in steps, and where the one begins to outweigh the other: the critical batch size.

Evaluations of runs that differ in batch size and learning rate go in; the fewest tokens in which each batch size reached a loss, and the
law through them, come out. Losses on the way are compared, so the runs must have a constant schedule: one that decays isn't done before its
end.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy import optimize, stats

Status = Literal["resolved", "below", "above", "too few"]
MIN_SIZES = 3
N_TARGETS = 3
# Where the easiest and the hardest loss lie between the highest and the lowest that all batch sizes passed.
EASIEST, HARDEST = 0.3, 0.95
# A part that is below this share of the tokens at every batch size might as well be 0.
SHARE = 1e-3
NAN = float("nan")


@dataclass(frozen=True)
class CriticalBatch:
    """The law E = tokens + steps B of one loss, E tokens in batches of B tokens each; NaN where it has no number.

    `tokens` is what the smallest batches need, `steps` what the largest need; `batch` = tokens / steps, in tokens, has the bounds `low` and
    `high`. At it both are twice their least. `status`: resolved; below or above, where all batches tried lie on that side of it; too few.
    """

    loss: float
    tokens: float
    steps: float
    batch: float
    low: float
    high: float
    n: int
    status: Status


def tokens_to_reach(evaluations: pd.DataFrame, losses: np.ndarray) -> pd.DataFrame:
    """The fewest tokens by which any run of each batch size reached each loss, and its learning rate.

    Args:
        evaluations: columns key, batch_size, lr, step, tokens, val_loss. losses: nats a token.

    Columns: batch_size, batch (tokens a step), loss, tokens, lr, and is_end: the rate is the lowest or highest of those tried, so that a
    rate beyond it may need fewer. A loss that was reached by the first evaluation was reached at an unknown time, and has no row.
    """
    rows = []
    for size, runs in evaluations.groupby("batch_size", sort=True):
        rates, batch = np.unique(runs["lr"].to_numpy(float)), float((runs["tokens"] / runs["step"]).mean())
        curves = [(float(run["lr"].iloc[0]), run.sort_values("step")) for _, run in runs.groupby("key", sort=True)]
        for loss in losses:
            reached = [(_reached(run["tokens"].to_numpy(float), run["val_loss"].to_numpy(float), loss), lr) for lr, run in curves]
            tokens, lr = min(reached, key=lambda one: (np.isnan(one[0]), one[0]))
            if np.isfinite(tokens):
                cells = {"batch_size": size, "batch": batch, "loss": float(loss), "tokens": tokens, "lr": lr}
                rows.append(cells | {"is_end": bool(lr in (rates[0], rates[-1]))})
    return pd.DataFrame(rows, columns=["batch_size", "batch", "loss", "tokens", "lr", "is_end"])


def _reached(tokens: np.ndarray, losses: np.ndarray, loss: float) -> float:
    """When a curve first came down to a loss, on the line in log tokens between two evaluations; NaN if never, or by the first."""
    below = np.flatnonzero(losses <= loss)
    if not below.size or not below[0]:
        return NAN
    i = int(below[0])
    if not np.isfinite(losses[i - 1]):
        return float(tokens[i])
    share = (losses[i - 1] - loss) / (losses[i - 1] - losses[i])
    return float(tokens[i - 1] * (tokens[i] / tokens[i - 1]) ** share)


def common_losses(evaluations: pd.DataFrame, n: int = N_TARGETS) -> np.ndarray:
    """Losses that every batch size passed after its first evaluation, easiest first; empty where there is none."""
    finite = evaluations[np.isfinite(evaluations["val_loss"])]
    if finite.empty:
        return np.empty(0)
    first = finite.sort_values("step").groupby("key").first()
    highest = float(first.groupby("batch_size")["val_loss"].min().min())
    lowest = float(finite.groupby("batch_size")["val_loss"].min().max())
    return highest - (highest - lowest) * np.linspace(EASIEST, HARDEST, n) if lowest < highest else np.empty(0)


def critical_batch(reached: pd.DataFrame, level: float = 0.95) -> CriticalBatch:
    """The trade between tokens and steps, for the rows of one loss (columns loss, batch, tokens).

    McCandlish, Kaplan, Amodei et al., An empirical model of large-batch training (2018): (S / S_min - 1) (E / E_min - 1) = 1 with S steps
    and E examples, here tokens. With E = S B that is a line, E = E_min + S_min B, fitted by least squares of log E; the interval of
    E_min / S_min is Student's, in its logarithm.
    """
    loss, n = float(reached["loss"].iloc[0]) if len(reached) else NAN, int(reached["batch"].nunique())
    if n < MIN_SIZES:
        return CriticalBatch(loss, NAN, NAN, NAN, NAN, NAN, n, "too few")
    batch, tokens = reached["batch"].to_numpy(float), reached["tokens"].to_numpy(float)
    X = np.column_stack([np.ones(batch.size), batch])
    # Relative errors first, which never leave the positive side, then logarithms from there.
    start, _ = optimize.nnls(X / tokens[:, None], np.ones(batch.size))
    if start[0] < SHARE * tokens.min():
        return CriticalBatch(loss, NAN, float(start[1]), NAN, NAN, float(batch.min()), n, "above")
    if start[1] < SHARE * float((tokens / batch).min()):
        return CriticalBatch(loss, float(start[0]), NAN, NAN, float(batch.max()), NAN, n, "below")
    found = optimize.least_squares(lambda theta: np.log(X @ np.exp(theta) / tokens), np.log(start), x_scale="jac")
    dof = batch.size - 2
    covariance = np.linalg.inv(found.jac.T @ found.jac) * 2 * found.cost / dof
    spread = np.sqrt(np.array([1, -1]) @ covariance @ np.array([1, -1])) * stats.t.ppf((1 + level) / 2, dof)
    log_batch = float(found.x[0] - found.x[1])
    low, high = float(np.exp(log_batch - spread)), float(np.exp(log_batch + spread))
    return CriticalBatch(loss, float(np.exp(found.x[0])), float(np.exp(found.x[1])), float(np.exp(log_batch)), low, high, n, "resolved")
