"""The law of repeated data: what a token is worth that has been seen before (Muennighoff et al. 2023, "Scaling data-constrained models").

D tokens from U different ones count as D' = U + U R_D (1 - exp(-(D / U - 1) / R_D)); parameters beyond what U tokens can use decay alike. A
law of one epoch on runs that repeat is refused: overfitting bends such curves upwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy import optimize

from harness.analysis.additive import DELTA, Law, penalty
from harness.analysis.fit import Constant

# Epochs above this are a repetition; the rest is rounding to whole batches.
ONE_EPOCH = 1.01
STARTS = (1.0, 5.0, 25.0)
LEAST, MOST = 0.05, 1e4
SAME = 0.02
NAN = float("nan")


@dataclass(frozen=True)
class Repetition:
    """A one-epoch law of parameters and tokens, and the numbers of repeats over which tokens and extra parameters lose their worth."""

    law: Law
    r_d: float
    r_n: float

    def loss(self, n: np.ndarray | float, d: np.ndarray | float, unique: np.ndarray | float) -> np.ndarray:
        """The loss of n parameters on d tokens of which `unique` are different."""
        u = np.minimum(np.asarray(unique, float), d)
        useful = np.minimum(compute_optimal(self.law, u), n)
        return self.law.loss(worth(n, useful, self.r_n), worth(d, u, self.r_d))


def worth(seen: np.ndarray | float, unique: np.ndarray | float, r: float) -> np.ndarray:
    """What `seen` amounts to, of which `unique` are different, if repeats decay over r of them."""
    repeats = np.maximum(np.asarray(seen, float) / unique - 1, 0)
    amount: np.ndarray = unique * (1 + r * -np.expm1(-repeats / r))
    return amount


def compute_optimal(law: Law, tokens: np.ndarray | float) -> np.ndarray:
    """Parameters for which these tokens would be compute-optimal: alpha A / N^alpha = beta B / D^beta."""
    (A, B), (alpha, beta) = law.factors, law.exponents
    size: np.ndarray = (alpha * A / (beta * B) * np.asarray(tokens, float) ** beta) ** (1 / alpha)
    return size


def repeats(train_tokens: Sequence[float], unique_tokens: Sequence[float]) -> str:
    """Why a one-epoch law is not to be fitted, or nothing: some runs saw their tokens more than once."""
    epochs = np.asarray(train_tokens, float) / np.asarray(unique_tokens, float)
    over = epochs > ONE_EPOCH
    if not over.any():
        return ""
    return f"{over.sum()} of {over.size} runs repeat their data (up to {epochs.max():.3g} epochs): a one-epoch law does not hold"


@dataclass(frozen=True)
class RepetitionFit:
    """R_D and R_N with percentile intervals over runs. Only `converged` ones say something; `reason` says why not."""

    status: Literal["converged", "not converged", "at a bound", "too few"]
    reason: str
    r_d: Constant
    r_n: Constant
    objective: float
    n: int


def fit_repetition(
    runs: pd.DataFrame, law: Law, loss: str = "test_loss", n_draws: int = 200, seed: int = 0, laws: Sequence[Law] = ()
) -> RepetitionFit:
    """R_D and R_N by log-Huber, with a given one-epoch law.

    Args:
        runs: columns n_params, train_tokens, unique_tokens and the loss; those with one epoch say nothing and are allowed.
        law: of runs without repeats. laws: what else it might have been, one for each replicate in turn; without them its uncertainty is
            not in the intervals.
    """
    table = runs[["n_params", "train_tokens", "unique_tokens", loss]].to_numpy(float)
    epochs = table[:, 1] / table[:, 2]
    nothing = Constant(NAN, NAN, NAN)
    if len(np.unique(epochs[epochs > ONE_EPOCH].round(6))) < 2:
        return RepetitionFit("too few", "R_D needs runs at two numbers of epochs above 1", nothing, nothing, NAN, len(table))
    found = [_minimise(table, law, np.log([r, r]), np.ones(len(table))) for r in STARTS]
    best = min(found, key=lambda one: one[1])
    agreeing = sum(bool(np.abs(one[0] - best[0]).max() < SAME) for one in found)
    drawn = _bootstrap(table, laws or [law], best[0], n_draws, seed)
    bounds = np.quantile(drawn, [0.025, 0.975], axis=0) if n_draws else np.full((2, 2), NAN)
    r_d, r_n = (Constant(float(np.exp(v)), float(low), float(high)) for v, (low, high) in zip(best[0], bounds.T, strict=True))
    if agreeing < 2:
        return RepetitionFit("not converged", f"{agreeing} of {len(STARTS)} starts came to the answer", r_d, r_n, best[1], len(table))
    ends = [name for name, r in (("R_D", r_d), ("R_N", r_n)) if not LEAST * 1.01 < r.value < MOST / 1.01]
    if ends:
        return RepetitionFit("at a bound", f"{' and '.join(ends)} can't be told from these runs", r_d, r_n, best[1], len(table))
    return RepetitionFit("converged", f"{agreeing} of {len(STARTS)} starts agree", r_d, r_n, best[1], len(table))


def _minimise(table: np.ndarray, law: Law, start: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, float]:
    """(log R_D, log R_N) and the objective there."""
    n, d, unique, y = table.T

    def value(logs: np.ndarray) -> float:
        r_d, r_n = np.exp(logs)
        r = np.log(Repetition(law, float(r_d), float(r_n)).loss(n, d, unique) / y)
        # Over delta the objective is of order one, and a simplex can tell its corners apart.
        return float(penalty(r[None], weights[None], "log-huber")[0]) / DELTA

    bounds = [(np.log(LEAST), np.log(MOST))] * 2
    found = optimize.minimize(value, start, method="Nelder-Mead", bounds=bounds, options={"xatol": 1e-6, "fatol": 1e-12, "maxiter": 1000})
    return found.x, float(found.fun) * DELTA


def _bootstrap(table: np.ndarray, laws: Sequence[Law], start: np.ndarray, n_draws: int, seed: int) -> np.ndarray:
    rng, size = np.random.default_rng(seed), len(table)
    counts = rng.multinomial(size, np.full(size, 1 / size), n_draws).astype(float)
    drawn = [np.exp(_minimise(table, laws[i % len(laws)], start, count)[0]) for i, count in enumerate(counts)]
    return np.array(drawn).reshape(-1, 2)
