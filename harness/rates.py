"""What a search says of a rung: finished trials in; out come the rate that its ladder runs use, and all that the record keeps of it.

Also the rate of a rung from those of smaller ones, to be tried first or to be used in place of a search.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from harness import search as searching
from harness.analysis.learning_rate import Optimum, optimum, stated_noise
from harness.analysis.learning_rate_law import line
from harness.pricing import EXTENSION_FACTOR, EXTENSION_TRIALS, DataSize, RungPlan
from harness.runspec import RunSpec
from harness.search import Trial
from harness.spec import Search, Study

__all__ = ["choose_rate", "further_rates", "predict_rate", "prediction", "values_of"]

COUNTED = ("completed", "pruned", "diverged", "failed")
NOT_RECORDED = ("lr", "bowl", "n_completed", "n_pruned", "n_diverged", "n_collapsed", "draws", "points")
# Rungs without which there is no line to predict from.
KNOWN_RUNGS = 2


def choose_rate(
    study: Study, rung: RungPlan, trials: Sequence[Trial], size: DataSize, low: float, high: float, extended: int = 0
) -> dict[str, Any]:
    """The rate to use, its status, and the fitted optimum.

    Args:
        low, high: the range that was searched, `extended` times past an end.
    """
    search = study.search
    frame = pd.DataFrame({"lr": [t.lr for t in trials], "val_loss": [t.value for t in trials], "status": [t.status for t in trials]})
    frame["val_loss"] = frame["val_loss"].astype(float)
    # A model that knows nothing but how often each token comes, or not even that.
    ceiling = size.unigram_entropy or math.log(size.vocab_size)
    found: Optimum = optimum(frame, low, high, noise=stated_noise(frame), ceiling=ceiling)
    counts, fields, winner = frame["status"].value_counts(), asdict(found), _winner(trials)
    # Several keys were moved at once: a fitted rate belongs to none of the values of the others.
    fitted = found.lr if not search.space or winner is None else winner.lr
    # Nothing completed: the comparison with the default rate is all that is left to train.
    lr = _rate_to_use(fitted, trials) if math.isfinite(fitted) else search.default_lr
    return {
        **_identity(rung),
        "lr": lr,
        "lr_source": "tuned",
        "lr_status": fields.pop("status"),
        "trials": len(trials),
        **{status: int(counts.get(status, 0)) for status in COUNTED},
        "collapsed": found.n_collapsed,
        **{k: v for k, v in fields.items() if k not in NOT_RECORDED},
        "reason": found.reason + (_extension(search, low, high) if extended else ""),
        "low": low,
        "high": high,
        "extended": extended,
        "extension_trials": len(trials) - search.trials if extended else 0,
        "default_lr": search.default_lr,
        "default_regret": found.cost_at(search.default_lr),
        "values": dict(winner.others) if winner else {},
        "importances": searching.importances(search, trials),
    }


def prediction(rung: RungPlan, smaller: Sequence[Mapping[str, Any]]) -> float | None:
    """The rate that the resolved optima of smaller rungs predict, to three digits, inside the range searched; None with fewer than two."""
    known = [choice for choice in smaller if choice["lr_status"] == "resolved"]
    if len(known) < KNOWN_RUNGS:
        return None
    log_rate = line(pd.DataFrame(known), rung.n_params)
    low, high = (bound(float(choice[end]) for choice in smaller) for bound, end in ((min, "low"), (max, "high")))
    return float(f"{np.clip(np.exp(log_rate), low, high):.3g}")


def _extension(search: Search, low: float, high: float) -> str:
    is_wider = (low, high) != (search.lr.low, search.lr.high)
    return f"; the range was extended to {low:.2g} to {high:.2g}" if is_wider else "; the search went on below the cliff"


def further_rates(trials: Sequence[Trial], low: float, high: float, choice: Mapping[str, Any]) -> list[float]:
    """Where a search goes on whose optimum, by its `choice`, lies past an end of the range or between what was tried and a cliff."""
    if choice["edge_side"] == "cliff":
        return searching.gap_rates(trials, float(choice["cliff_lr"]), EXTENSION_TRIALS)
    tried = [trial.lr for trial in trials if trial.status != "failed"]
    return searching.extension_rates(tried, low, high, str(choice["edge_side"]), EXTENSION_FACTOR, EXTENSION_TRIALS)


def predict_rate(study: Study, rung: RungPlan, smaller: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The choice for a rung that is not searched: the law of the smaller ones, or, without one, the rate of the largest of them."""
    lr = prediction(rung, smaller)
    names = ", ".join(choice["rung"] for choice in smaller if choice["lr_status"] == "resolved")
    reason = f"predicted: by the law through {names}"
    if lr is None:
        lr, nearest = smaller[-1]["lr"], smaller[-1]["rung"]
        reason = f"predicted: fewer than {KNOWN_RUNGS} smaller rungs have a resolved optimum, so the rate is that of {nearest}"
    return {
        **_identity(rung),
        "lr": lr,
        "lr_source": "predicted",
        "lr_status": "predicted",
        "reason": reason,
        "trials": 0,
        **dict.fromkeys(COUNTED, 0),
        "low": study.search.lr.low,
        "high": study.search.lr.high,
        "extended": 0,
        "extension_trials": 0,
        "default_lr": study.search.default_lr,
    }


def values_of(search: Search, spec: RunSpec) -> dict[str, Any]:
    """The values of the keys searched beside the rate that a run was made with."""
    values = {key: getattr(spec, key.removeprefix("train."), None) for key in search.space}
    # Steps are whole: half of one keeps the share on the right side when it is multiplied again.
    share = (spec.warmup_steps + 0.5) / spec.steps if spec.warmup_steps else 0.0
    return values | ({"train.warmup_fraction": share} if "train.warmup_fraction" in values else {})


def _identity(rung: RungPlan) -> dict[str, Any]:
    return {"rung": rung.rung, "family": rung.family, "n_params": rung.n_params}


def _winner(trials: Sequence[Trial]) -> Trial | None:
    """The best completed trial."""
    scored = [trial for trial in trials if trial.status == "completed" and trial.value is not None and math.isfinite(trial.value)]
    return min(scored, key=lambda trial: (trial.value, trial.number), default=None)


def _rate_to_use(lr: float, trials: Sequence[Trial]) -> float:
    """A rate that was tried, to its last digit, or a fitted one to six digits.

    The analysis works in logarithms, and its last digits may differ between versions of its libraries: without this, a run at the default
    rate would not be known as the same run again, and a resumed study could train its ladder at a rate that is new by 1e-16.
    """
    return next((trial.lr for trial in trials if math.isclose(trial.lr, lr, rel_tol=1e-12)), float(f"{lr:.6g}"))
