"""An Apple GPU has no float64: nothing of that kind is made there or sent there, and texts are those of the CPU."""

from typing import Any

import pytest
import torch

from harness.generate import Replayed, sample_sets
from harness.state import build_model
from harness.strategies import Strategy
from models import _layers
from models._layers import exact_device, rotary
from tests import tiny
from tests.apple import APPLE, Apple, OnApple, moved_there
from tests.decoding import at

ROTARY = tiny.SHAPE | {"positions": "rotary", "norm": "pre"}


@pytest.fixture
def without_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_layers, "WITHOUT_FLOAT64", (APPLE.type,))


def test_the_stand_in_refuses_what_the_device_refuses() -> None:
    with Apple():
        there = torch.ones(3, device=APPLE)
        assert there.device == APPLE and (there + 1).cpu().tolist() == [2.0, 2.0, 2.0]
        for float64 in (lambda: torch.ones(3, dtype=torch.float64).to(APPLE), there.double, lambda: torch.rand(2, device=APPLE).double()):
            with pytest.raises(TypeError, match="float64"):
                float64()


@pytest.mark.usefixtures("without_float64")
@pytest.mark.parametrize("shape", [tiny.SHAPE, ROTARY])
@pytest.mark.parametrize("cached", [True, False])
def test_texts_are_decoded_without_float64_there(shape: dict[str, Any], cached: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the cache and by whole passes; the model computes there, and only what is drawn comes from elsewhere."""
    sets = [*at(0.5, 1.0), Strategy(top_k=5), Strategy(top_p=0.8)]
    given: dict[str, Any] = {"n": 6, "strategies": sets, "seed": 3, "tokenizer": tiny.corpus().tokenizer, "seq_len": 20}
    spec = tiny.spec(shape=shape)
    model, there = build_model(spec), moved_there(build_model(spec))
    if not cached:
        monkeypatch.setattr("harness.generate.Cached", lambda model, n_rows, length: Replayed(model))
    with Apple() as apple:
        drawn = sample_sets(there, **given)
    assert apple.operators > 500
    for strategy, expected in sample_sets(model, **given).items():
        assert drawn[strategy].texts == expected.texts
        assert drawn[strategy].entropy == pytest.approx(expected.entropy, rel=1e-6)
        assert drawn[strategy].self_nll == pytest.approx(expected.self_nll, rel=1e-6)


@pytest.mark.usefixtures("without_float64")
def test_angles_have_the_bits_of_those_made_elsewhere() -> None:
    with Apple():
        there = rotary(40, 8, APPLE, torch.float32)
        assert all(isinstance(part, OnApple) for part in there)
        for one, other in zip(there, rotary(40, 8, torch.device("cpu"), torch.float32), strict=True):
            assert torch.equal(one.cpu(), other)


def test_which_devices_compute_float64() -> None:
    assert [exact_device(torch.device(name)).type for name in ("cpu", "cuda", "mps")] == ["cpu", "cuda", "cpu"]
