"""Which texts a step trains on, and how they reach the model: both are pure functions of the step, the seed and the corpus.

The data position of a run is its step: nothing else has to be saved to go on where it stopped. An epoch's last batch may be
smaller; no text is left out or repeated within an epoch. Shapes: B texts, T positions, N real tokens.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from harness.data.corpus import Encoded
from models._layers import Groups, Packed

# Keeps the permutations apart from every other use of the same seed.
ORDER_STREAM = 7_919
# Groups of like length that a batch is laid out in: four to sixteen took the same time, one took half as much again.
GROUPS = 8


def steps_per_epoch(n_texts: int, batch_size: int) -> int:
    """Batches that hold every text once."""
    return -(-n_texts // batch_size)


def order(n_texts: int, seed: int, epoch: int) -> np.ndarray:
    """The order of the texts in one epoch, (n_texts,)."""
    return np.random.Generator(np.random.PCG64([seed, epoch, ORDER_STREAM])).permutation(n_texts)


class Order:
    """The rows of each step's batch; keeps the permutation of the epoch that was asked for last."""

    def __init__(self, n_texts: int, batch_size: int, seed: int) -> None:
        assert n_texts > 0 and batch_size > 0
        self.n_texts, self.batch_size, self.seed = n_texts, batch_size, seed
        self.steps_per_epoch = steps_per_epoch(n_texts, batch_size)
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)

    def rows(self, step: int) -> np.ndarray:
        """The texts of step `step`, counted from 0: (B,), B being smaller only at the end of an epoch."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._order, self._epoch = order(self.n_texts, self.seed, epoch), epoch
        return self._order[place * self.batch_size : (place + 1) * self.batch_size]


def batch_rows(step: int, n_texts: int, batch_size: int, seed: int) -> np.ndarray:
    """The texts of one step without any state; `Order` gives the same and is quicker over many steps."""
    return Order(n_texts, batch_size, seed).rows(step)


def pack(encoded: Encoded, rows: np.ndarray) -> Packed:
    """The texts of `rows` without padding: token i of a text is the input whose target is token i + 1."""
    begins_B = encoded.offsets[rows]
    lengths_B = encoded.offsets[rows + 1] - begins_B - 1
    ends_B = np.cumsum(lengths_B)
    row_N = np.repeat(np.arange(len(rows)), lengths_B)
    position_N = np.arange(ends_B[-1]) - (ends_B - lengths_B)[row_N]
    source_N = begins_B[row_N] + position_N
    length = int(lengths_B.max())
    flat_N = None if len(source_N) == len(rows) * length else torch.from_numpy(row_N * length + position_N)
    ids_N, targets_N = _long(encoded.ids[source_N]), _long(encoded.ids[source_N + 1])
    groups = _groups(lengths_B, row_N, position_N)
    return Packed(ids_N, torch.from_numpy(position_N), flat_N, len(rows), length, targets_N, groups)


def _groups(lengths_B: np.ndarray, row_N: np.ndarray, position_N: np.ndarray) -> Groups:
    """Rows of like length side by side; the order of the tokens stays that of the batch, and with it everything that is drawn for them."""
    order_B = np.argsort(lengths_B, kind="stable")
    parts = np.array_split(order_B, min(GROUPS, len(order_B)))
    sizes = tuple((len(part), int(lengths_B[part[-1]])) for part in parts)
    width_B = np.empty_like(lengths_B)
    width_B[order_B] = np.repeat([length for _, length in sizes], [rows for rows, _ in sizes])
    begin_B = np.empty_like(lengths_B)
    begin_B[order_B] = np.cumsum(width_B[order_B]) - width_B[order_B]
    return Groups(sizes, torch.from_numpy(begin_B[row_N] + position_N))


def padded(encoded: Encoded, rows: np.ndarray, seq_len: int) -> tuple[Tensor, Tensor]:
    """The assignment's batch: ids and targets, each (B, seq_len - 1), zeros after the end, every position counted.

    A text that was cut has its last target, the end, among the zeros as well.
    """
    sizes_B = encoded.offsets[rows + 1] - encoded.offsets[rows]
    row_N = np.repeat(np.arange(len(rows)), sizes_B)
    position_N = np.arange(len(row_N)) - (np.cumsum(sizes_B) - sizes_B)[row_N]
    whole_BT = np.zeros((len(rows), seq_len), dtype=np.int64)
    whole_BT[row_N, position_N] = encoded.ids[encoded.offsets[rows][row_N] + position_N]
    both_BT = torch.from_numpy(whole_BT)
    return both_BT[:, :-1].contiguous(), both_BT[:, 1:].contiguous()


def evaluation_rows(encoded: Encoded, max_tokens: int) -> Iterator[np.ndarray]:
    """Every text once, sorted by length, in groups of at most `max_tokens` positions with padding (always one text at least)."""
    lengths = encoded.lengths
    rows = np.argsort(lengths, kind="stable")
    first = 0
    while first < len(rows):
        # Sorted upwards, so the last text of a group sets its width: count x width only grows along the candidates.
        area = lengths[rows[first : first + max_tokens]] * np.arange(1, len(rows[first : first + max_tokens]) + 1)
        count = max(1, int(np.searchsorted(area, max_tokens, side="right")))
        yield rows[first : first + count]
        first += count


def evaluation_batches(encoded: Encoded, max_tokens: int) -> Iterator[tuple[np.ndarray, Packed]]:
    """Every text once as (its rows, the batch); `rows` puts per-text sums back in order: `out[rows] = sums_B`."""
    for rows in evaluation_rows(encoded, max_tokens):
        yield rows, pack(encoded, rows)


def _long(ids: np.ndarray) -> Tensor:
    return torch.from_numpy(ids.astype(np.int64))
