"""Does the law predict a size that it hasn't seen? The largest rung held out, and before it each other one in turn.

A table with a row a run goes in. The law of the smaller sizes gives an interval for the mean loss of the held-out rung's runs; what was
observed stands beside it, in units of seed noise too. R^2 says nothing here: it is .99 for wrong laws.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from harness.analysis.fit import Estimator, Fit
from harness.analysis.levels import SAME
from harness.analysis.power_law import fit_power_law
from harness.analysis.rate_error import SharedOf
from harness.analysis.surface import Columns, fit_one

LEAST_SIZES = 3
NAN = float("nan")

FitTo = Callable[[pd.DataFrame], Fit]


@dataclass(frozen=True)
class HeldOut:
    """One held-out rung. `error` is observed minus predicted; `in_noise` is it over the standard deviation over seeds, NaN for one seed."""

    status: Literal["inside", "outside", "no law"]
    reason: str
    n_params: float
    runs: int
    observed: float
    predicted: float
    low: float
    high: float
    error: float
    in_noise: float
    fitted_sizes: int
    level: float


@dataclass(frozen=True, eq=False)
class Rollouts:
    """Every rung that has smaller ones to be predicted from, in order of size; `covered` of `judged` lay inside their interval."""

    rungs: tuple[HeldOut, ...]
    covered: int
    judged: int

    @property
    def table(self) -> pd.DataFrame:
        """A row a rung."""
        return pd.DataFrame([vars(rung) for rung in self.rungs], columns=list(HeldOut.__dataclass_fields__))


def power_law_fitter(
    x: str = "n_params", loss: str = "test_loss", irreducible: float | None = None, n_draws: int = 500, shared: SharedOf | None = None
) -> FitTo:
    """Fits of L = E + A / x^alpha, for ladders with one budget a size; `shared` gives the excess that some runs share."""
    return lambda runs: fit_power_law(runs, x, loss, irreducible, n_draws=n_draws, shared=shared(runs) if shared else None)


def surface_fitter(
    columns: Columns | None = None,
    estimator: Estimator = "log-Huber",
    irreducible: float | None = None,
    n_draws: int = 500,
    shared: SharedOf | None = None,
) -> FitTo:
    """Fits of the surface, for grids of sizes and budgets."""
    return lambda runs: fit_one(runs, estimator, columns, irreducible, n_draws, shared=shared(runs) if shared else None)


def predict_largest(
    runs: pd.DataFrame,
    fit_to: FitTo,
    variables: tuple[str, ...] = ("n_params",),
    loss: str = "test_loss",
    shared: SharedOf | None = None,
) -> HeldOut:
    """The largest size against the law of all smaller ones; arguments as in `predict_size`."""
    return predict_size(runs, float(runs["n_params"].max()), fit_to, variables, loss, shared)


def predict_size(
    runs: pd.DataFrame,
    size: float,
    fit_to: FitTo,
    variables: tuple[str, ...] = ("n_params",),
    loss: str = "test_loss",
    shared: SharedOf | None = None,
) -> HeldOut:
    """One size against the law of all smaller ones; of its budgets, the largest is judged.

    Args:
        runs: columns n_params, the variables of the law and the loss; runs within 5 % in all variables are seeds of one rung.
        variables: columns in the order that the law takes them, such as (n_params, train_tokens).
        shared: gives the excess that the runs of the held-out rung share, which the prediction then holds too.
    """
    smaller, those = runs[runs["n_params"] < size], runs[runs["n_params"] == size]
    places = those[list(variables)].to_numpy(float)
    rung = those[(places * SAME >= places.max(axis=0)).all(axis=1)]
    observed = float(rung[loss].mean())
    noise = float(rung[loss].std(ddof=1)) if len(rung) > 1 else NAN
    sizes = smaller["n_params"].nunique()
    fitted = fit_to(smaller) if sizes >= LEAST_SIZES else None
    if fitted is None or not fitted.is_usable or fitted.status == "not converged":
        why = f"{sizes} smaller sizes; a law needs {LEAST_SIZES}" if fitted is None else f"{fitted.status}: {fitted.reason}"
        level = 0.95 if fitted is None else fitted.level
        return HeldOut("no law", why, size, len(rung), observed, NAN, NAN, NAN, NAN, NAN, sizes, level)
    own = float(shared(rung).sigma.mean()) if shared else 0.0
    expected = fitted.predict(*(float(rung[name].mean()) for name in variables), runs=len(rung), excess=own)
    error = observed - expected.loss
    inside = expected.low <= observed <= expected.high
    interval = f"{100 * fitted.level:g} % interval {expected.low:.4g} to {expected.high:.4g}"
    return HeldOut(
        status="inside" if inside else "outside",
        reason=f"observed {observed:.4g}, predicted {expected.loss:.4g} ({interval})",
        n_params=size,
        runs=len(rung),
        observed=observed,
        predicted=expected.loss,
        low=expected.low,
        high=expected.high,
        error=error,
        in_noise=error / noise if noise > 0 else NAN,
        fitted_sizes=sizes,
        level=fitted.level,
    )


def rollouts(
    runs: pd.DataFrame,
    fit_to: FitTo,
    variables: tuple[str, ...] = ("n_params",),
    loss: str = "test_loss",
    shared: SharedOf | None = None,
) -> Rollouts:
    """Each size in turn against the law of all smaller ones: how often the intervals held."""
    sizes = np.sort(runs["n_params"].unique())
    rungs = tuple(predict_size(runs, float(size), fit_to, variables, loss, shared) for size in sizes[LEAST_SIZES:])
    judged = [rung for rung in rungs if rung.status != "no law"]
    return Rollouts(rungs, sum(rung.status == "inside" for rung in judged), len(judged))
