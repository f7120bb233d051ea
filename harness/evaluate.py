"""Scoring texts: loss, NLL, top-1 and bits per character in one pass without autograd.

Two conventions: real tokens only (the harness's own), and all seq_len - 1 positions with padding counted (the assignment's), the latter
only where a study trains on padding.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.data.batches import evaluation_batches, padded
from harness.data.corpus import Corpus, Encoded
from models._layers import Packed

# A batch of this many real tokens keeps the widest activations within a CPU's cache.
BATCH_TOKENS = 4096
# A GPU does in one go what is a validation set's usual size; the hidden layer of the widest MLP takes 1.7 GB then.
GPU_BATCH_TOKENS = 2**15
PADDED_ROWS = 64

_on_gpu: "WeakKeyDictionary[Encoded, list[tuple[np.ndarray, Packed]]]" = WeakKeyDictionary()


@dataclass(frozen=True)
class Evaluation:
    """Scores of a set of texts. `loss`: nats a token. `nll`: nats a text. `text_nll`, `text_hits`: per text, in the set's order."""

    loss: float
    nll: float
    nll_se: float
    top1: float
    bits_per_char: float
    nll_padded: float | None
    top1_padded: float | None
    text_nll: np.ndarray
    text_hits: np.ndarray


@torch.no_grad()
def evaluate(
    model: nn.Module,
    corpus: Corpus,
    texts: Encoded,
    padding: str = "ignore",
    device: str = "cpu",
    precision: str = "float32",
    pulse: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Score `texts` with the model in evaluation mode; the mode it was in is restored.

    Args:
        corpus: gives the charge for an unknown character and the padded length.
        texts: the part of it to score.
        padding: `learn` also scores all positions, padding included.
        pulse: called between batches; what it raises ends the evaluation.
    """
    was_training = model.training
    model.eval()
    autocast = torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bfloat16")
    nll_padded = top1_padded = None
    try:
        with autocast:
            nll, hits = _packed_scores(model, texts, device, pulse)
            if padding == "learn":
                nll_padded, top1_padded = _padded_scores(model, texts, corpus.seq_len, device, pulse)
    finally:
        model.train(was_training)
    n_tokens = int(texts.lengths.sum())
    charged = nll.sum() + texts.unknown.sum() * corpus.unknown_nats
    return Evaluation(
        loss=float(nll.sum() / n_tokens),
        nll=float(nll.mean()),
        nll_se=float(nll.std(ddof=1) / math.sqrt(len(nll))) if len(nll) > 1 else math.nan,
        top1=float(hits.sum() / n_tokens),
        bits_per_char=float(charged / (math.log(2) * texts.characters.sum())),
        nll_padded=nll_padded,
        top1_padded=top1_padded,
        text_nll=nll,
        text_hits=hits,
    )


def packed_logits(model: nn.Module, batch: Packed) -> Tensor:
    """Logits (N, V) of the real tokens of a batch."""
    forward: Callable[[Packed], Tensor] = cast(Any, model).forward_packed
    return forward(batch)


def _packed_scores(model: nn.Module, texts: Encoded, device: str, pulse: Callable[[], None]) -> tuple[np.ndarray, np.ndarray]:
    found: list[tuple[np.ndarray, Tensor, Tensor, Tensor]] = []
    for rows, batch in _batches(texts, device):
        pulse()
        assert batch.targets_N is not None
        logits_NV = packed_logits(model, batch).float()
        row_N = torch.cumsum(batch.position_N == 0, 0) - 1
        right_N = logits_NV.argmax(-1) == batch.targets_N
        found.append((rows, row_N, F.cross_entropy(logits_NV, batch.targets_N, reduction="none"), right_N))
    nll, hits = np.zeros(texts.n_texts), np.zeros(texts.n_texts)
    # After the last batch, so that a device never waits for the host in between.
    for rows, row_N, nll_N, right_N in found:
        nll[rows], hits[rows] = _per_row(nll_N, row_N, len(rows)), _per_row(right_N, row_N, len(rows))
    return nll, hits


def _batches(texts: Encoded, device: str) -> Iterable[tuple[np.ndarray, Packed]]:
    """Every text once. What a GPU was given stays there for the next time; elsewhere batches are made anew."""
    if torch.device(device).type != "cuda":
        return ((rows, batch.to(device)) for rows, batch in evaluation_batches(texts, BATCH_TOKENS))
    if texts not in _on_gpu:
        _on_gpu[texts] = [(rows, read_only(batch).to(device)) for rows, batch in evaluation_batches(texts, GPU_BATCH_TOKENS)]
    return _on_gpu[texts]


def read_only(batch: Packed) -> Packed:
    """A batch that nothing is learned from: its tokens are read into their places, and padding, which no text reads, has the first one's.

    Writing them by index would sort first where a GPU is to repeat its sums in one order.
    """
    if batch.flat_N is None:
        return batch
    token_P = torch.zeros(batch.batch_size * batch.length, dtype=torch.int64)
    token_P[batch.flat_N] = torch.arange(len(batch.flat_N))
    return replace(batch, token_P=token_P)


def _per_row(values_N: Tensor, row_N: Tensor, n_rows: int) -> np.ndarray:
    """Sums of a value over the tokens of each text, in float64."""
    # On the CPU, since not every accelerator has float64.
    return torch.zeros(n_rows, dtype=torch.float64).index_add_(0, row_N.cpu(), values_N.cpu().double()).numpy()


def _padded_scores(model: nn.Module, texts: Encoded, seq_len: int, device: str, pulse: Callable[[], None]) -> tuple[float, float]:
    nats, right, positions = 0.0, 0, 0
    for start in range(0, texts.n_texts, PADDED_ROWS):
        pulse()
        rows = np.arange(start, min(start + PADDED_ROWS, texts.n_texts))
        ids_BT, targets_BT = (t.to(device) for t in padded(texts, rows, seq_len))
        logits_BTV = model(ids_BT).float()
        nats += float(F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), reduction="sum"))
        right += int((logits_BTV.argmax(-1) == targets_BT).sum())
        positions += targets_BT.numel()
    return nats / texts.n_texts, right / positions
