"""What a model and its training cost: parameters by group, FLOPs, bytes. An architecture's formulas enter; every convention is stated here.

Conventions: 2 FLOPs a multiply-add, matrix products only; backward = 2 x forward; real tokens only, attention over the text's full real
length (no causal halving); recomputation is not counted. `lengths` are predicted positions a text (its real tokens and its end).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from harness import plugins

FLOAT_BYTES = 4
# Python with torch and the harness is 240 MB on Linux with the CPU build; the rest is a study's data.
PROCESS_BYTES = 300_000_000


@dataclass(frozen=True)
class Counts:
    """Parameters by group. embedding (tokens and positions) + head + non_embedding = all.

    The three counts that are used on axes (Kaplan et al. 2020 leave the head out, Hoffmann et al. 2022 count all) follow by adding:
    `n_params`, `non_embedding_params`, and `non_embedding_params + head_params`. A tied output layer counts as embedding.
    """

    groups: Mapping[str, int]

    @property
    def n_params(self) -> int:
        """All parameters, shared ones once."""
        return sum(self.groups.values())

    @property
    def embedding_params(self) -> int:
        """Token embedding and learned positions."""
        return self.groups.get("embedding", 0) + self.groups.get("positions", 0)

    @property
    def head_params(self) -> int:
        """The output layer; 0 where it is tied."""
        return self.groups.get("head", 0)

    @property
    def non_embedding_params(self) -> int:
        """Neither embedding nor output layer: what computes between them."""
        return self.n_params - self.embedding_params - self.head_params


@cache
def _arch(name: str) -> ModuleType:
    return plugins.load("models", name, "architecture")


def counts(arch: str, shape: Mapping[str, Any], vocab_size: int, seq_len: int) -> Counts:
    """Parameters of a shape, by the architecture's own formula."""
    module = _arch(arch)
    return Counts(module.parameters(module.Shape(**shape), vocab_size, seq_len))


def train_flops(arch: str, shape: Mapping[str, Any], vocab_size: int, lengths: Sequence[int] | np.ndarray) -> int:
    """FLOPs of one training pass over texts of these lengths, forward and backward."""
    module = _arch(arch)
    plain = [int(length) for length in lengths]
    return 3 * int(module.forward_flops(module.Shape(**shape), vocab_size, plain))


def flops_by_length(arch: str, shape: Mapping[str, Any], vocab_size: int, longest: int) -> np.ndarray:
    """`train_flops` of a text of each length up to `longest`, (longest + 1,): each is computed by itself, so that they add up."""
    module = _arch(arch)
    built = module.Shape(**shape)
    return np.array([3 * int(module.forward_flops(built, vocab_size, [n])) for n in range(longest + 1)], dtype=np.int64)


def flops_per_token(arch: str, shape: Mapping[str, Any], vocab_size: int, lengths: Sequence[int] | np.ndarray) -> float:
    """Training FLOPs a token, averaged over texts of these lengths."""
    return train_flops(arch, shape, vocab_size, lengths) / int(np.sum(lengths))


def six_nd(n_params: int, tokens: int) -> int:
    """The usual approximation C = 6ND (Kaplan et al. 2020), to stand beside the exact count: below 1M parameters it is far off."""
    return 6 * n_params * tokens


def memory_bytes(arch: str, shape: Mapping[str, Any], vocab_size: int, seq_len: int, batch_tokens: int, runs: int = 1) -> int:
    """Memory of one process that trains so many runs of a shape together in float32, to some 30 %.

    The process; weights, gradients, AdamW's two moments and the best weights so far; what a batch keeps for its backward pass.
    """
    module = _arch(arch)
    kept = module.activations(module.Shape(**shape), vocab_size, batch_tokens)
    return int(PROCESS_BYTES + runs * FLOAT_BYTES * (5 * counts(arch, shape, vocab_size, seq_len).n_params + kept))


def weights_bytes(n_params: int) -> int:
    """A run's weights on disk."""
    return FLOAT_BYTES * n_params


def checkpoint_bytes(n_params: int) -> int:
    """All that a run goes on from: weights, AdamW's two moments, the best weights so far."""
    return 4 * FLOAT_BYTES * n_params
