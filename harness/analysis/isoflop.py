"""IsoFLOP profiles: for each compute budget the size of least loss, and how it grows with compute.

Runs with parameters, tokens, FLOPs and loss go in; a row a budget and two power laws come out. A parabola in log N is biased even
without noise, by an amount that depends on the grid and the exponents only (`parabola_bias`), and a second estimator (Akima) stands
beside it. A minimum at the edge of its grid is censored, never a vertex.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy import interpolate

from harness.analysis.additive import Law
from harness.analysis.bootstrap import Shared
from harness.analysis.fit import Constant
from harness.analysis.levels import levels
from harness.analysis.surface import optimum

Method = Literal["parabola", "akima"]
Status = Literal["resolved", "edge", "not convex", "too few"]

LEAST_POINTS = {"parabola": 4, "akima": 5}
LEAST_BUDGETS = 3
# FLOPs within this factor are one budget.
SAME_BUDGET = 1.1
FINE = 2001
NAN = float("nan")


@dataclass(frozen=True)
class Profile:
    """The optimum of one budget: only a `resolved` one enters a law."""

    flops: float
    n: int
    status: Status
    reason: str
    n_params: float
    train_tokens: float
    loss: float


@dataclass(frozen=True, eq=False)
class Scaling:
    """N* ~ C^a and D* ~ C^b over the resolved budgets. a and b are fitted on their own and need not sum to 1: `total` is their sum."""

    method: Method
    status: Literal["fitted", "too few"]
    reason: str
    a: Constant
    b: Constant
    total: float
    profiles: tuple[Profile, ...]
    log_n: tuple[float, float]
    """Slope and value of log N* at log C = 0; `log_d` the same for D*."""
    log_d: tuple[float, float]
    level: float
    n_draws: int

    def at(self, flops: float) -> tuple[float, float]:
        """N* and D* at another budget."""
        n, d = (float(np.exp(slope * np.log(flops) + level)) for slope, level in (self.log_n, self.log_d))
        return n, d

    @property
    def table(self) -> pd.DataFrame:
        """A row a budget."""
        return pd.DataFrame([vars(profile) for profile in self.profiles])


def budgets(flops: np.ndarray) -> np.ndarray:
    """A number for each run, the same for runs whose FLOPs differ by less than 10 % from their neighbour's."""
    return levels(flops, SAME_BUDGET)


def fit_isoflop(
    runs: pd.DataFrame,
    loss: str = "test_loss",
    method: Method = "parabola",
    n_draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    shared: Shared | None = None,
) -> Scaling:
    """Profiles and their laws, with percentile intervals by a bootstrap over the runs of each budget.

    Args:
        runs: columns n_params, train_tokens, train_flops and the loss; a row a run.
        shared: see `harness.analysis.fit.fit`.
    """
    budget, table = budgets(runs["train_flops"].to_numpy(float)), _arrays(runs, loss)
    order = np.argsort(table[0], kind="stable")
    places = [order[budget[order] == i] for i in range(budget.max() + 1)]
    profiles = tuple(_profile(table[:, place], method) for place in places)
    resolved = [p for p in profiles if p.status == "resolved"]
    if len(resolved) < LEAST_BUDGETS:
        why = f"{len(resolved)} of {len(profiles)} budgets have their optimum inside their grid; a law needs {LEAST_BUDGETS}"
        nothing = Constant(NAN, NAN, NAN)
        return Scaling(method, "too few", why, nothing, nothing, NAN, profiles, (NAN, NAN), (NAN, NAN), level, 0)
    log_n, log_d = (_line(resolved, name) for name in ("n_params", "train_tokens"))
    kept = [place for place, p in zip(places, profiles, strict=True) if p.status == "resolved"]
    draws = _bootstrap(table, kept, method, n_draws, seed, shared)
    bounds = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0) if len(draws) else np.full((2, 2), NAN)
    why = f"{len(resolved)} of {len(profiles)} budgets, {len(draws)} of {n_draws} bootstraps resolved as many as a law needs"
    a, b = (Constant(line[0], float(low), float(high)) for line, (low, high) in zip((log_n, log_d), bounds.T, strict=True))
    return Scaling(method, "fitted", why, a, b, a.value + b.value, profiles, log_n, log_d, level, len(draws))


def _arrays(runs: pd.DataFrame, loss: str) -> np.ndarray:
    """(4, n): log N, log D, log C and loss."""
    logs = np.log(runs[["n_params", "train_tokens", "train_flops"]].to_numpy(float)).T
    return np.vstack([logs, runs[loss].to_numpy(float)])


