"""What a CPU does faster by hand: attention over texts of like length, and a wide MLP a slice of its width at a time.

Both compute what the plain operators do, to rounding, and tests hold them to that. Both keep what they work on within the cache: on one
thread a training step is bound by memory as much as by arithmetic. Shapes as in `models.decoder`; W rows of a group, S its longest text.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models._layers import Groups, Packed, rotate

# Above this length the scores of all pairs outgrow the cache, and torch's own attention, which never holds them, wins.
MAX_LENGTH = 256
# A slice of so many hidden units of 1,700 tokens is 3.5 MB; 256 and 1,024 are 3 and 9 % slower at 5M.
SLICE = 512
# Wider hidden layers are computed again in the backward pass: cheaper than their way to memory and back.
RECOMPUTED = 2048
# Without a gradient, so few hidden values are better computed in one go: half of the time for 64 tokens of 200 or 1,500 hidden units,
# as when a text is sampled; twice the time for 320 of 1,500.
WHOLE = 2**17
Activation = Callable[[Tensor], Tensor]


@lru_cache(maxsize=1024)
def _later(length: int, dtype: torch.dtype) -> Tensor:
    """0 where a position may read, minus infinity where it may not: (1, S, S)."""
    return torch.full((length, length), -torch.inf, dtype=dtype).triu(1)[None]


def plain_cpu(x: Tensor) -> bool:
    """Whether this module's ways hold: on a CPU and at the precision of the weights."""
    return x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")


def groups_of(x_NC: Tensor, batch: Packed) -> Groups | None:
    """How `attention` should read the batch; None where torch's own is to be used."""
    if not plain_cpu(x_NC) or batch.length > MAX_LENGTH:
        return None
    return batch.groups or Groups(((batch.batch_size, batch.length),), batch.flat_N)


@dataclass(frozen=True)
class Reading:
    """How a batch is read: its groups, the heads, the turn of queries and keys by position where there is one.

    `scale`: the factor of queries times keys; None for d_head^(-1/2).
    """

    groups: Groups
    n_head: int
    turn: tuple[Tensor, Tensor] | None = None
    scale: float | None = None

    def scale_of(self, q: Tensor) -> float:
        """The factor for these queries."""
        return float(q.shape[-1] ** -0.5) if self.scale is None else self.scale


class _Attention(torch.autograd.Function):
    """The whole sublayer, so that the layout with padding exists at the model's width only and heads never change places in memory.

    J = 3 H slices of the first projection, G = W * S places of a group, X = C + 1 with a bias, whose input is a column of ones.
    """

    @staticmethod
    def forward(ctx: Any, x_NC: Tensor, w_in: Tensor, b_in: Tensor | None, w_out: Tensor, b_out: Tensor | None, how: Reading) -> Tensor:
        H, C = how.n_head, x_NC.shape[1]
        w_JDX, w_HDC = w_in.view(3 * H, -1, C), w_out.view(C, H, -1).permute(1, 2, 0)
        if b_in is not None:
            w_JDX = torch.cat((w_JDX, b_in.view(3 * H, -1, 1)), 2)
        x_PX = _place(x_NC, how.groups, w_JDX.shape[2])
        out_PC = x_NC.new_empty(len(x_PX), C)
        kept: list[Tensor] = []
        for first, W, S in how.groups.spans():
            x_JGX = x_PX[None, first : first + W * S].expand(3 * H, -1, -1)
            qkv = torch.bmm(x_JGX, w_JDX.transpose(1, 2)).view(3, H * W, S, -1)
            if how.turn is not None:
                qkv[:2] = _turned(qkv[:2], *how.turn)
            q, k, v = qkv
            # Scaling the queries' side of the product costs less than scaling the scores, which are more.
            scores = torch.bmm(q * how.scale_of(q), k.transpose(1, 2)).add_(_later(S, q.dtype))
            p = torch.softmax(scores, -1)
            y_HGD = torch.bmm(p, v).view(H, W * S, -1)
            torch.sum(torch.bmm(y_HGD, w_HDC), 0, out=out_PC[first : first + W * S])
            kept += [qkv, p, y_HGD]
        if b_out is not None:
            out_PC += b_out
        ctx.how, ctx.biases = how, (b_in is not None, b_out is not None)
        ctx.save_for_backward(x_PX, w_in, w_out, *kept)
        return out_PC if how.groups.place_N is None else out_PC.index_select(0, how.groups.place_N)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        how: Reading = ctx.how
        x_PX, w_in, w_out, *kept = ctx.saved_tensors
        H, C = how.n_head, w_in.shape[1]
        w_JDC, w_HCD = w_in.view(3 * H, -1, C), w_out.view(C, H, -1).transpose(0, 1)
        grad_PC = _place(grads[0], how.groups, C)
        grad_x = torch.empty_like(grad_PC)
        grad_in = w_in.new_zeros(3 * H, w_JDC.shape[1], x_PX.shape[1])
        grad_out = w_out.new_zeros(H, w_JDC.shape[1], C)
        for (first, W, S), qkv, p, y_HGD in zip(how.groups.spans(), kept[::3], kept[1::3], kept[2::3], strict=True):
            q, k, v = qkv
            here = slice(first, first + W * S)
            grad_HGC = grad_PC[None, here].expand(H, -1, -1)
            grad_out.baddbmm_(y_HGD.transpose(1, 2), grad_HGC)
            grad_y = torch.bmm(grad_HGC, w_HCD).view(H * W, S, -1)
            out = torch.empty_like(qkv)
            torch.bmm(p.transpose(1, 2), grad_y, out=out[2])
            grad_scores = torch.ops.aten._softmax_backward_data(torch.bmm(grad_y, v.transpose(1, 2)), p, -1, p.dtype)
            torch.bmm(grad_scores, k, out=out[0])
            torch.bmm(grad_scores.transpose(1, 2), q, out=out[1])
            out[:2] *= how.scale_of(q)
            if how.turn is not None:
                out[:2] = _turned(out[:2], how.turn[0], -how.turn[1])
            out_JGD = out.view(3 * H, W * S, -1)
            torch.sum(torch.bmm(out_JGD, w_JDC), 0, out=grad_x[here])
            grad_in.baddbmm_(out_JGD.transpose(1, 2), x_PX[None, here].expand(3 * H, -1, -1))
        grad_x = grad_x if how.groups.place_N is None else grad_x.index_select(0, how.groups.place_N)
        has_in, has_out = ctx.biases
        grad_b_in = grad_in[:, :, C].reshape(-1) if has_in else None
        grad_b_out = grads[0].sum(0) if has_out else None
        return grad_x, grad_in[:, :, :C].reshape_as(w_in), grad_b_in, grad_out.permute(2, 0, 1).reshape_as(w_out), grad_b_out, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    length = x.shape[-2]
    return rotate(x, cos[:length], sin[:length])


