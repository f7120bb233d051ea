"""The MLP as three Triton kernels: down(activation(up(x))) and its gradients, with a hidden layer that is never in the device's memory.

A tile of hidden values is computed, used and forgotten, and computed again in the backward pass. No two programs add to one value, so equal
inputs give equal bits. Shapes as in `models.decoder`; importing this needs triton, so `models._cuda` does it late, where it is to be used.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

# Blocks must be powers of two, and products at least 16 wide: d_model is filled up to that.
SMALLEST = 16
# So many programs fill today's largest chips (132 multiprocessors) about twice. By tiles of tokens alone a batch of the assignment has 27.
PROGRAMS = 256


@triton.jit
def _tile(matrix: tl.tensor, rows: tl.tensor, n_rows: tl.tensor, columns: tl.tensor, n_columns: tl.tensor) -> tl.tensor:
    """These rows and columns of a matrix that is stored row by row; zeros where it ends."""
    inside = (rows < n_rows)[:, None] & (columns < n_columns)[None, :]
    return tl.load(matrix + rows[:, None] * n_columns + columns[None, :], mask=inside, other=0.0)


@triton.jit
def _put(matrix: tl.tensor, tile: tl.tensor, rows: tl.tensor, n_rows: tl.tensor, columns: tl.tensor, n_columns: tl.tensor) -> None:
    """Store a tile at these rows and columns, as far as the matrix goes."""
    inside = (rows < n_rows)[:, None] & (columns < n_columns)[None, :]
    tl.store(matrix + rows[:, None] * n_columns + columns[None, :], tile, mask=inside)


@triton.jit
def _product(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    """a @ b of two tiles: exact products of float32 (no TF32), sums in float32 at least."""
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _active(hidden: tl.tensor, GELU: tl.constexpr) -> tl.tensor:
    """The activation. ReLU by a choice and not a maximum, which would hide a NaN."""
    if GELU:  # noqa: SIM108
        active = 0.5 * hidden * (1.0 + tl.erf(hidden * 0.7071067811865476))
    else:
        active = tl.where(hidden <= 0.0, 0.0, hidden)
    return active


@triton.jit
def _through(grad: tl.tensor, hidden: tl.tensor, GELU: tl.constexpr) -> tl.tensor:
    """The gradient before the activation; of GELU, Phi(h) + h phi(h) with the standard normal's distribution and density."""
    if GELU:
        density = tl.exp(-0.5 * hidden * hidden) * 0.3989422804014327
        before = grad * (0.5 * (1.0 + tl.erf(hidden * 0.7071067811865476)) + hidden * density)
    else:
        before = tl.where(hidden <= 0.0, 0.0, grad)
    return before


@triton.jit(do_not_specialize=["n_tokens", "part"])
def _forward(
    x: tl.tensor,
    up: tl.tensor,
    up_bias: tl.tensor,
    down: tl.tensor,
    down_bias: tl.tensor,
    sums: tl.tensor,
    n_tokens: tl.tensor,
    part: tl.tensor,
    d_ff: tl.constexpr,
    d_model: tl.constexpr,
    GELU: tl.constexpr,
    N: tl.constexpr,
    F: tl.constexpr,
    C: tl.constexpr,
) -> None:
    """One tile of tokens through one part of the width: its summand of the output, to `sums` (parts, N, C)."""
    place = tl.program_id(1)
    n, c = tl.program_id(0) * N + tl.arange(0, N), tl.arange(0, C)
    x_NC = _tile(x, n, n_tokens, c, d_model)
    sum_NC = tl.zeros((N, C), sums.dtype.element_ty)
    if down_bias is not None and place == 0:
        sum_NC += tl.load(down_bias + c, mask=c < d_model, other=0.0)[None, :]
    for first in range(place * part, tl.minimum((place + 1) * part, d_ff), F):
        f = first + tl.arange(0, F)
        hidden_NF = _product(x_NC, tl.trans(_tile(up, f, d_ff, c, d_model)))
        if up_bias is not None:
            hidden_NF += tl.load(up_bias + f, mask=f < d_ff, other=0.0)[None, :]
        active_NF = _active(hidden_NF, GELU).to(x_NC.dtype)
        sum_NC += _product(active_NF, tl.trans(_tile(down, c, d_model, f, d_ff)))
    _put(sums + place * n_tokens * d_model, sum_NC, n, n_tokens, c, d_model)


