"""Several runs of one shape trained side by side to their own ends: RunSpecs and Contexts enter, each run's Outcome leaves as it ends.

Each run is a `Run` as by itself: its evaluations, samples, pruning, record and checkpoints are its own. Only the step is made for all at
once, by a `Crew`. All are at the same step whenever they are saved, so that they can go on together.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from time import perf_counter

from harness.ahead import ahead_of
from harness.context import Context, StopRun
from harness.crew import Crew, release
from harness.data.batches import pack
from harness.runspec import RunSpec
from harness.step import step_seed
from harness.stepping import Deferred, Stepper, count, on_path, shared_timing
from harness.train import Outcome, Run

# Away from a CPU, batches are filled up to a multiple of so many tokens: few sizes occur, whose kernels are chosen once.
TOKEN_MULTIPLE = 256


def train_together(specs: Sequence[RunSpec], contexts: Sequence[Context]) -> Iterator[tuple[RunSpec, Outcome]]:
    """Train runs that `crew.together` allows, all from the same step; each with its outcome as soon as it has ended.

    Two runs or more that are left are a crew, and the last one goes on as a run by itself. When they are saved follows the first context.
    """
    group = _Together(specs, contexts)
    try:
        yield from group.train()
    except StopRun:
        group.disband()
        for run in group.unfinished():
            yield run.spec, run.stopped()


class _Together:
    """The runs that have not ended yet, and the crew that they are."""

    def __init__(self, specs: Sequence[RunSpec], contexts: Sequence[Context]) -> None:
        first = contexts[0]
        self._device, self._every_s, self._every_steps = first.device, first.checkpoint_every_s, first.checkpoint_every_steps
        never = [replace(context, checkpoint_every_s=math.inf, checkpoint_every_steps=None) for context in contexts]
        self.runs = [Run(spec, context) for spec, context in zip(specs, never, strict=True)]
        self._steps = {id(run): run.steps() for run in self.runs}
        self._stepper: Stepper | None = None
        self._saved_at, self._saved_step = perf_counter(), self._step

    @property
    def _step(self) -> int:
        """The step that all are at."""
        at = {run.at for run in self.runs if run.state.ended is None}
        assert len(at) <= 1, "runs that train together are at one step"
        return at.pop() if at else 0

    def train(self) -> Iterator[tuple[RunSpec, Outcome]]:
        """Round by round: what is due before the next step, the ends of those that are over, the step of the others."""
        while self.runs:
            # Before any run looks at how it went: whoever turns out to have diverged takes the others back to that step.
            if self._saves_now or any(run.needs_counts for run in self.runs):
                self._settle()
            if self._saves_now:
                self._keep()
            over = [run for run in self.runs if next(self._steps[id(run)], None) is None]
            if over:
                yield from self._let_go(over)
            if len(self.runs) > 1:
                self._make_step()
            elif self.runs:
                self.runs[0].step()

    def _settle(self) -> None:
        """Have all that was made counted: who is over is known then."""
        for run in self.runs:
            run.settle()

    def disband(self) -> None:
        """Every run is by itself from here on, with all its steps counted."""
        if self._stepper is not None:
            self._stepper.close()
            self._stepper = None
            with shared_timing(self.runs, "training", spends=True):
                for run in self.runs:
                    run.moved_by(None)
                    release(run.state)

    def unfinished(self) -> list[Run]:
        """Those that have not ended, the ones that only have to be scored last: where such a one is saved, all others are."""
        return sorted(self.runs, key=lambda run: run.state.ended is not None)

    @property
    def _saves_now(self) -> bool:
        """Whether all are to be saved."""
        return perf_counter() - self._saved_at > self._every_s or self._step - self._saved_step == self._every_steps

    def _keep(self) -> None:
        """Save all, at the step that they are at."""
        self._settle()
        for run in self.unfinished():
            run.keep()
        self._saved_at, self._saved_step = perf_counter(), self._step

    def _let_go(self, over: Sequence[Run]) -> Iterator[tuple[RunSpec, Outcome]]:
        """The ends of these runs; the others go on without them.

        All are saved first: whoever goes on from here after a crash has the same company, and so the same bits.
        """
        if len(self.runs) > 1:
            self._keep()
        self.disband()
        left = [run for run in self.runs if run not in over]
        self.runs = [*left, *over]
        for run in over:
            outcome = run.end()
            self.runs.remove(run)
            yield run.spec, outcome

    def _make_step(self) -> None:
        """One step of every run."""
        if self._stepper is None:
            with shared_timing(self.runs, "training", spends=True):
                self._stepper = stepper_of(self.runs, self._device)
            for run in self.runs:
                run.moved_by(self._stepper)
        self._stepper.step()


class AtOnce:
    """One step of a crew at a time, of which all is known when it is over (`stepping.Stepper`)."""

    unread, full = 0, False

    def __init__(self, runs: Sequence[Run], device: str) -> None:
        self._runs = tuple(runs)
        multiple = 1 if device == "cpu" else TOKEN_MULTIPLE
        self._crew = Crew([run.spec for run in runs], device, multiple, [run.state for run in runs])

    def step(self) -> None:
        """Make a step, and have it counted."""
        started = perf_counter()
        with shared_timing(self._runs, "training"):
            batches = [pack(run.texts, run.rows()) for run in self._runs]
            seeds = [step_seed(run.spec.seed, run.state.step + 1) for run in self._runs]
            told = list(zip(*self._crew.forward_backward(batches, seeds), strict=True))
            good = on_path(self._runs, told)
            # One that has diverged leaves before the next step; what becomes of its weights touches no other.
            self._crew.update([run.rate() for run in self._runs])
        count(self._runs, told, good, perf_counter() - started)

    def settle(self) -> None:
        """There is nothing that isn't counted."""

    def close(self) -> None:
        """Nothing is held."""


def stepper_of(runs: Sequence[Run], device: str) -> Stepper:
    """What makes the steps of runs that are a crew."""
    ahead = ahead_of([run.spec for run in runs], [run.state for run in runs], runs[0].context)
    return AtOnce(runs, device) if ahead is None else Deferred(runs, ahead)
