"""The visible loop: batch, forward, backward, check, clip, step, evaluate, log.

A RunSpec and the corpus go in; events come out through `emit` while it runs, and an Outcome at the end. All randomness is a function of
(the run's seed, epoch or step), so that a run that goes on from a checkpoint is the run that never stopped.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from harness import accounting
from harness.checkpoint import Checkpoint, save_checkpoint, save_weights
from harness.data import Floor
from harness.data.batches import Order, pack, padded
from harness.data.corpus import Corpus, Encoded
from harness.evaluate import Evaluation, evaluate, packed_logits
from harness.generate import sample
from harness.runspec import RunSpec
from harness.samples import TrainingText, measure
from harness.schedule import lr_at
from harness.state import State, restore, snapshot, start

Emit = Callable[[str, dict[str, Any]], None]
# (step, val_loss) of every evaluation so far -> whether to stop the trial.
Prune = Callable[[Sequence[tuple[int, float]]], bool]
# Steps at the start of a run, and after an evaluation, that say nothing about its speed.
WARM_UP_STEPS = 3
CHECKPOINT_EVERY_S = 30.0


@dataclass(frozen=True)
class Context:
    """What a run needs beside its spec, and that doesn't decide its result.

    `folder`: where the best weights go (None keeps none, as for trials). `checkpoints`: where checkpoints go (None: none), every so many
    seconds. `resume`: the checkpoint to go on from. `samples`: `temperatures`, `texts`, `at_best`, or None for no sampling. `floor`:
    the best possible scores on the test texts, where known.
    """

    corpus: Corpus
    emit: Emit
    progress: Callable[[int, int, float | None], None] = lambda step, tokens, tokens_per_second: None
    stop: Callable[[], bool] = lambda: False
    prune: Prune | None = None
    device: str = "cpu"
    folder: Path | None = None
    checkpoints: Path | None = None
    checkpoint_every_s: float = CHECKPOINT_EVERY_S
    resume: Checkpoint | None = None
    samples: Mapping[str, Any] | None = None
    floor: Floor | None = None


@dataclass(frozen=True)
class Outcome:
    """How a run ended. Metrics are those of the best weights; None where no evaluation was reached."""

    status: str
    reason: str
    steps: int
    epochs: float
    train_tokens: int
    unique_tokens: int
    train_flops: float
    best_step: int | None
    metrics: dict[str, float | None]
    tokens_per_second: float | None
    time_s: float
    events: int


def train(spec: RunSpec, context: Context) -> Outcome:
    """Train one run to its end, from its start or from a checkpoint, and score its best weights."""
    started = perf_counter()
    texts = context.corpus.train.head(spec.train_texts)
    order = Order(texts.n_texts, spec.batch_size, spec.seed)
    state = start(spec, context.device) if context.resume is None else restore(spec, context.device, context.resume)
    started -= state.spent_s
    status, reason = _loop(spec, context, state, texts, order, started)
    if status != "interrupted":
        _flush_points(state, context)
    metrics = _final_metrics(spec, state, context, status, texts)
    return Outcome(
        status=status,
        reason=reason,
        steps=state.step,
        epochs=state.step / order.steps_per_epoch,
        train_tokens=state.tokens,
        unique_tokens=_unique_tokens(texts, order, state.step),
        train_flops=state.flops,
        best_step=state.best_step,
        metrics=metrics,
        tokens_per_second=state.tokens_per_second,
        time_s=perf_counter() - started,
        events=state.events,
    )


def _loop(spec: RunSpec, context: Context, state: State, texts: Encoded, order: Order, started: float) -> tuple[str, str]:
    """Step by step to the end of the budget, or to what ends the run before; its status and why."""
    validation = context.corpus.validation.head(spec.eval_texts)
    evaluate_at = frozenset(spec.evaluate_at)
    saved_at = perf_counter()
    for step in range(state.step + 1, spec.steps + 1):
        # Here and nowhere else in the loop: whatever the step before leads to has happened.
        state.spent_s = perf_counter() - started
        if context.stop():
            _keep(state, context)
            return "interrupted", f"stopped at step {state.step:,} of {spec.steps:,}"
        if perf_counter() - saved_at > context.checkpoint_every_s:
            _keep(state, context)
            saved_at = perf_counter()
        step_started = perf_counter()
        rows = order.rows(step - 1)
        loss, grad_norm = forward_backward(spec, state, texts, rows, step, context.device)
        diverged = state.monitor.check(step, loss, grad_norm)
        if diverged:
            return "diverged", diverged
        lr = lr_at(step, spec.steps, spec.lr, spec.schedule, spec.warmup_steps, spec.lr_min_fraction)
        update(state, lr)
        _count(spec, state, texts, rows, step)
        state.points.append((step, state.tokens, loss, lr, grad_norm))
        _time(state, texts, rows, perf_counter() - step_started)
        context.progress(step, state.tokens, state.tokens_per_second)
        if step in evaluate_at:
            val_loss = _evaluate(spec, state, context, validation, texts, order)
            ended = _ended_by(spec, state, context, val_loss)
            if ended is not None:
                return ended
    return "completed", ""


def _ended_by(spec: RunSpec, state: State, context: Context, val_loss: float) -> tuple[str, str] | None:
    """Whether an evaluation ends the run: the status and why."""
    if not math.isfinite(val_loss):
        return "diverged", f"validation loss was not finite at step {state.step:,}"
    if spec.patience is not None and state.stale > spec.patience:
        return "completed", f"stopped early: no improvement in {state.stale} evaluations, best at step {state.best_step:,}"
    if context.prune is not None and state.step < spec.steps and context.prune(state.history):
        return "pruned", f"pruned at step {state.step:,}: behind the finished trials of this search"
    return None


def _time(state: State, texts: Encoded, rows: np.ndarray, seconds: float) -> None:
    """The speed of training, the first steps after a start or an evaluation left out."""
    state.since_evaluation += 1
    if state.since_evaluation > WARM_UP_STEPS:
        state.timed_tokens += int(texts.lengths[rows].sum())
        state.timed_s += seconds


def forward_backward(spec: RunSpec, state: State, texts: Encoded, rows: np.ndarray, step: int, device: str) -> tuple[float, float]:
    """Gradients of the batch's nats over its number of tokens (padding is a token under `learn`); loss and norm, clipped if asked."""
    # The dropout masks of a step depend on the seed and the step alone.
    torch.manual_seed(step_seed(spec.seed, step))
    state.optimizer.zero_grad(set_to_none=True)
    with torch.autocast(device, dtype=torch.bfloat16, enabled=spec.precision == "bfloat16"):
        if spec.padding == "learn":
            ids_BT, targets_BT = (t.to(device) for t in padded(texts, rows, spec.seq_len))
            logits_NV, targets_N = state.model(ids_BT).flatten(0, 1), targets_BT.flatten()
        else:
            batch = pack(texts, rows).to(device)
            assert batch.targets_N is not None
            logits_NV, targets_N = packed_logits(state.model, batch), batch.targets_N
    loss = F.cross_entropy(logits_NV.float(), targets_N)
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in state.model.parameters() if p.grad is not None]
    grad_norm = torch.nn.utils.get_total_norm(gradients)
    if spec.grad_clip is not None:
        torch.nn.utils.clip_grads_with_norm_(state.model.parameters(), spec.grad_clip, grad_norm)
    return float(loss.detach()), float(grad_norm)


