"""The numbers behind the report at full precision, as JSON: what a rounded table can't hold."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.correlation import correlate, partial
from harness.analysis.fit import Fit
from harness.analysis.isoflop import Scaling
from harness.held_out import Lock
from harness.results import Results
from reports import sampled
from reports.fits import Fits, fits
from reports.numbers import known
from reports.repeats import Repeats
from reports.summary import chosen, completed, rungs
from reports.together import sample_correlations
from reports.training import training


def render(results: Results) -> bytes:
    """`report/numbers.json`: the same results give the same bytes."""
    return (json.dumps(plain(numbers(results)), indent=1, allow_nan=False) + "\n").encode("utf-8", "backslashreplace")


def numbers(results: Results) -> dict[str, Any]:
    """Rungs, fits, diagnoses, measures of texts and correlations. Losses are nats a token, NLL nats a text; what has no number is null."""
    found = fits(results)
    return {
        "study": results.study.get("study"),
        "rungs": [_rung(rung) for rung in rungs(results)],
        "fits": _fits(found, results.lock),
        "training": _rows(training(results)),
        "samples": {"measures": sampled.measures(results), "course": sampled.course(results)[1].drop(columns="texts")},
        "correlations": {"nll_top1": _nll_top1(results), "samples": _rows(sample_correlations(results))},
    }


def plain(value: Any) -> Any:
    """JSON's own types: tables as rows, numbers that are not finite as null."""
    if isinstance(value, pd.DataFrame):
        return [plain(row) for row in _rows(value)]
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return None if value is None or value is pd.NA else str(value)


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): row[name] for name in table.columns} for _, row in table.iterrows()]


def _rung(rung: Any) -> dict[str, Any]:
    names = ("name", "family", "n_params", "lr", "lr_status", "seeds", "nll", "top1", "val_nll", "default_nll", "skipped")
    default = [rung.default["key"]] if rung.default is not None and rung.default["status"] == "completed" else []
    return {name: getattr(rung, name) for name in names} | {"keys": [*completed(rung.own)["key"], *default]}


def _fits(found: Fits, lock: Lock) -> dict[str, Any]:
    noise = found.noise
    return {
        "refused": found.refused or None,
        "add": found.add or None,
        "family": found.family,
        "floor": found.floor,
        "keys": list(found.ladder["key"]),
        "excluded": found.excluded,
        "laws": found.laws,
        "cells": found.cells,
        "compute": found.compute,
        "moved": found.moved,
        "held_out": found.held,
        "lock": lock,
        "rollouts": found.rollouts.table if found.rollouts else None,
        "seed_noise": None if noise is None else {name: getattr(noise, name) for name in ("relative", "low", "high", "dof", "warning")},
        "design": None if found.grid is None else {name: getattr(found.grid, name) for name in ("status", "condition", "reason", "add")},
        "surface": None if found.surface is None else {
            "log-Huber": _fit(found.surface.log_huber), "VPNLS": _fit(found.surface.vpnls), "gap": found.surface.gap,
        },
        "profiles": {method: _scaling(scaling) for method, scaling in found.profiles.items()},
        "bias": found.bias,
        "unknown_rates": found.unknown_rates,
        "repeats": None if found.repeats is None else _repeats(found.repeats),
    }  # fmt: skip


def _fit(fitted: Fit) -> dict[str, Any]:
    names = ("status", "reason", "constants", "objective", "condition", "n", "n_runs", "level", "draws", "failed_draws")
    return {name: getattr(fitted, name) for name in names}


def _repeats(again: Repeats) -> dict[str, Any]:
    base = None if again.base is None else _fit(again.base)
    about = {name: getattr(again, name) for name in ("repeating", "most", "why", "add")}
    return about | {"keys": list(again.runs["key"]), "one_epoch": base, "fitted": again.fitted}


def _scaling(scaling: Scaling) -> dict[str, Any]:
    return {name: getattr(scaling, name) for name in ("status", "reason", "a", "b", "total", "profiles", "level", "n_draws")}


def _nll_top1(results: Results) -> dict[str, Any] | None:
    runs = chosen(results).dropna(subset=["val_nll", "val_top1"])
    if len(runs) < 3:
        return None
    given = partial(runs["val_nll"], runs["val_top1"], np.log(runs["n_params"]))
    return {"across": correlate(runs["val_nll"], runs["val_top1"]), "partial": given if known(given) else None}
