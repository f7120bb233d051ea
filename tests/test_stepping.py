"""A run that learns of its steps later, many at a time, is the run that learned of each at once: told, kept and ended the same."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness import state as states
from harness import stepping
from harness import train as training
from harness.checkpoint import load_checkpoint, load_weights
from harness.context import StopRun
from harness.data.batches import evaluation_batches
from harness.divergence import DivergenceMonitor
from harness.evaluate import BATCH_TOKENS
from harness.state import State, snapshot
from harness.step import forward_backward, update
from harness.train import Outcome
from tests import tiny

CLOCKS = {"time_s", "seconds", "tokens_per_second"}
TIMED = {"timed_s", "spent_s", "seconds"}
Result = tuple[Outcome, tiny.Events, State]


class Plain:
    """Steps on the CPU, none of which is looked at before `read`."""

    capturing_s = 0.0

    def __init__(self, run: Any) -> None:
        self._run, self._told = run, []
        self.launched: list[int] = []
        self.closed = False

    def launch(self, step: int) -> None:
        assert not self.closed
        run, self.launched = self._run, [*self.launched, step]
        self._told.append(forward_backward(run.spec, run.state, run.texts, run.order.rows(step - 1), step, "cpu"))
        update(run.state, training.rate_at(run.spec, step))

    def read(self) -> list[stepping.Told]:
        told, self._told = self._told, []
        return [[step] for step in told]

    def _moving(self) -> list[Tensor]:
        held = self._run.state.optimizer.state
        return [*self._run.state.model.parameters(), *(value for weight in held for value in held[weight].values())]

    def mark(self) -> None:
        self._marked = [tensor.detach().clone() for tensor in self._moving()]

    def rewind(self) -> None:
        if len(self._marked) < len(self._moving()):
            # The mark was before the first step, which makes the moments.
            self._run.state.optimizer.state.clear()
        with torch.no_grad():
            for tensor, was in zip(self._moving(), self._marked, strict=True):
                tensor.copy_(was)

    def close(self) -> None:
        self.closed = True


def seeing(begin: Callable[..., State], seen: list[State]) -> Callable[..., State]:
    """The same, keeping what it made."""

    def began(*given: Any) -> State:
        seen.append(begin(*given))
        return seen[-1]

    return began


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Train at once, or with so many steps unread at most; outcome, events and last state."""

    def trained(spec: Any, unread: int = 0, **context: Any) -> Result:
        seen: list[Any] = []

        def stepper(run: Any) -> stepping.Stepper:
            if unread:
                seen.append(Plain(run))
                deferred = stepping.Deferred([run], seen[-1])
                deferred._most = unread
                return deferred
            return stepping.Immediate(run)

        made: list[State] = []
        for name in ("start", "restore"):
            monkeypatch.setattr(training, name, seeing(getattr(states, name), made))
        monkeypatch.setattr(training, "stepper_of", stepper)
        monkeypatch.setattr(stepping, "MOST_UNREAD", max(unread, 1))
        monkeypatch.setattr(stepping, "UNREAD_S", 1e9)
        outcome, events = tiny.run(spec, **context)
        assert all(work.closed and not work._told for work in seen)
        return outcome, events, made[-1]

    return trained


def assert_same(one: Result, other: Result) -> None:
    """Outcome, all that was told, weights, moments, counters and points."""
    a, b = ({k: v for k, v in vars(result[0]).items() if k not in CLOCKS} for result in (one, other))
    assert a == b
    assert one[1] == other[1]
    assert_same_state(one[2], other[2])


def assert_same_state(one: State, other: State) -> None:
    first, second = snapshot(one), snapshot(other)
    assert {k: v for k, v in first.facts.items() if k not in TIMED} == {k: v for k, v in second.facts.items() if k not in TIMED}
    assert first.tensors.keys() == second.tensors.keys()
    assert [name for name, tensor in first.tensors.items() if not torch.equal(tensor, second.tensors[name])] == []


