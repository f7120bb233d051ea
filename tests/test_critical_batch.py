"""The critical batch size, on made-up trainings whose law is known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from harness.analysis.critical_batch import common_losses, critical_batch, tokens_to_reach
from harness.results import Results
from reports.figures import critical_batch as figure
from tests.synthetic import synthetic_results

SIZES = np.array([8, 16, 32, 64, 128, 256])
TOKENS_A_TEXT = 50.0
LEAST_TOKENS, LEAST_STEPS = 2e5, 60.0
CRITICAL = LEAST_TOKENS / LEAST_STEPS
RATES = (1e-3, 3e-3, 1e-2)


def law(batch: np.ndarray, noise: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """What each batch size (tokens) needs, with errors of this share."""
    tokens = (LEAST_TOKENS + LEAST_STEPS * batch) * np.exp(noise * np.random.default_rng(seed).normal(size=batch.size))
    return pd.DataFrame({"loss": 2.0, "batch": batch, "tokens": tokens})


def trainings() -> pd.DataFrame:
    """Evaluations of runs whose loss falls as (tokens / needed)^-.3, `needed` by the law; rates off the best one are slower by half."""
    rows = []
    for size in SIZES:
        batch = size * TOKENS_A_TEXT
        for lr in RATES:
            needed = (LEAST_TOKENS + LEAST_STEPS * batch) * (1.0 if lr == RATES[1] else 1.5)
            for step in np.unique(np.geomspace(1, 2e6 / batch, 40).astype(int)):
                loss = 2.0 * (step * batch / needed) ** -0.3
                rows.append({"key": f"{size}-{lr}", "batch_size": size, "lr": lr, "step": step, "tokens": step * batch, "val_loss": loss})
    return pd.DataFrame(rows)


def test_exact_needs_give_the_law_and_lie_on_its_hyperbola() -> None:
    reached = law(SIZES * TOKENS_A_TEXT)
    found = critical_batch(reached)
    assert found.status == "resolved" and found.n == SIZES.size
    assert (found.tokens, found.steps, found.batch) == pytest.approx((LEAST_TOKENS, LEAST_STEPS, CRITICAL), rel=1e-6)
    steps = reached["tokens"] / reached["batch"]
    assert ((steps / found.steps - 1) * (reached["tokens"] / found.tokens - 1)).to_numpy() == pytest.approx(np.ones(SIZES.size), rel=1e-5)


def test_the_interval_holds_the_critical_batch_in_90_to_98_percent() -> None:
    found = [critical_batch(law(SIZES * TOKENS_A_TEXT, 0.04, seed)) for seed in range(200)]
    assert {one.status for one in found} == {"resolved"}
    assert 0.90 <= np.mean([one.low <= CRITICAL <= one.high for one in found]) <= 0.98


def test_where_all_batches_lie_on_one_side_that_side_is_said() -> None:
    batch = SIZES * TOKENS_A_TEXT
    steep = critical_batch(pd.DataFrame({"loss": 2.0, "batch": batch, "tokens": 60 * batch}))
    level = critical_batch(pd.DataFrame({"loss": 2.0, "batch": batch, "tokens": 2e5 - batch}))
    assert (steep.status, steep.high) == ("above", batch[0]) and np.isnan([steep.batch, steep.low]).all()
    assert (level.status, level.low) == ("below", batch[-1]) and np.isnan([level.batch, level.high]).all()
    assert critical_batch(law(batch[:2])).status == "too few"


def test_from_curves_to_the_law() -> None:
    """Each batch size counts at its best rate; the moment between two evaluations is read off the line in log tokens."""
    evaluations = trainings()
    losses = common_losses(evaluations)
    reached = tokens_to_reach(evaluations, losses)
    assert len(losses) == 3 and (np.diff(losses) < 0).all() and len(reached) == 3 * SIZES.size
    assert (reached["lr"] == RATES[1]).all() and not reached["is_end"].any()
    for loss, rows in reached.groupby("loss"):
        found = critical_batch(rows)
        assert found.batch == pytest.approx(CRITICAL, rel=0.02)
        assert found.tokens == pytest.approx(LEAST_TOKENS * (float(str(loss)) / 2.0) ** (-1 / 0.3), rel=0.02)


def test_a_loss_reached_at_an_unknown_time_or_never_has_no_row() -> None:
    curve = pd.DataFrame({"key": "a", "batch_size": 8, "lr": 1e-3, "step": [10, 20], "tokens": [4000, 8000], "val_loss": [3.0, 2.0]})
    found = tokens_to_reach(curve, np.array([3.2, 2.5, 1.9]))
    assert list(found["loss"]) == [2.5] and found["tokens"].iloc[0] == pytest.approx(4000 * 2**0.5) and found["is_end"].iloc[0]


def searched() -> Results:
    """A study whose trials were those trainings."""
    results, evaluations = synthetic_results(2), trainings().assign(stage="search", rung="20k")
    runs = evaluations.groupby("key", as_index=False)[["key", "batch_size", "lr"]].first().assign(stage="search", rung="20k")
    others = results.runs[results.runs["stage"] != "search"]
    return replace(results, runs=pd.concat([others, runs]), evaluations=evaluations.drop(columns="batch_size"))


def test_the_figure_says_the_critical_batch() -> None:
    frame = figure.prepare(searched())
    assert set(frame["rung"]) == {"20k"} and frame["loss"].nunique() == 3
    said = figure.caption(frame)
    assert "20k, to" in said and "outermost" not in said and said.endswith("steps.")
    found = figure.laws(frame)[-1][1]
    assert found.loss == frame["loss"].min() and found.batch == pytest.approx(CRITICAL, rel=0.02)


def test_losses_on_the_way_of_a_schedule_that_decays_are_not_compared() -> None:
    results = searched()
    decays = replace(results, study={**results.study, "train": {**results.study.get("train", {}), "schedule": "cosine"}})
    assert figure.prepare(decays).empty and figure.prepare(synthetic_results(2)).empty
