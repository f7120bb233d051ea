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

from harness import accounting
from harness.ahead import ahead_of
from harness.checkpoint import save_checkpoint
from harness.context import Context, StopRun
from harness.data.batches import Order
from harness.data.corpus import Encoded
from harness.milestones import ended_by, evaluate_now, final_metrics, scores_so_far
from harness.runspec import RunSpec
from harness.state import State, restore, snapshot, start
from harness.step import rate_at
from harness.stepping import Deferred, Immediate, Stepper

__all__ = ["Outcome", "Run", "outcome_fields", "train"]

# Steps at the start of a run, and after an evaluation, that say nothing about its speed.
WARM_UP_STEPS = 3


@dataclass(frozen=True)
class Outcome:
    """How a run ended. Metrics are those of the best weights; None where no evaluation was reached.

    `seconds`: of `time_s`, wall and CPU seconds of training, capturing (on a GPU), evaluation, sampling_best, sampling_end and saving.
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
        self._flops_by_length = accounting.flops_by_length(spec.arch, spec.shape, spec.vocab_size, spec.seq_len - 1)
        self._stepper: Stepper | None = None
        self._saved_at, self._saved_step = perf_counter(), self.state.step
        self.state.spent_s += perf_counter() - started

    @property
    def at(self) -> int:
        """The steps that have been made, whether counted yet or not."""
        return self.state.step + (self._stepper.unread if self._stepper else 0)

    def steps(self) -> Iterator[int]:
        """Come to each step that is to be made, with all that lies before it done, until training is over; its number, from 1.

        Raises:
            StopRun: the run is to stop.
        """
        while self.state.ended is None:
            saves = self._saves_now()
            if saves or self.needs_counts:
                self.settle()
            if self.state.ended is None and self._goes_on(saves):
                yield self.at + 1

    @property
    def needs_counts(self) -> bool:
        """Whether what comes next must know how all steps went: an evaluation, the end, or too many that nothing is known of."""
        return self.at in self._evaluate_at or self.at == self.spec.steps or (self._stepper is not None and self._stepper.full)

    def moved_by(self, stepper: Stepper | None) -> None:
        """Have one stepper make the steps of this run and of others; None: the run goes on, or ends, by itself."""
        self._stepper = stepper

    def step(self) -> None:
        """Make one step by itself."""
        if self._stepper is None:
            self._stepper = stepper_of(self)
        self._stepper.step()

    def settle(self) -> None:
        """Have every step that was made counted; the run may turn out to have diverged at one of them."""
        if self._stepper is not None:
            self._stepper.settle()

    def rows(self) -> np.ndarray:
        """The texts of the next step."""
        return self.order.rows(self.state.step)

    def rate(self) -> float:
        """The learning rate of the next step."""
        return rate_at(self.spec, self.state.step + 1)

    def diverges(self, loss: float, grad_norm: float) -> bool:
        """Whether the next step shows that the run has left the path, which ends it before the step counts."""
        reason = self.state.monitor.check(self.state.step + 1, loss, grad_norm)
        if reason:
            self.state.ended = ("diverged", reason)
        return bool(reason)

    def count(self, loss: float, grad_norm: float, seconds: float) -> None:
        """The next step has been made, in so many seconds of this run's own."""
        lengths, lr, state = self.texts.lengths[self.rows()], self.rate(), self.state
        tokens = int(lengths.sum())
        state.step += 1
        state.tokens += tokens
        state.flops += int(self._flops_by_length[lengths].sum())
        state.points.append((state.step, state.tokens, loss, lr, grad_norm))
        _time(state, tokens, seconds)
        self.context.progress(state.step, state.tokens, state.tokens_per_second)

    def keep(self) -> None:
        """Save a checkpoint, where the run has a place for it and has made a step."""
        self.settle()
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
        self._let_go()
        return self._outcome(*self.state.ended, metrics)

    def stopped(self) -> Outcome:
        """Keep a checkpoint, and end as interrupted."""
        self.keep()
        self._let_go()
        reason = f"stopped at step {self.state.step:,} of {self.spec.steps:,}"
        return self._outcome("interrupted", reason, scores_so_far(self.state))

    def _let_go(self) -> None:
        """No further step is made."""
        if self._stepper is not None:
            self._stepper.close()

    def _saves_now(self) -> bool:
        """Whether a checkpoint is due."""
        context = self.context
        return perf_counter() - self._saved_at > context.checkpoint_every_s or self.at - self._saved_step == context.checkpoint_every_steps

    def _goes_on(self, saves: bool) -> bool:
        """A checkpoint and an evaluation, or the end, where they are due; whether a step follows."""
        state, spec, context = self.state, self.spec, self.context
        with self._clock():
            context.pulse()
            if saves:
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


def stepper_of(run: Run) -> Stepper:
    """What makes the steps of a run that is by itself."""
    ahead = ahead_of([run.spec], [run.state], run.context)
    return Immediate(run) if ahead is None else Deferred([run], ahead)


def _time(state: State, tokens: int, seconds: float) -> None:
    """What a step of so many tokens took, and the speed of training, the first steps after a start or an evaluation left out."""
    state.spent_s += seconds
    state.since_evaluation += 1
    if state.since_evaluation > WARM_UP_STEPS:
        state.timed_tokens += tokens
        state.timed_s += seconds


def _unique_tokens(texts: Encoded, order: Order, steps: int) -> int:
    """Tokens of the texts that were seen at least once."""
    if steps >= order.steps_per_epoch:
        return int(texts.lengths.sum())
    lengths = texts.lengths
    return int(sum(lengths[order.rows(step)].sum() for step in range(steps)))


def outcome_fields(outcome: Outcome) -> dict[str, Any]:
    """An outcome as plain fields of the record."""
    return {k: v for k, v in asdict(outcome).items() if k != "metrics"} | outcome.metrics
