"""Decoding by one step for all positions: its texts, when it is captured, who finds it again, and when it goes."""

import gc
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import ahead, calibrate, captured_decoding, generate, graphs
from harness.captured_decoding import DecodingStep
from harness.generate import sample, sample_sets
from harness.state import start
from harness.strategies import Strategy
from models.decoder import FAMILIES, Model
from tests import tiny
from tests.decoding import CUT, Ids, at, peaked

GIVEN: dict[str, Any] = {"n": 4, "temperatures": [0.5, 1.0], "seed": 2, "tokenizer": Ids(), "seq_len": 40}
# More than anything else takes here.
CAPTURE_S = 1000.0


class Graph:
    """Stands for a captured graph: a replay does again what was captured."""

    def __init__(self, body: Callable[[], None]) -> None:
        self.replay, self.is_gone = body, False

    def reset(self) -> None:
        self.is_gone = True


class Stream:
    """Stands for a GPU's stream."""

    def synchronize(self) -> None:
        pass


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Model:
    return peaked(request.param)


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captured_decoding, "_kept", [])


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[Graph]:
    """As on a GPU, with stand-ins for what only it has; the graphs that were captured, each in CAPTURE_S."""
    made: list[Graph] = []
    clock = iter(range(10**6))

    def capture(body: Callable[[], None], stream: object) -> Graph:
        made.append(Graph(body))
        return made[-1]

    monkeypatch.setattr(generate, "_is_replayed", lambda model: True)
    monkeypatch.setattr(captured_decoding, "capture", capture)
    monkeypatch.setattr(captured_decoding, "perf_counter", lambda: CAPTURE_S * next(clock))
    monkeypatch.setattr(captured_decoding, "_stream_for", lambda device: Stream())
    monkeypatch.setattr(DecodingStep, "on_stream", lambda step: nullcontext())
    monkeypatch.setattr(graphs, "_free_streams", [])
    monkeypatch.setattr(graphs, "_failed", [])
    return made


