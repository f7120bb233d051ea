"""The training loop: what it computes, when it ends, what it keeps, and that nothing but the spec decides its numbers."""

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness import accounting, plugins
from harness import step as one_step
from harness import train as training
from harness.checkpoint import load_weights
from harness.data.batches import Order
from harness.evaluate import evaluate
from harness.state import State, build_model
from tests import tiny

GOLDEN = [3.505226, 3.421103, 3.368136, 3.283873, 3.256817, 3.16097, 3.168727, 3.086769, 3.078843, 3.049598, 2.965424, 3.02247]


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> list[State]:
    """The states of all runs that start from here on."""
    seen: list[State] = []
    begin = training.start

    def start(*given: Any) -> State:
        seen.append(begin(*given))
        return seen[-1]

    monkeypatch.setattr(training, "start", start)
    return seen


def without_time(outcome: training.Outcome) -> dict[str, Any]:
    return {k: v for k, v in asdict(outcome).items() if k not in ("tokens_per_second", "time_s", "seconds")}


def test_golden_losses() -> None:
    """A change here is a change of science: of initialisation, batching, dropout, the loss or the optimizer.

    Where it is meant, take the new values and raise SCIENCE_VERSION in harness/runspec.py.
    """
    _, events = tiny.run(tiny.spec())
    np.testing.assert_allclose(tiny.losses(events), GOLDEN, rtol=0, atol=1e-5)


def test_one_spec_has_one_result_to_the_bit(states: list[State]) -> None:
    (one, told), (other, again) = tiny.run(tiny.spec()), tiny.run(tiny.spec())
    assert without_time(one) == without_time(other)
    assert told == again
    first, second = (state.model.state_dict() for state in states)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_seeds_differ_in_initial_weights_order_and_result() -> None:
    one, other = build_model(tiny.spec()), build_model(tiny.spec(seed=1))
    assert not torch.equal(one.state_dict()["embedding.weight"], other.state_dict()["embedding.weight"])
    assert tiny.run(tiny.spec())[0].metrics["val_loss"] != tiny.run(tiny.spec(seed=1))[0].metrics["val_loss"]


def gradients(one: Any, step: int, disturb: bool) -> dict[str, torch.Tensor]:
    """Of one batch; `disturb` uses the global generator up to somewhere first."""
    state = training.start(one, "cpu")
    if disturb:
        torch.rand(1234)
    one_step.forward_backward(one, state, tiny.corpus().train, np.arange(8), step, "cpu")
    return {name: p.grad for name, p in state.model.named_parameters() if p.grad is not None}


def test_dropout_masks_follow_from_seed_and_step_alone() -> None:
    one = tiny.spec(dropout=0.5)
    same, disturbed, later = gradients(one, 3, False), gradients(one, 3, True), gradients(one, 4, False)
    assert all(torch.equal(same[name], disturbed[name]) for name in same)
    assert any(not torch.equal(same[name], later[name]) for name in same)
    masks = set()
    for seed, step in ((0, 3), (1, 3), (0, 4), (3, 0)):
        torch.manual_seed(one_step.step_seed(seed, step))
        masks.add(tuple(torch.rand(4).tolist()))
    assert len(masks) == 4


def test_evaluating_and_sampling_leave_the_path_of_a_run_alone() -> None:
    """A run that stops to score and to write texts after every step learns the same as one that never does."""
    often = tiny.spec(evaluate_at=tuple(range(1, tiny.STEPS + 1)))
    quiet, told = tiny.run(tiny.spec(evaluate_at=(tiny.STEPS,))), tiny.run(often, samples={"at_best": 2, "texts": 2, "temperatures": [1.0]})
    assert tiny.losses(quiet[1]) == tiny.losses(told[1])
    assert len([1 for kind, _ in told[1] if kind == "samples"]) > 1


def test_patience_counts_evaluations_without_a_better_one() -> None:
    """A rate that is far too high soon gets no better: the third evaluation in a row beyond the best ends the run."""
    outcome, events = tiny.run(tiny.spec(lr=0.5, steps=60, evaluate_at=tuple(range(1, 61)), patience=2))
    found = [e["best"] for e in tiny.evaluations(events)]
    assert outcome.status == "completed" and "stopped early" in outcome.reason
    assert outcome.steps == len(found) < 60
    assert found[-4:] == [True, False, False, False]
    assert all(any(found[i : i + 3]) for i in range(len(found) - 3))
    assert outcome.best_step == len(found) - 3