@triton.jit(do_not_specialize=["n_tokens", "part"])
def _grad_x(
    x: tl.tensor,
    up: tl.tensor,
    up_bias: tl.tensor,
    down: tl.tensor,
    grad: tl.tensor,
    sums: tl.tensor,
    n_tokens: tl.tensor,
    part: tl.tensor,
    d_ff: tl.constexpr,
    d_model: tl.constexpr,
    GELU: tl.constexpr,
    N: tl.constexpr,
    F: tl.constexpr,
    C: tl.constexpr,
) -> None:
    """One tile of tokens back through one part of the width: its summand of the input's gradient, to `sums` (parts, N, C)."""
    place = tl.program_id(1)
    n, c = tl.program_id(0) * N + tl.arange(0, N), tl.arange(0, C)
    x_NC, grad_NC = _tile(x, n, n_tokens, c, d_model), _tile(grad, n, n_tokens, c, d_model)
    sum_NC = tl.zeros((N, C), sums.dtype.element_ty)
    for first in range(place * part, tl.minimum((place + 1) * part, d_ff), F):
        f = first + tl.arange(0, F)
        up_FC = _tile(up, f, d_ff, c, d_model)
        hidden_NF = _product(x_NC, tl.trans(up_FC))
        if up_bias is not None:
            hidden_NF += tl.load(up_bias + f, mask=f < d_ff, other=0.0)[None, :]
        grad_NF = _through(_product(grad_NC, _tile(down, c, d_model, f, d_ff)), hidden_NF, GELU)
        sum_NC += _product(grad_NF.to(x_NC.dtype), up_FC)
    _put(sums + place * n_tokens * d_model, sum_NC, n, n_tokens, c, d_model)


@triton.jit(do_not_specialize=["n_tokens"])
def _grad_weights(
    x: tl.tensor,
    up: tl.tensor,
    up_bias: tl.tensor,
    down: tl.tensor,
    grad: tl.tensor,
    grad_up: tl.tensor,
    grad_up_bias: tl.tensor,
    grad_down: tl.tensor,
    n_tokens: tl.tensor,
    d_ff: tl.constexpr,
    d_model: tl.constexpr,
    GELU: tl.constexpr,
    N: tl.constexpr,
    F: tl.constexpr,
    C: tl.constexpr,
) -> None:
    """One tile of hidden units over all tokens: the gradients of its rows of `up` and its columns of `down`, whole."""
    f, c = tl.program_id(0) * F + tl.arange(0, F), tl.arange(0, C)
    up_FC, down_FC = _tile(up, f, d_ff, c, d_model), tl.trans(_tile(down, c, d_model, f, d_ff))
    up_sum_FC, down_sum_FC = tl.zeros((F, C), grad_up.dtype.element_ty), tl.zeros((F, C), grad_up.dtype.element_ty)
    bias_sum_F = tl.zeros((F,), grad_up.dtype.element_ty)
    for first in range(0, n_tokens, N):
        n = first + tl.arange(0, N)
        x_NC, grad_NC = _tile(x, n, n_tokens, c, d_model), _tile(grad, n, n_tokens, c, d_model)
        hidden_FN = _product(up_FC, tl.trans(x_NC))
        if up_bias is not None:
            hidden_FN += tl.load(up_bias + f, mask=f < d_ff, other=0.0)[:, None]
        down_sum_FC += _product(_active(hidden_FN, GELU).to(x_NC.dtype), grad_NC)
        grad_FN = _through(_product(down_FC, tl.trans(grad_NC)), hidden_FN, GELU)
        bias_sum_F += tl.sum(grad_FN, 1)
        up_sum_FC += _product(grad_FN.to(x_NC.dtype), x_NC)
    _put(grad_up, up_sum_FC, f, d_ff, c, d_model)
    _put(grad_down, tl.trans(down_sum_FC), c, d_model, f, d_ff)
    if up_bias is not None:
        tl.store(grad_up_bias + f, bias_sum_F, mask=f < d_ff)


