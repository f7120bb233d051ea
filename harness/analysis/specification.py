"""The specification curve: one exponent under every defensible choice, instead of the one cell that was liked.

A table with a row a run goes in; a row for each {counting rule} x {loss form} x {E free or fixed} x {exclusion} comes out, with exponent,
interval and status. What moves the exponent most is then plain to see.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from harness.analysis.fit import Estimator, Fit
from harness.analysis.power_law import fit_power_law, row
from harness.analysis.rate_error import SharedOf
from harness.analysis.surface import ESTIMATORS, Columns, allocation_interval, fit_one

CHOICES = ["x", "estimator", "irreducible", "exclusion"]
COLUMNS = [*CHOICES, "exponent", "value", "low", "high", "status", "reason", "E", "objective", "condition", "n", "n_runs"]


@dataclass(frozen=True, eq=False)
class Choices:
    """What to vary. Every combination becomes a cell.

    `x`: counting rules, as columns of the table: parameters by group, or FLOPs and 6ND. `irreducible`: names of choices of E with its
    value, None for free. `exclusions`: names of subsets with a mask of the runs that stay.
    """

    x: Sequence[str]
    exclusions: Mapping[str, np.ndarray]
    irreducible: Mapping[str, float | None]
    estimators: Sequence[Estimator] = ESTIMATORS


def irreducible_choices(floor: float | None = None) -> dict[str, float | None]:
    """E free, none, and where the best possible loss is known, fixed there."""
    return {"free": None, "0": 0.0} | ({} if floor is None else {"floor": floor})


def exclusions(runs: pd.DataFrame, loss: str = "test_loss", size: str = "n_params", highest: int = 0) -> dict[str, np.ndarray]:
    """The usual ones: no run left out, the smallest size, the largest size, the runs of highest loss."""
    n, y = runs[size].to_numpy(float), runs[loss].to_numpy(float)
    found = {"none": np.ones(len(runs), bool), "smallest size": n > n.min(), "largest size": n < n.max()}
    if highest:
        keep = np.ones(len(runs), bool)
        keep[np.argsort(-y, kind="stable")[:highest]] = False
        found[f"{highest} highest losses"] = keep
    return found


def curve(
    runs: pd.DataFrame,
    choices: Choices,
    loss: str = "test_loss",
    sigma: str | None = None,
    run: str | None = None,
    n_draws: int = 200,
    seed: int = 0,
    shared: SharedOf | None = None,
) -> pd.DataFrame:
    """The exponent of L = E + A / x^alpha in every cell; `shared` gives the error that runs share for those that a cell keeps.

    Columns: x, estimator, irreducible and exclusion (the choices), exponent (its name), value, low, high, status, reason, E, objective,
    condition, n, n_runs.
    """
    cells = []
    for (name, keep), x, (E_name, E), estimator in product(
        choices.exclusions.items(), choices.x, choices.irreducible.items(), choices.estimators
    ):
        kept = runs[keep]
        fitted = fit_power_law(kept, x, loss, E, estimator, sigma, run, n_draws, seed, shared=shared(kept) if shared else None)
        chosen = {"x": x, "estimator": estimator, "irreducible": E_name, "exclusion": name}
        cells.append(_cell(fitted, chosen, "alpha"))
    return pd.DataFrame(cells, columns=COLUMNS)


def surface_curve(
    runs: pd.DataFrame,
    choices: Choices,
    columns: Columns | None = None,
    n_draws: int = 200,
    seed: int = 0,
    shared: SharedOf | None = None,
) -> pd.DataFrame:
    """alpha, beta and a (N* ~ C^a) of the surface in every cell, a row each; `choices.x` are counting rules of N. Columns as in `curve`."""
    names = columns or Columns()
    cells = []
    for (name, keep), x, (E_name, E), estimator in product(
        choices.exclusions.items(), choices.x, choices.irreducible.items(), choices.estimators
    ):
        kept, named = runs[keep], Columns(x, names.d, names.loss, names.sigma, names.run)
        fitted = fit_one(kept, estimator, named, E, n_draws, seed, shared=shared(kept) if shared else None)
        chosen = {"x": x, "estimator": estimator, "irreducible": E_name, "exclusion": name}
        cells += [_cell(fitted, chosen, exponent) for exponent in ("alpha", "beta")]
        value, low, high = allocation_interval(fitted)
        cells.append(_cell(fitted, chosen, "alpha") | {"exponent": "a", "value": value, "low": low, "high": high})
    return pd.DataFrame(cells, columns=COLUMNS)


def _cell(fitted: Fit, chosen: dict[str, str], exponent: str) -> dict[str, object]:
    constant = fitted.constants[exponent]
    return row(fitted) | chosen | {"exponent": exponent, "value": constant.value, "low": constant.low, "high": constant.high}


@dataclass(frozen=True)
class Range:
    """How far an exponent moves over the cells that converged, and how much each choice moves it on average."""

    exponent: str
    low: float
    high: float
    cells: int
    converged: int
    by_choice: dict[str, float]
    """Choice to the spread between the means of its levels; the largest decides the answer."""


def spread(cells: pd.DataFrame, exponent: str = "alpha") -> Range:
    """What the choices do to one exponent."""
    those = cells[cells["exponent"] == exponent]
    good = those[those["status"] == "converged"]
    by_choice = {choice: float(np.ptp(good.groupby(choice)["value"].mean())) if len(good) else 0.0 for choice in CHOICES}
    low, high = (float(good["value"].min()), float(good["value"].max())) if len(good) else (float("nan"), float("nan"))
    return Range(exponent, low, high, len(those), len(good), by_choice)
