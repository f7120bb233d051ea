"""Grids of sizes and budgets that never ran, with losses from known laws: at equal compute, and on texts that repeat."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.additive import Law
from harness.analysis.repetition import Repetition
from harness.analysis.surface import optimum
from harness.results import Results
from tests.synthetic import FLOOR, LADDER, MEAN_TOKENS, TOKENS_PER_STEP, synthetic_results

SURFACE = Law(FLOOR / MEAN_TOKENS, (20.0, 26.4), (0.34, 0.28))
REPETITION = Repetition(SURFACE, r_d=12.0, r_n=5.0)
# FLOPs for a parameter and a token, as the synthetic study counts them.
EACH = 6.6
FLOPS = (2e12, 1e13, 5e13)
# So little that the best size is below the smallest one.
TOO_LITTLE = 1e9
SIZES = list(LADDER)[:8]
UNIQUE = 2e6


def _of_cells(cells: list[dict[str, Any]], noise: float, seeds: int) -> Results:
    """Runs of one family at their rung's rate, one for each cell and seed, beside the searches of a synthetic study."""
    base, rng = synthetic_results(8), np.random.default_rng(3)
    plain = base.runs[(base.runs["stage"] == "ladder") & (base.runs["lr_source"] == "tuned")].drop_duplicates("rung").set_index("rung")
    rows = []
    for cell in cells:
        for seed in range(seeds):
            own = plain.loc[cell["rung"]].to_dict() | cell
            again = own["train_tokens"] > own["unique_tokens"]
            law = REPETITION.loss(own["n_params"], own["train_tokens"], own["unique_tokens"]) if again else None
            exact = SURFACE.loss(own["n_params"], own["train_tokens"]) if law is None else law
            loss = float(exact) * np.exp(noise * rng.normal())
            key = f"{len(rows):016x}"
            rows.append(own | {"key": key, "seed": seed, "family": "solved", "test_loss": loss, "test_nll": loss * MEAN_TOKENS})
    searches = base.runs[base.runs["stage"] == "search"].assign(family="solved")
    runs = pd.concat([searches, pd.DataFrame(rows)[list(base.runs.columns)]], ignore_index=True)
    runs["epochs"] = runs["train_tokens"] / runs["unique_tokens"]
    return replace(base, runs=runs)


def _cell(rung: str, is_own: bool, tokens: float, flops: float, unique: float) -> dict[str, Any]:
    """What a run at one size and budget differs in; `is_own`: the rung's own budget."""
    steps = tokens / TOKENS_PER_STEP
    cell = {"rung": rung, "stage": "ladder" if is_own else "budget", "steps": steps, "best_step": steps}
    return cell | {"train_tokens": tokens, "train_flops": flops, "unique_tokens": unique}


def equal_compute(flops: tuple[float, ...] = FLOPS, noise: float = 0.001, seeds: int = 2) -> Results:
    """Eight sizes at budgets of equal compute, each text seen once; the largest budget is the rungs' own."""
    cells = []
    for budget in flops:
        for rung in SIZES:
            tokens = budget / EACH / LADDER[rung]
            own = {
                "rung": rung,
                "stage": "ladder" if budget == max(flops) else "budget",
                "steps": tokens / 1540,
                "best_step": tokens / 1540,
            }
            cells.append(own | {"train_tokens": tokens, "train_flops": budget, "unique_tokens": 1e12})
    found = _of_cells(cells, noise, seeds)
    return replace(found, study={**found.study, "budgets": {"train_flops": list(flops)}})


def repeating(shares: tuple[float, ...], noise: float = 0.0005, seeds: int = 2) -> Results:
    """Eight sizes at token budgets given as shares of the different tokens: above 1 they repeat; the largest is the rungs' own."""
    cells = []
    for share in shares:
        for rung in SIZES:
            tokens = share * UNIQUE
            own = {
                "rung": rung,
                "stage": "ladder" if share == max(shares) else "budget",
                "steps": tokens / 1540,
                "best_step": tokens / 1540,
            }
            cells.append(own | {"train_tokens": tokens, "train_flops": EACH * LADDER[rung] * tokens, "unique_tokens": UNIQUE})
    found = _of_cells(cells, noise, seeds)
    return replace(found, study={**found.study, "budgets": {"train_tokens": [share * UNIQUE for share in shares]}})


def best_size(flops: float) -> float:
    """Parameters of least loss at this compute."""
    return optimum(SURFACE, flops, EACH)[0]
