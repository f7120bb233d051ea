"""Decoder-only transformer: ids in, next-token logits out. By default exactly the assignment's; others by configuration.

Shapes: B texts, T positions, N real tokens, C = d_model, H heads, D = d_head, F = d_ff, V vocabulary.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models._cpu import Reading, attention, groups_of, mlp, plain_cpu
from models._cuda import fused, fuses
from models._decoder_shapes import FAMILIES, NAMED, Family, Shape, activations, explicit, forward_flops, n_params, parameters, solve
from models._layers import Packed, TokenDropout, attend, pad, rotary, rotate, unpacked, unpad
from models._mup import Base, Scaling, initial

__all__ = [
    "FAMILIES",
    "NAMED",
    "Base",
    "Family",
    "Model",
    "Shape",
    "activations",
    "explicit",
    "forward_flops",
    "n_params",
    "parameters",
    "solve",
]


class Attention(nn.Module):
    """Causal self-attention with heads of any width. `scale`: the factor of queries times keys; None for d_head^(-1/2)."""

    def __init__(self, shape: Shape, scale: float | None = None) -> None:
        super().__init__()
        self.n_head, self.d_head, self.scale = shape.n_head, shape.d_head, scale
        inner = shape.n_head * shape.d_head
        self.qkv = nn.Linear(shape.d_model, 3 * inner, bias=shape.bias)
        self.out = nn.Linear(inner, shape.d_model, bias=shape.bias)

    def forward(self, x_NC: Tensor, batch: Packed, turn: tuple[Tensor, Tensor] | None) -> Tensor:
        """Tokens read the earlier ones of their own text; only here does the padded layout exist."""
        B, T = batch.batch_size, batch.length
        groups = groups_of(x_NC, batch)
        if groups is not None:
            how = Reading(groups, self.n_head, turn, self.scale)
            return attention(x_NC, self.qkv.weight, self.qkv.bias, self.out.weight, self.out.bias, how)
        qkv = self.qkv(x_NC)
        if batch.flat_N is not None:
            qkv = pad(qkv, batch.flat_N, B * T, batch.token_P)
        # Splitting before reshaping: the gradient is one concatenation, which saves 8 % of a step at 87k against a permuted view.
        q_BHTD, k_BHTD, v_BHTD = (part.view(B, T, self.n_head, self.d_head).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
        if turn is not None:
            q_BHTD, k_BHTD = rotate(q_BHTD, *turn), rotate(k_BHTD, *turn)
        y_BHTD = attend(q_BHTD, k_BHTD, v_BHTD, self.scale)
        y = y_BHTD.transpose(1, 2).reshape(B * T, self.n_head * self.d_head)
        out_NC: Tensor = self.out(y if batch.flat_N is None else unpad(y, batch.flat_N, batch.token_P))
        return out_NC

    def step(self, x_BC: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, position: int, turn: tuple[Tensor, Tensor] | None) -> Tensor:
        """One further token a text: its key and value go into the cache, and it reads all up to itself."""
        B = len(x_BC)
        q_BHD, k_BHD, v_BHD = self.qkv(x_BC).view(B, 3, self.n_head, self.d_head).unbind(1)
        if turn is not None:
            cos, sin = turn[0][position], turn[1][position]
            q_BHD, k_BHD = rotate(q_BHD, cos, sin), rotate(k_BHD, cos, sin)
        k_BHTD[:, :, position], v_BHTD[:, :, position] = k_BHD, v_BHD
        seen_k, seen_v = k_BHTD[:, :, : position + 1], v_BHTD[:, :, : position + 1]
        y_BH1D = F.scaled_dot_product_attention(q_BHD[:, :, None], seen_k, seen_v, scale=self.scale)
        out_BC: Tensor = self.out(y_BH1D.reshape(B, -1))
        return out_BC

    def step_at(self, x_BC: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, position_1: Tensor, turn: tuple[Tensor, Tensor] | None) -> Tensor:
        """As `step`, over the whole cache: what lies after the position has no weight, and must be finite."""
        B, T = len(x_BC), k_BHTD.shape[2]
        q_BHD, k_BHD, v_BHD = self.qkv(x_BC).view(B, 3, self.n_head, self.d_head).unbind(1)
        if turn is not None:
            cos, sin = (part.index_select(0, position_1) for part in turn)
            q_BHD, k_BHD = rotate(q_BHD, cos, sin), rotate(k_BHD, cos, sin)
        k_BHTD.index_copy_(2, position_1, k_BHD[:, :, None])
        v_BHTD.index_copy_(2, position_1, v_BHD[:, :, None])
        later_T = torch.arange(T, device=x_BC.device) > position_1
        unread_1T = x_BC.new_zeros(1, T).masked_fill(later_T, -torch.inf)
        y_BH1D = F.scaled_dot_product_attention(q_BHD[:, :, None], k_BHTD, v_BHTD, attn_mask=unread_1T, scale=self.scale)
        out_BC: Tensor = self.out(y_BH1D.reshape(B, -1))
        return out_BC


class MLP(nn.Module):
    """Two linear layers, every token by itself."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.up = nn.Linear(shape.d_model, shape.d_ff, bias=shape.bias)
        self.down = nn.Linear(shape.d_ff, shape.d_model, bias=shape.bias)
        self.activation: Callable[[Tensor], Tensor] = F.gelu if shape.activation == "gelu" else F.relu

    def forward(self, x_NC: Tensor) -> Tensor:
        """Up, activation, down; a slice of the width at a time on a CPU, in one kernel on a CUDA device that would wait for its memory."""
        by_hand = mlp if plain_cpu(x_NC) else fused if fuses(x_NC, self.up.weight) else None
        if by_hand is not None:
            return by_hand(x_NC, self.up.weight, self.up.bias, self.down.weight, self.down.bias, self.activation)
        out_NC: Tensor = self.down(self.activation(self.up(x_NC)))
        return out_NC


