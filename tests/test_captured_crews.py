"""Crews whose steps are made ahead on filled batches: their lone twins' losses, what they share, what one costs."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from harness import ahead, crew_sizes
from harness.ahead import Ahead
from harness.state import snapshot, start
from tests import tiny
from tests.packing import plainly
from tests.steppers import as_on_a_gpu, context, crew_ahead, fifty_steps, launch, run_ahead

pytestmark = pytest.mark.usefixtures("no_step_kept")


@pytest.fixture(params=["decoder", "muP"])
def members(request: pytest.FixtureRequest) -> list[Any]:
    """Three that drop, each with a rate, a seed, a decay and a limit of its own."""
    own = [{"lr": 1e-3, "seed": 0}, {"lr": 3e-3, "seed": 1, "weight_decay": 0.3}, {"lr": 2e-3, "seed": 0, "grad_clip": None, "steps": 60}]
    return [replace(fifty_steps(request.param), dropout=0.3, trial=k, **changed) for k, changed in enumerate(own)]


@pytest.mark.parametrize("way", ["cpu", "read"])
def test_fifty_steps_of_a_crew_are_those_of_its_lone_twins(members: list[Any], way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the ways of a CPU, and as on a GPU, where tokens are read into their places."""
    if way == "read":
        plainly(monkeypatch)
    told, _ = crew_ahead(members, 50)
    by_itself = [run_ahead(spec, 50)[0] for spec in members]
    np.testing.assert_allclose(np.array(told)[..., 0].T, np.array(by_itself)[..., 0], rtol=1e-6)
    np.testing.assert_allclose(np.array(told)[..., 1].T, np.array(by_itself)[..., 1], rtol=1e-4)


def test_a_crew_moves_into_the_step_of_another_and_leaves_nothing_there(members: list[Any]) -> None:
    """Weights, moments and masks: the second crew is what it is without the first, whose states it has taken the place of."""
    others = [replace(spec, lr=2 * spec.lr, seed=spec.seed + 7, trial=9 + k) for k, spec in enumerate(members)]
    fresh, apart = crew_ahead(others, 12)
    ahead._idle.clear()
    crew_ahead(members, 20)
    (held,) = ahead._idle.values()
    after, states = crew_ahead(others, 12)
    assert after == fresh and list(ahead._idle.values()) == [held]
    for one, other in zip(states, apart, strict=True):
        a, b = snapshot(one).tensors, snapshot(other).tensors
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_member_draws_for_as_many_tokens_as_it_would_by_itself(members: list[Any]) -> None:
    """What a GPU draws for a token depends on it."""
    crew = Ahead(members, [start(spec, "cpu") for spec in members], context())
    crew._prepare(1)
    alone = []
    for spec in members:
        one = Ahead([spec], [start(spec, "cpu")], context())
        one._prepare(1)
        alone.append([drawn for (drawn,) in one._drawn[:40]])
    drawn = np.array(crew._drawn[:40]).T
    assert drawn.tolist() == alone and any(len(set(sizes)) > 1 for sizes in crew._drawn)
    assert [size.tokens for size in crew._sizes[:40]] == drawn.max(0).tolist()


def test_a_crew_goes_back_to_its_mark(members: list[Any]) -> None:
    states = [start(spec, "cpu") for spec in members]
    work = Ahead(members, states, context())
    launch(work, range(1, 4))
    work.read()
    work.mark()
    before = [snapshot(state) for state in states]
    launch(work, range(4, 9))
    first = work.read()
    work.rewind()
    for state, was in zip(states, before, strict=True):
        now = snapshot(state).tensors
        assert all(torch.equal(now[name], was.tensors[name]) for name in now)
    launch(work, range(4, 9))
    assert work.read() == first


def test_crews_share_a_step_only_if_each_member_is_bound_to_the_same() -> None:
    specs = [tiny.spec(trial=k) for k in range(3)]
    for members in (specs, specs[:2], [*specs[:2], replace(specs[2], weight_decay=0.2)], [replace(spec, lr=2.0, seed=4) for spec in specs]):
        Ahead(members, [start(spec, "cpu") for spec in members], context()).close()
    assert len(ahead._idle) == 3


def test_a_crew_is_measured_as_its_runs_make_their_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its captured step goes before the next size is measured, and waits for nobody in the end."""
    as_on_a_gpu(monkeypatch, 8)
    waiting: list[int] = []
    monkeypatch.setattr(crew_sizes, "make_room", lambda: (waiting.append(len(ahead._idle)), ahead.make_room()))
    specs = [tiny.spec(trial=k, steps=6, evaluate_at=(6,)) for k in range(4)]
    found = crew_sizes.measure_crews(specs, tiny.corpus(), "cpu")["step_s"]
    assert [size for size, _ in found] == [1, 2, 4] and all(step_s > 0 for _, step_s in found)
    assert waiting == [0, 1, 1, 1] and not ahead._idle
