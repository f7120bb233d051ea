"""Counting: groups that sum, FLOPs against torch's own counter, memory against what autograd really keeps."""

from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from harness import accounting
from harness.data.batches import pack
from models import decoder
from models.decoder import FAMILIES, NAMED, Model
from tests import tiny
from tests.packing import packed, plainly

SHAPES = {
    "assignment": decoder.solve(40_000, 29, 150),
    "modern": decoder.solve(40_000, 29, 150, **asdict(FAMILIES["modern"])),
    "tied": decoder.solve(40_000, 29, 150, **asdict(FAMILIES["modern"]) | {"tied": True}),
}


@pytest.mark.parametrize("name, non_embedding", [("87k-assignment", 83_100), ("557k-assignment", 550_650), ("10M-assignment", 10_110_240)])
def test_three_groups_sum_to_all(name: str, non_embedding: int) -> None:
    counts = accounting.counts("decoder", asdict(NAMED[name]), 29, 150)
    assert counts.non_embedding_params == non_embedding
    assert counts.embedding_params == 179 * NAMED[name].d_model and counts.head_params == 29 * (NAMED[name].d_model + 1)
    assert counts.embedding_params + counts.head_params + counts.non_embedding_params == counts.n_params == sum(counts.groups.values())


def counted(work: Callable[[], Tensor]) -> int:
    """FLOPs by torch's counter, which takes mm, addmm and bmm; it does not know the CPU's fused attention, so that runs as two bmm here."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        work()
    return int(counter.get_total_flops())


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_flops_equal_torchs_counter(shape: decoder.Shape, monkeypatch: pytest.MonkeyPatch) -> None:
    plainly(monkeypatch)
    model, ids_BT = Model(shape, 29, 150), torch.randint(0, 29, (4, 21))
    forward = counted(lambda: model(ids_BT))
    both = counted(lambda: model(ids_BT).sum().backward())
    assert forward == decoder.forward_flops(shape, 29, [21] * 4)
    assert both == accounting.train_flops("decoder", asdict(shape), 29, [21] * 4)


def test_packing_saves_the_padding_of_every_product_but_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    plainly(monkeypatch)
    shape, lengths = SHAPES["assignment"], [21, 8, 13]
    model, ids_BT = Model(shape, 29, 150), torch.randint(0, 29, (3, 21))
    padding = 4 * shape.n_layer * shape.n_head * shape.d_head * sum(21**2 - length**2 for length in lengths)
    assert counted(lambda: model.forward_packed(packed(ids_BT, lengths))) - padding == decoder.forward_flops(shape, 29, lengths)


def test_six_nd_is_far_off_below_a_million_parameters() -> None:
    lengths = np.full(10, 47)
    exact = accounting.flops_per_token("decoder", asdict(NAMED["87k-assignment"]), 29, lengths)
    assert exact == 3 * decoder.forward_flops(NAMED["87k-assignment"], 29, [47]) / 47
    assert exact / accounting.six_nd(87_289, 1) > 1.2


@pytest.mark.parametrize("name", ["87k-assignment", "557k-assignment"])
def test_the_activation_estimate_is_what_autograd_keeps_to_twenty_percent(name: str) -> None:
    model, batch, kept = Model(NAMED[name], 29, 150), pack(tiny.corpus().train, np.arange(32)), {}
    weights = {parameter.data_ptr() for parameter in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes() / accounting.FLOAT_BYTES
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits_NV = model.forward_packed(batch)
        loss = torch.nn.functional.cross_entropy(logits_NV, logits_NV.argmax(-1))
    assert loss.requires_grad
    assert sum(kept.values()) == pytest.approx(decoder.activations(NAMED[name], 29, len(batch.ids_N)), rel=0.2)


def test_bytes_follow_the_parameters() -> None:
    small, large = (accounting.memory_bytes("decoder", asdict(NAMED[name]), 29, 150, 1500) for name in ("87k-assignment", "10M-assignment"))
    assert accounting.PROCESS_BYTES < small < large
    assert accounting.checkpoint_bytes(1000) == 4 * accounting.weights_bytes(1000) == 16_000