def test_a_step_of_one_shape_for_all_positions_writes_the_same_texts(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a GPU replays it: the whole cache, rows kept to the end, a look only now and then."""
    model = model.double()
    given: dict[str, Any] = {"n": 9, "strategies": [*at(0.0, 0.5, 1.0), *CUT], "seed": 2, "tokenizer": Ids(), "seq_len": 40}
    grown = sample_sets(model, **given)
    made: list[int] = []
    plain = model.step_at
    monkeypatch.setattr(model, "step_at", lambda *args: (made.append(1), plain(*args))[1])
    monkeypatch.setattr(generate, "_is_replayed", lambda model: True)
    still = sample_sets(model, **given)
    for strategy, drawn in grown.items():
        assert still[strategy].texts == drawn.texts
        assert still[strategy].entropy == pytest.approx(drawn.entropy, rel=1e-9)
        assert still[strategy].self_nll == pytest.approx(drawn.self_nll, rel=1e-9)
    longest = max(len(text) + 1 for drawn in grown.values() for text in drawn.texts)
    assert len(made) == min(39, -(-longest // captured_decoding.LOOK_EVERY) * captured_decoding.LOOK_EVERY)


def test_captured_decoding_leaves_the_settings_of_determinism_alone(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "_is_replayed", lambda model: True)
    for strictly in (False, True):
        torch.use_deterministic_algorithms(True, warn_only=not strictly)
        try:
            sample(model, 1, [1.0], seed=0, tokenizer=Ids(), seq_len=4)
            assert torch.are_deterministic_algorithms_enabled()
            assert torch.is_deterministic_algorithms_warn_only_enabled() is not strictly
        finally:
            torch.use_deterministic_algorithms(False)


def plainly(model: Model, **given: Any) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "_is_replayed", lambda model: False)
        return sample(model, **{**GIVEN, **given})


def test_a_step_is_captured_once_and_reads_the_weights_as_they_are(model: Model, captures: list[Graph]) -> None:
    """Other texts by the same graph, and the same again; weights that changed in place are read anew."""
    model = model.double()
    first = sample(model, **GIVEN)
    other = sample(model, **{**GIVEN, "seed": 3, "temperatures": [0.7, 2.0]})
    assert first == plainly(model) and other == plainly(model, seed=3, temperatures=[0.7, 2.0])
    assert sample(model, **GIVEN) == first
    model.load_state_dict({name: 0.5 * weight for name, weight in model.state_dict().items()})
    assert sample(model, **GIVEN) == plainly(model) != first
    assert len(captures) == 1


def test_nothing_of_texts_before_is_left(model: Model, captures: list[Graph]) -> None:
    """Not even values that are no numbers."""
    model = model.double()
    as_it_was, weights = sample(model, **GIVEN), {name: weight.clone() for name, weight in model.state_dict().items()}
    model.load_state_dict({name: torch.full_like(weight, torch.nan) for name, weight in weights.items()})
    assert sample(model, **GIVEN) != as_it_was
    model.load_state_dict(weights)
    assert sample(model, **GIVEN) == as_it_was and len(captures) == 1


@pytest.mark.parametrize(
    "change", [{"n": 5}, {"temperatures": [1.0]}, {"seq_len": 30}, {"tokenizer": Ids(unk=None)}, {"tokenizer": Ids(end=1)}]
)
def test_other_shapes_and_ids_have_a_step_of_their_own(change: dict[str, Any], captures: list[Graph]) -> None:
    model = peaked("assignment").double()
    first = sample(model, **GIVEN)
    assert sample(model, **{**GIVEN, **change}) == plainly(model, **change)
    assert sample(model, **GIVEN) == first
    assert len(captures) == 2 == len(captured_decoding._kept)


def test_a_step_serves_any_cut_and_one_without_cuts_is_another(captures: list[Graph]) -> None:
    model, given = peaked("assignment").double(), {"n": 6, "seed": 2, "tokenizer": Ids(), "seq_len": 40}
    wanted = [at(1.0, 0.5), CUT[:2], CUT[2:4], at(0.7, 1.0)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "_is_replayed", lambda model: False)
        expected = [{one: drawn.texts for one, drawn in sample_sets(model, strategies=sets, **given).items()} for sets in wanted]
    for sets, texts in zip(wanted, expected, strict=True):
        assert {one: drawn.texts for one, drawn in sample_sets(model, strategies=sets, **given).items()} == texts
    assert len(captures) == 2


def test_weights_that_lie_elsewhere_and_another_model_have_a_step_of_their_own(captures: list[Graph]) -> None:
    model, twin = (peaked("assignment").double() for _ in range(2))
    sample(model, **GIVEN)
    assert sample(twin, **GIVEN) == plainly(twin) and len(captures) == 2
    model.head.weight.data = 0.5 * model.head.weight.data
    assert sample(model, **GIVEN) == plainly(model) and len(captures) == 3
    assert [graph.is_gone for graph in captures] == [True, False, False] and len(graphs._free_streams) == 1


def test_a_step_keeps_no_model_and_goes_after_it(captures: list[Graph]) -> None:
    model, other = peaked("assignment"), peaked("assignment")
    sample(model, **GIVEN)
    gone = weakref.ref(model)
    # A graph knows addresses only.
    captures[0].replay = lambda: None
    del model
    gc.collect()
    assert gone() is None
    sample(other, **GIVEN)
    assert [graph.is_gone for graph in captures] == [True, False] and len(captured_decoding._kept) == 1


def test_few_steps_wait_and_all_go_where_room_is_made(captures: list[Graph], monkeypatch: pytest.MonkeyPatch) -> None:
    model = peaked("assignment")
    for seq_len in range(10, 12 + captured_decoding.KEPT):
        sample(model, **{**GIVEN, "seq_len": seq_len})
    assert [graph.is_gone for graph in captures] == [True, True] + [False] * captured_decoding.KEPT
    # Eight rows each.
    monkeypatch.setattr(captured_decoding, "KEPT_ROWS", 31)
    sample(model, **{**GIVEN, "seq_len": 9})
    assert sum(not graph.is_gone for graph in captures) == 3
    ahead.make_room()
    assert all(graph.is_gone for graph in captures) and not captured_decoding._kept
    assert len(graphs._free_streams) == len(captures)


def test_no_graph_is_replayed_after_a_capture_has_failed(captures: list[Graph], monkeypatch: pytest.MonkeyPatch) -> None:
    model = peaked("assignment").double()
    first = sample(model, **GIVEN)
    monkeypatch.setattr(graphs, "_failed", ["why"])
    for graph in captures:
        monkeypatch.setattr(graph, "replay", lambda: pytest.fail("replayed"))
    assert sample(model, **GIVEN) == first
    assert sample(model, **{**GIVEN, "n": 5}) == plainly(model, n=5) and len(captures) == 1


def test_whoever_ends_the_decoding_leaves_nothing_behind(captures: list[Graph]) -> None:
    model, left = peaked("assignment").double(), iter([False] * 5 + [True])

    def pulse() -> None:
        if next(left):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(model, **GIVEN, pulse=pulse)
    assert captures[0].is_gone and not captured_decoding._kept and len(graphs._free_streams) == 1
    assert sample(model, **GIVEN) == plainly(model)


def test_captures_are_a_part_of_a_runs_time_by_themselves(captures: list[Graph], tmp_path: Path) -> None:
    samples = {"temperatures": [1.0], "texts": 4, "at_best": 2}
    outcome, _ = tiny.run(tiny.spec(), folder=tmp_path, samples=samples)
    # One for the texts at each new best, and one for those at the end.
    assert len(captures) == 2 and outcome.seconds["capturing"] == [2 * CAPTURE_S] * 2
    for part in ("sampling_best", "sampling_end"):
        assert all(-CAPTURE_S < seconds < 0 for seconds in outcome.seconds[part])


def test_the_price_of_a_set_of_texts_has_no_capture_in_it(captures: list[Graph], monkeypatch: pytest.MonkeyPatch) -> None:
    spec, corpus = tiny.spec(), tiny.corpus()
    clock = iter([10.0, 10.0 + 3 * CAPTURE_S])
    monkeypatch.setattr(calibrate, "perf_counter", lambda: next(clock))
    length = min(spec.seq_len, 1.5 * float(corpus.train.lengths.mean())) / calibrate.SHORT_SAMPLE
    assert calibrate._sample_s(start(spec, "cpu"), corpus, 2, [Strategy()], spec) == pytest.approx(2 * CAPTURE_S * length)
    assert len(captures) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_writes_the_same_texts_by_replaying_one_step(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model.double().cuda()
    given = {"n": 9, "temperatures": [0.0, 0.5, 1.0], "seed": 2, "tokenizer": Ids(), "seq_len": 40}
    captures: list[object] = []
    capture = captured_decoding.capture
    monkeypatch.setattr(captured_decoding, "capture", lambda *args: captures.append(capture(*args)) or captures[-1])
    replayed = [sample(model, **given)]
    assert len(captures) == 1 and None not in captures
    # Another seed, and the first again: by the same graph. Weights that have changed in place are read anew.
    sample(model, **{**given, "seed": 3})
    replayed.append(sample(model, **given))
    model.head.weight.data *= 0.5
    flatter = sample(model, **given)
    assert len(captures) == 1
    model = model.cpu()
    assert flatter == sample(model, **given)
    model.head.weight.data *= 2
    assert replayed == [sample(model, **given)] * 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_cuts_within_a_captured_step_as_a_cpu_does(model: Model) -> None:
    model = model.double().cuda()
    given: dict[str, Any] = {"n": 9, "strategies": [*at(0.5, 1.0), *CUT], "seed": 2, "tokenizer": Ids(), "seq_len": 40}
    replayed = [{one: drawn.texts for one, drawn in sample_sets(model, **given).items()} for _ in range(2)]
    assert [step._graph is not None for step in captured_decoding._kept] == [True]
    model = model.cpu()
    assert replayed == [{one: drawn.texts for one, drawn in sample_sets(model, **given).items()}] * 2
