"""Steps made ahead on filled batches: what they compute, what runs of one shape share, and, on a GPU, that a replay is the step itself."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness import ahead, calibrate, captured, crew_sizes, generate, graphs
from harness import crew as crews
from harness import train as training
from harness.ahead import Ahead
from harness.captured import CrewStep, RunStep
from harness.context import Context
from harness.data.filled import Size
from harness.state import State, build_model, snapshot, start
from harness.step import forward_backward, rate_at, update
from harness.stepping import Deferred, Immediate
from harness.train import Run
from harness.workers import make_deterministic
from tests import tiny
from tests.packing import plainly
from tests.steppers import made_ahead as as_on_a_gpu

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "_idle", {})
    monkeypatch.setattr(ahead, "_said", set())
    monkeypatch.setattr(graphs, "_failed", [])


def context(device: str = "cpu", **more: Any) -> Context:
    return Context(corpus=tiny.corpus(), emit=lambda kind, fields: None, device=device, **more)


def made_ahead(spec: Any, steps: int, device: str = "cpu") -> tuple[list[tuple[float, float]], State]:
    state = start(spec, device)
    work = Ahead([spec], [state], context(device))
    work.mark()
    for step in range(1, steps + 1):
        work.launch(step)
    return alone(work.read()), state


def alone(told: list[Any]) -> list[tuple[float, float]]:
    """Of the only run there is."""
    return [step for (step,) in told]


def crew_ahead(specs: list[Any], steps: int, device: str = "cpu") -> tuple[list[Any], list[State]]:
    """What a crew's members are told in each step."""
    states = [start(spec, device) for spec in specs]
    work = Ahead(specs, states, context(device))
    work.mark()
    for step in range(1, steps + 1):
        work.launch(step)
    told = work.read()
    work.close()
    return told, states


def made_at_once(spec: Any, steps: int, device: str = "cpu") -> tuple[list[tuple[float, float]], State]:
    """On the exact batches."""
    run = Run(spec, context(device))
    told = []
    for step in range(1, steps + 1):
        told.append(forward_backward(spec, run.state, run.texts, run.order.rows(step - 1), step, device))
        update(run.state, rate_at(spec, step))
    return told, run.state


@pytest.fixture(params=["decoder", "muP"])
def spec(request: pytest.FixtureRequest) -> Any:
    """Fifty steps without dropout, whose masks would follow from the size of the batch; more than an epoch, a rate that changes."""
    plain = tiny.spec(dropout=0.0, steps=50, evaluate_at=(50,), grad_clip=0.5, schedule="cosine", warmup_steps=5, lr=3e-3)
    return plain if request.param == "decoder" else replace(plain, mup_base={"d_model": 4, "n_head": 2, "d_head": 4, "d_ff": 8})


def test_fifty_steps_on_filled_batches_are_those_on_the_exact_ones(spec: Any) -> None:
    # Losses and norms, not weights: the bias of keys changes nothing, and AdamW moves it by the sign of its rounding.
    np.testing.assert_allclose(made_ahead(spec, 50)[0], made_at_once(spec, 50)[0], rtol=1e-5)


def test_what_is_dropped_follows_from_seed_and_step_and_not_from_what_was_made_before() -> None:
    spec = tiny.spec(dropout=0.5, lr=0.0, weight_decay=0.0)
    whole, _ = made_ahead(spec, 6)
    again = Ahead([spec], [start(spec, "cpu")], context())
    for step in (5, 3, 3):
        again.launch(step)
    assert alone(again.read()) == [whole[4], whole[2], whole[2]] and whole[4] != whole[2]


@pytest.fixture
def members(spec: Any) -> list[Any]:
    """Three that drop, each with a rate, a seed, a decay and a limit of its own."""
    own = [{"lr": 1e-3, "seed": 0}, {"lr": 3e-3, "seed": 1, "weight_decay": 0.3}, {"lr": 2e-3, "seed": 0, "grad_clip": None, "steps": 60}]
    return [replace(spec, dropout=0.3, trial=k, **changed) for k, changed in enumerate(own)]


