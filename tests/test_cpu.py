"""What a CPU computes by hand equals the plain operators in value and gradient, for every family and layout."""

from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.data.batches import pack as pack_texts
from harness.data.batches import padded
from models import _cpu, decoder
from models._layers import Packed
from models.decoder import FAMILIES, Model, Shape
from tests import tiny
from tests.packing import packed, plainly

SHAPE = Shape(2, 12, 3, 10, 40)
SHAPES = {
    "assignment": SHAPE,
    "no bias": replace(SHAPE, bias=False),
    "rotary, relu": replace(SHAPE, positions="rotary", activation="relu", norm="pre"),
    "wide": replace(SHAPE, d_ff=_cpu.RECOMPUTED + 100),
    "sliced": replace(SHAPE, d_ff=_cpu.SLICE + 7),
}


def results(model: nn.Module, batch: Packed, weight_NV: Tensor) -> list[Tensor]:
    logits_NV = model.forward_packed(batch)  # type: ignore[operator]
    return [logits_NV.detach(), *torch.autograd.grad((logits_NV * weight_NV).sum(), list(model.parameters()))]


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_by_hand_equals_the_plain_operators(name: str, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = Model(SHAPES[name], 29, 150).to(dtype)
    batch = pack_texts(tiny.corpus().train, np.arange(13))
    weight_NV = torch.randn(len(batch.ids_N), 29, dtype=dtype)
    by_hand = results(model, batch, weight_NV)
    plainly(monkeypatch)
    for ours, theirs in zip(by_hand, results(model, batch, weight_NV), strict=True):
        assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


@pytest.mark.parametrize("family", FAMILIES)
def test_without_padding_there_is_nothing_to_place(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, ids_BT = Model(decoder.solve(12_000, 29, 24, **asdict(FAMILIES[family])), 29, 24).double(), torch.randint(0, 29, (3, 24))
    by_hand = model(ids_BT)
    plainly(monkeypatch)
    assert (model(ids_BT) - by_hand).abs().max() < 1e-12


def test_groups_change_no_result() -> None:
    torch.manual_seed(0)
    model, texts = Model(SHAPE, 29, 150).double(), tiny.corpus().train
    grouped = pack_texts(texts, np.arange(20))
    alone = replace(grouped, groups=None)
    assert grouped.groups is not None and grouped.groups.n_places < 20 * grouped.length
    weight_NV = torch.randn(len(grouped.ids_N), 29, dtype=torch.float64)
    for ours, theirs in zip(results(model, grouped, weight_NV), results(model, alone, weight_NV), strict=True):
        assert (ours - theirs).abs().max() < 1e-12 * max(1.0, float(theirs.abs().max()))


def test_long_texts_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, ids_BT = Model(SHAPE, 29, 150), torch.randint(0, 29, (2, 20))
    short, batch = model(ids_BT), packed(ids_BT, [20, 9])
    monkeypatch.setattr(_cpu, "MAX_LENGTH", 19)
    assert _cpu.groups_of(torch.zeros(1), batch) is None
    assert (model(ids_BT) - short).abs().max() < 1e-5


def test_packed_and_padded_nll_agree_in_float32() -> None:
    torch.manual_seed(0)
    model, texts, rows = Model(decoder.NAMED["87k-assignment"], 29, 150), tiny.corpus().train, np.arange(32)
    batch, (ids_BT, targets_BT) = pack_texts(texts, rows), padded(texts, rows, 150)
    assert batch.targets_N is not None
    packed_nll = F.cross_entropy(model.forward_packed(batch), batch.targets_N, reduction="sum").item()
    lengths_B1 = torch.from_numpy(texts.lengths[rows])[:, None]
    nats_BT = F.cross_entropy(model(ids_BT).transpose(1, 2), targets_BT, reduction="none")
    padded_nll = nats_BT[torch.arange(149) < lengths_B1].double().sum().item()
    assert packed_nll == pytest.approx(padded_nll, rel=1e-6)


def test_a_wide_hidden_layer_is_not_kept() -> None:
    torch.manual_seed(0)
    mlp, saved = decoder.MLP(SHAPES["wide"]), []

    def note(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        mlp(torch.randn(500, 12, requires_grad=True))
    assert 0 < sum(saved) < 500 * SHAPES["wide"].d_ff / 4


@pytest.mark.parametrize("activation", [F.gelu, F.relu])
@pytest.mark.parametrize("bias", [True, False])
def test_in_one_go_or_by_slices_few_tokens_are_the_same(
    activation: Callable[[Tensor], Tensor], bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    x_NC, up, down = torch.randn(7, 12).double(), torch.randn(700, 12).double(), torch.randn(12, 700).double()
    biases = (torch.randn(700).double(), torch.randn(12).double()) if bias else (None, None)
    with torch.no_grad():
        in_one_go = _cpu.mlp(x_NC, up, biases[0], down, biases[1], activation)
        monkeypatch.setattr(_cpu, "WHOLE", 0)
        by_slices = _cpu.mlp(x_NC, up, biases[0], down, biases[1], activation)
    assert (in_one_go - by_slices).abs().max() < 1e-12 * by_slices.abs().max()
