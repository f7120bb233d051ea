"""Studies whose losses are drawn from a known surface: a real plan at made-up prices, and results as the record would give them."""

from dataclasses import replace
from typing import Any

import numpy as np

from harness.analysis.additive import Law
from harness.plan import Plan
from harness.results import (
    EVALUATION_COLUMNS,
    FURTHER_COLUMNS,
    INVOCATION_COLUMNS,
    PUBLIC_COLUMNS,
    SAMPLE_COLUMNS,
    SEARCH_COLUMNS,
    Results,
    frame,
)
from harness.spec import Study
from tests.fakes import SIZE, make_plan, make_study

# At 100,000 parameters and a million tokens each term is half a nat.
TRUTH = Law(1.0, (0.5 * 1e5**0.35, 0.5 * 1e6**0.4), (0.35, 0.4))
RUNGS = ["20k", "60k", "200k", "600k"]
TOKENS = [250_000, 1_000_000, 4_000_000]
# 48 million tokens.
LARGE = replace(SIZE, n_train=1_000_000)
NOISE = 0.004
RATE, RATE_EXPONENT = 3e-3, 0.4


def grid_study(**changes: Any) -> Study:
    """Sizes crossed with token budgets, data seen once."""
    plain: dict[str, Any] = {"model": {"rungs": RUNGS}, "budgets": {"train_tokens": TOKENS}, "train": {"epochs": 1}, "ablations": {}}
    return make_study(**plain | changes)


def grid_results(study: Study, noise: float = NOISE, seed: int = 0, law: Law = TRUTH, within_s: float | None = None) -> Results:
    """The study as it would have ended; the best rate falls with size as a power, with an interval of 20 % either way."""
    plan, rng = make_plan(study, within_s, size=LARGE), np.random.default_rng(seed)
    rows, searches = [], []
    for rung in plan.rungs:
        lr = RATE * (rung.n_params / 2e4) ** -RATE_EXPONENT
        counts = {"rung": rung.rung, "family": rung.family, "n_params": rung.n_params, "lr_status": "resolved"}
        searches.append(counts | {"lr": lr, "fitted_lr": lr, "fitted_low": lr / 1.2, "fitted_high": lr * 1.2, "lr_source": "tuned"})
        for i, steps in enumerate((rung.steps, *rung.budget_steps)):
            tokens = rung.train_tokens * steps / rung.steps
            for s in range(study.seeds):
                loss = float(law.loss(rung.n_params, tokens)) * float(np.exp(noise * rng.normal()))
                rows.append(counts | _run(rung.rung, "budget" if i else "ladder", s, lr, tokens, loss, plan))
    empty = [frame([], columns) for columns in (EVALUATION_COLUMNS, SAMPLE_COLUMNS)]
    runs, found = frame(rows, [*PUBLIC_COLUMNS, *FURTHER_COLUMNS]), frame(searches, SEARCH_COLUMNS)
    data = {"n_train": LARGE.n_train, "mean_tokens": LARGE.mean_tokens, "vocab_size": LARGE.vocab_size, "floor": None}
    return Results(study.model_dump(mode="json"), plan.to_dict(), data, runs, *empty, found, frame([], INVOCATION_COLUMNS))


def _run(rung: str, stage: str, seed: int, lr: float, tokens: float, loss: float, plan: Plan) -> dict[str, Any]:
    key = f"{rung}-{tokens:.0f}-{seed}"
    of = next(one for one in plan.rungs if one.rung == rung)
    counts = {name: getattr(of, name) for name in ("non_embedding_params", "embedding_params", "head_params")}
    about = {"key": key, "name": key, "stage": stage, "status": "completed", "lr_source": "tuned", "seed": seed, "lr": lr}
    unique = LARGE.n_train * LARGE.mean_tokens
    return (
        counts | about | {"train_tokens": tokens, "unique_tokens": unique, "test_loss": loss, "val_loss": loss, "epochs": tokens / unique}
    )
