"""What a run does at its evaluations and at its end: scores, best weights, samples. Used only by `train`.

All that takes time is computed before anything is changed or told, so that a run can be stopped in the middle of it and come back to it.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.checkpoint import save_weights
from harness.context import Context, emit
from harness.data import Floor
from harness.data.batches import Order
from harness.data.corpus import Encoded
from harness.evaluate import Evaluation, evaluate
from harness.generate import sample_sets
from harness.runspec import RunSpec
from harness.samples import measure, training_text
from harness.state import State
from harness.strategies import Strategy, strategies


def evaluate_now(spec: RunSpec, state: State, context: Context, validation: Encoded, order: Order) -> float:
    """Score the validation texts, keep the best weights, sample where the run is at its best, tell all of it; the loss, nats a token."""
    result = _evaluated(spec, state, context, validation)
    improved = _target(result, spec) < (math.inf if state.best is None else _target(state.best, spec))
    drawn: list[dict[str, Any]] = []
    if improved and context.samples and context.samples["at_best"]:
        drawn = _drawn(spec, state, context, "best", [Strategy()], context.samples["at_best"], state.step)
    # From here on nothing takes time: the evaluation is either all there or not at all.
    state.since_evaluation, state.evaluated = 0, state.step
    state.stale = 0 if improved else state.stale + 1
    # The history feeds comparisons and stays finite.
    if math.isfinite(result.loss):
        state.history.append((state.step, result.loss))
    train_loss = float(np.mean([p[2] for p in state.points])) if state.points else None
    flush_points(state, context)
    place = {"step": state.step, "tokens": state.tokens, "epoch": state.step / order.steps_per_epoch, "flops": state.flops}
    emit(state, context, "evaluation", place | {"train_loss": train_loss, "best": improved} | scores(result, "val"))
    if improved:
        state.best, state.best_step = result, state.step
        state.best_weights = {name: tensor.detach().clone() for name, tensor in state.model.state_dict().items()}
    for fields in drawn:
        emit(state, context, "samples", fields)
    return result.loss


def ended_by(spec: RunSpec, state: State, context: Context, val_loss: float) -> tuple[str, str] | None:
    """Whether an evaluation ends the run: the status and why."""
    if not math.isfinite(val_loss):
        return "diverged", f"validation loss was not finite at step {state.step:,}"
    if spec.patience is not None and state.stale > spec.patience:
        return "completed", f"stopped early: no improvement in {state.stale} evaluations, best at step {state.best_step:,}"
    if context.prune is not None and state.step < spec.steps and context.prune(state.history):
        return "pruned", f"pruned at step {state.step:,}: behind the finished trials of this search"
    return None


def final_metrics(spec: RunSpec, state: State, context: Context) -> dict[str, float | None]:
    """Metrics of the best weights; ladder and ablation runs also get test scores, weights on disk and samples."""
    if state.best is None or context.folder is None:
        flush_points(state, context)
        return scores_so_far(state)
    metrics = scores(state.best, "val")
    state.model.load_state_dict(state.best_weights)
    if context.corpus.test.n_texts:
        test = _evaluated(spec, state, context, context.corpus.test)
        metrics |= scores(test, "test") | _against_floor(test, context.floor)
        metrics |= {"nll_padded": test.nll_padded, "top1_padded": test.top1_padded}
    drawn: list[dict[str, Any]] = []
    if context.samples and context.samples["texts"]:
        assert state.best_step is not None
        drawn = _drawn(spec, state, context, "end", strategies(context.samples), context.samples["texts"], state.best_step)
    with state.timing("saving"):
        save_weights(state.best_weights, context.folder / "best.safetensors")
    flush_points(state, context)
    for fields in drawn:
        emit(state, context, "samples", fields)
    return metrics


def scores_so_far(state: State) -> dict[str, float | None]:
    """Validation scores of the best weights; nothing before the first evaluation."""
    return {} if state.best is None else scores(state.best, "val")


def scores(result: Evaluation, split: str) -> dict[str, float | None]:
    """An evaluation as columns of the record."""
    names = ("loss", "nll", "nll_se", "top1", "bits_per_char") + (("nll_padded", "top1_padded") if result.nll_padded is not None else ())
    return {f"{split}_{name}": getattr(result, name) for name in names}


def flush_points(state: State, context: Context) -> None:
    """Tell the training points since the last evaluation."""
    if state.points:
        columns = [list(column) for column in zip(*state.points, strict=True)]
        emit(state, context, "points", dict(zip(("step", "tokens", "train_loss", "lr", "grad_norm"), columns, strict=True)))
        state.points.clear()


def _evaluated(spec: RunSpec, state: State, context: Context, texts: Encoded) -> Evaluation:
    with state.timing("evaluation"):
        return evaluate(state.model, context.corpus, texts, spec.padding, context.device, spec.precision, context.pulse)


def _target(result: Evaluation, spec: RunSpec) -> float:
    """What early stopping and the choice of the best weights go by: validation NLL, in the convention that is trained on."""
    value = result.nll_padded if spec.padding == "learn" else result.nll
    assert value is not None
    return value if math.isfinite(value) else math.inf


def _against_floor(test: Evaluation, floor: Floor | None) -> dict[str, float | None]:
    """The paired difference to the best possible score, per text, with its own standard error."""
    if floor is None:
        return {}
    gap = test.text_nll - floor.nll
    return {
        "floor_nll": float(floor.nll.mean()),
        "floor_top1": float(floor.top1_hits.sum() / floor.tokens.sum()),
        "floor_gap": float(gap.mean()),
        "floor_gap_se": float(gap.std(ddof=1) / math.sqrt(len(gap))) if len(gap) > 1 else None,
    }


def _drawn(spec: RunSpec, state: State, context: Context, at: str, sets: Sequence[Strategy], n: int, step: int) -> list[dict[str, Any]]:
    """Texts that the model writes and what they are like, as the fields of an event for each set; `step`: of its weights."""
    part = f"sampling_{at}"
    with state.timing(part):
        training, tokenizer = training_text(context.corpus, spec.train_texts), context.corpus.tokenizer
        drawn = sample_sets(
            state.model,
            n,
            sets,
            seed=spec.seed,
            tokenizer=tokenizer,
            seq_len=spec.seq_len,
            pulse=context.pulse,
            captured=lambda seconds: state.moved(part, "capturing", seconds),
        )
        events = []
        for strategy, one in drawn.items():
            texts = [tokenizer.decode(ids) for ids in one.texts]
            ended = [len(ids) < spec.seq_len - 1 for ids in one.texts]
            fields = {"at": at, "step": step, "tokens": state.tokens, **strategy.facts, "texts": texts}
            events.append(fields | measure(texts, ended, training) | {"entropy": one.entropy, "self_nll": one.self_nll})
        return events