@pytest.mark.parametrize("way", ["cpu", "read"])
def test_fifty_steps_of_a_crew_are_those_of_its_lone_twins(members: list[Any], way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the ways of a CPU, and as on a GPU, where tokens are read into their places."""
    if way == "read":
        plainly(monkeypatch)
    told, _ = crew_ahead(members, 50)
    by_itself = [made_ahead(spec, 50)[0] for spec in members]
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


class Watch(TorchDispatchMode):
    """Notes the operators that read or write a tensor of the host's, and those that bring a number along below what shows here."""

    HIDDEN = ("aten.where.Scalar", "aten.index_put", "aten.nonzero", "aten._local_scalar_dense")

    def __init__(self) -> None:
        super().__init__()
        self.count, self.on_host = 0, set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)]
        self.count += 1
        if any(tensor.device.type == "cpu" for tensor in tensors) or str(func).startswith(self.HIDDEN):
            self.on_host.add(str(func))
        return out


@pytest.mark.parametrize("shape", [tiny.SHAPE, tiny.SHAPE | {"positions": "rotary", "norm": "pre", "tied": True}])
def test_a_step_needs_no_number_of_the_host_and_gives_it_none(shape: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """On tensors without values, which can't be looked at: a step that branched on one, or that brought one along, would raise or show."""
    spec = tiny.spec(shape=shape, grad_clip=0.5)
    state = start(spec, "cpu")
    state.model.to("meta")
    state.optimizer = torch.optim.AdamW(state.model.parameters())
    monkeypatch.setattr(state.optimizer, "step", lambda: None)
    monkeypatch.setattr(captured, "autocast", lambda *given: nullcontext())
    step = RunStep(spec, state, torch.zeros(5000, dtype=torch.int32, device="meta"), 16, "meta")
    with Watch() as watch:
        step._step(Size(1024, 16, 96, 2))
    assert watch.count > 100 and not watch.on_host


@pytest.mark.parametrize("shape", [tiny.SHAPE, tiny.SHAPE | {"positions": "rotary", "norm": "pre", "tied": True}])
def test_nor_does_a_step_of_a_crew(shape: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    specs = [tiny.spec(shape=shape, grad_clip=clip, dropout=0.1) for clip in (0.5, None)]
    states = [start(spec, "cpu") for spec in specs]
    for state in states:
        state.model.to("meta")
        if shape.get("tied"):
            # Moving there makes two of what is one.
            state.model.head.weight = state.model.embedding.weight
    monkeypatch.setattr(torch.optim, "AdamW", lambda groups, fused: torch.optim.SGD([{**group, "lr": 0.0} for group in groups]))
    monkeypatch.setattr(crews, "autocast", lambda *given: nullcontext())
    step = CrewStep(specs, states, torch.zeros(5000, dtype=torch.int32, device="meta"), 16, "meta")
    monkeypatch.setattr(step.optimizer, "step", lambda: None)
    step._draw(size := Size(1024, 16, 96, 2), [1, 2], [1000, 1024])
    with Watch() as watch:
        step._step(size)
    assert watch.count > 100 and not watch.on_host


@torch.no_grad()
def test_nor_does_a_step_of_decoding() -> None:
    model = build_model(tiny.spec()).to("meta").eval()
    step = generate._Step(model, torch.ones(4), torch.rand(4, 9), tiny.corpus().tokenizer)
    with Watch() as watch:
        step.make()
    assert watch.count > 40 and not watch.on_host


def test_rewinding_brings_back_weights_and_moments() -> None:
    spec = tiny.spec()
    state = start(spec, "cpu")
    work = Ahead([spec], [state], context())
    work.launch(1)
    work.mark()
    before = snapshot(state)
    for step in (2, 3):
        work.launch(step)
    first = work.read()[1:]
    work.rewind()
    after = snapshot(state)
    assert all(torch.equal(before.tensors[name], after.tensors[name]) for name in before.tensors)
    for step in (2, 3):
        work.launch(step)
    assert work.read() == first


def test_runs_of_one_shape_share_a_step_and_nothing_else() -> None:
    one, other = tiny.spec(), tiny.spec(seed=5, lr=2e-3, schedule="linear", steps=20, evaluate_at=(20,))
    by_itself, apart = made_ahead(other, 8)
    ahead._idle.clear()
    state = start(one, "cpu")
    first = Ahead([one], [state], context())
    for step in range(1, 4):
        first.launch(step)
    first.read()
    held = state.model
    first.close()
    follower = start(other, "cpu")
    second = Ahead([other], [follower], context())
    assert follower.model is held and not ahead._idle
    for step in range(1, 9):
        second.launch(step)
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


def test_crews_share_a_step_only_if_each_member_is_bound_to_the_same() -> None:
    specs = [tiny.spec(trial=k) for k in range(3)]
    for members in (specs, specs[:2], [*specs[:2], replace(specs[2], weight_decay=0.2)], [replace(spec, lr=2.0, seed=4) for spec in specs]):
        Ahead(members, [start(spec, "cpu") for spec in members], context()).close()
    assert len(ahead._idle) == 3


def test_few_steps_wait_for_other_runs() -> None:
    for d_ff in range(4, 10):
        spec = tiny.spec(shape=tiny.SHAPE | {"d_ff": d_ff})
        Ahead([spec], [start(spec, "cpu")], context()).close()
    assert len(ahead._idle) == ahead.KEPT


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
        unpacked = replace(state, model=torch.nn.Linear(1, 1))
        assert ahead.ahead_of([spec], [unpacked], context("cuda")) is None
    assert [("padding" in said, "2 parts" in said, "forward_packed" in said) for said in caplog.messages] == [
        (True, False, False),
        (False, True, False),
        (False, False, True),
    ]
    assert not ahead._idle
    assert isinstance(training.stepper_of(Run(spec, context())), Immediate)


def test_a_step_that_knows_no_one_order_is_made_all_the_same(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Where torch refuses to repeat a sum in one order it is a warning, and the step is the step."""
    whole, _ = made_ahead(tiny.spec(), 3)
    ahead._idle.clear()
    logits = captured.packed_logits

    def refusing(*given: Any) -> torch.Tensor:
        if torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled():
            raise RuntimeError("this does not have a deterministic implementation")
        return logits(*given)

    monkeypatch.setattr(captured, "packed_logits", refusing)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        told, _ = made_ahead(tiny.spec(), 3)
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
    assert calibrate._step_s(run) == pytest.approx((1.0 - 0.25) / steps)
    assert work.launched == 3 * steps == run.state.step and len(ahead._idle) == 1


def test_a_crew_is_measured_as_its_runs_make_their_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its captured step goes before the next size is measured, and waits for nobody in the end."""
    as_on_a_gpu(monkeypatch, 8)
    waiting: list[int] = []
    monkeypatch.setattr(crew_sizes, "make_room", lambda: (waiting.append(len(ahead._idle)), ahead.make_room()))
    specs = [tiny.spec(trial=k, steps=6, evaluate_at=(6,)) for k in range(4)]
    found = crew_sizes.measure_crews(specs, tiny.corpus(), "cpu")["step_s"]
    assert [size for size, _ in found] == [2, 4] and all(step_s > 0 for _, step_s in found)
    assert waiting == [0, 1, 1] and not ahead._idle


class Counting(Ahead):
    """Captures take a quarter of a second a turn."""

    launched = 0

    @property
    def capturing_s(self) -> float:
        return 0.25 * (self.launched // calibrate.AHEAD_STEPS)

    def launch(self, step: int) -> None:
        self.launched += 1
        super().launch(step)


@pytest.fixture
def in_one_order() -> Iterator[None]:
    make_deterministic()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_replays_are_the_steps_on_the_exact_batches(spec: Any, dropout: float) -> None:
    """What is dropped is drawn for the filled batch in either."""
    told, state = made_ahead(replace(spec, dropout=dropout), 50, "cuda")
    exact, _ = made_at_once(replace(spec, dropout=dropout), 50, "cuda")
    np.testing.assert_allclose(told, exact, rtol=1e-5)
    assert state.model.state_dict()["head.weight"].dtype == torch.float32


@pytest.mark.gpu
@on_gpu
def test_replays_are_the_steps_themselves_to_the_bit(
    in_one_order: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With dropout, against the same steps never captured; and something was captured."""
    spec = tiny.spec(dropout=0.3, steps=60, evaluate_at=(60,))
    told, state = made_ahead(spec, 60, "cuda")
    ahead._idle.clear()
    captures: list[Any] = []
    monkeypatch.setattr(captured.CapturedStep, "_capture", lambda self, size: captures.append(size))
    plainly, other = made_ahead(spec, 60, "cuda")
    assert told == plainly and captures and not caplog.messages
    assert all(torch.equal(a, b) for a, b in zip(state.model.parameters(), other.model.parameters(), strict=True))


@pytest.mark.gpu
@on_gpu
def test_members_of_a_crew_are_what_they_are_by_themselves() -> None:
    specs = [tiny.spec(dropout=0.3, steps=50, evaluate_at=(50,), seed=seed, lr=lr) for seed, lr in ((0, 1e-3), (1, 3e-3), (2, 2e-3))]
    told, _ = crew_ahead(specs, 50, "cuda")
    by_itself = [made_ahead(spec, 50, "cuda")[0] for spec in specs]
    np.testing.assert_allclose(np.array(told)[..., 0].T, np.array(by_itself)[..., 0], rtol=1e-5)


@pytest.mark.gpu
@on_gpu
def test_replays_of_a_crew_are_its_steps_to_the_bit(
    in_one_order: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    specs = [tiny.spec(dropout=0.3, steps=60, evaluate_at=(60,), seed=seed, grad_clip=0.5) for seed in range(4)]
    told, states = crew_ahead(specs, 60, "cuda")
    ahead._idle.clear()
    captures: list[Any] = []
    monkeypatch.setattr(captured.CapturedStep, "_capture", lambda self, size: captures.append(size))
    plainly, others = crew_ahead(specs, 60, "cuda")
    assert told == plainly and captures and not caplog.messages
    for one, other in zip(states, others, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True))


@pytest.mark.gpu
@on_gpu
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


def launch(work: Ahead, steps: Any) -> None:
    for step in steps:
        work.launch(step)


@pytest.mark.gpu
@on_gpu
def test_a_run_on_a_gpu_learns_what_it_learns_on_a_cpu(tmp_path: Path) -> None:
    spec = tiny.spec(dropout=0.0, steps=40, evaluate_at=(20, 40))
    results = [tiny.run(spec, folder=tmp_path / device, device=device) for device in ("cpu", "cuda")]
    np.testing.assert_allclose(tiny.losses(results[0][1]), tiny.losses(results[1][1]), rtol=1e-3)


@pytest.mark.gpu
@on_gpu
def test_a_capture_that_fails_leaves_the_step_to_be_made_plainly(
    in_one_order: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spec = tiny.spec(steps=40, evaluate_at=(40,))
    whole, _ = made_ahead(spec, 40, "cuda")
    ahead._idle.clear()
    logits: Callable[..., Any] = captured.packed_logits

    def waiting(*given: Any) -> torch.Tensor:
        out = logits(*given)
        # What a capture can't hold.
        float(out[0, 0].detach())
        return out

    monkeypatch.setattr(captured, "packed_logits", waiting)
    told, _ = made_ahead(spec, 40, "cuda")
    assert told == whole and len(caplog.messages) == 1