def _place(x_NC: Tensor, groups: Groups, width: int) -> Tensor:
    """Token rows at their places in (P, width), zeros between and ones in what is wider than x: padding must stay finite."""
    if groups.place_N is None and width == x_NC.shape[1]:
        return x_NC.contiguous()
    out = x_NC.new_zeros(groups.n_places, width)
    out[:, x_NC.shape[1] :] = 1
    part = out[:, : x_NC.shape[1]]
    if groups.place_N is None:
        part.copy_(x_NC)
    else:
        part.index_copy_(0, groups.place_N, x_NC)
    return out


def attention(x_NC: Tensor, w_in: Tensor, b_in: Tensor | None, w_out: Tensor, b_out: Tensor | None, how: Reading) -> Tensor:
    """Causal self-attention of every text with both its projections: (N, C) to (N, C)."""
    out_NC: Tensor = _Attention.apply(x_NC, w_in, b_in, w_out, b_out, how)  # type: ignore[no-untyped-call]
    return out_NC


class _MLP(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_NC: Tensor,
        up: Tensor,
        up_bias: Tensor | None,
        down: Tensor,
        down_bias: Tensor | None,
        activation: Activation,
        keep: bool,
    ) -> Tensor:
        x_NX, up_FX = (x_NC, up) if up_bias is None else (F.pad(x_NC, (0, 1), value=1.0), torch.cat((up, up_bias[:, None]), 1))
        y_NC = x_NC.new_zeros(x_NC.shape) if down_bias is None else down_bias.repeat(len(x_NC), 1)
        kept: list[Tensor] = []
        for part in _slices(len(up)):
            hidden = torch.mm(x_NX, up_FX[part].t())
            active = activation(hidden)
            y_NC.addmm_(active, down[:, part].t())
            kept += [hidden, active] if keep else []
        ctx.activation, ctx.biases = activation, (up_bias is not None, down_bias is not None)
        ctx.save_for_backward(x_NX, up_FX, down, *kept)
        return y_NC

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_NX, up_FX, down, *kept = ctx.saved_tensors
        grad_NC, C = grads[0].contiguous(), len(down)
        grad_x, grad_up, grad_down = grad_NC.new_zeros(grad_NC.shape), torch.empty_like(up_FX), torch.empty_like(down)
        for i, part in enumerate(_slices(len(up_FX))):
            if kept:
                hidden, active = kept[2 * i : 2 * i + 2]
            else:
                hidden = torch.mm(x_NX, up_FX[part].t())
                active = ctx.activation(hidden)
            torch.mm(grad_NC.t(), active, out=grad_down[:, part])
            grad_hidden = _through(ctx.activation, torch.mm(grad_NC, down[:, part]), hidden)
            torch.mm(grad_hidden.t(), x_NX, out=grad_up[part])
            grad_x.addmm_(grad_hidden, up_FX[part, :C])
        has_up, has_down = ctx.biases
        grad_up_bias, grad_down_bias = grad_up[:, C].clone() if has_up else None, grad_NC.sum(0) if has_down else None
        return grad_x, grad_up[:, :C].contiguous(), grad_up_bias, grad_down, grad_down_bias, None, None


def _through(activation: Activation, grad: Tensor, hidden: Tensor) -> Tensor:
    """The gradient before an activation."""
    out: Tensor = torch.ops.aten.gelu_backward(grad, hidden) if activation is F.gelu else torch.ops.aten.threshold_backward(grad, hidden, 0)
    return out


def _slices(width: int) -> list[slice]:
    return [slice(first, min(first + SLICE, width)) for first in range(0, width, SLICE)]


def mlp(x_NC: Tensor, up: Tensor, up_bias: Tensor | None, down: Tensor, down_bias: Tensor | None, activation: Activation) -> Tensor:
    """down(activation(up(x))), (N, C) to (N, C), with GELU or ReLU; the hidden layer of a wide one is never whole in memory.

    A slice of the width, not of the tokens: every weight is then read once, its gradient written once, and nothing is added up over slices
    but the (N, C) sums, which stay in the cache. From RECOMPUTED on the backward pass computes the hidden values again.
    """
    if not torch.is_grad_enabled() and len(x_NC) * len(up) <= WHOLE:
        return F.linear(activation(F.linear(x_NC, up, up_bias)), down, down_bias)
    keep = torch.is_grad_enabled() and len(up) < RECOMPUTED
    y_NC: Tensor = _MLP.apply(x_NC, up, up_bias, down, down_bias, activation, keep)  # type: ignore[no-untyped-call]
    return y_NC
