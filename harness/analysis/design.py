"""What a planned grid of runs can tell about L(N, D), before a second is spent.

Sizes and token budgets go in. Out come the condition number of the fit, how much of the plane the grid covers, the runs to add where
the constants can't be told apart, and the width that the exponents' intervals would have.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Literal

import numpy as np
import pandas as pd

from harness.analysis.additive import Law, constants, points, theta_of
from harness.analysis.condition import PLAUSIBLE, WORST_CONDITION, condition_number
from harness.analysis.descent import descend
from harness.analysis.intervals import Values
from harness.analysis.levels import levels

# A published surface (Besiroglu et al. 2024), where nothing is known of the study's own.
PRIOR = Law(1.81686, (482.01, 2085.43), PLAUSIBLE)
LEAST_LEVELS = 3
DECADE = 10.0
# Multiples of a size's own budget that may be proposed.
MULTIPLES = (0.25, 0.5, 2.0, 4.0)
MOST_ADDED = 4
# What is proposed should not end just under the limit.
GOOD_CONDITION = WORST_CONDITION / 10

Status = Literal["identified", "not identified"]


@dataclass(frozen=True)
class Coverage:
    """How many levels a grid has and how far it reaches, as factors between the largest and the smallest."""

    n_runs: int
    sizes: int
    crossed_sizes: int
    """Sizes that have three token budgets or more."""
    size_reach: float
    token_reach: float
    ratio_reach: float
    warnings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Design:
    """Whether a surface can be fitted to a grid. `add`: runs (n_params, train_tokens) that would make it so, none where it is already."""

    status: Status
    condition: float
    reason: str
    coverage: Coverage
    add: pd.DataFrame
    condition_then: float


def judge(n_params: Values, train_tokens: Values, exponents: Sequence[float] = PLAUSIBLE) -> Design:
    """Judge a grid of runs, given as pairs, at plausible exponents; above a condition of 1e4 the fit is refused."""
    grid = np.column_stack([np.asarray(n_params, float), np.asarray(train_tokens, float)])
    condition, covered = condition_number(grid, exponents), coverage(n_params, train_tokens)
    nothing = pd.DataFrame(columns=["n_params", "train_tokens"], dtype=float)
    if condition <= WORST_CONDITION:
        return Design("identified", condition, f"condition number {condition:.3g}", covered, nothing, condition)
    added, then = _additions(grid, exponents)
    proposal = "; ".join(f"{n:.3g} parameters on {d:.3g} tokens" for n, d in added.itertuples(index=False))
    why = f"alpha and beta can't both be fitted from this grid (condition {condition:.0e}, over {WORST_CONDITION:.0e})"
    what = f": add {proposal} (condition then {then:.3g})" if len(added) else ": it needs other sizes and budgets altogether"
    return Design("not identified", condition, why + what, covered, added, then)


def coverage(n_params: Values, train_tokens: Values) -> Coverage:
    """Levels and reach of a grid, with a warning where an exponent would rest on too little."""
    n, d = np.asarray(n_params, float), np.asarray(train_tokens, float)
    size = levels(n)
    budgets = [len(np.unique(levels(d[size == level]))) for level in np.unique(size)]
    sizes, crossed = len(budgets), sum(count >= LEAST_LEVELS for count in budgets)
    reach = {"sizes": n.max() / n.min(), "tokens": d.max() / d.min(), "ratio": (d / n).max() / (d / n).min()}
    warnings = []
    if crossed < LEAST_LEVELS:
        warnings.append(f"{crossed} of {sizes} sizes have {LEAST_LEVELS} token budgets or more; exponents need {LEAST_LEVELS} such sizes")
    warnings += [
        f"{name} reach over a factor of {span:.3g}, less than a decade" for name, span in reach.items() if span < DECADE and name != "ratio"
    ]
    return Coverage(n.size, sizes, crossed, reach["sizes"], reach["tokens"], reach["ratio"], tuple(warnings))


def extrapolation(n_params: Values, train_tokens: Values, n: float, d: float) -> str:
    """A warning if a prediction lies over a decade past the data, else nothing."""
    far = []
    for name, values, x in (("parameters", n_params, n), ("tokens", train_tokens, d)):
        past = max(x / float(np.max(values)), float(np.min(values)) / x)
        if past > DECADE:
            far.append(f"{past:.3g} times past the data in {name}")
    return f"extrapolates {' and '.join(far)}: over a decade" if far else ""


def _additions(grid: np.ndarray, exponents: Sequence[float]) -> tuple[pd.DataFrame, float]:
    """The fewest and cheapest runs that bring the condition well under the limit: other budgets at the ends and the middle of the sizes."""
    sizes = np.unique(grid[:, 0])
    bases = [float(sizes[i]) for i in sorted({0, len(sizes) // 2, len(sizes) - 1})]
    own = {n: float(np.exp(np.log(grid[grid[:, 0] == n, 1]).mean())) for n in bases}
    candidates = [(n, own[n] * multiple) for n, multiple in product(bases, MULTIPLES)]
    for count in range(1, MOST_ADDED + 1):
        works = []
        for chosen in combinations(candidates, count):
            condition = condition_number(np.vstack([grid, chosen]), exponents)
            if condition <= GOOD_CONDITION:
                works.append((sum(n * d for n, d in chosen), chosen, condition))
        if works:
            _, best, condition = min(works)
            return pd.DataFrame(best, columns=["n_params", "train_tokens"]), condition
    return pd.DataFrame(columns=["n_params", "train_tokens"], dtype=float), float("inf")


@dataclass(frozen=True)
class Width:
    """Half the interval of each constant that runs like these would give, as simulated; `lost` studies gave no law."""

    alpha: float
    beta: float
    E: float
    level: float
    n_runs: int
    studies: int
    lost: int


def expected_width(
    n_params: Values,
    train_tokens: Values,
    noise: float,
    prior: Law = PRIOR,
    level: float = 0.95,
    studies: int = 400,
    seed: int = 0,
) -> Width:
    """How well the constants would be known: studies are drawn from a prior surface, and each is fitted by VPNLS.

    Args:
        noise: standard deviation of a run's loss over seeds, in the loss's units.
    """
    places = np.column_stack([np.asarray(n_params, float), np.asarray(train_tokens, float)])
    found, lost = simulate(places, noise, prior, studies, seed)
    if len(found) < 2:
        nan = float("nan")
        return Width(nan, nan, nan, level, len(places), studies, lost)
    alpha, beta, E = (half_width(found[:, column], level) for column in (3, 4, 0))
    return Width(alpha, beta, E, level, len(places), studies, lost)


def simulate(places_Nk: np.ndarray, noise: float | np.ndarray, prior: Law, studies: int = 400, seed: int = 0) -> tuple[np.ndarray, int]:
    """(R, K) constants that studies with runs at these places find, and how many found none.

    Args:
        noise: standard deviation of a run's loss over seeds, for all alike or for each, in the loss's units.
    """
    truth = prior.loss(*places_Nk.T)
    data = points(places_Nk, truth)
    # A run at a time, so that a grid with runs added has the same errors in those before, and the two can be compared.
    errors = np.random.default_rng(seed).normal(size=(data.n, studies)).T * noise
    losses = np.maximum(truth + errors, 1e-3 * truth) / data.scale
    found = descend(np.repeat(theta_of(prior, data)[None], studies, axis=0), data, np.ones_like(losses), "squared", losses)
    kept = constants(found.theta[found.ended], data)
    return kept, studies - len(kept)


def half_width(drawn: np.ndarray, level: float = 0.95) -> float:
    """Half the percentile interval of drawn values."""
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(high - low) / 2
