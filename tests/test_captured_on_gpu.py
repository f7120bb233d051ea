"""On a GPU: a replay of a captured step is the step itself, and nothing waits for the device."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness import ahead, captured
from harness.ahead import Ahead
from harness.state import start
from harness.workers import make_deterministic
from tests import tiny
from tests.steppers import context, crew_ahead, fifty_steps, launch, run_ahead, run_at_once

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.usefixtures("no_step_kept"),
]


@pytest.fixture
def in_one_order() -> Iterator[None]:
    make_deterministic()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("kind", ["decoder", "muP"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_replays_are_the_steps_on_the_exact_batches(kind: str, dropout: float) -> None:
    """What is dropped is drawn for the filled batch in either."""
    spec = replace(fifty_steps(kind), dropout=dropout)
    told, state = run_ahead(spec, 50, "cuda")
    exact, _ = run_at_once(spec, 50, "cuda")
    np.testing.assert_allclose(told, exact, rtol=1e-5)
    assert state.model.state_dict()["head.weight"].dtype == torch.float32


@pytest.mark.parametrize("members", [1, 4])
def test_replays_are_the_steps_themselves_to_the_bit(
    members: int, in_one_order: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With dropout, against the same steps never captured; and something was captured."""
    specs = [tiny.spec(dropout=0.3, steps=60, evaluate_at=(60,), seed=seed, grad_clip=0.5) for seed in range(members)]
    told, states = crew_ahead(specs, 60, "cuda")
    ahead._idle.clear()
    captures: list[Any] = []
    monkeypatch.setattr(captured.CapturedStep, "_capture", lambda self, size: captures.append(size))
    plainly, others = crew_ahead(specs, 60, "cuda")
    assert told == plainly and captures and not caplog.messages
    for one, other in zip(states, others, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True))


def test_members_of_a_crew_are_what_they_are_by_themselves() -> None:
    specs = [tiny.spec(dropout=0.3, steps=50, evaluate_at=(50,), seed=seed, lr=lr) for seed, lr in ((0, 1e-3), (1, 3e-3), (2, 2e-3))]
    told, _ = crew_ahead(specs, 50, "cuda")
    by_itself = [run_ahead(spec, 50, "cuda")[0] for spec in specs]
    np.testing.assert_allclose(np.array(told)[..., 0].T, np.array(by_itself)[..., 0], rtol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("members", [1, 3])
def test_nothing_waits_for_the_device_between_two_readings(precision: str, members: int) -> None:
    """The first steps of each size are captured; from there on torch raises at whatever waits."""
    specs = [tiny.spec(precision=precision, steps=100, evaluate_at=(100,), seed=seed) for seed in range(members)]
    work = Ahead(specs, [start(spec, "cuda") for spec in specs], context("cuda"))
    for _ in range(2):
        work.mark()
        launch(work, range(1, 61))
        work.read()
    torch.cuda.set_sync_debug_mode("error")
    try:
        work.mark()
        launch(work, range(1, 61))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(work.read()) == 60


def test_a_run_on_a_gpu_learns_what_it_learns_on_a_cpu(tmp_path: Path) -> None:
    spec = tiny.spec(dropout=0.0, steps=40, evaluate_at=(20, 40))
    results = [tiny.run(spec, folder=tmp_path / device, device=device) for device in ("cpu", "cuda")]
    np.testing.assert_allclose(tiny.losses(results[0][1]), tiny.losses(results[1][1]), rtol=1e-3)


def test_a_capture_that_fails_leaves_the_step_to_be_made_plainly(
    in_one_order: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spec = tiny.spec(steps=40, evaluate_at=(40,))
    whole, _ = run_ahead(spec, 40, "cuda")
    ahead._idle.clear()
    logits: Callable[..., Any] = captured.packed_logits

    def waiting(*given: Any) -> torch.Tensor:
        out = logits(*given)
        # What a capture can't hold.
        float(out[0, 0].detach())
        return out

    monkeypatch.setattr(captured, "packed_logits", waiting)
    told, _ = run_ahead(spec, 40, "cuda")
    assert told == whole and len(caplog.messages) == 1
