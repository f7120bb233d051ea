"""Drawing a token of every row from its logits, and what is known of the rows at the end; what all ways of decoding share.

Shapes: R rows (a text), V vocabulary.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


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


def distribution(logits_RV: Tensor, temperature_R: Tensor) -> Tensor:
    """Probabilities exp(z_i / T) / sum_j exp(z_j / T) of each token at a row's temperature; float64."""
    # Below 1e-6 float64's own precision decides: as good as the maximum.
    return torch.softmax(logits_RV / temperature_R.clamp(min=1e-6)[:, None], dim=-1)


def draw(p_RV: Tensor, uniform_R: Tensor) -> Tensor:
    """One token a row by inverting the distribution function at a uniform number in [0, 1)."""
    cumulative_RV = p_RV.cumsum(-1)
    threshold_R1 = uniform_R[:, None] * cumulative_RV[:, -1:]
    return (cumulative_RV <= threshold_R1).sum(-1)
