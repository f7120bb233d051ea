"""Runs and crews whose steps are made ahead, as on a GPU, or at once, and what they are told of each."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from harness import ahead, calibrate, crew_sizes, stepping, together
from harness import train as training
from harness.ahead import Ahead
from harness.context import Context
from harness.state import State, start
from harness.step import forward_backward, rate_at, update
from harness.stepping import Deferred
from harness.train import Run
from tests import tiny


def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch, unread: int) -> None:
    """On a CPU: steps made ahead, without captures, of which at most so many are unread."""
    for name in ("FIRST_UNREAD", "MOST_UNREAD"):
        monkeypatch.setattr(stepping, name, unread)
    monkeypatch.setattr(stepping, "UNREAD_S", 1e9)
    monkeypatch.setattr(ahead, "_idle", {})

    def stepper_of(runs: Sequence[Any], device: str = "cpu") -> Deferred:
        return Deferred(runs, Ahead([run.spec for run in runs], [run.state for run in runs], runs[0].context))

    for module in (together, crew_sizes):
        monkeypatch.setattr(module, "stepper_of", stepper_of)
    for module in (training, calibrate):
        monkeypatch.setattr(module, "stepper_of", lambda run: stepper_of([run]))


def fifty_steps(kind: str) -> Any:
    """Without dropout, whose masks would follow from the size of the batch; more than an epoch, a rate that changes."""
    plain = tiny.spec(dropout=0.0, steps=50, evaluate_at=(50,), grad_clip=0.5, schedule="cosine", warmup_steps=5, lr=3e-3)
    return {"decoder": plain, "muP": replace(plain, mup_base={"d_model": 4, "n_head": 2, "d_head": 4, "d_ff": 8})}[kind]


def context(device: str = "cpu", **more: Any) -> Context:
    return Context(corpus=tiny.corpus(), emit=lambda kind, fields: None, device=device, **more)


def launch(work: Ahead, steps: Iterable[int]) -> None:
    for step in steps:
        work.launch(step)


def crew_ahead(specs: Sequence[Any], steps: int, device: str = "cpu") -> tuple[list[Any], list[State]]:
    """(loss, norm of the gradient) of each member in each step, (steps, members, 2), and the members' states after the last."""
    states = [start(spec, device) for spec in specs]
    work = Ahead(specs, states, context(device))
    work.mark()
    launch(work, range(1, steps + 1))
    told = work.read()
    work.close()
    return told, states


def run_ahead(spec: Any, steps: int, device: str = "cpu") -> tuple[list[tuple[float, float]], State]:
    told, (state,) = crew_ahead([spec], steps, device)
    return alone(told), state


def alone(told: Iterable[Any]) -> list[tuple[float, float]]:
    """Of the only run there is."""
    return [step for (step,) in told]


def run_at_once(spec: Any, steps: int, device: str = "cpu") -> tuple[list[tuple[float, float]], State]:
    """On the exact batches."""
    run = Run(spec, context(device))
    told = []
    for step in range(1, steps + 1):
        told.append(forward_backward(spec, run.state, run.texts, run.order.rows(step - 1), step, device))
        update(run.state, rate_at(spec, step))
    return told, run.state
