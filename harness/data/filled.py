"""Batches of few sizes, made on the device from texts that are there already: what a captured step needs, which is bound to its shapes.

A batch is given by where its texts begin and end. Its real tokens are followed by fillers up to one of a few numbers of tokens, and its
length is rounded up to one of a few. Fillers are texts of their own, in rows after the batch's, without a target. Shapes: K members of a
crew, B texts of a batch, R rows, T positions, N tokens with fillers, P = R * T places.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.data.corpus import Encoded
from models._layers import Groups, Packed
from models._stacked import NO_TARGET, StackedBatch

# Sizes between a number and its double. Batches of 32 to 512 headlines or reviews have 2 to 7 sizes so, and 2 to 4 % of fillers; the
# lengths of headlines (of 80 to 149) are 4 or 5, and 6 to 8 % longer than they must be.
TOKENS_PER_DOUBLING, LENGTHS_PER_DOUBLING = 8, 4
LEAST = 8

_on_device: "WeakKeyDictionary[Encoded, dict[str, Tensor]]" = WeakKeyDictionary()


@dataclass(frozen=True)
class Size:
    """All that decides the shapes of a batch: `tokens` with fillers (one at least), `texts`, `length` of a row, rows for fillers."""

    tokens: int
    texts: int
    length: int
    filler_rows: int

    @property
    def rows(self) -> int:
        """Of texts and of fillers."""
        return self.texts + self.filler_rows


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
    tokens, length = filled_tokens(int(lengths_B.sum())), min(longest, _rounded_up(int(lengths_B.max()), LENGTHS_PER_DOUBLING))
    return Size(tokens, texts, length, _filler_rows(tokens, tokens, length))


def joint(sizes: Sequence[Size]) -> Size:
    """The size at which batches of as many texts are side by side: the rows for fillers, too, are one of few."""
    tokens, length = max(size.tokens for size in sizes), max(size.length for size in sizes)
    rows = _filler_rows(tokens, min(size.tokens for size in sizes), length)
    return Size(tokens, sizes[0].texts, length, rows if len(sizes) == 1 else 1 << (rows - 1).bit_length())


def _filler_rows(tokens: int, least: int, length: int) -> int:
    """What the fillers take of a batch whose own size may be as small as `least`."""
    return -(-(tokens - least + _grain(least - 1, TOKENS_PER_DOUBLING)) // length)


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
    one = filled_together(ids, begins_ends[None], size)
    flat_N = one.groups.place_N
    return Packed(one.ids_KN[0], one.position_KN[0], flat_N, size.rows, size.length, one.targets_KN[0], token_P=one.token_P)


def filled_together(ids: Tensor, tables: Tensor, size: Size) -> StackedBatch:
    """The batches that the tables (K, 2, B + 1) of a crew's members describe, all of one size."""
    begins_KB, ends_KB = tables.unbind(1)
    ends_KB = ends_KB.contiguous()
    starts_KB = F.pad(ends_KB[:, :-1], (1, 0))
    token_KN = torch.arange(size.tokens, device=ids.device).repeat(len(tables), 1)
    row_KN = torch.searchsorted(ends_KB, token_KN, right=True)
    in_row_KN = token_KN - starts_KB.gather(1, row_KN)
    is_filler_KN = row_KN == size.texts
    # Filled, not chosen with `where`: that would bring its number to the device, and wait.
    source_KN = (begins_KB.gather(1, row_KN) + in_row_KN).masked_fill(is_filler_KN, 0)
    targets_KN = ids[source_KN + 1].long().masked_fill(is_filler_KN, NO_TARGET)
    place_KN, token_KP = row_KN * size.length + in_row_KN, _tokens_of_places(starts_KB, ends_KB, size)
    member_K1 = torch.arange(len(tables), device=ids.device)[:, None]
    groups = Groups(((size.rows, size.length),), (place_KN + size.rows * size.length * member_K1).flatten())
    token_P = (token_KP + size.tokens * member_K1).flatten()
    return StackedBatch(ids[source_KN].long(), in_row_KN % size.length, targets_KN, size.length, groups, token_P)


def _tokens_of_places(starts_KB: Tensor, ends_KB: Tensor, size: Size) -> Tensor:
    """The token at each place, (K, P); the last filler where there is none."""
    last = size.tokens - 1
    token_KBT = starts_KB[:, :-1, None] + torch.arange(size.length, device=ends_KB.device)
    texts_KP = token_KBT.masked_fill(token_KBT >= ends_KB[:, :-1, None], last).flatten(1)
    fillers_KP = starts_KB[:, -1:] + torch.arange(size.filler_rows * size.length, device=ends_KB.device)
    return torch.cat((texts_KP, fillers_KP.clamp(max=last)), 1)
