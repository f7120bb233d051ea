"""The visible loop: batch, forward, backward, check, clip, step, evaluate, log.

A RunSpec and the corpus go in; events come out through `emit` while it runs, and an Outcome at the end. All randomness is a function of
(the run's seed, epoch or step), so that a run that goes on from a checkpoint is the run that never stopped.
"""

from collections.abc import Iterator
from contextlib import contextmanager
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
    run = Run(spec, context)
    try:
        for _ in run.steps():
            run.step()
        return run.end()
    except StopRun:
        return run.stopped()


class Run:
    """A run in motion: what happens between its steps, how a step counts, and its end. Driven by `train`, or by a crew.

    It may be stopped, and kept, between two steps and nowhere else, or within what changes nothing.
    """

    def __init__(self, spec: RunSpec, context: Context) -> None:
        started = perf_counter()
        self.spec, self.context = spec, context
        self.texts = context.corpus.train.head(spec.train_texts)
        self.order = Order(self.texts.n_texts, spec.batch_size, spec.seed)
        self.state = start(spec, context.device) if context.resume is None else restore(spec, context.device, context.resume)
        self._validation = context.corpus.validation.head(spec.eval_texts)
        self._evaluate_at = frozenset(spec.evaluate_at)
        self._saved_at, self._saved_step = perf_counter(), self.state.step
        self.state.spent_s += perf_counter() - started

    def steps(self) -> Iterator[int]:
        """Come to each step that is to be made, with all that lies before it done, until training is over; its number, from 1.

        Raises:
            StopRun: the run is to stop.
        """
        while self.state.ended is None:
            if self._goes_on():
                yield self.state.step + 1

    def step(self) -> None:
        """Make one step by itself."""
        started = perf_counter()
        rows, step, context = self.rows(), self.state.step + 1, self.context
        with self.state.timing("training"):
            loss, grad_norm = forward_backward(self.spec, self.state, self.texts, rows, step, context.device, context.micro_batches)
            if not self.diverges(loss, grad_norm):
                update(self.state, self.rate())
                self.count(loss, grad_norm, perf_counter() - started)

    def rows(self) -> np.ndarray:
        """The texts of the next step."""
        return self.order.rows(self.state.step)

    def rate(self) -> float:
        """The learning rate of the next step."""
        spec = self.spec
        return lr_at(self.state.step + 1, spec.steps, spec.lr, spec.schedule, spec.warmup_steps, spec.lr_min_fraction)

    def diverges(self, loss: float, grad_norm: float) -> bool:
        """Whether the next step shows that the run has left the path, which ends it before the step counts."""
        reason = self.state.monitor.check(self.state.step + 1, loss, grad_norm)
        if reason:
            self.state.ended = ("diverged", reason)
        return bool(reason)

    def count(self, loss: float, grad_norm: float, seconds: float) -> None:
        """The next step has been made, in so many seconds of this run's own."""
        rows, lr, state = self.rows(), self.rate(), self.state
        _count(self.spec, state, self.texts, rows, state.step + 1)
        state.points.append((state.step, state.tokens, loss, lr, grad_norm))
        _time(state, self.texts, rows, seconds)
        self.context.progress(state.step, state.tokens, state.tokens_per_second)

    def keep(self) -> None:
        """Save a checkpoint, where the run has a place for it and has made a step."""
        if self.context.checkpoints is not None and self.state.step:
            with self.state.timing("saving"):
                save_checkpoint(self.context.checkpoints, snapshot(self.state))
        self._saved_at, self._saved_step = perf_counter(), self.state.step

    def end(self) -> Outcome:
        """Score the best weights of a run whose training is over.

        Raises:
            StopRun: the run is to stop; nothing has changed.
        """
        assert self.state.ended is not None
        with self._clock():
            metrics = final_metrics(self.spec, self.state, self.context)
        return self._outcome(*self.state.ended, metrics)

    def stopped(self) -> Outcome:
        """Keep a checkpoint, and end as interrupted."""
        self.keep()
        reason = f"stopped at step {self.state.step:,} of {self.spec.steps:,}"
        return self._outcome("interrupted", reason, scores_so_far(self.state))

    def _goes_on(self) -> bool:
        """A checkpoint and an evaluation, or the end, where they are due; whether a step follows."""
        state, spec, context = self.state, self.spec, self.context
        with self._clock():
            context.pulse()
            steps_since = state.step - self._saved_step
            if perf_counter() - self._saved_at > context.checkpoint_every_s or steps_since == context.checkpoint_every_steps:
                self.keep()
            if state.step in self._evaluate_at and state.evaluated < state.step:
                val_loss = evaluate_now(spec, state, context, self._validation, self.order)
                state.ended = ended_by(spec, state, context, val_loss)
                return False
            if state.step == spec.steps:
                state.ended = ("completed", "")
        return state.ended is None

    @contextmanager
    def _clock(self) -> Iterator[None]:
        """Count what the block takes as time of this run."""
        started = perf_counter()
        try:
            yield
        finally:
            self.state.spent_s += perf_counter() - started

    def _outcome(self, status: str, reason: str, metrics: dict[str, float | None]) -> Outcome:
        state = self.state
        return Outcome(
            status=status,
            reason=reason,
            steps=state.step,
            epochs=state.step / self.order.steps_per_epoch,
            train_tokens=state.tokens,
            unique_tokens=_unique_tokens(self.texts, self.order, state.step),
            train_flops=state.flops,
            best_step=state.best_step,
            metrics=metrics,
            tokens_per_second=state.tokens_per_second,
            time_s=state.spent_s,
            events=state.events,
            seconds=state.seconds,
        )


def _time(state: State, texts: Encoded, rows: np.ndarray, seconds: float) -> None:
    """What a step took, and the speed of training, the first steps after a start or an evaluation left out."""
    state.spent_s += seconds
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
        with part_of_batch(state.model, first, int(lengths.sum())), autocast(spec, device):
            logits_NV, targets_N = _forward(spec, state, texts, rows[part], device)
        loss = F.cross_entropy(logits_NV.float(), targets_N) * (n / int(lengths.sum()))
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(float(loss.detach()))
    gradients = [p.grad for p in state.model.parameters() if p.grad is not None]
    grad_norm = torch.nn.utils.get_total_norm(gradients)
    if spec.grad_clip is not None:
        torch.nn.utils.clip_grads_with_norm_(state.model.parameters(), spec.grad_clip, grad_norm)
    return sum(losses), float(grad_norm)


def autocast(spec: RunSpec, device: str) -> torch.autocast:
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