class Block(nn.Module):
    """Attention and MLP, each added to the stream, normalised after (post) or before (pre)."""

    def __init__(self, shape: Shape, scale: float | None = None) -> None:
        super().__init__()
        self.pre = shape.norm == "pre"
        self.attention, self.mlp = Attention(shape, scale), MLP(shape)
        self.norm_1, self.norm_2 = (nn.LayerNorm(shape.d_model, bias=shape.bias) for _ in range(2))

    def forward(self, x: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
        """One block; `attend` is this block's attention, over a whole batch or for one step of decoding."""
        if self.pre:
            x = x + attend(self.norm_1(x))
            x = x + self.mlp(self.norm_2(x))
        else:
            x = self.norm_1(x + attend(x))
            x = self.norm_2(x + self.mlp(x))
        return x


@dataclass
class Cache:
    """Keys and values of the tokens decoded so far, one tensor each a layer, and how many those are."""

    keys: list[Tensor]
    values: list[Tensor]
    turn: tuple[Tensor, Tensor] | None
    position: int = 0

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        self.keys = [k_BHTD[rows] for k_BHTD in self.keys]
        self.values = [v_BHTD[rows] for v_BHTD in self.values]


class Model(nn.Module):
    """The decoder. Dropout is on the sum of token and position embedding only, as in the assignment.

    Initialisation: learned positions with post-norm, as in the assignment, keep PyTorch's defaults; pre-norm takes normal(0, 0.02),
    with the two projections that write to the stream divided by sqrt(2 n_layer) (GPT-2, Radford et al. 2019), and zero biases.

    With a `base` the model is in muP (models._mup): its first weights, scores and logits are scaled, and so are the rates that
    `_mup.by_rate` gives. A tied output layer is as the embedding is, which Table 8 allows: what differs is the factor of its product.
    """

    def __init__(self, shape: Shape, vocab_size: int, seq_len: int, dropout: float = 0.0, base: Base | None = None) -> None:
        super().__init__()
        self.shape, self.seq_len = shape, seq_len
        self.mup = Scaling.of(Base.of(shape), base)
        self.embedding = nn.Embedding(vocab_size, shape.d_model)
        self.positions = nn.Embedding(seq_len, shape.d_model) if shape.positions == "learned" else None
        self.dropout = TokenDropout(dropout)
        self.blocks = nn.ModuleList(Block(shape, self.mup.scores) for _ in range(shape.n_layer))
        self.final_norm = nn.LayerNorm(shape.d_model, bias=shape.bias) if shape.final_norm else nn.Identity()
        self.head = nn.Linear(shape.d_model, vocab_size, bias=shape.bias and not shape.tied)
        if shape.norm == "pre":
            self._initialise()
        if shape.tied:
            self.head.weight = self.embedding.weight
        for parameter, factor in initial(self, by_fan_in=shape.norm == "post"):
            parameter.data.mul_(factor)

    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif "norm" not in name:
                writes = name.endswith(("attention.out.weight", "mlp.down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * self.shape.n_layer) if writes else 0.02)

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Logits (B, T, V) at every position, padding included."""
        return self.forward_packed(unpacked(ids_BT)).view(*ids_BT.shape, -1)

    def forward_packed(self, batch: Packed) -> Tensor:
        """Logits (N, V) of the real tokens only."""
        x_NC = self.dropout(self._embed(batch.ids_N, batch.position_N))
        turn = self._turn(batch.length)
        for block in self.blocks:
            assert isinstance(block, Block)
            x_NC = block(x_NC, partial(block.attention, batch=batch, turn=turn))
        return self._logits(x_NC)

    def init_cache(self, batch_size: int, length: int) -> Cache:
        """An empty cache for `length` tokens of `batch_size` texts."""
        assert length <= self.seq_len
        size = (batch_size, self.shape.n_head, length, self.shape.d_head)
        like = self.head.weight.detach()
        keys, values = ([like.new_empty(size) for _ in self.blocks] for _ in range(2))
        return Cache(keys, values, self._turn(length))

    def step(self, ids_B: Tensor, cache: Cache) -> Tensor:
        """Logits (B, V) after one more token of every text; the cache grows by it."""
        x_BC = self._embed(ids_B, torch.full_like(ids_B, cache.position))
        for block, k_BHTD, v_BHTD in zip(self.blocks, cache.keys, cache.values, strict=True):
            assert isinstance(block, Block)
            x_BC = block(x_BC, partial(block.attention.step, k_BHTD=k_BHTD, v_BHTD=v_BHTD, position=cache.position, turn=cache.turn))
        cache.position += 1
        return self._logits(x_BC)

    def step_at(self, ids_B: Tensor, cache: Cache, position_1: Tensor) -> Tensor:
        """As `step`, at the position that a tensor (1,) holds: its shapes are the same at every position, so that one graph serves all.

        The cache must be finite throughout, and its own position stays where it is.
        """
        x_BC = self._embed(ids_B, position_1.expand(len(ids_B)))
        for block, k_BHTD, v_BHTD in zip(self.blocks, cache.keys, cache.values, strict=True):
            assert isinstance(block, Block)
            x_BC = block(x_BC, partial(block.attention.step_at, k_BHTD=k_BHTD, v_BHTD=v_BHTD, position_1=position_1, turn=cache.turn))
        return self._logits(x_BC)

    def _embed(self, ids: Tensor, position: Tensor) -> Tensor:
        x: Tensor = self.embedding(ids)
        return x if self.positions is None else x + self.positions(position)

    def _logits(self, x: Tensor) -> Tensor:
        x = self.final_norm(x)
        logits: Tensor = self.head(x if self.mup.d_model == 1 else x / self.mup.d_model)
        return logits

    def _turn(self, length: int) -> tuple[Tensor, Tensor] | None:
        weight = self.head.weight
        return rotary(length, self.shape.d_head, weight.device, weight.dtype) if self.positions is None else None