def side(dtype: torch.dtype) -> int:
    """Tokens and hidden units of a tile: as compiled, float32 tiles of 64 keep kilobytes a thread outside the registers, these nothing."""
    return 64 if dtype.itemsize == 2 else 32


def blocks(d_model: int, dtype: torch.dtype) -> dict[str, int]:
    """The sizes of a tile, and how many warps compute it."""
    N = F = side(dtype)
    return {"N": N, "F": F, "C": max(SMALLEST, triton.next_power_of_2(d_model)), "num_warps": 4 if dtype.itemsize == 2 else 8}


def _grid(x_NC: Tensor, d_ff: int) -> tuple[tuple[int, int], int]:
    """Tiles of tokens and parts of the width, a program each; and how wide a part is, a multiple of a tile."""
    size = side(x_NC.dtype)
    tiles = triton.cdiv(len(x_NC), size)
    part = triton.cdiv(triton.cdiv(d_ff, size), max(1, PROGRAMS // max(1, tiles))) * size
    return (tiles, triton.cdiv(d_ff, part)), part


class _MLP(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_NC: Tensor,
        up: Tensor,
        up_bias: Tensor | None,
        down: Tensor,
        down_bias: Tensor | None,
        gelu: bool,
        dtype: torch.dtype,
    ) -> Tensor:
        x_NC, up, down = (t.to(dtype).contiguous() for t in (x_NC, up, down))
        (N, C), d_ff = x_NC.shape, len(up)
        grid, part = _grid(x_NC, d_ff)
        sums = x_NC.new_empty(grid[1], N, C, dtype=torch.promote_types(dtype, torch.float32))
        with torch.cuda.device(x_NC.get_device()):
            _forward[grid](x_NC, up, up_bias, down, down_bias, sums, N, part, d_ff, C, gelu, **blocks(C, x_NC.dtype))
        ctx.gelu, ctx.has_down_bias = gelu, down_bias is not None
        ctx.save_for_backward(x_NC, up, up_bias, down)
        return sums.sum(0).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_NC, up, up_bias, down = ctx.saved_tensors
        grad_NC, (N, C), d_ff = grads[0].contiguous(), x_NC.shape, len(up)
        grid, part = _grid(x_NC, d_ff)
        wide = torch.promote_types(x_NC.dtype, torch.float32)
        sums, grad_up, grad_down = (x_NC.new_empty(size, dtype=wide) for size in ((grid[1], N, C), up.shape, down.shape))
        grad_up_bias = None if up_bias is None else torch.empty_like(up_bias, dtype=wide)
        inputs, sizes = (x_NC, up, up_bias, down, grad_NC), blocks(C, x_NC.dtype)
        with torch.cuda.device(x_NC.get_device()):
            _grad_x[grid](*inputs, sums, N, part, d_ff, C, ctx.gelu, **sizes)
            tiles = (triton.cdiv(d_ff, side(x_NC.dtype)),)
            _grad_weights[tiles](*inputs, grad_up, grad_up_bias, grad_down, N, d_ff, C, ctx.gelu, **sizes)
        grad_down_bias = grad_NC.sum(0, dtype=wide) if ctx.has_down_bias else None
        return sums.sum(0), grad_up, grad_up_bias, grad_down, grad_down_bias, None, None


def mlp(x_NC: Tensor, up: Tensor, up_bias: Tensor | None, down: Tensor, down_bias: Tensor | None, gelu: bool) -> Tensor:
    """down(activation(up(x))), (N, C) to (N, C), with GELU or ReLU.

    Under autocast in its type, as linear layers would be, with gradients in the type of what they belong to; but what is between the two
    products is in float32 and not rounded.
    """
    kind = x_NC.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x_NC.dtype
    y_NC: Tensor = _MLP.apply(x_NC, up, up_bias, down, down_bias, gelu, dtype)  # type: ignore[no-untyped-call]
    return y_NC