@pytest.mark.parametrize("unread", [1, 3, 50])
def test_a_whole_run_is_the_same(runs: Callable[..., Result], unread: int, tmp_path: Path) -> None:
    spec = tiny.spec(grad_clip=0.5, warmup_steps=3, schedule="cosine")
    samples = {"temperatures": [1.0], "texts": 2, "at_best": 2}
    results = [runs(spec, n, folder=tmp_path / str(n), samples=samples) for n in (0, unread)]
    assert_same(*results)
    one, other = (load_weights(tmp_path / str(n) / "best.safetensors") for n in (0, unread))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("unread", [3, 50])
@pytest.mark.parametrize("lr", [1e3, 1e30])
def test_a_step_that_is_not_finite_ends_the_run_where_it_was_made(runs: Callable[..., Result], lr: float, unread: int) -> None:
    """No evaluation comes before, so that the last weights are those of training."""
    now, later = (runs(tiny.spec(lr=lr, evaluate_at=(12,)), n) for n in (0, unread))
    assert now[0].status == "diverged" and 0 < now[0].steps < 11
    assert_same(now, later)


@pytest.mark.parametrize("at", [1, 2, 6, 7, 9, 12])
def test_divergence_that_only_the_host_can_see_is_undone_from_there_on(
    runs: Callable[..., Result], at: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In the first step, in the middle of an interval, right after an evaluation, at a checkpoint and in the very last step."""
    check = DivergenceMonitor.check
    monkeypatch.setattr(
        DivergenceMonitor, "check", lambda self, step, loss, norm: check(self, step, loss, norm) or (f"at {step}" if step == at else None)
    )
    spec = tiny.spec(evaluate_at=(5, 12))
    kept = [{"checkpoints": tmp_path / str(n), "checkpoint_every_steps": 3} for n in (0, 50)]
    now, later = (runs(spec, n, **context) for n, context in zip((0, 50), kept, strict=True))
    assert (now[0].status, now[0].steps) == ("diverged", at - 1)
    assert_same(now, later)
    assert_same_checkpoints(*(tmp_path / str(n) for n in (0, 50)))


def assert_same_checkpoints(one: Path, other: Path) -> None:
    names = [sorted(path.name for path in folder.glob("*")) for folder in (one, other)]
    assert names[0] == names[1]
    first, second = (load_checkpoint(folder)[0] for folder in (one, other))
    assert (first is None) == (second is None)
    if first is not None and second is not None:
        assert {k: v for k, v in first.facts.items() if k not in TIMED} == {k: v for k, v in second.facts.items() if k not in TIMED}
        assert all(torch.equal(tensor, second.tensors[name]) for name, tensor in first.tensors.items())


@pytest.mark.parametrize("step", [1, 6, 9, 12])
def test_stopped_in_the_middle_of_an_interval_and_gone_on_with_it_is_the_same(
    runs: Callable[..., Result], step: int, tmp_path: Path
) -> None:
    """Ctrl-C after a step of which the run knows nothing yet: the checkpoint has it, and what goes on is the run that never stopped."""
    spec, seen = tiny.spec(), {}
    for n in (0, 50):
        folder = tmp_path / str(n)
        stopped = runs(spec, n, checkpoints=folder, pulse=stop_after(step))
        assert (stopped[0].status, stopped[0].steps) == ("interrupted", step)
        saved, damaged = load_checkpoint(folder)
        assert saved is not None and saved.step == step and not damaged
        seen[n] = stopped, runs(spec, n, folder=folder, checkpoints=folder, resume=saved)
    assert_same(seen[0][0], seen[50][0])
    assert_same(seen[0][1], seen[50][1])
    whole = runs(spec, 0, folder=tmp_path / "whole")
    assert_same_state(whole[2], seen[50][1][2])


def stop_after(step: int) -> Callable[[], None]:
    """A pulse that stops a run after a step: it is asked before the first one, after each, and in the middle of evaluations."""
    count = 0

    def pulse() -> None:
        nonlocal count
        count += 1
        if count > step + sum(ASKED for at in (4, 8) if at < step):
            raise StopRun

    return pulse


# An evaluation of the few validation texts asks once a batch, and the run asks once more before it goes on.
ASKED = 1 + len(list(evaluation_batches(tiny.corpus().validation, BATCH_TOKENS)))


def test_early_stopping_and_pruning_are_the_same(runs: Callable[..., Result]) -> None:
    stops = tiny.spec(lr=0.5, steps=60, evaluate_at=tuple(range(2, 61, 2)), patience=2)
    now, later = (runs(stops, n) for n in (0, 50))
    assert "stopped early" in now[0].reason and now[0].steps < 60
    assert_same(now, later)
    now, later = (runs(tiny.spec(), n, prune=lambda history: len(history) == 2) for n in (0, 50))
    assert (now[0].status, now[0].steps) == ("pruned", 8)
    assert_same(now, later)


def test_a_stop_that_finds_a_divergence_ends_as_a_stop_at_the_end_of_a_diverged_run(
    runs: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The run is stopped before it knows; it is kept as one that has diverged, and says so when it goes on."""
    check = DivergenceMonitor.check
    monkeypatch.setattr(
        DivergenceMonitor, "check", lambda self, step, loss, norm: check(self, step, loss, norm) or ("it did" if step == 7 else None)
    )
    stopped = runs(tiny.spec(), 50, checkpoints=tmp_path, pulse=stop_after(7))
    assert (stopped[0].status, stopped[0].steps) == ("interrupted", 6)
    saved, _ = load_checkpoint(tmp_path)
    assert saved is not None
    gone_on = runs(tiny.spec(), 50, folder=tmp_path, resume=saved)
    at_once = runs(tiny.spec(), 0, folder=tmp_path)
    assert replace(gone_on[0], time_s=0, seconds={}, tokens_per_second=None) == replace(
        at_once[0], time_s=0, seconds={}, tokens_per_second=None
    )


@pytest.mark.parametrize(("step_s", "most"), [(1e-6, stepping.MOST_UNREAD), (2.0**-7, 128), (30.0, 1)])
def test_what_is_read_together_is_bounded_in_steps_and_in_time(step_s: float, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run may be stopped within the time of the steps that were begun."""
    run = Idle()
    work = Slow(step_s)
    monkeypatch.setattr(stepping, "perf_counter", lambda: work.now)
    deferred, read = stepping.Deferred([run], work), []
    for _ in range(1000):
        deferred.step()
        if deferred.full:
            read.append(deferred.unread)
            deferred.settle()
    assert read[:3] == [stepping.FIRST_UNREAD, most, most]
    assert run.state.step + deferred.unread == 1000


class Slow:
    """Work that takes its time on a device, which passes as the host waits for it."""

    capturing_s = 0.0

    def __init__(self, step_s: float) -> None:
        self.step_s, self.now, self.begun = step_s, 0.0, 0

    def launch(self, step: int) -> None:
        self.begun += 1

    def read(self) -> list[stepping.Told]:
        begun, self.begun = self.begun, 0
        self.now += begun * self.step_s
        return [[(1.0, 1.0)]] * begun

    def mark(self) -> None: ...
    def rewind(self) -> None: ...
    def close(self) -> None: ...


class Idle:
    """A run to which every step is as good as any other."""

    def __init__(self) -> None:
        self.state: Any = State(torch.nn.Linear(1, 1), torch.optim.AdamW([torch.zeros(1)]), DivergenceMonitor(2))

    def diverges(self, loss: float, grad_norm: float) -> bool:
        return False

    def count(self, loss: float, grad_norm: float, seconds: float) -> None:
        self.state.step += 1