def test_the_best_weights_are_kept_and_score_as_recorded(tmp_path: Path) -> None:
    one = tiny.spec(lr=0.5, steps=30, evaluate_at=tuple(range(1, 31)))
    outcome, events = tiny.run(one, folder=tmp_path)
    found = tiny.evaluations(events)
    best = min(found, key=lambda e: e["val_nll"])
    assert outcome.best_step == best["step"] < outcome.steps
    assert {k: outcome.metrics[k] for k in ("val_loss", "val_nll", "val_top1")} == {k: best[k] for k in ("val_loss", "val_nll", "val_top1")}
    model = build_model(one)
    model.load_state_dict(load_weights(tmp_path / "best.safetensors"))
    data = tiny.corpus()
    for split, texts in (("val", data.validation), ("test", data.test)):
        again = evaluate(model, data, texts)
        assert (again.nll, again.top1) == (outcome.metrics[f"{split}_nll"], outcome.metrics[f"{split}_top1"])


@pytest.mark.parametrize("lr", [1e3, 1e30])
def test_divergence_is_an_outcome_and_is_found_before_the_update(lr: float, states: list[State], tmp_path: Path) -> None:
    outcome, events = tiny.run(tiny.spec(lr=lr, evaluate_at=(12,)), folder=tmp_path)
    assert outcome.status == "diverged"
    assert f"not finite at step {outcome.steps + 1}" in outcome.reason
    assert all(torch.isfinite(tensor).all() for tensor in states[0].model.state_dict().values())
    assert len(tiny.losses(events)) == outcome.steps < tiny.STEPS
    # No evaluation was reached: there is nothing to score and nothing to keep.
    assert (outcome.metrics, outcome.best_step) == ({}, None)
    assert not any(tmp_path.iterdir())


def test_a_run_that_breaks_at_its_very_last_step_has_diverged() -> None:
    """No later step would find out: what says so is the validation loss."""
    outcome, events = tiny.run(tiny.spec(lr=1e38, steps=1, evaluate_at=(1,), weight_decay=0.0))
    assert outcome.status == "diverged" and "validation loss was not finite at step 1" in outcome.reason
    assert (outcome.metrics, outcome.best_step) == ({}, None)
    assert not tiny.evaluations(events)[0]["best"]


def test_pruning_is_asked_with_the_history_and_never_at_the_end() -> None:
    asked: list[list[tuple[int, float]]] = []

    def prune(answer: bool) -> Callable[[Any], bool]:
        def answered(history: Any) -> bool:
            asked.append(list(history))
            return answer

        return answered

    kept, events = tiny.run(tiny.spec(), prune=prune(False))
    whole = [(e["step"], e["val_loss"]) for e in tiny.evaluations(events)]
    assert asked == [whole[:1], whole[:2]] and kept.status == "completed"
    pruned, _ = tiny.run(tiny.spec(), prune=prune(True))
    assert (pruned.status, pruned.steps) == ("pruned", 4)
    assert pruned.metrics["val_loss"] == whole[0][1]


def test_a_stopped_run_is_interrupted_and_scores_no_test_texts(tmp_path: Path) -> None:
    outcome, events = tiny.run(tiny.spec(), folder=tmp_path, **tiny.stopping_after(6))
    assert (outcome.status, outcome.steps) == ("interrupted", 6)
    # What came after the evaluation of step 4 is in the checkpoint, where the run goes on from, and not in the record.
    assert len(tiny.losses(events)) == 4
    assert "test_nll" not in outcome.metrics and not any(tmp_path.iterdir())


def test_a_trial_keeps_no_weights_and_no_samples_and_scores_no_test_texts() -> None:
    outcome, events = tiny.run(tiny.spec(stage="search", trial=0), folder=None, samples=None)
    assert {kind for kind, _ in events} == {"points", "evaluation"}
    assert not any(name.startswith("test") for name in outcome.metrics)


def test_a_kept_run_samples_at_each_best_and_at_each_temperature(tmp_path: Path) -> None:
    _, events = tiny.run(tiny.spec(), folder=tmp_path, samples={"at_best": 2, "texts": 3, "temperatures": [0.5, 1.0]})
    drawn = [fields for kind, fields in events if kind == "samples"]
    n_best = sum(e["best"] for e in tiny.evaluations(events))
    assert [(s["at"], s["temperature"], len(s["texts"])) for s in drawn] == [("best", 1.0, 2)] * n_best + [("end", 0.5, 3), ("end", 1.0, 3)]
    for measured in drawn:
        assert 0 < measured["entropy"] <= math.log(tiny.corpus().tokenizer.vocab_size) and measured["self_nll"] > 0
        assert 0 < measured["memorised"] <= 1
    assert drawn[-2]["entropy"] < drawn[-1]["entropy"]


def test_a_cut_is_a_set_of_its_own_and_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    sets: dict[str, Any] = {"at_best": 0, "texts": 3, "temperatures": [0.5, 1.0]}
    told = [
        tiny.run(tiny.spec(), folder=tmp_path / str(len(more)), samples=sets | more)[1] for more in ({}, {"top_k": [2], "top_p": [0.3]})
    ]
    plain, cut = ([fields for kind, fields in events if kind == "samples"] for events in told)
    assert [fields["texts"] for fields in cut[:2]] == [fields["texts"] for fields in plain]
    assert [set(fields) & {"top_k", "top_p"} for fields in cut] == [set(), set(), {"top_k"}, {"top_p"}]
    assert [(fields["temperature"], fields.get("top_k"), fields.get("top_p")) for fields in cut[2:]] == [(1.0, 2, None), (1.0, None, 0.3)]
    assert len({str(fields["texts"]) for fields in cut}) == 4


