"""Drawing a token of every row from its logits, and what is known of the rows at the end; what all ways of decoding share.

Shapes: R rows (a text), V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from harness.strategies import Strategy

# More than any vocabulary has.
ALL = 2**62


class SpecialIds(Protocol):
    """What decoding must know of a tokenizer."""

    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def unk(self) -> int | None: ...


@dataclass(frozen=True)
class Rows:
    """Texts as ids; `entropy_R` and `nll_R` are summed over the positions of each, nats."""

    texts: list[list[int]]
    entropy_R: np.ndarray
    nll_R: np.ndarray


def until(ids: list[int], end: int) -> list[int]:
    """What stands before the first end."""
    return ids[: ids.index(end)] if end in ids else ids


@dataclass(frozen=True)
class Rules:
    """How each row is drawn (`Strategy`): temperatures and masses in float64, ranks in int64. Without the last two no row is cut."""

    temperature_R: Tensor
    top_k_R: Tensor | None = None
    top_p_R: Tensor | None = None

    @classmethod
    def of(cls, strategies: Sequence[Strategy]) -> "Rules":
        """A strategy a row."""
        temperature_R = torch.tensor([one.temperature for one in strategies], dtype=torch.float64)
        if all(one.top_k is None and one.top_p is None for one in strategies):
            return cls(temperature_R)
        top_k_R = torch.tensor([ALL if one.top_k is None else one.top_k for one in strategies], dtype=torch.int64)
        return cls(temperature_R, top_k_R, torch.tensor([one.top_p or 1.0 for one in strategies], dtype=torch.float64))

    @property
    def tensors(self) -> list[Tensor]:
        """All that there are."""
        return [tensor for tensor in (self.temperature_R, self.top_k_R, self.top_p_R) if tensor is not None]

    def to(self, device: torch.device) -> "Rules":
        """The same on another device."""
        return Rules(*(tensor.to(device) for tensor in self.tensors))

    def keep(self, rows: Tensor) -> "Rules":
        """Those of these rows only."""
        return Rules(*(tensor[rows] for tensor in self.tensors))


def distribution(logits_RV: Tensor, rules: Rules) -> Tensor:
    """Probabilities exp(z_i / T) / sum_j exp(z_j / T) of each token at a row's temperature, cut where rows are; float64."""
    # Below 1e-6 float64's own precision decides: as good as the maximum.
    p_RV = torch.softmax(logits_RV / rules.temperature_R.clamp(min=1e-6)[:, None], dim=-1)
    if rules.top_k_R is None or rules.top_p_R is None:
        return p_RV
    return _cut(p_RV, rules.top_k_R[:, None], rules.top_p_R[:, None])


def _cut(p_RV: Tensor, top_k_R1: Tensor, top_p_R1: Tensor) -> Tensor:
    """What is left of each row, whose sum is 1 again. A row that keeps all has the bits that it had."""
    likeliest_RV, order_RV = p_RV.sort(dim=-1, descending=True, stable=True)
    ranked_RV = torch.arange(p_RV.shape[1], device=p_RV.device) < top_k_R1
    likeliest_RV = likeliest_RV.masked_fill(~ranked_RV, 0.0)
    # A token belongs to the nucleus as long as those before it fall short of the mass.
    before_RV = likeliest_RV.cumsum(-1) - likeliest_RV
    kept_RV = ranked_RV & ((before_RV < top_p_R1 * likeliest_RV.sum(-1, keepdim=True)) | (top_p_R1 >= 1))
    left_RV = p_RV.masked_fill(~kept_RV.gather(1, order_RV.argsort(-1)), 0.0)
    return left_RV / left_RV.sum(-1, keepdim=True).masked_fill(kept_RV.all(-1, keepdim=True), 1.0)


def draw(p_RV: Tensor, uniform_R: Tensor) -> Tensor:
    """One token a row by inverting the distribution function at a uniform number in [0, 1)."""
    cumulative_RV = p_RV.cumsum(-1)
    threshold_R1 = uniform_R[:, None] * cumulative_RV[:, -1:]
    return (cumulative_RV <= threshold_R1).sum(-1)
