"""Batches filled up to a few sizes on the device train a model as the exact batches do, whatever the lengths of their texts."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.data.batches import pack
from harness.data.corpus import Encoded, encode
from harness.data.filled import filled, on_device, size_of, table
from harness.data.tokenizers import char
from models._layers import Packed
from models._stacked import NO_TARGET
from models.decoder import Model, Shape
from tests.packing import plainly

SEQ_LEN = 24
LENGTHS = {
    "many": [3, 0, 22, 9, 1, 14, 5, 22],
    "one": [7],
    "empty": [0, 0, 0],
    "equal": [8, 8, 8, 8],
    "cut": [40, 22, 40],
    "a size exactly": [6, 7],
}


def texts_of(lengths: list[int]) -> Encoded:
    rng = np.random.default_rng(3)
    texts = ["".join(rng.choice(list("abcdef "), size=n)) for n in lengths]
    return encode(["never in a batch", *texts, "nor is this"], char.train(["abcdef "]), SEQ_LEN, Counter())


def both(lengths: list[int], more: int = 0) -> tuple[Packed, Packed]:
    """The batch as it is, and filled up, with room for some texts more."""
    texts = texts_of(lengths)
    rows = np.random.default_rng(0).permutation(len(lengths)) + 1
    size = size_of(texts.lengths[rows], len(rows) + more, SEQ_LEN - 1)
    return pack(texts, rows), filled(on_device(texts, "cpu"), torch.from_numpy(table(texts, rows, size)), size)


def learned(model: nn.Module, batch: Packed) -> tuple[Tensor, list[Tensor]]:
    """The loss of a batch and its gradients."""
    assert isinstance(model, Model) and batch.targets_N is not None
    model.zero_grad()
    loss = F.cross_entropy(model.forward_packed(batch), batch.targets_N, ignore_index=NO_TARGET)
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize("more", [0, 3])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
@pytest.mark.parametrize("way", ["read", "written", "cpu"])
def test_loss_and_gradients_are_those_of_the_exact_batch(
    way: str, lengths: list[int], more: int, positions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where tokens are read into their places; with torch's own operators, written; and by the ways of a CPU."""
    if way != "cpu":
        plainly(monkeypatch)
    torch.manual_seed(0)
    model = Model(Shape(n_layer=2, d_model=8, n_head=2, d_head=4, d_ff=16, positions=positions), 30, SEQ_LEN).double()
    exact, full = both(lengths, more)
    loss, gradients = learned(model, exact)
    again, others = learned(model, full if way == "read" else replace(full, token_P=None))
    torch.testing.assert_close(again, loss, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(others, gradients, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
def test_every_token_has_a_place_of_its_own_and_every_place_knows_its_token(lengths: list[int]) -> None:
    exact, full = both(lengths, 2)
    n, places = len(exact.ids_N), full.batch_size * full.length
    assert exact.targets_N is not None and full.targets_N is not None and full.flat_N is not None and full.token_P is not None
    for name in ("ids_N", "position_N", "targets_N"):
        assert torch.equal(getattr(full, name)[:n], getattr(exact, name))
    assert (full.targets_N[n:] == NO_TARGET).all() and len(full.targets_N) > n
    assert len(set(full.flat_N.tolist())) == len(full.flat_N) and int(full.flat_N.max()) < places == len(full.token_P)
    assert torch.equal(full.token_P[full.flat_N], torch.arange(len(full.flat_N)))
    empty = torch.ones(places, dtype=torch.bool).index_fill(0, full.flat_N, False)
    assert (full.token_P[empty] == len(full.flat_N) - 1).all()
    # No filler lies in a row of a text.
    assert int(full.flat_N[n:].min()) >= (len(lengths) + 2) * full.length > int(full.flat_N[:n].max())


def test_few_sizes_occur_and_little_is_filled_up() -> None:
    """Of texts like headlines: lengths of 55 tokens give or take 17."""
    rng = np.random.default_rng(0)
    batches = rng.normal(55, 17, (2000, 32)).clip(2, 149).astype(int)
    sizes = [size_of(lengths, 32, 149) for lengths in batches]
    assert len({size.tokens for size in sizes}) <= 8
    assert sum(size.tokens for size in sizes) < 1.06 * batches.sum()
    assert sum(size.length for size in sizes) < 1.10 * sum(lengths.max() for lengths in batches)
    assert max(size.rows for size in sizes) <= 34
    assert all(size.length <= 149 and size.tokens > lengths.sum() for size, lengths in zip(sizes, batches, strict=True))


def test_all_texts_are_brought_to_a_device_once() -> None:
    texts = texts_of([3, 4])
    assert on_device(texts, "cpu") is on_device(texts, "cpu")
    assert on_device(texts, "cpu").tolist() == texts.ids.tolist()
