"""K decoders of one shape as one set of kernels: their weights side by side, their batches side by side, no member touched by another.

Small models leave a big device idle; a learning-rate search trains many of one shape. Every member has its own weights, batch and
dropout mask. Shapes: K members, N tokens of the member that has most, P places and G = W * S places of a group in attention's layout,
else as in `models.decoder`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models._cpu import MAX_LENGTH, Reading, attention, mlp, plain_cpu
from models._cuda import fused, fuses
from models._layers import Groups, Packed, attend, pad, rotary, rotate, unpad
from models._mup import by_rate
from models.decoder import Model

# What cross-entropy leaves out.
NO_TARGET = -100


@dataclass(frozen=True)
class StackedBatch:
    """A batch for each member, filled up to the same number of tokens: `targets_KN` is NO_TARGET where there is none.

    `groups.place_N` counts through the places of all members, (K * N,). `token_P`, where known, is the inverse, (K * P,), as in
    `_layers.Packed`: fillers have places as tokens have. Otherwise what is filled up shares one place more, the member's last.
    """

    ids_KN: Tensor
    position_KN: Tensor
    targets_KN: Tensor
    length: int
    groups: Groups
    token_P: Tensor | None = None

    @property
    def n_places(self) -> int:
        """Of a member."""
        return self.groups.n_places + (self.token_P is None)

    def to(self, device: torch.device | str) -> "StackedBatch":
        """The same batches on another device."""
        held = (self.ids_KN, self.position_KN, self.targets_KN, self.groups.place_N, self.token_P)
        ids_KN, position_KN, targets_KN, place_N, token_P = (None if t is None else t.to(device, non_blocking=True) for t in held)
        assert ids_KN is not None and position_KN is not None and targets_KN is not None
        return StackedBatch(ids_KN, position_KN, targets_KN, self.length, Groups(self.groups.sizes, place_N), token_P)


def stack(batches: Sequence[Packed], multiple: int = 1) -> StackedBatch:
    """One batch for each member, of equally many texts; the number of tokens is rounded up to a multiple, so that few sizes occur."""
    tokens = tuple(len(batch.ids_N) for batch in batches)
    n_tokens = -(-max(tokens) // multiple) * multiple
    layouts = [batch.groups or Groups(((batch.batch_size, batch.length),), batch.flat_N) for batch in batches]
    assert len({tuple(rows for rows, _ in layout.sizes) for layout in layouts}) == 1, "members of a crew have equally many texts"
    groups = list(zip(*(layout.sizes for layout in layouts), strict=True))
    sizes = tuple((members[0][0], max(length for _, length in members)) for members in groups)
    n_places = sum(rows * length for rows, length in sizes) + 1
    places = [F.pad(_moved(layout, sizes, n), (0, n_tokens - n), value=n_places - 1) for layout, n in zip(layouts, tokens, strict=True)]
    place_KN = torch.stack(places) + n_places * torch.arange(len(batches))[:, None]
    columns = [[batch.ids_N for batch in batches], [batch.position_N for batch in batches], [_targets(batch) for batch in batches]]
    ids, position, targets = (
        torch.stack([F.pad(column, (0, n_tokens - len(column)), value=fill) for column in columns_of])
        for columns_of, fill in zip(columns, (0, 0, NO_TARGET), strict=True)
    )
    return StackedBatch(ids, position, targets, max(batch.length for batch in batches), Groups(sizes, place_KN.reshape(-1)))


def _targets(batch: Packed) -> Tensor:
    return torch.full_like(batch.ids_N, NO_TARGET) if batch.targets_N is None else batch.targets_N


def _moved(layout: Groups, sizes: Sequence[tuple[int, int]], n_tokens: int) -> Tensor:
    """A member's places where its groups have become as long as the longest member's."""
    place_N = torch.arange(n_tokens) if layout.place_N is None else layout.place_N
    out_N, begin = torch.empty_like(place_N), 0
    for (first, rows, length), (_, longer) in zip(layout.spans(), sizes, strict=True):
        here = (place_N >= first) & (place_N < first + rows * length)
        inside = place_N[here] - first
        out_N[here] = begin + torch.div(inside, length, rounding_mode="floor") * longer + inside % length
        begin += rows * longer
    return out_N


class StackedModel:
    """The members' weights in one buffer, (K, n_params), a row a member, and the views of it that compute.

    `rows`: the buffer. `gradients`: the same for gradients, which `backward` fills. `weights`: by the names of `models.decoder.Model`,
    each (K, ...). A row is in the order of `_mup.by_rate`; `parts` has the factor of the rate and the number of values of each group.
    """

    def __init__(self, models: Sequence[Model]) -> None:
        first = models[0]
        assert all((model.shape, model.seq_len, model.mup) == (first.shape, first.seq_len, first.mup) for model in models)
        self.shape, self.seq_len, self.dropout, self.mup = first.shape, first.seq_len, first.dropout.p, first.mup
        groups = by_rate(first)
        self.parts = [(factor, sum(p.numel() for p in group.values())) for factor, group in groups]
        self._sizes = {name: p.shape for _, group in groups for name, p in group.items()}
        self.rows = self.rows_of(models)
        self.gradients = torch.zeros_like(self.rows)
        self.weights: dict[str, Tensor] = {}
        self._gradients: list[Tensor] = []
        begin = 0
        for name, size in self._sizes.items():
            part = slice(begin, begin + size.numel())
            self.weights[name] = self.rows[:, part].view(-1, *size).requires_grad_()
            self._gradients.append(self.gradients[:, part].view(-1, *size))
            begin += size.numel()

    def rows_of(self, models: Sequence[Model]) -> Tensor:
        """Copies of their weights, a row each."""
        held = [dict(model.named_parameters()) for model in models]
        return torch.stack([nn.utils.parameters_to_vector(weights[name] for name in self._sizes).detach() for weights in held])

    def backward(self, total: Tensor) -> None:
        """Put the gradients of a sum over members in place of those before."""
        for place, gradient in zip(self._gradients, torch.autograd.grad(total, list(self.weights.values())), strict=True):
            place.copy_(gradient)

    def draw(self, kept_KNC: Tensor, seeds: Sequence[int], tokens: Sequence[int], seed: Callable[[int], Any] = torch.manual_seed) -> None:
        """Fill in which values dropout keeps, 1 or 0: for so many tokens of each member what a lone model draws after `seed`."""
        for kept_NC, own, n in zip(kept_KNC, seeds, tokens, strict=True):
            seed(own)
            kept_NC[:n].bernoulli_(1 - self.dropout)

    def forward_packed(self, batch: StackedBatch, kept_KNC: Tensor | None = None) -> Tensor:
        """Logits (K, N, V); those of tokens that were filled up mean nothing. `kept_KNC`: see `draw`; None for no dropout."""
        weights = self.weights
        x_KNC = _look_up(weights["embedding.weight"], batch.ids_KN)
        if "positions.weight" in weights:
            x_KNC = x_KNC + _look_up(weights["positions.weight"], batch.position_KN)
        turn = None if "positions.weight" in weights else rotary(batch.length, self.shape.d_head, x_KNC.device, x_KNC.dtype)
        x_KNC = x_KNC if kept_KNC is None else x_KNC * kept_KNC.div(1 - self.dropout)
        for layer in range(self.shape.n_layer):
            part = {name.removeprefix(f"blocks.{layer}."): w for name, w in weights.items() if name.startswith(f"blocks.{layer}.")}
            x_KNC = self._block(x_KNC, part, batch, turn)
        if self.shape.final_norm:
            x_KNC = _norm(x_KNC, weights, "final_norm")
        x_KNC = x_KNC if self.mup.d_model == 1 else x_KNC / self.mup.d_model
        head = weights["embedding.weight"] if self.shape.tied else weights["head.weight"]
        return _linear(x_KNC, head, weights.get("head.bias"))

    def _block(self, x_KNC: Tensor, w: Mapping[str, Tensor], batch: StackedBatch, turn: tuple[Tensor, Tensor] | None) -> Tensor:
        if self.shape.norm == "pre":
            x_KNC = x_KNC + self._attention(_norm(x_KNC, w, "norm_1"), w, batch, turn)
            return x_KNC + self._mlp(_norm(x_KNC, w, "norm_2"), w)
        x_KNC = _norm(x_KNC + self._attention(x_KNC, w, batch, turn), w, "norm_1")
        return _norm(x_KNC + self._mlp(x_KNC, w), w, "norm_2")

    def _attention(self, x_KNC: Tensor, w: Mapping[str, Tensor], batch: StackedBatch, turn: tuple[Tensor, Tensor] | None) -> Tensor:
        """Members are further texts of the batch here: no kernel knows that there are several models."""
        K, N, _ = x_KNC.shape
        H, D, P, groups = self.shape.n_head, self.shape.d_head, batch.n_places, batch.groups
        assert groups.place_N is not None
        if plain_cpu(x_KNC) and max(length for _, length in groups.sizes) <= MAX_LENGTH:
            return self._attention_by_member(x_KNC, w, batch, turn)
        qkv_KN = _linear(x_KNC, w["attention.qkv.weight"], w.get("attention.qkv.bias"))
        qkv_KP = pad(qkv_KN.reshape(K * N, -1), groups.place_N, K * P, batch.token_P).view(K, P, -1)
        outs: list[Tensor] = []
        for first, W, S in groups.spans():
            parts = qkv_KP[:, first : first + W * S].chunk(3, dim=-1)
            q, k, v = (part.reshape(K * W, S, H, D).transpose(1, 2) for part in parts)
            if turn is not None:
                q, k = (rotate(part, turn[0][:S], turn[1][:S]) for part in (q, k))
            y = attend(q, k, v, self.mup.scores)
            outs.append(y.transpose(1, 2).reshape(K, W * S, H * D))
        y_KP = F.pad(torch.cat(outs, dim=1), (0, 0, 0, P - groups.n_places))
        y_KN = unpad(y_KP.view(K * P, -1), groups.place_N, batch.token_P).view(K, N, -1)
        return _linear(y_KN, w["attention.out.weight"], w.get("attention.out.bias"))

    def _attention_by_member(
        self, x_KNC: Tensor, w: Mapping[str, Tensor], batch: StackedBatch, turn: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """There is nothing to gain on a CPU but the cache, and a member at a time keeps it."""
        K, N, _ = x_KNC.shape
        place_N, sizes = batch.groups.place_N, batch.groups.sizes
        assert place_N is not None
        if batch.n_places > batch.groups.n_places:
            sizes = (*sizes, (1, 1))
        place_KN = place_N.view(K, N) - batch.n_places * torch.arange(K)[:, None]
        H, scale = self.shape.n_head, self.mup.scores
        how = [Reading(Groups(sizes, own_N), H, turn, scale) for own_N in place_KN]
        w_in, w_out = w["attention.qkv.weight"].unbind(), w["attention.out.weight"].unbind()
        b_in, b_out = (_each(w.get(f"attention.{name}.bias"), x_KNC) for name in ("qkv", "out"))
        return torch.stack([attention(*member) for member in zip(x_KNC.unbind(), w_in, b_in, w_out, b_out, how, strict=True)])

    def _mlp(self, x_KNC: Tensor, w: Mapping[str, Tensor]) -> Tensor:
        activation = F.gelu if self.shape.activation == "gelu" else F.relu
        up, up_bias, down, down_bias = w["mlp.up.weight"], w.get("mlp.up.bias"), w["mlp.down.weight"], w.get("mlp.down.bias")
        by_hand = mlp if plain_cpu(x_KNC) else fused if fuses(x_KNC[0], up[0]) else None
        if by_hand is None:
            return _linear(activation(_linear(x_KNC, up, up_bias)), down, down_bias)
        members = zip(x_KNC.unbind(), up.unbind(), _each(up_bias, x_KNC), down.unbind(), _each(down_bias, x_KNC), strict=True)
        return torch.stack([by_hand(*member, activation) for member in members])


def losses(logits_KNV: Tensor, targets_KN: Tensor) -> Tensor:
    """Nats a token of each member, (K,), over its own tokens; the gradient of their sum is every member's own."""
    # Flat, since torch knows no one order of the gradient's sums where there is a further dimension.
    nats_N = F.cross_entropy(logits_KNV.float().flatten(0, 1), targets_KN.flatten(), ignore_index=NO_TARGET, reduction="none")
    return nats_N.view(targets_KN.shape).sum(1) / (targets_KN != NO_TARGET).sum(1)


def _linear(x_KNC: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None:
        return torch.bmm(x_KNC, weight.transpose(1, 2))
    return torch.baddbmm(bias[:, None], x_KNC, weight.transpose(1, 2))


def _each(stacked: Tensor | None, x_KNC: Tensor) -> tuple[Tensor | None, ...]:
    return (None,) * len(x_KNC) if stacked is None else stacked.unbind()


def _norm(x_KNC: Tensor, weights: Mapping[str, Tensor], name: str) -> Tensor:
    """Layer norm with the member's own scale and shift."""
    x_KNC = F.layer_norm(x_KNC, x_KNC.shape[-1:]) * weights[f"{name}.weight"][:, None]
    bias = weights.get(f"{name}.bias")
    return x_KNC if bias is None else x_KNC + bias[:, None]


def _look_up(table: Tensor, ids_KN: Tensor) -> Tensor:
    """Each member's rows of its own table."""
    K, size, width = table.shape
    offset_K1 = size * torch.arange(K, device=ids_KN.device)[:, None]
    return F.embedding(ids_KN + offset_K1, table.reshape(K * size, width))