def update(state: State, lr: float) -> None:
    """One optimizer step at this rate."""
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    state.optimizer.step()


def _count(spec: RunSpec, state: State, texts: Encoded, rows: np.ndarray, step: int) -> None:
    lengths = texts.lengths[rows]
    state.step = step
    state.tokens += int(lengths.sum())
    state.flops += accounting.train_flops(spec.arch, spec.shape, spec.vocab_size, lengths)


def _evaluate(spec: RunSpec, state: State, context: Context, validation: Encoded, texts: Encoded, order: Order) -> float:
    """Score the validation texts, keep the best weights, record both, and sample where the run is at its best; the loss, nats a token."""
    state.since_evaluation = 0
    result = evaluate(state.model, context.corpus, validation, spec.padding, context.device, spec.precision)
    improved = _target(result, spec) < (math.inf if state.best is None else _target(state.best, spec))
    state.stale = 0 if improved else state.stale + 1
    # The history feeds comparisons and stays finite.
    if math.isfinite(result.loss):
        state.history.append((state.step, result.loss))
    train_loss = float(np.mean([p[2] for p in state.points])) if state.points else None
    _flush_points(state, context)
    _emit(
        state,
        context,
        "evaluation",
        {"step": state.step, "tokens": state.tokens, "epoch": state.step / order.steps_per_epoch, "flops": state.flops}
        | {"train_loss": train_loss, "best": improved}
        | scores(result, "val"),
    )
    if improved:
        state.best, state.best_step = result, state.step
        state.best_weights = {name: tensor.detach().clone() for name, tensor in state.model.state_dict().items()}
        if context.samples and context.samples["at_best"]:
            _sample(spec, state, context, "best", [1.0], context.samples["at_best"], texts)
    return result.loss


