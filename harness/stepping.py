"""How runs make their steps and learn what these gave: at once, or for many steps together, so that a device never waits for the host.

A stepper moves the weights of a run, or of runs that are a crew; what a step means for a run (divergence, counts, points) is said by the
run, in order, in either way. To the record there is no difference: whatever is told or kept is preceded by `settle`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter, process_time
from typing import Protocol

import numpy as np

from harness.context import Context
from harness.data.corpus import Encoded
from harness.runspec import RunSpec
from harness.state import State
from harness.step import forward_backward, update

# Steps of which nothing is known yet, at most; and seconds that they may take together, since whoever stops a run waits for them.
MOST_UNREAD = 200
UNREAD_S = 1.0
FIRST_UNREAD = 8

# Loss and gradient norm of each run in a step.
Told = list[tuple[float, float]]


class Stepped(Protocol):
    """What a stepper needs of a run (`harness.train.Run`)."""

    spec: RunSpec
    context: Context
    state: State
    texts: Encoded

    def rows(self) -> np.ndarray:
        """The texts of the next step."""

    def rate(self) -> float:
        """The learning rate of the next step."""

    def diverges(self, loss: float, grad_norm: float) -> bool:
        """Whether the next step shows that the run has left the path, which ends it before the step counts."""

    def count(self, loss: float, grad_norm: float, seconds: float) -> None:
        """The next step has been made, in so many seconds of this run's own."""


class Stepper(Protocol):
    """Makes steps of its runs, all at one step. `unread`: how many they have not counted yet; `full`: no further one before `settle`."""

    unread: int

    @property
    def full(self) -> bool:
        """Whether what was made has to be read before the next step."""

    def step(self) -> None:
        """Make one step more."""

    def settle(self) -> None:
        """Have the runs count all steps that were made; if one diverges, none after that step has been made, nor that one of its own."""

    def close(self) -> None:
        """The runs' training is over, or goes on elsewhere."""


class Immediate:
    """One step at a time, checked before its update."""

    unread, full = 0, False

    def __init__(self, run: Stepped) -> None:
        self._run = run

    def step(self) -> None:
        """Make a step, and have it counted."""
        run, started = self._run, perf_counter()
        with run.state.timing("training"):
            step, device = run.state.step + 1, run.context.device
            loss, grad_norm = forward_backward(run.spec, run.state, run.texts, run.rows(), step, device, run.context.micro_batches)
            if not run.diverges(loss, grad_norm):
                update(run.state, run.rate())
                run.count(loss, grad_norm, perf_counter() - started)

    def settle(self) -> None:
        """There is nothing that isn't counted."""

    def close(self) -> None:
        """Nothing is held."""


class Work(Protocol):
    """Steps on a device, none of which waits for the host. Steps are counted from 1."""

    @property
    def capturing_s(self) -> float:
        """Seconds that captures have taken so far."""

    def launch(self, step: int) -> None:
        """Begin a step, its update included; whether it has diverged isn't asked."""

    def read(self) -> list[Told]:
        """Wait for all that was launched since the last reading: what each step gave."""

    def mark(self) -> None:
        """Keep weights and moments as they are, for `rewind`."""

    def rewind(self) -> None:
        """Weights and moments as they were at the last mark."""

    def close(self) -> None:
        """Let go of the runs' weights, which stay as they are."""


class Deferred:
    """Many steps ahead of what is known of them. One that shows divergence is found later, and what came after it is undone.

    Undoing goes back to the mark before the first unread step and makes the good ones again: rare, and bit by bit what was.
    """

    def __init__(self, runs: Sequence[Stepped], work: Work) -> None:
        self._runs, self._work = runs, work
        self.unread = 0
        self._most, self._seconds = FIRST_UNREAD, 0.0

    @property
    def full(self) -> bool:
        """Whether as many are unread as may be."""
        return self.unread >= self._most

    def step(self) -> None:
        """Begin one step more."""
        started, before_s = perf_counter(), self._work.capturing_s
        with shared_timing(self._runs, "training"):
            if not self.unread:
                self._work.mark()
            self._work.launch(self._runs[0].state.step + self.unread + 1)
        self.unread += 1
        captured_s = self._work.capturing_s - before_s
        for run in self._runs:
            run.state.moved("training", "capturing", captured_s / len(self._runs))
            run.state.spent_s += captured_s / len(self._runs)
        self._seconds += perf_counter() - started - captured_s

    def settle(self) -> None:
        """Wait for what was begun, and have it counted in order."""
        if not self.unread:
            return
        started = perf_counter()
        with shared_timing(self._runs, "training"):
            results = self._work.read()
        step_s = (self._seconds + perf_counter() - started) / len(results)
        self.unread, self._seconds = 0, 0.0
        self._most = min(MOST_UNREAD, max(1, int(UNREAD_S / max(step_s, 1e-9))))
        marked = self._runs[0].state.step
        for done, told in enumerate(results):
            good = on_path(self._runs, told)
            if not all(good):
                # A crew makes this step too: what that does to the weights of one that has diverged is of no account.
                self._go_back(marked, done + any(good))
            count(self._runs, told, good, step_s)
            if not all(good):
                return

    def close(self) -> None:
        """Count what was made, and let go of the device's share."""
        self.settle()
        self._work.close()

    def _go_back(self, marked: int, steps: int) -> None:
        """To the mark, and make so many steps again."""
        self._work.rewind()
        for step in range(marked, marked + steps):
            self._work.launch(step + 1)
        if steps:
            self._work.read()


@contextmanager
def shared_timing(runs: Sequence[Stepped], part: str, spends: bool = False) -> Iterator[None]:
    """Count what the block takes as seconds of a part of the work, an equal share for each run; `spends`: as time of the run, too."""
    wall, cpu = perf_counter(), process_time()
    try:
        yield
    finally:
        wall_s, cpu_s = perf_counter() - wall, process_time() - cpu
        for run in runs:
            run.state.took(part, wall_s / len(runs), cpu_s / len(runs))
            run.state.spent_s += wall_s / len(runs) * spends


def on_path(runs: Sequence[Stepped], told: Told) -> list[bool]:
    """Which runs the next step shows to be well; the others have diverged."""
    return [not run.diverges(*own) for run, own in zip(runs, told, strict=True)]


def count(runs: Sequence[Stepped], told: Told, good: Sequence[bool], step_s: float) -> None:
    """A step has been made, in so many seconds: those that are well count it."""
    for run, own, well in zip(runs, told, good, strict=True):
        if well:
            run.count(*own, step_s / len(runs))
