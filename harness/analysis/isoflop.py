"""IsoFLOP profiles: for each compute budget the size of least loss, and how it grows with compute.

Runs with parameters, tokens, FLOPs and loss go in; a row a budget and two power laws come out. A parabola in log N is biased even
without noise, by an amount that depends on the grid and the exponents only (`parabola_bias`), and a second estimator (Akima) stands
beside it. A minimum at the edge of its grid is censored, never a vertex.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
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
PARABOLA = ("level", "slope", "curvature")
# FLOPs within this factor are one budget.
SAME_BUDGET = 1.1
FINE = 2001
NAN = float("nan")


@dataclass(frozen=True)
class Profile:
    """The optimum of one budget: only a `resolved` one enters a law; of others it is NaN.

    `curvature`: of the parabola in log N, NaN for Akima. `end`, `end_loss`: of an `edge`, the size at the end of the grid past which the
    optimum may lie, and the mean loss there. `low`, `high`: the percentile interval of `n_params`: 0 or infinite where that many
    bootstraps have it past the end of the sizes, NaN where too few say where it is.
    """

    flops: float
    n: int
    status: Status
    reason: str
    n_params: float = NAN
    train_tokens: float = NAN
    loss: float = NAN
    curvature: float = NAN
    end: float = NAN
    end_loss: float = NAN
    low: float = NAN
    high: float = NAN

    def parabola(self, n_params: np.ndarray) -> np.ndarray:
        """The fitted loss at these sizes; NaN where no parabola has its lowest point inside the sizes."""
        fitted: np.ndarray = self.loss + self.curvature * np.log(n_params / self.n_params) ** 2
        return fitted


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
    lines: np.ndarray = field(repr=False)
    """(n_draws, 2): slope and value at log C = 0 of log N* in each bootstrap that has a law."""

    def at(self, flops: float) -> tuple[float, float]:
        """N* and D* at another budget."""
        n, d = (float(np.exp(slope * np.log(flops) + level)) for slope, level in (self.log_n, self.log_d))
        return n, d

    def band(self, flops: float) -> tuple[float, float]:
        """The percentile interval of N* at another budget, over the bootstraps that a's is of; NaN without any."""
        if not len(self.lines):
            return NAN, NAN
        low, high = np.quantile(self.lines @ [np.log(flops), 1.0], [(1 - self.level) / 2, (1 + self.level) / 2])
        return float(np.exp(low)), float(np.exp(high))

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
    profiles = [_profile(table[:, place], method) for place in places]
    kept = [i for i, profile in enumerate(profiles) if profile.status == "resolved"]
    lines, optima = _bootstrap(table, [places[i] for i in kept], method, n_draws, seed, shared)
    for i, drawn in zip(kept, optima.T, strict=True):
        factor = _factor(profiles[i].n, len(PARABOLA), method)
        low, high = _optimum_interval(_spread(np.log(profiles[i].n_params), drawn, factor), level)
        profiles[i] = replace(profiles[i], low=low, high=high)
    if len(kept) < LEAST_BUDGETS:
        why = f"{len(kept)} of {len(profiles)} budgets have their optimum inside their grid; a law needs {LEAST_BUDGETS}"
        nothing = Constant(NAN, NAN, NAN)
        return Scaling(method, "too few", why, nothing, nothing, NAN, tuple(profiles), (NAN, NAN), (NAN, NAN), level, 0, np.empty((0, 2)))
    log_n, log_d = (_line([profiles[i] for i in kept], name) for name in ("n_params", "train_tokens"))
    factor = _factor(sum(profiles[i].n for i in kept), len(PARABOLA) * len(kept), method)
    lines = _spread(np.array([log_n, log_d]), lines, factor)
    bounds = np.quantile(lines[:, :, 0], [(1 - level) / 2, (1 + level) / 2], axis=0) if len(lines) else np.full((2, 2), NAN)
    why = f"{len(kept)} of {len(profiles)} budgets, {len(lines)} of {n_draws} bootstraps resolved as many as a law needs"
    a, b = (Constant(line[0], float(low), float(high)) for line, (low, high) in zip((log_n, log_d), bounds.T, strict=True))
    return Scaling(method, "fitted", why, a, b, a.value + b.value, tuple(profiles), log_n, log_d, level, len(lines), lines[:, 0])


def _arrays(runs: pd.DataFrame, loss: str) -> np.ndarray:
    """(4, n): log N, log D, log C and loss."""
    logs = np.log(runs[["n_params", "train_tokens", "train_flops"]].to_numpy(float)).T
    return np.vstack([logs, runs[loss].to_numpy(float)])


