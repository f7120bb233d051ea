"""Several runs of one shape trained side by side to their own ends: RunSpecs and Contexts enter, each run's Outcome leaves as it ends.

Each run is a `Run` as by itself: its evaluations, samples, pruning, record and checkpoints are its own. Only the step is made for all at
once, by a `Crew`. All are at the same step whenever they are saved, so that they can go on together.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from time import perf_counter, process_time

from harness.context import Context, StopRun
from harness.crew import Crew
from harness.data.batches import pack
from harness.runspec import RunSpec
from harness.step import step_seed
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
        self._crew: Crew | None = None
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
            if perf_counter() - self._saved_at > self._every_s or self._step - self._saved_step == self._every_steps:
                self._keep()
            over = [run for run in self.runs if next(self._steps[id(run)], None) is None]
            if over:
                yield from self._let_go(over)
            if len(self.runs) > 1:
                self._make_step()
            elif self.runs:
                self.runs[0].step()

    def unfinished(self) -> list[Run]:
        """Those that have not ended, the ones that only have to be scored last: where such a one is saved, all others are."""
        return sorted(self.runs, key=lambda run: run.state.ended is not None)

    def _keep(self) -> None:
        """Save all, at the step that they are at."""
        for run in self.unfinished():
            run.keep()
        self._saved_at, self._saved_step = perf_counter(), self._step

    def _let_go(self, over: Sequence[Run]) -> Iterator[tuple[RunSpec, Outcome]]:
        """The ends of these runs; the others go on without them.

        All are saved first: whoever goes on from here after a crash has the same company, and so the same bits.
        """
        if len(self.runs) > 1:
            self._keep()
        left = [run for run in self.runs if run not in over]
        if self._crew is not None and len(left) > 1:
            self._crew.keep([self.runs.index(run) for run in left])
        elif self._crew is not None and left:
            self._crew.release(self.runs.index(left[0]))
            self._crew = None
        self.runs = [*left, *over]
        for run in over:
            outcome = run.end()
            self.runs.remove(run)
            yield run.spec, outcome

    def _make_step(self) -> None:
        """One step of every run; each is told an equal share of the time."""
        started, cpu = perf_counter(), process_time()
        if self._crew is None:
            multiple = 1 if self._device == "cpu" else TOKEN_MULTIPLE
            self._crew = Crew([run.spec for run in self.runs], self._device, multiple, [run.state for run in self.runs])
        batches = [pack(run.texts, run.rows()) for run in self.runs]
        losses, norms = self._crew.forward_backward(batches, [step_seed(run.spec.seed, run.state.step + 1) for run in self.runs])
        on_path = [not run.diverges(loss, norm) for run, loss, norm in zip(self.runs, losses, norms, strict=True)]
        # One that has diverged leaves before the next step; what becomes of its weights touches no other.
        self._crew.update([run.rate() for run in self.runs])
        seconds, cpu_s = (perf_counter() - started) / len(self.runs), (process_time() - cpu) / len(self.runs)
        for run, good, loss, norm in zip(self.runs, on_path, losses, norms, strict=True):
            run.state.took("training", seconds, cpu_s)
            if good:
                run.count(loss, norm, seconds)
