"""Decoding: a model and temperatures enter, sampled texts as ids leave, all temperatures in one batch.

Text i at a temperature depends on the model, the seed, the temperature, i and seq_len: not on how many other texts or temperatures are
drawn along with it, nor on the state of any global generator. Shapes: R rows (a text at a temperature), T steps, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

# Rows decoded together: bounds the cache, which at 10M parameters takes 2.6 MB a row.
MAX_ROWS = 512


class SpecialIds(Protocol):
    """What decoding must know of a tokenizer."""

    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def unk(self) -> int | None: ...


@torch.no_grad()
def sample(
    model: nn.Module,
    n: int,
    temperatures: Sequence[float],
    *,
    seed: int,
    tokenizer: SpecialIds,
    seq_len: int,
    pulse: Callable[[], None] = lambda: None,
) -> dict[float, list[list[int]]]:
    """`n` texts at each temperature, without start and end; one that never ended has seq_len - 1 ids. Start and unk are never drawn.

    Temperature 0 takes the most likely token. The model is put in evaluation mode meanwhile. `pulse` is called at every step; what it
    raises ends the sampling.
    """
    if any(temperature < 0 for temperature in temperatures):
        raise ValueError(f"temperatures: {min(temperatures)} is below 0")
    distinct = list(dict.fromkeys(temperatures))
    uniform_RT = np.concatenate([_uniform(seed, temperature, n, seq_len - 1) for temperature in distinct] or [np.empty((0, seq_len - 1))])
    temperature_R = np.repeat(np.array(distinct, dtype=np.float64), n)
    texts: list[list[int]] = []
    was_training = model.training
    model.eval()
    try:
        for first in range(0, len(uniform_RT), MAX_ROWS):
            some = slice(first, first + MAX_ROWS)
            texts += _decode(model, torch.from_numpy(temperature_R[some]), torch.from_numpy(uniform_RT[some]), tokenizer, pulse)
    finally:
        model.train(was_training)
    return {temperature: texts[i * n : (i + 1) * n] for i, temperature in enumerate(distinct)}


def _uniform(seed: int, temperature: float, n: int, steps: int) -> np.ndarray:
    """Uniform numbers (n, steps), a stream of their own for each seed and temperature."""
    return np.random.default_rng([seed, round(temperature * 1e6)]).random((n, steps))


def _decode(
    model: nn.Module, temperature_R: Tensor, uniform_RT: Tensor, tokenizer: SpecialIds, pulse: Callable[[], None]
) -> list[list[int]]:
    device = next(model.parameters()).device
    uniform_RT, temperature_R = uniform_RT.to(device), temperature_R.to(device)
    n_rows, steps = uniform_RT.shape
    forbidden = [i for i in (tokenizer.start, tokenizer.unk) if i is not None]
    out_RT = torch.full((n_rows, steps), tokenizer.end, device=device)
    decoder = Cached(model, n_rows, steps) if hasattr(model, "init_cache") else Replayed(model)
    rows = torch.arange(n_rows, device=device)
    ended = torch.zeros(n_rows, dtype=torch.bool, device=device)
    ids = torch.full((n_rows,), tokenizer.start, device=device)
    for t in range(steps):
        pulse()
        logits_RV = decoder.step(ids).double()
        logits_RV[:, forbidden] = -torch.inf
        ids = draw(logits_RV, temperature_R[rows], uniform_RT[rows, t])
        out_RT[rows, t] = ids
        ended |= ids == tokenizer.end
        n_ended = int(ended.sum())
        if n_ended == len(rows):
            break
        # Rows that have ended are dropped a quarter at a time: each drop copies the cache.
        if n_ended > len(rows) / 4:
            alive = torch.nonzero(~ended).squeeze(1)
            decoder.keep(alive)
            rows, ids, ended = rows[alive], ids[alive], ended[alive]
    return [_until(row, tokenizer.end) for row in out_RT.tolist()]


def _until(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids


def draw(logits_RV: Tensor, temperature_R: Tensor, uniform_R: Tensor) -> Tensor:
    """One token a row by inverting the distribution function at a uniform number in [0, 1); float64."""
    # Below 1e-6 float64's own precision decides: as good as the maximum.
    scaled_RV = logits_RV / temperature_R.clamp(min=1e-6)[:, None]
    cumulative_RV = torch.softmax(scaled_RV, dim=-1).cumsum(-1)
    threshold_R1 = uniform_R[:, None] * cumulative_RV[:, -1:]
    return (cumulative_RV <= threshold_R1).sum(-1)


class Cached:
    """Decoding by an architecture's own cache: one token's work a step."""

    # Any, because torch's own types take an unknown method of a module for a tensor.
    def __init__(self, model: Any, n_rows: int, length: int) -> None:
        self.model = model
        self.cache = model.init_cache(n_rows, length)

    def step(self, ids_R: Tensor) -> Tensor:
        """Logits (R, V) after one more token."""
        logits_RV: Tensor = self.model.step(ids_R, self.cache)
        return logits_RV

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        self.cache.keep(rows)


class Replayed:
    """Decoding for an architecture that has only `forward`: the whole text again at every step."""

    def __init__(self, model: nn.Module) -> None:
        self.model: nn.Module = model
        self.ids_RT: Tensor | None = None

    def step(self, ids_R: Tensor) -> Tensor:
        """Logits (R, V) after one more token."""
        self.ids_RT = ids_R[:, None] if self.ids_RT is None else torch.cat((self.ids_RT, ids_R[:, None]), dim=1)
        logits_RV: Tensor = self.model(self.ids_RT)[:, -1]
        return logits_RV

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        assert self.ids_RT is not None
        self.ids_RT = self.ids_RT[rows]
