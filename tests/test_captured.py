"""Runs whose steps are made ahead on filled batches: what they compute, what runs of one shape share, where none can be, their price."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness import ahead, calibrate, captured
from harness import train as training
from harness.ahead import Ahead
from harness.state import snapshot, start
from harness.stepping import Deferred, Immediate
from harness.train import Run
from tests import tiny
from tests.steppers import alone, context, fifty_steps, launch, run_ahead, run_at_once

pytestmark = pytest.mark.usefixtures("no_step_kept")


@pytest.mark.parametrize("kind", ["decoder", "muP"])
def test_fifty_steps_on_filled_batches_are_those_on_the_exact_ones(kind: str) -> None:
    # Losses and norms, not weights: the bias of keys changes nothing, and AdamW moves it by the sign of its rounding.
    np.testing.assert_allclose(run_ahead(fifty_steps(kind), 50)[0], run_at_once(fifty_steps(kind), 50)[0], rtol=1e-5)


def test_what_is_dropped_follows_from_seed_and_step_and_not_from_what_was_made_before() -> None:
    spec = tiny.spec(dropout=0.5, lr=0.0, weight_decay=0.0)
    whole, _ = run_ahead(spec, 6)
    again = Ahead([spec], [start(spec, "cpu")], context())
    launch(again, (5, 3, 3))
    assert alone(again.read()) == [whole[4], whole[2], whole[2]] and whole[4] != whole[2]


def test_rewinding_brings_back_weights_and_moments() -> None:
    spec = tiny.spec()
    state = start(spec, "cpu")
    work = Ahead([spec], [state], context())
    work.launch(1)
    work.mark()
    before = snapshot(state)
    launch(work, (2, 3))
    first = work.read()[1:]
    work.rewind()
    after = snapshot(state)
    assert all(torch.equal(before.tensors[name], after.tensors[name]) for name in before.tensors)
    launch(work, (2, 3))
    assert work.read() == first


def test_runs_of_one_shape_share_a_step_and_nothing_else() -> None:
    one, other = tiny.spec(), tiny.spec(seed=5, lr=2e-3, schedule="linear", steps=20, evaluate_at=(20,))
    by_itself, apart = run_ahead(other, 8)
    ahead._idle.clear()
    state = start(one, "cpu")
    first = Ahead([one], [state], context())
    launch(first, range(1, 4))
    first.read()
    held = state.model
    first.close()
    follower = start(other, "cpu")
    second = Ahead([other], [follower], context())
    assert follower.model is held and not ahead._idle
    launch(second, range(1, 9))
    assert alone(second.read()) == by_itself
    a, b = snapshot(follower).tensors, snapshot(apart).tensors
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    "change", [{"weight_decay": 0.2}, {"dropout": 0.2}, {"grad_clip": 1.0}, {"batch_size": 8}, {"precision": "bfloat16"}, {"beta2": 0.95}]
)
def test_what_a_capture_is_bound_to_is_not_shared(change: dict[str, Any]) -> None:
    """Numbers that kernels were given by the host, and all shapes."""
    first = Ahead([tiny.spec()], [start(tiny.spec(), "cpu")], context())
    first.close()
    second = tiny.spec(**change)
    Ahead([second], [start(second, "cpu")], context())
    assert len(ahead._idle) == 1


def test_few_steps_wait_for_other_runs() -> None:
    for d_ff in range(4, 10):
        spec = tiny.spec(shape=tiny.SHAPE | {"d_ff": d_ff})
        Ahead([spec], [start(spec, "cpu")], context()).close()
    assert len(ahead._idle) == ahead.KEPT


@pytest.mark.parametrize("short", [True, False])
def test_where_memory_is_short_none_waits_beside_a_step_that_is_new(short: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "is_short", lambda device: short)
    for d_ff in (4, 5):
        spec = tiny.spec(shape=tiny.SHAPE | {"d_ff": d_ff})
        Ahead([spec], [start(spec, "cpu")], context()).close()
        # One that is taken over needs no further memory.
        Ahead([spec], [start(spec, "cpu")], context()).close()
    assert len(ahead._idle) == (1 if short else 2)


def test_a_run_is_trained_ahead_where_it_can_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From its start to its samples, and with the losses of the plain run, whose batches are the same but for their fillers."""
    plain = tiny.spec(dropout=0.0)
    exact, told = tiny.run(plain, folder=tmp_path / "exact")
    monkeypatch.setattr(training, "stepper_of", lambda run: Deferred([run], Ahead([run.spec], [run.state], run.context)))
    outcome, events = tiny.run(plain, folder=tmp_path / "ahead")
    np.testing.assert_allclose(tiny.losses(events), tiny.losses(told), rtol=1e-5)
    assert [kind for kind, _ in events] == [kind for kind, _ in told]
    assert (outcome.status, outcome.steps, outcome.train_tokens) == (exact.status, exact.steps, exact.train_tokens)
    assert outcome.metrics["test_nll"] == pytest.approx(exact.metrics["test_nll"], rel=1e-4)


def test_where_steps_cannot_be_made_ahead_they_are_made_at_once_and_it_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spec, state = tiny.spec(), start(tiny.spec(), "cpu")
    Ahead([spec], [start(spec, "cpu")], context()).close()
    assert ahead.ahead_of([spec], [state], context()) is None and not caplog.messages and ahead._idle
    for _ in range(2):
        assert ahead.ahead_of([replace(spec, padding="learn")], [state], context("cuda")) is None
        assert ahead.ahead_of([spec], [state], context("cuda", micro_batches=2)) is None
    assert [("padding" in said, "2 parts" in said) for said in caplog.messages] == [(True, False), (False, True)]
    assert not ahead._idle
    assert isinstance(training.stepper_of(Run(spec, context())), Immediate)


def test_a_step_that_knows_no_one_order_is_made_all_the_same(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Where torch refuses to repeat a sum in one order it is a warning, and the step is the step."""
    whole, _ = run_ahead(tiny.spec(), 3)
    ahead._idle.clear()
    logits = captured.packed_logits

    def refusing(*given: Any) -> torch.Tensor:
        if torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled():
            raise RuntimeError("this does not have a deterministic implementation")
        return logits(*given)

    monkeypatch.setattr(captured, "packed_logits", refusing)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        told, _ = run_ahead(tiny.spec(), 3)
    finally:
        torch.use_deterministic_algorithms(False)
    assert told == whole and len(caplog.messages) == 1


def test_a_step_made_ahead_is_priced_as_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its captures, and so that the run to come has them."""
    run = Run(calibrate.endless(tiny.spec()), context())
    work = Counting([run.spec], [run.state], run.context)
    monkeypatch.setattr(calibrate, "stepper_of", lambda run: Deferred([run], work))
    clock = iter(np.arange(0.0, 1e6, 1.0))
    monkeypatch.setattr(calibrate, "perf_counter", lambda: next(clock))
    steps = calibrate.AHEAD_STEPS
    # The fifth turn is the first without a capture.
    assert calibrate.step_s(run) == pytest.approx(1.0 / steps)
    assert work.launched == 5 * steps == run.state.step and len(ahead._idle) == 1


class Counting(Ahead):
    """Captures take a quarter of a second in each of four turns."""

    launched = 0

    @property
    def capturing_s(self) -> float:
        return 0.25 * min(4, self.launched // calibrate.AHEAD_STEPS)

    def launch(self, step: int) -> None:
        self.launched += 1
        super().launch(step)
