"""The visible loop: batch, forward, backward, check, clip, step, evaluate, log.

A RunSpec and the corpus go in; events come out through `emit` while it runs, and an Outcome at the end. All randomness is a function of
(the run's seed, epoch or step), so that a run that goes on from a checkpoint is the run that never stopped.
"""

from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from harness import accounting
from harness.checkpoint import save_checkpoint
from harness.context import Context, StopRun
from harness.data.batches import Order, pack, padded
from harness.data.corpus import Encoded
from harness.evaluate import packed_logits
from harness.milestones import ended_by, evaluate_now, final_metrics, scores_so_far
from harness.runspec import RunSpec
from harness.schedule import lr_at
from harness.state import State, restore, set_rate, snapshot, start
from models._layers import part_of_batch

# Steps at the start of a run, and after an evaluation, that say nothing about its speed.
WARM_UP_STEPS = 3


@dataclass(frozen=True)
class Outcome:
    """How a run ended. Metrics are those of the best weights; None where no evaluation was reached.

    `seconds`: of `time_s`, wall and CPU seconds of training, evaluation, sampling_best, sampling_end and saving.
    """

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
    seconds: dict[str, list[float]]


def train(spec: RunSpec, context: Context) -> Outcome:
    """Train one run to its end, from its start or from a checkpoint, and score its best weights."""
    started = perf_counter()
    texts = context.corpus.train.head(spec.train_texts)
    order = Order(texts.n_texts, spec.batch_size, spec.seed)
    state = start(spec, context.device) if context.resume is None else restore(spec, context.device, context.resume)
    started -= state.spent_s
    try:
        status, reason = _loop(spec, context, state, texts, order, started)
        metrics = final_metrics(spec, state, context)
    except StopRun:
        state.spent_s = perf_counter() - started
        _keep(state, context)
        status, reason = "interrupted", f"stopped at step {state.step:,} of {spec.steps:,}"
        metrics = scores_so_far(state)
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
        seconds=state.seconds,
    )


def _loop(spec: RunSpec, context: Context, state: State, texts: Encoded, order: Order, started: float) -> tuple[str, str]:
    """Step by step to the end of the budget, or to what ends the run before; its status and why.

    A run may stop, and be kept, at the top of the loop and nowhere else, or within what changes nothing.
    """
    validation = context.corpus.validation.head(spec.eval_texts)
    evaluate_at = frozenset(spec.evaluate_at)
    saved_at, saved_step = perf_counter(), state.step
    while state.ended is None:
        state.spent_s = perf_counter() - started
        context.pulse()
        if perf_counter() - saved_at > context.checkpoint_every_s or state.step - saved_step == context.checkpoint_every_steps:
            _keep(state, context)
            saved_at, saved_step = perf_counter(), state.step
        if state.step in evaluate_at and state.evaluated < state.step:
            val_loss = evaluate_now(spec, state, context, validation, order)
            state.ended = ended_by(spec, state, context, val_loss)
        elif state.step == spec.steps:
            state.ended = ("completed", "")
        else:
            with state.timing("training"):
                state.ended = _step(spec, context, state, texts, order)
    return state.ended


def _step(spec: RunSpec, context: Context, state: State, texts: Encoded, order: Order) -> tuple[str, str] | None:
    """One optimizer step; the status and why, where it shows that the run has diverged."""
    step, started = state.step + 1, perf_counter()
    rows = order.rows(step - 1)
    loss, grad_norm = forward_backward(spec, state, texts, rows, step, context.device, context.micro_batches)
    diverged = state.monitor.check(step, loss, grad_norm)
    if diverged:
        return "diverged", diverged
    lr = lr_at(step, spec.steps, spec.lr, spec.schedule, spec.warmup_steps, spec.lr_min_fraction)
    update(state, lr)
    _count(spec, state, texts, rows, step)
    state.points.append((step, state.tokens, loss, lr, grad_norm))
    _time(state, texts, rows, perf_counter() - started)
    context.progress(step, state.tokens, state.tokens_per_second)
    return None


def _time(state: State, texts: Encoded, rows: np.ndarray, seconds: float) -> None:
    """The speed of training, the first steps after a start or an evaluation left out."""
    state.since_evaluation += 1
    if state.since_evaluation > WARM_UP_STEPS:
        state.timed_tokens += int(texts.lengths[rows].sum())
        state.timed_s += seconds


def forward_backward(
    spec: RunSpec, state: State, texts: Encoded, rows: np.ndarray, step: int, device: str, micro_batches: int = 1
) -> tuple[float, float]:
    """Gradients of the batch's nats over its number of tokens (padding is a token under `learn`); loss and norm, clipped if asked.

    In several micro-batches it is the same loss, up to rounding: each is divided by the tokens of the whole batch, and sees its part of
    the same dropout masks.
    """
    state.optimizer.zero_grad(set_to_none=True)
    lengths = texts.lengths[rows] if spec.padding == "ignore" else np.full(len(rows), spec.seq_len - 1)
    losses = []
    for part in np.array_split(np.arange(len(rows)), min(micro_batches, len(rows))):
        # The dropout masks of a step depend on the seed and the step alone.
        torch.manual_seed(step_seed(spec.seed, step))
        first, n = int(lengths[: part[0]].sum()), int(lengths[part].sum())
        with part_of_batch(state.model, first, int(lengths.sum())), _autocast(spec, device):
            logits_NV, targets_N = _forward(spec, state, texts, rows[part], device)
        loss = F.cross_entropy(logits_NV.float(), targets_N) * (n / int(lengths.sum()))
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(float(loss.detach()))
    gradients = [p.grad for p in state.model.parameters() if p.grad is not None]
    grad_norm = torch.nn.utils.get_total_norm(gradients)
    if spec.grad_clip is not None:
        torch.nn.utils.clip_grads_with_norm_(state.model.parameters(), spec.grad_clip, grad_norm)
    return sum(losses), float(grad_norm)


def _autocast(spec: RunSpec, device: str) -> torch.autocast:
    return torch.autocast(device, dtype=torch.bfloat16, enabled=spec.precision == "bfloat16")


def _forward(spec: RunSpec, state: State, texts: Encoded, rows: np.ndarray, device: str) -> tuple[Tensor, Tensor]:
    """Logits and targets of these texts, a row a token."""
    if spec.padding == "learn":
        ids_BT, targets_BT = (t.to(device) for t in padded(texts, rows, spec.seq_len))
        return state.model(ids_BT).flatten(0, 1), targets_BT.flatten()
    batch = pack(texts, rows).to(device)
    assert batch.targets_N is not None
    return packed_logits(state.model, batch), batch.targets_N


def update(state: State, lr: float) -> None:
    """One optimizer step at this rate."""
    set_rate(state.optimizer.param_groups, lr)
    state.optimizer.step()


def _count(spec: RunSpec, state: State, texts: Encoded, rows: np.ndarray, step: int) -> None:
    lengths = texts.lengths[rows]
    state.step = step
    state.tokens += int(lengths.sum())
    state.flops += accounting.train_flops(spec.arch, spec.shape, spec.vocab_size, lengths)


def _keep(state: State, context: Context) -> None:
    if context.checkpoints is not None and state.step:
        with state.timing("saving"):
            save_checkpoint(context.checkpoints, snapshot(state))


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