def _profile(runs: np.ndarray, method: Method) -> Profile:
    x, log_d, log_c, y = runs
    flops, sizes = float(np.exp(log_c.mean())), np.unique(x)
    if len(sizes) < LEAST_POINTS[method]:
        why = f"{len(sizes)} sizes; {method} needs {LEAST_POINTS[method]}"
        return Profile(flops, y.size, "too few", why, NAN, NAN, NAN)
    means = np.array([y[x == size].mean() for size in sizes])
    best = int(np.argmin(means))
    if best in (0, len(sizes) - 1):
        end = "smallest" if best == 0 else "largest"
        return Profile(flops, y.size, "edge", f"the best run is at the {end} size: the optimum may lie past it", NAN, NAN, NAN)
    vertex, value = _vertex(x, y) if method == "parabola" else _akima(sizes, means)
    if not np.isfinite(vertex):
        return Profile(flops, y.size, "not convex", "the losses don't curve upwards", NAN, NAN, NAN)
    if not sizes[0] < vertex < sizes[-1]:
        return Profile(flops, y.size, "edge", "the vertex lies outside the sizes", NAN, NAN, NAN)
    tokens = float(np.exp(np.polynomial.Polynomial.fit(x, log_d, 1)(vertex)))
    return Profile(flops, y.size, "resolved", "", float(np.exp(vertex)), tokens, value)


def _vertex(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """The lowest point of a parabola; NaN if it opens downwards."""
    centre = x.mean()
    c, b, a = np.polynomial.polynomial.polyfit(x - centre, y, 2)
    if a <= 0:
        return NAN, NAN
    return float(centre - b / (2 * a)), float(c - b * b / (4 * a))


def _akima(sizes: np.ndarray, means: np.ndarray) -> tuple[float, float]:
    """The lowest point of an interpolation without overshoot (Akima 1970) through the mean loss of each size."""
    curve = interpolate.Akima1DInterpolator(sizes, means, method="akima")
    fine = np.linspace(sizes[0], sizes[-1], FINE)
    roots = [r for r in np.atleast_1d(curve.derivative().roots(extrapolate=False)) if sizes[0] < r < sizes[-1]]
    places = np.array(roots) if roots else fine
    lowest = places[int(np.argmin(curve(places)))]
    return float(lowest), float(curve(lowest))


def _line(profiles: Sequence[Profile], name: str) -> tuple[float, float]:
    """Slope and intercept of the logarithm of an optimum over log C."""
    x, y = (np.log([getattr(p, field) for p in profiles]) for field in ("flops", name))
    slope, level = np.polyfit(x - x.mean(), y, 1)
    return float(slope), float(level - slope * x.mean())


def _bootstrap(
    table: np.ndarray, places: Sequence[np.ndarray], method: Method, n_draws: int, seed: int, shared: Shared | None
) -> np.ndarray:
    """(R, 2) exponents of N* and D*; draws in which too few budgets have an optimum inside their grid are left out."""
    rng, found = np.random.default_rng(seed), []
    excess = np.zeros((n_draws, table.shape[1])) if shared is None else shared.draws(n_draws, seed)
    for one in excess:
        shaken = np.vstack([table[:3], table[3] - one])
        profiles = [_profile(shaken[:, rng.choice(place, place.size)], method) for place in places]
        resolved = [p for p in profiles if p.status == "resolved"]
        if len(resolved) >= LEAST_BUDGETS:
            found.append([_line(resolved, "n_params")[0], _line(resolved, "train_tokens")[0]])
    return np.array(found).reshape(-1, 2)


def parabola_bias(log_distance: np.ndarray, alpha: float, beta: float) -> float:
    """How far a parabola's vertex lies from the true optimum in log D, without any noise.

    At a fixed budget the surface is, up to a constant and a factor, exp(alpha u) / alpha + exp(-beta u) / beta with u = log(D / D*): so
    the bias depends on the exponents and the grid only, and not on the budget. Exponents of N* and D* stay exact if every budget has the
    same grid about its optimum; the optima themselves are off by this factor.

    Args:
        log_distance: log(D / D*) of the runs of one budget.
    """
    u = np.asarray(log_distance, float)
    vertex, _ = _vertex(u, np.exp(alpha * u) / alpha + np.exp(-beta * u) / beta)
    return vertex


def grid_bias(runs: pd.DataFrame, law: Law) -> pd.DataFrame:
    """The bias that a parabola has on the grid of these runs, were `law` true: columns flops, n, and `bias`, D over the true D* minus 1.

    Args:
        runs: columns n_params, train_tokens and train_flops. law: a surface, such as the one fitted to them. FLOPs of a parameter and token
            are taken as the mean over a budget's runs; where they change with size, the closed form holds nearly.
    """
    budget, rows = budgets(runs["train_flops"].to_numpy(float)), []
    for i in range(budget.max() + 1):
        group = runs[budget == i]
        flops = float(np.exp(np.log(group["train_flops"]).mean()))
        each = float(np.exp(np.log(group["train_flops"] / group["n_params"] / group["train_tokens"]).mean()))
        distance = np.log(group["train_tokens"].to_numpy(float) / optimum(law, flops, each)[1])
        enough = len(np.unique(distance)) >= LEAST_POINTS["parabola"]
        bias = np.expm1(parabola_bias(distance, *law.exponents)) if enough else NAN
        rows.append({"flops": flops, "n": len(group), "bias": float(bias)})
    return pd.DataFrame(rows)
