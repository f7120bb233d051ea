"""Runs that train together against the same runs one by one: numbers, ends, events; and against themselves, stopped anywhere."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import stepping, together
from harness.checkpoint import load_checkpoint, load_weights
from harness.context import Context, StopRun
from harness.crew import Crew
from harness.runspec import RunSpec
from harness.stepping import Deferred
from harness.together import train_together
from harness.train import Outcome, Run, train
from tests import tiny
from tests.steppers import as_on_a_gpu

SAMPLES = {"temperatures": [0.5], "texts": 2, "at_best": 1}
CLOCKS = {"time_s", "tokens_per_second", "seconds"}
Told = dict[str, tiny.Events]


def members() -> list[RunSpec]:
    """One to the end, one stopped early, one that is pruned at step 8, one that diverges."""
    every = tuple(range(1, tiny.STEPS + 1))
    return [
        tiny.spec(grad_clip=0.5, schedule="cosine", warmup_steps=3),
        tiny.spec(lr=0.5, seed=1, evaluate_at=every, patience=1),
        tiny.spec(lr=3e-3, stage="search", trial=0),
        tiny.spec(lr=1e30, seed=2, weight_decay=0.0),
        tiny.spec(lr=2e-3, seed=3),
    ]


def contexts(specs: Sequence[RunSpec], folder: Path, told: Told, saved: bool = False, pulse: Any = lambda: None) -> list[Context]:
    """A context for each, which prunes the trial; `saved`: they go on from their checkpoints, where they have some."""
    made = []
    for spec in specs:
        there = folder / spec.key
        events = told.setdefault(spec.key, [])
        resume = load_checkpoint(there)[0] if saved else None
        made.append(
            Context(
                corpus=tiny.corpus(),
                emit=lambda kind, fields, events=events: events.append((kind, fields)),  # type: ignore[misc]
                pulse=pulse,
                prune=(lambda history: len(history) >= 2) if spec.trial is not None else None,
                folder=None if spec.trial is not None else there,
                checkpoints=there,
                samples=None if spec.trial is not None else SAMPLES,
                resume=resume,
            )
        )
    return made


def close(one: Any, other: Any) -> None:
    """Equal up to the rounding of a crew; texts and counts to the letter."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one.keys() - CLOCKS:
            close(one[name], other[name])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for ours, theirs in zip(one, other, strict=True):
            close(ours, theirs)
    elif isinstance(one, float) and math.isfinite(one):
        assert one == pytest.approx(other, rel=1e-5)
    else:
        assert one == other or (one != one and other != other)


def without_clocks(outcome: Outcome) -> dict[str, Any]:
    return {name: value for name, value in vars(outcome).items() if name not in CLOCKS}


