"""Batches of few sizes, made on the device from texts that are there already: what a captured step needs, which is bound to its shapes.

A batch is given by where its texts begin and end. Its real tokens are followed by fillers up to one of a few numbers of tokens, and its
length is rounded up to one of a few. Fillers are texts of their own, in rows after the batch's, without a target. Shapes: B texts of a
batch, R rows, T positions, N tokens with fillers, P = R * T places.
"""

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.data.corpus import Encoded
from models._layers import Packed

# What cross-entropy leaves out by default.
NO_TARGET = -100
# Sizes between a number and its double. Batches of 32 to 512 headlines or reviews have 2 to 7 sizes so, and 2 to 4 % of fillers; the
# lengths of headlines (of 80 to 149) are 4 or 5, and 6 to 8 % longer than they must be.
TOKENS_PER_DOUBLING, LENGTHS_PER_DOUBLING = 8, 4
LEAST = 8

_on_device: "WeakKeyDictionary[Encoded, dict[str, Tensor]]" = WeakKeyDictionary()


@dataclass(frozen=True)
class Size:
    """All that decides the shapes of a batch: `tokens` with fillers (one at least), `texts`, `length` of a row."""

    tokens: int
    texts: int
    length: int

    @property
    def rows(self) -> int:
        """Texts, and as many rows as the most fillers of this size take."""
        return self.texts + -(-_grain(self.tokens - 1, TOKENS_PER_DOUBLING) // self.length)


def _grain(n: int, per_doubling: int) -> int:
    return max(LEAST, (1 << (n.bit_length() - 1)) // per_doubling)


def _rounded_up(n: int, per_doubling: int) -> int:
    grain = _grain(n, per_doubling)
    return -(-n // grain) * grain


def filled_tokens(n_tokens: int) -> int:
    """Tokens of a batch of so many real ones, fillers included."""
    return _rounded_up(n_tokens + 1, TOKENS_PER_DOUBLING)


def drawn_tokens(n_tokens: int, device: str) -> int:
    """For how many tokens dropout is drawn: what a GPU draws for a token depends on it, so that there it is always the filled batch's."""
    return filled_tokens(n_tokens) if torch.device(device).type == "cuda" else n_tokens


def size_of(lengths_B: np.ndarray, texts: int, longest: int) -> Size:
    """The size of a batch of texts of these lengths, `texts` of them at most; `longest`: what no row may exceed.

    It depends on the batch alone, and with it everything that is drawn for the batch.
    """
    tokens, length = filled_tokens(int(lengths_B.sum())), int(lengths_B.max())
    return Size(tokens, texts, min(longest, _rounded_up(length, LENGTHS_PER_DOUBLING)))


def on_device(texts: Encoded, device: str) -> Tensor:
    """The ids of all texts, (ids,), brought to the device once per process."""
    held = _on_device.setdefault(texts, {})
    if device not in held:
        held[device] = torch.from_numpy(texts.ids.astype(np.int32)).to(device)
    return held[device]


def table(texts: Encoded, rows: np.ndarray, size: Size) -> np.ndarray:
    """A batch as numbers, (2, B + 1): where each text begins among all ids, and where it ends among the batch's tokens.

    Texts that a small batch lacks are empty, and the last column is of the fillers.
    """
    out = np.zeros((2, size.texts + 1), dtype=np.int64)
    out[0, : len(rows)] = texts.offsets[rows]
    out[1] = np.cumsum(np.concatenate((texts.lengths[rows], np.zeros(size.texts + 1 - len(rows), dtype=np.int64))))
    out[1, -1] = size.tokens
    return out


def filled(ids: Tensor, begins_ends: Tensor, size: Size) -> Packed:
    """The batch that a `table` describes; no value of it is looked at by the host."""
    begins, ends = begins_ends.unbind()
    starts = F.pad(ends[:-1], (1, 0))
    token_N = torch.arange(size.tokens, device=ids.device)
    row_N = torch.searchsorted(ends, token_N, right=True)
    place_N = token_N - starts[row_N]
    is_filler_N = row_N == size.texts
    # Filled, not chosen with `where`: that would bring its number to the device, and wait.
    source_N = (begins[row_N] + place_N).masked_fill(is_filler_N, 0)
    targets_N = ids[source_N + 1].long().masked_fill(is_filler_N, NO_TARGET)
    flat_N, position_N = row_N * size.length + place_N, place_N % size.length
    token_P = _tokens_of_places(starts, ends, size)
    return Packed(ids[source_N].long(), position_N, flat_N, size.rows, size.length, targets_N, token_P=token_P)


def _tokens_of_places(starts: Tensor, ends: Tensor, size: Size) -> Tensor:
    """The token at each place; the last filler where there is none."""
    last = size.tokens - 1
    token_BT = starts[:-1, None] + torch.arange(size.length, device=ends.device)
    texts_P = token_BT.masked_fill(token_BT >= ends[:-1, None], last).flatten()
    fillers_P = starts[-1] + torch.arange((size.rows - size.texts) * size.length, device=ends.device)
    return torch.cat((texts_P, fillers_P.clamp(max=last)))
