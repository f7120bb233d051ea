"""From the trials of all rungs to the law of their learning rates: optima with their draws, the law, and what its prediction costs.

The bootstrap goes through the whole chain: the losses of the trials, as they might have come out, give each rung's optimum, and those
the law. Seed noise is measured on the ladder's runs where they have two seeds, else the one stated in the record is used.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from harness.analysis.bowl import STATED_DOF
from harness.analysis.learning_rate import SEED_NOISE_SHARE, Optimum, optimum
from harness.analysis.learning_rate_law import Law, law
from harness.analysis.seed_noise import seed_noise

# Seed noise measured on fewer differences between runs than this is not better known than the stated one.
MIN_DOF = 4


@dataclass(frozen=True)
class LadderLaw:
    """The law, the optimum of each searched rung by name, and the seed noise behind their intervals (`measured` or `stated`)."""

    law: Law
    optima: dict[str, Optimum]
    noise: str


def ladder_law(
    searches: pd.DataFrame, trials: pd.DataFrame, ladder: pd.DataFrame, ceiling: float, seed: int = 0, among: Collection[str] | None = None
) -> LadderLaw:
    """The law of the learning rate over the rungs of a study.

    Args:
        searches: columns rung, n_params, lr_status, low, high; a row per rung. Only rungs whose recorded status is resolved enter the law.
        trials: columns rung, lr, val_loss, status.
        ladder: columns rung and val_loss of the completed runs at the chosen rates, which differ by seed.
        ceiling: the loss of a model that has learned nothing of use, in nats per token.
        among: the rungs that the law may be over; None: all.
    """
    noise, dof, kind = _noise(ladder)
    optima: dict[str, Optimum] = {}
    for _, row in searches[searches["lr_status"] != "predicted"].sort_values("n_params").iterrows():
        own = trials[trials["rung"] == row["rung"]]
        best = own.loc[own["status"] == "completed", "val_loss"].min()
        sd = noise * float(best) if np.isfinite(best) else 0.0
        optima[str(row["rung"])] = optimum(own, float(row["low"]), float(row["high"]), noise=sd, noise_dof=dof, ceiling=ceiling)
    sizes = searches.set_index("rung")["n_params"]
    recorded = searches.set_index("rung")["lr_status"]
    allowed = recorded.index if among is None else among
    resolved = {rung: found for rung, found in optima.items() if found.status == recorded[rung] == "resolved" and rung in allowed}
    columns = ["n_params", "lr_status", "fitted_lr", "fitted_low", "fitted_high"]
    rows = [(sizes[rung], "resolved", one.fitted_lr, one.fitted_low, one.fitted_high) for rung, one in resolved.items()]
    found = law(pd.DataFrame(rows, columns=columns), seed, optima=[one.draws for one in resolved.values()])
    if found.held_out is not None:
        largest = list(resolved.values())[-1]
        found = replace(found, held_out=replace(found.held_out, cost=largest.cost_at(found.held_out.predicted.lr)))
    return LadderLaw(found, optima, kind)


def _noise(ladder: pd.DataFrame) -> tuple[float, float, str]:
    """Standard deviation over seeds as a share of the loss, its degrees of freedom, and whether it was measured."""
    measured = seed_noise(ladder.dropna(subset=["val_loss"]), ["rung"], "val_loss")
    return (measured.relative, measured.dof, "measured") if measured.dof >= MIN_DOF else (SEED_NOISE_SHARE, STATED_DOF, "stated")