def _target(result: Evaluation, spec: RunSpec) -> float:
    """What early stopping and the choice of the best weights go by: validation NLL, in the convention that is trained on."""
    value = result.nll_padded if spec.padding == "learn" else result.nll
    assert value is not None
    return value if math.isfinite(value) else math.inf


def _final_metrics(spec: RunSpec, state: State, context: Context, status: str, texts: Encoded) -> dict[str, float | None]:
    """Metrics of the best weights; ladder and ablation runs also get test scores, weights on disk and samples."""
    if state.best is None:
        return {}
    metrics = scores(state.best, "val")
    if context.folder is None or status == "interrupted":
        return metrics
    state.model.load_state_dict(state.best_weights)
    save_weights(state.best_weights, context.folder / "best.safetensors")
    if context.corpus.test.n_texts:
        test = evaluate(state.model, context.corpus, context.corpus.test, spec.padding, context.device, spec.precision)
        metrics |= scores(test, "test") | _against_floor(test, context.floor)
        metrics |= {"nll_padded": test.nll_padded, "top1_padded": test.top1_padded}
    if context.samples and context.samples["texts"]:
        temperatures = context.samples["temperatures"]
        _sample(spec, state, context, "end", temperatures, context.samples["texts"], texts)
    return metrics


def scores(result: Evaluation, split: str) -> dict[str, float | None]:
    """An evaluation as columns of the record."""
    names = ("loss", "nll", "nll_se", "top1", "bits_per_char") + (("nll_padded", "top1_padded") if result.nll_padded is not None else ())
    return {f"{split}_{name}": getattr(result, name) for name in names}


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


def _sample(spec: RunSpec, state: State, context: Context, at: str, temperatures: Sequence[float], n: int, training: Encoded) -> None:
    if state.training_text is None:
        state.training_text = TrainingText.of(training.texts)
    tokenizer = context.corpus.tokenizer
    drawn = sample(state.model, n, temperatures, seed=spec.seed, tokenizer=tokenizer, seq_len=spec.seq_len)
    for temperature, sequences in drawn.items():
        texts = [tokenizer.decode(ids) for ids in sequences]
        ended = [len(ids) < spec.seq_len - 1 for ids in sequences]
        fields = {"at": at, "step": state.best_step, "tokens": state.tokens, "temperature": temperature, "texts": texts}
        _emit(state, context, "samples", fields | measure(texts, ended, state.training_text))


def _keep(state: State, context: Context) -> None:
    if context.checkpoints is not None and state.step:
        save_checkpoint(context.checkpoints, snapshot(state))


def _emit(state: State, context: Context, event: str, fields: dict[str, Any]) -> None:
    """Send an event with its number within the run, so that a resumed run's events can be told from those it repeats."""
    context.emit(event, fields | {"index": state.events})
    state.events += 1


def _flush_points(state: State, context: Context) -> None:
    if state.points:
        columns = [list(column) for column in zip(*state.points, strict=True)]
        _emit(state, context, "points", dict(zip(("step", "tokens", "train_loss", "lr", "grad_norm"), columns, strict=True)))
        state.points.clear()


def _unique_tokens(texts: Encoded, order: Order, steps: int) -> int:
    """Tokens of the texts that were seen at least once."""
    if steps >= order.steps_per_epoch:
        return int(texts.lengths.sum())
    lengths = texts.lengths
    return int(sum(lengths[order.rows(step)].sum() for step in range(steps)))


def step_seed(seed: int, step: int) -> int:
    """A generator seed that differs for every run seed and step."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def outcome_fields(outcome: Outcome) -> dict[str, Any]:
    """An outcome as plain fields of the record."""
    return {k: v for k, v in asdict(outcome).items() if k != "metrics"} | outcome.metrics