@pytest.mark.parametrize("unread", [0, 50])
def test_each_member_is_its_lone_twin_whoever_leaves(tmp_path: Path, unread: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if unread:
        as_on_a_gpu(monkeypatch, unread)
    specs = members()
    crew_told: Told = {}
    lone_told: Told = {}
    ended = list(train_together(specs, contexts(specs, tmp_path / "crew", crew_told)))
    lone = {spec.key: train(spec, one) for spec, one in zip(specs, contexts(specs, tmp_path / "lone", lone_told), strict=True)}
    assert [lone[spec.key].status for spec in specs] == ["completed", "completed", "pruned", "diverged", "completed"]
    assert "stopped early" in lone[specs[1].key].reason and lone[specs[1].key].steps < tiny.STEPS
    # Who ends first is told first, and no one waits for the others.
    steps = [outcome.steps for _, outcome in ended]
    assert steps == sorted(steps) and len({spec.key for spec, _ in ended}) == len(specs)
    for spec, outcome in ended:
        # The one that diverges is chaotic in its last steps, and equal in how it ends.
        if outcome.status == "diverged":
            assert (outcome.steps, outcome.events) == (lone[spec.key].steps, lone[spec.key].events)
            continue
        close(vars(outcome), vars(lone[spec.key]))
        close(crew_told[spec.key], lone_told[spec.key])
    ours, theirs = (load_weights(tmp_path / name / specs[4].key / "best.safetensors") for name in ("crew", "lone"))
    assert ours.keys() == theirs.keys() and all((ours[name] - theirs[name]).abs().max() < 1e-3 for name in ours)


class Stop:
    """Stops all at the n-th time that any of them looks."""

    def __init__(self, at: int | None) -> None:
        self.at, self.count = at, 0

    def __call__(self) -> None:
        self.count += 1
        if self.count == self.at:
            raise StopRun


@pytest.mark.parametrize("unread", [3, 50])
def test_a_crew_that_learns_later_how_its_steps_went_is_the_one_that_looked_at_each(
    tmp_path: Path, unread: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit, though one diverges among steps that are unread, and takes the others back."""
    found = []
    # Without the one that is evaluated, and read, at each step.
    specs = [spec for spec in members() if len(spec.evaluate_at) < tiny.STEPS]
    back: list[tuple[int, int]] = []
    go_back = Deferred._go_back
    monkeypatch.setattr(Deferred, "_go_back", lambda self, *given: back.append(given) or go_back(self, *given))
    for n in (1, unread):
        told: Told = {}
        as_on_a_gpu(monkeypatch, n)
        ended = list(train_together(specs, contexts(specs, tmp_path / str(n), told)))
        found.append(([(spec.key, without_clocks(outcome)) for spec, outcome in ended], told))
    assert found[0] == found[1]
    # One step at a time it is the last that was made; ahead there are further ones, and those before it.
    (_, alone), (marked, steps) = back
    assert alone == 1 and marked == 0 and steps > 1
    for path in (tmp_path / "1").glob("*/best.safetensors"):
        ours, theirs = load_weights(path), load_weights(tmp_path / str(unread) / path.parent.name / path.name)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("unread", [0, 50])
def test_the_time_of_a_crew_is_shared_out_once(tmp_path: Path, unread: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes eight seconds and nothing else does: what the members are told adds up to that, in parts and as a whole."""
    if unread:
        as_on_a_gpu(monkeypatch, unread)
    specs = [tiny.spec(lr=lr, trial=k, evaluate_at=(tiny.STEPS,)) for k, lr in enumerate((1e-3, 2e-3, 3e-3, 4e-3))]
    runs = [Run(spec, context) for spec, context in zip(specs, contexts(specs, tmp_path, {}), strict=True)]
    stepper, now, gradients = together.stepper_of(runs, "cpu"), [0.0], Crew.gradients

    def slow(crew: Crew, *given: Any) -> torch.Tensor:
        now[0] += 8.0
        return gradients(crew, *given)

    monkeypatch.setattr(Crew, "gradients", slow)
    for module in (stepping, together):
        monkeypatch.setattr(module, "perf_counter", lambda: now[0])
    before = [run.state.spent_s for run in runs]
    for _ in range(5):
        stepper.step()
    stepper.settle()
    assert [run.state.seconds["training"][0] for run in runs] == [10.0] * 4
    assert [run.state.spent_s - was for run, was in zip(runs, before, strict=True)] == pytest.approx([10.0] * 4)


def test_one_that_turns_out_to_have_diverged_is_saved_after_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crew that is saved, or stopped, among steps of which nothing is known yet. Who is over is saved last, so that none goes back."""
    specs = [spec for spec in members() if len(spec.evaluate_at) < tiny.STEPS]
    saved: list[str] = []
    keep = Run.keep
    monkeypatch.setattr(Run, "keep", lambda self: (saved.append(self.spec.key), keep(self))[1])
    for way in ("stopped", "saved"):
        saved.clear()
        as_on_a_gpu(monkeypatch, 50)
        stop = Stop(3 * len(specs) + 1 if way == "stopped" else None)
        given = contexts(specs, tmp_path / way, {}, pulse=stop)
        if way == "saved":
            given = [replace(context, checkpoint_every_steps=3) for context in given]
        outcomes = list(train_together(specs, given))
        assert len(outcomes) == len(specs)
        first = saved[: len(specs)]
        assert set(first) == {spec.key for spec in specs} and first[-1] == next(spec.key for spec in specs if spec.lr > 1)


@pytest.mark.parametrize("unread", [0, 7])
@pytest.mark.parametrize("share", [0.02, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.99])
def test_a_crew_that_is_stopped_anywhere_goes_on_to_the_same_bits(
    tmp_path: Path, share: float, unread: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if unread:
        as_on_a_gpu(monkeypatch, unread)
    specs, stop = members(), Stop(None)
    whole_told: Told = {}
    whole = {spec.key: outcome for spec, outcome in train_together(specs, contexts(specs, tmp_path / "whole", whole_told, pulse=stop))}
    told: Told = {}
    stop = Stop(round(share * stop.count))
    first = {s.key: o for s, o in train_together(specs, contexts(specs, tmp_path / "parts", told, pulse=stop))}
    left = [spec for spec in specs if first[spec.key].status == "interrupted"]
    assert left and first.keys() == whole.keys()
    for spec in left:
        saved = load_checkpoint(tmp_path / "parts" / spec.key)[0]
        known = saved.facts["events"] if saved else 0
        told[spec.key] = [event for event in told[spec.key] if event[1]["index"] < known]
    going_on = contexts(left, tmp_path / "parts", told, saved=True)
    second = {s.key: o for s, o in train_together(left, going_on)}
    for spec in specs:
        assert without_clocks((second if spec in left else first)[spec.key]) == without_clocks(whole[spec.key])
        assert told[spec.key] == whole_told[spec.key]
    for path in (tmp_path / "whole").glob("*/best.safetensors"):
        ours, theirs = load_weights(path), load_weights(tmp_path / "parts" / path.parent.name / path.name)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