def _profile(runs: np.ndarray, method: Method) -> Profile:
    x, log_d, log_c, y = runs
    flops, sizes = float(np.exp(log_c.mean())), np.unique(x)
    if len(sizes) < LEAST_POINTS[method]:
        return Profile(flops, y.size, "too few", f"{len(sizes)} sizes; {method} needs {LEAST_POINTS[method]}")
    means = np.array([y[x == size].mean() for size in sizes])
    best = int(np.argmin(means))
    if best in (0, len(sizes) - 1):
        which = "smallest" if best == 0 else "largest"
        why = f"the best run is at the {which} size: the optimum may lie past it"
        return Profile(flops, y.size, "edge", why, end=float(np.exp(sizes[best])), end_loss=float(means[best]))
    vertex, value, curvature = _vertex(x, y) if method == "parabola" else (*_akima(sizes, means), NAN)
    if not np.isfinite(vertex):
        return Profile(flops, y.size, "not convex", "the losses don't curve upwards")
    if not sizes[0] < vertex < sizes[-1]:
        end = 0 if vertex <= sizes[0] else -1
        why = "the vertex lies outside the sizes"
        return Profile(flops, y.size, "edge", why, end=float(np.exp(sizes[end])), end_loss=float(means[end]))
    tokens = float(np.exp(np.polynomial.Polynomial.fit(x, log_d, 1)(vertex)))
    return Profile(flops, y.size, "resolved", "", float(np.exp(vertex)), tokens, value, curvature)


def _vertex(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """The lowest point of a parabola and its curvature; NaN if it opens downwards."""
    centre = x.mean()
    c, b, a = np.polynomial.polynomial.polyfit(x - centre, y, 2)
    if a <= 0:
        return NAN, NAN, NAN
    return float(centre - b / (2 * a)), float(c - b * b / (4 * a)), float(a)


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
) -> tuple[np.ndarray, np.ndarray]:
    """Draws of the runs of each of these budgets.

    Returns:
        (R, 2, 2) slope and value of the lines of N* and D*, without draws in which too few budgets have an optimum inside their grid; and
        (n_draws, budgets) log N*, as `_log_optimum`.
    """
    rng, lines, optima = np.random.default_rng(seed), [], np.full((n_draws, len(places)), NAN)
    excess = np.zeros((n_draws, table.shape[1])) if shared is None else shared.draws(n_draws, seed)
    for i, one in enumerate(excess):
        shaken = np.vstack([table[:3], table[3] - one])
        drawn = [rng.choice(place, place.size) for place in places]
        profiles = [_profile(shaken[:, rows], method) for rows in drawn]
        optima[i] = [_log_optimum(p, table[0, rows], table[0, place]) for p, rows, place in zip(profiles, drawn, places, strict=True)]
        resolved = [p for p in profiles if p.status == "resolved"]
        if len(resolved) >= LEAST_BUDGETS:
            lines.append([_line(resolved, "n_params"), _line(resolved, "train_tokens")])
    return np.array(lines).reshape(-1, 2, 2), optima


def _log_optimum(profile: Profile, drawn: np.ndarray, log_n: np.ndarray) -> float:
    """log N* of a draw: infinite past an end of the budget's sizes, NaN where the draw doesn't say.

    An end of the draw says nothing unless both that end of the budget's sizes and the size next to it are drawn: without them the
    optimum may lie beside it.
    """
    if profile.status != "edge":
        return float(np.log(profile.n_params))
    sizes, below = np.unique(log_n), np.log(profile.end) < (drawn.min() + drawn.max()) / 2
    said = np.isin(sizes[:2] if below else sizes[-2:], drawn).all()
    return float(-np.inf if below else np.inf) if said else NAN


def _factor(n: int, constants: int, method: Method) -> float:
    """By how much draws are spread: residuals of a parabola are smaller than the errors, as `bootstrap.calibrated` has it."""
    return float(np.sqrt(n / max(n - constants, 1))) if method == "parabola" else 1.0


def _spread(estimate: np.ndarray | float, drawn: np.ndarray, factor: float) -> np.ndarray:
    spread: np.ndarray = estimate + factor * (drawn - estimate)
    return spread


def _optimum_interval(drawn: np.ndarray, level: float) -> tuple[float, float]:
    """Percentiles of N* over the draws that say where it is; NaN where a tail would hold none of them."""
    drawn = drawn[~np.isnan(drawn)]
    if drawn.size * (1 - level) / 2 < 1:
        return NAN, NAN
    # No interpolation, which between a number and infinity has no value.
    low, high = np.exp(np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf"))
    return float(low), float(high)


def parabola_bias(log_distance: np.ndarray, alpha: float, beta: float) -> float:
    """How far a parabola's vertex lies from the true optimum in log D, without any noise.

    At a fixed budget the surface is, up to a constant and a factor, exp(alpha u) / alpha + exp(-beta u) / beta with u = log(D / D*): so
    the bias depends on the exponents and the grid only, and not on the budget. Exponents of N* and D* stay exact if every budget has the
    same grid about its optimum; the optima themselves are off by this factor.

    Args:
        log_distance: log(D / D*) of the runs of one budget.
    """
    u = np.asarray(log_distance, float)
    vertex, *_ = _vertex(u, np.exp(alpha * u) / alpha + np.exp(-beta * u) / beta)
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
