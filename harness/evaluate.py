"""Scoring texts: loss, NLL, top-1 and bits per character in one pass without autograd.

Two conventions: real tokens only (the tool's own), and all seq_len - 1 positions with padding counted (the assignment's), the latter
only where a study trains on padding.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.data.batches import evaluation_batches, padded
from harness.data.corpus import Corpus, Encoded
from models._layers import Packed

# A batch of this many real tokens keeps the widest activations within a CPU's cache and is plenty for a GPU.
BATCH_TOKENS = 4096
PADDED_ROWS = 64


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
    nll = np.zeros(texts.n_texts)
    hits = np.zeros(texts.n_texts)
    for rows, batch in evaluation_batches(texts, BATCH_TOKENS):
        pulse()
        on_device = batch.to(device)
        assert on_device.targets_N is not None
        logits_NV = packed_logits(model, on_device).float()
        row_N = torch.cumsum(on_device.position_N == 0, 0) - 1
        nll[rows] = _per_row(F.cross_entropy(logits_NV, on_device.targets_N, reduction="none"), row_N, len(rows))
        hits[rows] = _per_row(logits_NV.argmax(-1) == on_device.targets_N, row_N, len(rows))
    return nll, hits


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
