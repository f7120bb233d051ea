"""What architectures share: a batch of texts of unequal length without its padding, and rotary positions.

Shapes: B texts, T positions, N real tokens, H heads, D values a head.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# An Apple GPU raises at every tensor of that kind.
WITHOUT_FLOAT64 = ("mps",)


@dataclass(frozen=True)
class Groups:
    """A batch laid out for attention: rows of like length together, each group padded to its own longest text.

    `sizes`: (rows, length) of each group, whose places follow each other. `place_N`: each token's place; None where none is padding.
    """

    sizes: tuple[tuple[int, int], ...]
    place_N: Tensor | None

    @property
    def n_places(self) -> int:
        """Tokens and padding."""
        return sum(rows * length for rows, length in self.sizes)

    def spans(self) -> Iterator[tuple[int, int, int]]:
        """(first place, rows, length) of each group."""
        first = 0
        for rows, length in self.sizes:
            yield first, rows, length
            first += rows * length


@dataclass(frozen=True)
class Packed:
    """The real tokens of a batch, text after text.

    `flat_N` is row * length + position: where a token lies in the padded (batch_size, length) layout.
    It is None where nothing is padding, so that the packed and the padded layout are the same. `groups` is a closer layout, where known.
    `token_P`, where known, is the inverse: the token at each place. A place without one has a token that nothing is learned from and no
    text reads: its gradient is zero, so that zeros are what such a place gets of gradients. Reading is exact and in one order everywhere;
    writing by index is neither quick nor free of waits where a device is to repeat its sums in one order.
    """

    ids_N: Tensor
    position_N: Tensor
    flat_N: Tensor | None
    batch_size: int
    length: int
    targets_N: Tensor | None = None
    groups: Groups | None = None
    token_P: Tensor | None = None

    def to(self, device: torch.device | str) -> "Packed":
        """The same batch on another device; groups are for a CPU only."""
        if torch.device(device) == self.ids_N.device:
            return self
        held = (self.ids_N, self.position_N, self.flat_N, self.targets_N, self.token_P)
        ids_N, position_N, flat_N, targets_N, token_P = (None if t is None else t.to(device, non_blocking=True) for t in held)
        assert ids_N is not None and position_N is not None
        return Packed(ids_N, position_N, flat_N, self.batch_size, self.length, targets_N, token_P=token_P)


def unpacked(ids_BT: Tensor) -> Packed:
    """A padded batch, every position of which counts as a token."""
    batch_size, length = ids_BT.shape
    position_N = torch.arange(length, device=ids_BT.device).repeat(batch_size)
    return Packed(ids_BT.reshape(-1), position_N, None, batch_size, length)


class TokenDropout(nn.Module):
    """Dropout on token rows (N, C), whose mask for a part of a batch is that part of the whole batch's mask.

    The mask is drawn from torch's global generator, as nn.Dropout's is: with the generator at the same place, the parts of a batch see
    together what the batch would see as one.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        # First token, and how many tokens the mask is drawn for (the whole batch's, or more); None where a batch goes through as one.
        self.part: tuple[int, int] | None = None

    def forward(self, x_NC: Tensor) -> Tensor:
        """Values dropped with probability p and the rest scaled by 1 / (1 - p), in training only."""
        if not self.training or self.p == 0.0:
            return x_NC
        first, total = self.part or (0, len(x_NC))
        mask = torch.empty((total, x_NC.shape[1]), dtype=x_NC.dtype, device=x_NC.device).bernoulli_(1 - self.p).div_(1 - self.p)
        return x_NC * mask[first : first + len(x_NC)]


@contextmanager
def part_of_batch(model: nn.Module, first: int, total: int) -> Iterator[None]:
    """Within the block, what goes through the model is the part of a batch that begins with token `first`; masks are for `total` tokens."""
    layers = [module for module in model.modules() if isinstance(module, TokenDropout)]
    for layer in layers:
        layer.part = (first, total)
    try:
        yield
    finally:
        for layer in layers:
            layer.part = None


class _Pad(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NC: Tensor, flat_N: Tensor, n_places: int, token_P: Tensor | None) -> Tensor:
        ctx.save_for_backward(flat_N, token_P)
        if token_P is not None:
            return x_NC.index_select(0, token_P)
        return x_NC.new_zeros(n_places, x_NC.shape[1]).index_copy_(0, flat_N, x_NC)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        flat_N, token_P = ctx.saved_tensors
        return unpad(grads[0], flat_N, token_P), None, None, None


class _Unpad(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_PC: Tensor, flat_N: Tensor, token_P: Tensor | None) -> Tensor:
        ctx.save_for_backward(flat_N, token_P)
        ctx.n_places = len(x_PC)
        return x_PC.index_select(0, flat_N)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        flat_N, token_P = ctx.saved_tensors
        return pad(grads[0], flat_N, ctx.n_places, token_P), None, None


def pad(x_NC: Tensor, flat_N: Tensor, n_places: int, token_P: Tensor | None = None) -> Tensor:
    """Token rows to their places in the padded layout, zeros elsewhere: (n_places, C). No place is taken twice: the gradient is a copy.

    With `token_P` (see `Packed`) places without a token hold what the batch has for filling, and both directions are reads.
    """
    out_PC: Tensor = _Pad.apply(x_NC, flat_N, n_places, token_P)  # type: ignore[no-untyped-call]
    return out_PC


def unpad(x_PC: Tensor, flat_N: Tensor, token_P: Tensor | None = None) -> Tensor:
    """The rows of the padded layout that hold a token, (N, C); the inverse of `pad`."""
    out_NC: Tensor = _Unpad.apply(x_PC, flat_N, token_P)  # type: ignore[no-untyped-call]
    return out_NC


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    """Causal attention of (.., T, D) by torch's own; scores are multiplied by `scale`, or by D^(-1/2)."""
    fill, D = head_fill(q), q.shape[-1]
    if not fill:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
    q, k, v = (F.pad(part, (0, fill)) for part in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=D**-0.5 if scale is None else scale)[..., :D]


def head_fill(q: Tensor) -> int:
    """Zeros by which heads are wider for CUDA's kernels, which take float32 by fours; all scores are in memory at once without them."""
    return -q.shape[-1] % 4 if q.device.type == "cuda" and q.dtype == torch.float32 else 0


def exact_device(device: torch.device) -> torch.device:
    """Where float64 is computed for what lies on this device: there, or on the CPU."""
    return torch.device("cpu") if device.type in WITHOUT_FLOAT64 else device


def rotary(length: int, d_head: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the position angles, each (length, d_head // 2). Su et al. 2021 (RoFormer), base 10,000."""
    exactly = exact_device(device)
    frequency = 10_000.0 ** (-torch.arange(0, d_head, 2, device=exactly, dtype=torch.float64) / d_head)
    angle = torch.arange(length, device=exactly, dtype=torch.float64)[:, None] * frequency
    # Rounded where they are: no float64 reaches a device that has none.
    return angle.cos().to(dtype).to(device), angle.sin().to(dtype).to(device)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the first half of the last dimension against the second, by the angles of each position."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)
