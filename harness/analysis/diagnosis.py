"""What a training curve says about its run: converged, still improving, overfitting, diverged or stuck, by stated rules.

A run's evaluations (step, val_loss, train_loss) go in, a verdict with its step and a sentence comes out. Losses are nats a token. The noise
of a curve is taken from how its values jump from one evaluation to the next, so that no rule acts on what is only noise.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from harness.analysis.intervals import Values

Verdict = Literal["converged", "still improving", "overfitting", "diverged", "stuck", "too few evaluations"]

LEAST_EVALUATIONS = 5
# A trend, and a rise over the lowest of many means, count when they are over this many standard errors of noise, and over this share of
# the loss.
NOISES, RISES = 3.0, 4.0
SHARE = 0.005
# The end of a curve is the mean of its last evaluations; its trend is that of the last third.
LAST = 3
TREND = 1 / 3
# Above its own minimum by this many nats a token, with the training loss risen too, a run has left its path (as in training).
RISE_NATS = 1.0
NAN = float("nan")


@dataclass(frozen=True)
class Diagnosis:
    """`step`: where overfitting or divergence began, NaN for the others. `gap`: val minus train loss at the end, `gap_at_best` at the best.

    `per_doubling`: what the last third of the curve promises val loss would fall by, if training went on for as many steps again.
    """

    verdict: Verdict
    step: float
    reason: str
    best_step: float
    best_val_loss: float
    final_val_loss: float
    gap: float
    gap_at_best: float
    per_doubling: float
    noise: float


def diagnose(
    step: Values,
    val_loss: Values,
    train_loss: Values | None = None,
    unigram_entropy: float = NAN,
    status: str = "completed",
    reason: str = "",
) -> Diagnosis:
    """Judge one run, by the first rule that holds.

    1. diverged: its status says so, a loss is not finite, or both losses ended above their lowest, val loss by a nat;
    2. stuck: val loss was never below the unigram entropy of the training text;
    3. overfitting from its best step on: val loss ended above its lowest by more than noise, and train loss did not rise;
    4. still improving: the last third of val loss falls by more than noise, and would by half a percent of it in as many steps again;
    5. converged.
    """
    x, val = np.asarray(step, float), np.asarray(val_loss, float)
    train = np.full(val.size, NAN) if train_loss is None else np.asarray(train_loss, float)
    broken = ~np.isfinite(val) | np.isinf(train)
    if status == "diverged" or broken.any():
        at = float(x[broken][0]) if broken.any() else float(x[-1]) if x.size else NAN
        why = reason or f"a loss was not finite at step {at:g}"
        return _outcome("diverged", at, why, x[~broken], val[~broken], train[~broken], NAN, NAN)
    if x.size < LEAST_EVALUATIONS:
        why = f"{x.size} evaluations; a curve needs {LEAST_EVALUATIONS}"
        return _outcome("too few evaluations", NAN, why, x, val, train, NAN, NAN)
    noise = _noise(val)
    slope, error = _trend(x, val, noise)
    verdict, at, why = _judge(x, val, train, unigram_entropy, noise, slope, error)
    return _outcome(verdict, at, why, x, val, train, -slope * x[-1], noise)


def _judge(
    x: np.ndarray, val: np.ndarray, train: np.ndarray, unigram: float, noise: float, slope: float, error: float
) -> tuple[Verdict, float, str]:
    best, means, train_means = int(np.argmin(val)), _means(val), _means(train)
    end, lowest = float(means[-1]), int(np.argmin(means))
    margin = max(RISES * noise * np.sqrt(2 / LAST), SHARE * val[best])
    risen, train_risen = end - float(means[lowest]), float(train_means[-1] - train_means[lowest])
    if risen > RISE_NATS and train_risen > margin:
        return "diverged", float(x[best]), f"val loss rose by {risen:.2f} nats and train loss by {train_risen:.2f} after step {x[best]:g}"
    if val[best] >= unigram:
        return (
            "stuck",
            NAN,
            f"val loss {val[best]:.3f} was never below the unigram entropy {unigram:.3f}: no more than frequencies were learned",
        )
    if risen > margin and not train_risen > margin:
        return "overfitting", float(x[best]), f"val loss rose by {risen:.3f} nats after step {x[best]:g}"
    fall = -slope * x[-1]
    if slope < -NOISES * error and fall > SHARE * end:
        return "still improving", NAN, f"val loss would fall by about {fall:.3f} nats in as many steps again"
    return "converged", NAN, f"val loss changes by less than {max(SHARE * end, abs(fall)):.3f} nats in as many steps again"


def _means(values: np.ndarray) -> np.ndarray:
    """Running means of the last evaluations: the lowest single value of many flatters itself."""
    return np.convolve(values, np.full(LAST, 1 / LAST), mode="valid")


def _noise(val: np.ndarray) -> float:
    """Standard deviation of one evaluation, from second differences: a smooth curve has next to none (median, against outliers)."""
    return float(1.4826 * np.median(np.abs(np.diff(val, 2))) / np.sqrt(6))


def _trend(x: np.ndarray, val: np.ndarray, noise: float) -> tuple[float, float]:
    """Slope of the last third of the curve and its standard error, in nats a step."""
    n = max(round(TREND * x.size), LAST + 1)
    u, y = x[-n:] - x[-n:].mean(), val[-n:]
    spread = float(u @ u)
    return float(u @ y) / spread, noise / float(np.sqrt(spread))


def _outcome(
    verdict: Verdict, at: float, why: str, x: np.ndarray, val: np.ndarray, train: np.ndarray, per_doubling: float, noise: float
) -> Diagnosis:
    if not x.size:
        return Diagnosis(verdict, at, f"{verdict}: {why}", NAN, NAN, NAN, NAN, NAN, per_doubling, noise)
    best = int(np.argmin(val))
    final, gaps = float(val[-LAST:].mean()), val - train
    return Diagnosis(
        verdict, at, f"{verdict}: {why}", float(x[best]), float(val[best]), final, float(gaps[-1]), float(gaps[best]), per_doubling, noise
    )


def diagnose_runs(evaluations: pd.DataFrame, runs: pd.DataFrame, unigram_entropy: float = NAN) -> pd.DataFrame:
    """A row a run that has evaluations: its key, then the fields of `Diagnosis`.

    Args:
        evaluations: columns key, step, val_loss, train_loss. runs: columns key, status, reason.
        unigram_entropy: nats a token of the training text; NaN where it is not known, then no run is called stuck.
    """
    known = runs.drop_duplicates("key").set_index("key")
    rows = []
    for key, curve in evaluations.sort_values("step").groupby("key", sort=False):
        run = known.loc[key] if key in known.index else pd.Series({"status": "completed", "reason": ""})
        reason = run["reason"] if isinstance(run["reason"], str) else ""
        found = diagnose(curve["step"], curve["val_loss"], curve["train_loss"], unigram_entropy, str(run["status"]), reason)
        rows.append({"key": key, **vars(found)})
    return pd.DataFrame(rows, columns=["key", *Diagnosis.__dataclass_fields__])


def entropy(counts: Values) -> float:
    """Entropy of a distribution given by counts, in nats: of the tokens of a training text, its unigram entropy."""
    n = np.asarray(counts, float)
    p = n[n > 0] / n.sum()
    return float(-(p * np.log(p)).sum())
