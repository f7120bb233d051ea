"""The loss surface L(N, D) = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022), from a table with a row a run.

Both estimators stand side by side. Fitted on less than three budgets of three sizes, or on tokens in one ratio to parameters, there is
no surface, and the answer says so. What to spend compute on follows from a fitted one in closed form.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.analysis.additive import Law, points
from harness.analysis.bootstrap import Shared
from harness.analysis.fit import Estimator, Fit, fit

MOST_LOG = 700.0
ESTIMATORS: tuple[Estimator, ...] = ("log-Huber", "VPNLS")


@dataclass(frozen=True)
class Columns:
    """What the columns of a table are called. `sigma` and `run` may be missing: equal weights, and every row a run."""

    n: str = "n_params"
    d: str = "train_tokens"
    loss: str = "test_loss"
    sigma: str | None = None
    run: str | None = None


@dataclass(frozen=True, eq=False)
class Surface:
    """Both estimates of one surface. `gap`: the constants whose estimates lie outside the other's interval, a finding if any."""

    log_huber: Fit
    vpnls: Fit
    gap: tuple[str, ...]


def fit_surface(
    runs: pd.DataFrame,
    columns: Columns | None = None,
    irreducible: float | None = None,
    n_draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    shared: Shared | None = None,
) -> Surface:
    """Fit the surface by both estimators.

    Args:
        runs: a row a run, all finite and positive, each at the end of its own schedule; see `Columns`.
        irreducible: a fixed E, such as the known floor of the data; None leaves it free.
        shared: see `harness.analysis.fit.fit`.
    """
    first, second = (fit_one(runs, estimator, columns, irreducible, n_draws, seed, level, shared) for estimator in ESTIMATORS)
    return Surface(first, second, gap(first, second))


def fit_one(
    runs: pd.DataFrame,
    estimator: Estimator,
    columns: Columns | None = None,
    irreducible: float | None = None,
    n_draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    shared: Shared | None = None,
) -> Fit:
    """Fit the surface by one estimator; arguments as in `fit_surface`."""
    names = columns or Columns()
    sigma = None if names.sigma is None else runs[names.sigma].to_numpy(float)
    run = None if names.run is None else runs[names.run].to_numpy()
    data = points(runs[[names.n, names.d]].to_numpy(float), runs[names.loss].to_numpy(float), sigma, run, irreducible)
    return fit(data, estimator, n_draws, seed, level, shared)


def gap(first: Fit, second: Fit) -> tuple[str, ...]:
    """Constants for which one estimate lies outside the other's interval."""
    if not (first.is_usable and second.is_usable and first.draws and second.draws):
        return ()

    def outside(name: str, one: Fit, other: Fit) -> bool:
        inside = other.constants[name]
        return not inside.low <= one.constants[name].value <= inside.high

    return tuple(name for name in first.constants if outside(name, first, second) or outside(name, second, first))


def optimum(law: Law, budget: float, per_param_token: float = 6.0, growth: float = 1.0) -> tuple[float, float]:
    """Parameters and tokens of least loss where D tokens cost `per_param_token` N^growth D, from unrounded constants.

    C = 6 N D unless said otherwise (Hoffmann et al. 2022, equation 4); at the least, alpha A / N^alpha = growth beta B / D^beta.
    """
    (A, B), (alpha, beta) = law.factors, law.exponents
    rest = float(np.log(budget / per_param_token))
    # In logarithms: a replicate of a poor fit may have an optimum that no double holds.
    log_n = float(np.log(alpha * A) - np.log(growth * beta * B) + beta * rest) / (alpha + growth * beta)
    n, d = np.exp(np.clip([log_n, rest - growth * log_n], -MOST_LOG, MOST_LOG))
    return float(n), float(d)


def allocation(law: Law) -> tuple[float, float]:
    """Exponents a and b of N* ~ C^a and D* ~ C^b; on one surface they sum to 1."""
    alpha, beta = law.exponents
    return beta / (alpha + beta), alpha / (alpha + beta)


def allocation_interval(fitted: Fit) -> tuple[float, float, float]:
    """a of N* ~ C^a, with its interval over the same replicates as the constants'."""
    if not fitted.is_usable:
        return float("nan"), float("nan"), float("nan")
    a, _ = allocation(fitted.law)
    if not len(fitted.replicates):
        return a, float("nan"), float("nan")
    drawn = fitted.replicates[:, 4] / (fitted.replicates[:, 3] + fitted.replicates[:, 4])
    low, high = np.quantile(drawn, [(1 - fitted.level) / 2, (1 + fitted.level) / 2])
    return a, float(low), float(high)
