"""Power laws of the loss in one variable, L = E + A / x^alpha, in parameters, tokens or compute.

A table with a row a run goes in. With E free, E fixed (such as the known floor of the data) or E = 0, the exponent moves by far more
than its interval: so all that the data allow are fitted, and shown together.
"""

import pandas as pd

from harness.analysis.additive import points
from harness.analysis.bootstrap import Shared
from harness.analysis.fit import Estimator, Fit, fit


def fit_power_law(
    runs: pd.DataFrame,
    x: str,
    loss: str = "test_loss",
    irreducible: float | None = None,
    estimator: Estimator = "log-Huber",
    sigma: str | None = None,
    run: str | None = None,
    n_draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    shared: Shared | None = None,
) -> Fit:
    """Fit one law.

    Args:
        runs: a row a run, finite and positive in `x` and `loss`.
        irreducible: None leaves E free; a number fixes it; 0 is a pure power law.
        sigma: the column with each loss's standard deviation (weights are 1 / sigma^2). run: the column that names the run.
    """
    weights = None if sigma is None else runs[sigma].to_numpy(float)
    group = None if run is None else runs[run].to_numpy()
    data = points(runs[[x]].to_numpy(float), runs[loss].to_numpy(float), weights, group, irreducible)
    return fit(data, estimator, n_draws, seed, level, shared)


def fit_power_laws(
    runs: pd.DataFrame,
    x: str,
    loss: str = "test_loss",
    floor: float | None = None,
    estimator: Estimator = "log-Huber",
    n_draws: int = 1000,
    shared: Shared | None = None,
) -> pd.DataFrame:
    """The law with E free, 0 and, where a floor is known, fixed there: a row each; `shared` as in `harness.analysis.fit.fit`.

    Columns: irreducible (free, 0, floor), E, E_low, E_high, A, alpha, alpha_low, alpha_high, objective, condition, n, status, reason.
    """
    choices = {"free": None, "0": 0.0} | ({} if floor is None else {"floor": floor})
    return pd.DataFrame(
        [
            {"irreducible": name, **row(fit_power_law(runs, x, loss, E, estimator, n_draws=n_draws, shared=shared))}
            for name, E in choices.items()
        ]
    )


def row(fitted: Fit) -> dict[str, object]:
    """A fit as cells of a table: each constant, its bounds as `<name>_low` and `<name>_high`, and what to know about it."""
    cells: dict[str, object] = {}
    for name, constant in fitted.constants.items():
        cells |= {name: constant.value, f"{name}_low": constant.low, f"{name}_high": constant.high}
    about = {"objective": fitted.objective, "condition": fitted.condition, "n": fitted.n, "n_runs": fitted.n_runs}
    return cells | about | {"estimator": fitted.estimator, "status": fitted.status, "reason": fitted.reason}