def test_padding_can_be_learned_and_real_tokens_are_scored_beside_it(tmp_path: Path) -> None:
    learned, events = tiny.run(tiny.spec(padding="learn", steps=40, evaluate_at=(40,)), folder=tmp_path)
    ignored, _ = tiny.run(tiny.spec(steps=40, evaluate_at=(40,)), folder=tmp_path / "other")
    assert learned.train_tokens == ignored.train_tokens
    for name in ("nll_padded", "top1_padded", "val_nll_padded", "test_nll"):
        assert math.isfinite(learned.metrics[name] or math.nan)
    assert ignored.metrics["nll_padded"] is None and "val_nll_padded" not in ignored.metrics
    # Most positions of a batch of 150 are padding, which is soon learned; the real tokens come after.
    assert (learned.metrics["top1_padded"] or 0) > 0.6 > (learned.metrics["test_top1"] or 1)
    assert (learned.metrics["test_nll"] or 0) > (ignored.metrics["test_nll"] or math.inf)
    assert tiny.evaluations(events)[0]["val_nll_padded"] == learned.metrics["val_nll_padded"]


def test_clipping_bounds_the_step_and_reports_the_norm_before_it() -> None:
    state = training.start(tiny.spec(grad_clip=0.1), "cpu")
    _, norm = one_step.forward_backward(tiny.spec(grad_clip=0.1), state, tiny.corpus().train, np.arange(8), 1, "cpu")
    after = torch.nn.utils.get_total_norm([p.grad for p in state.model.parameters() if p.grad is not None])
    assert norm > 0.2 and float(after) == pytest.approx(0.1, rel=1e-3)


def test_tokens_and_flops_are_sums_over_the_batches() -> None:
    one, texts = tiny.spec(), tiny.corpus().train
    outcome, events = tiny.run(one)
    order = Order(texts.n_texts, one.batch_size, one.seed)
    rows = [order.rows(step) for step in range(one.steps)]
    assert order.steps_per_epoch < one.steps
    assert outcome.train_tokens == sum(int(texts.lengths[r].sum()) for r in rows)
    assert outcome.train_flops == sum(accounting.train_flops(one.arch, one.shape, one.vocab_size, texts.lengths[r]) for r in rows)
    assert outcome.unique_tokens == texts.n_targets
    assert outcome.epochs == one.steps / order.steps_per_epoch
    few, _ = tiny.run(tiny.spec(steps=3, evaluate_at=(3,)))
    assert few.unique_tokens == few.train_tokens
    last = tiny.evaluations(events)[-1]
    assert (last["tokens"], last["flops"], last["step"]) == (outcome.train_tokens, outcome.train_flops, outcome.steps)


def test_a_model_learns_sixteen_texts_by_heart_and_the_floor_tells(tmp_path: Path) -> None:
    """Nothing is left to guess but which of the sixteen it is: ln 16 nats a text. Scored on them it is far below the true floor."""
    whole = tiny.corpus()
    known = replace(whole, validation=whole.train.head(16), test=whole.train.head(16))
    shape = {"n_layer": 1, "d_model": 24, "n_head": 2, "d_head": 24, "d_ff": 64}
    one = tiny.spec(shape=shape, train_texts=16, eval_texts=16, steps=300, evaluate_at=(300,), dropout=0.0, weight_decay=0.0)
    outcome, _ = tiny.run(one, corpus=known, folder=tmp_path, floor=floor_of(known.test.texts))
    assert math.log(16) <= (outcome.metrics["val_nll"] or 0) < math.log(16) + 0.2
    assert (outcome.metrics["floor_gap"] or 0) < -4 * (outcome.metrics["floor_gap_se"] or math.inf)


def test_a_trained_model_does_not_beat_the_floor(tmp_path: Path) -> None:
    one = tiny.spec(steps=150, evaluate_at=(75, 150), lr=2e-2)
    outcome, _ = tiny.run(one, folder=tmp_path, floor=floor_of(tiny.corpus().test.texts))
    metrics = {name: value or 0.0 for name, value in outcome.metrics.items()}
    assert metrics["floor_gap"] > -4 * metrics["floor_gap_se"] and metrics["test_top1"] < metrics["floor_top1"]
    assert metrics["floor_gap"] == pytest.approx(metrics["test_nll"] - metrics["floor_nll"])
    # It has learned something, so that the comparison means something.
    assert metrics["test_loss"] < 0.9 * tiny.corpus().unigram_entropy


def floor_of(texts: Any) -> Any:
    return plugins.load("harness.data.sources", "wire", "source").floor(list(texts))
