"""Decoding: a model and strategies enter, sampled texts as ids leave with what the model says of them, all strategies in one batch.

Text i of a strategy depends on the model, the seed, the strategy, i and seq_len: not on how many other texts or strategies are
drawn along with it, nor on the state of any global generator. Shapes: R rows (a text of a strategy), T steps, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.captured_decoding import decode_captured
from harness.draws import Rows, Rules, SpecialIds, distribution, draw, until
from harness.strategies import Strategy
from models._layers import exact_device

# Rows decoded together: bounds the cache, which at 10M parameters takes 2.6 MB a row.
MAX_ROWS = 512


@dataclass(frozen=True)
class Drawn:
    """Texts drawn by one strategy, as ids without start and end, and what the model says of them; None without any text.

    `entropy`: nats per token, the mean over all positions that were drawn (ends included) of -sum p ln p, where p is what the token was
    drawn from: the softmax at the temperature without start and unk, and without what the strategy cuts off.
    `self_nll`: nats per text, as `nll`: the model's own NLL at temperature 1, however the texts were drawn, over their tokens and ends.
    """

    texts: list[list[int]]
    entropy: float | None
    self_nll: float | None


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
    """The texts of `sample_sets` alone, of temperatures alone."""
    strategies = [Strategy(temperature) for temperature in temperatures]
    drawn = sample_sets(model, n, strategies, seed=seed, tokenizer=tokenizer, seq_len=seq_len, pulse=pulse)
    return {strategy.temperature: one.texts for strategy, one in drawn.items()}


@torch.no_grad()
def sample_sets(
    model: nn.Module,
    n: int,
    strategies: Sequence[Strategy],
    *,
    seed: int,
    tokenizer: SpecialIds,
    seq_len: int,
    pulse: Callable[[], None] = lambda: None,
    captured: Callable[[float], None] = lambda seconds: None,
) -> dict[Strategy, Drawn]:
    """`n` texts of each strategy; one that never ended has seq_len - 1 ids. Start and unk are never drawn.

    Temperature 0 takes the most likely token. The model is put in evaluation mode meanwhile. `pulse` is called at every step; what it
    raises ends the sampling. `captured` is told the seconds of each capture, which are among those that the sampling takes.
    """
    distinct = list(dict.fromkeys(strategies))
    uniform_RT = np.concatenate([_uniform(seed, one.temperature, n, seq_len - 1) for one in distinct] or [np.empty((0, seq_len - 1))])
    strategy_R = [one for one in distinct for _ in range(n)]
    decode = partial(decode_captured, captured=captured) if _is_replayed(model) else _decode
    parts: list[Rows] = []
    was_training = model.training
    model.eval()
    try:
        for first in range(0, len(uniform_RT), MAX_ROWS):
            some = slice(first, first + MAX_ROWS)
            parts.append(decode(model, Rules.of(strategy_R[some]), torch.from_numpy(uniform_RT[some]), tokenizer, pulse))
    finally:
        model.train(was_training)
    return {one: _drawn(parts, slice(i * n, (i + 1) * n), seq_len) for i, one in enumerate(distinct)}


def _is_replayed(model: nn.Module) -> bool:
    """Whether a position is one captured step."""
    return next(model.parameters()).device.type == "cuda" and hasattr(model, "step_at")


def _drawn(parts: Sequence[Rows], some: slice, seq_len: int) -> Drawn:
    texts = [text for part in parts for text in part.texts][some]
    if not texts:
        return Drawn([], None, None)
    entropy_R, nll_R = (np.concatenate([getattr(part, name) for part in parts])[some] for name in ("entropy_R", "nll_R"))
    positions = sum(min(len(text) + 1, seq_len - 1) for text in texts)
    return Drawn(texts, float(entropy_R.sum() / positions), float(nll_R.mean()))


def _uniform(seed: int, temperature: float, n: int, steps: int) -> np.ndarray:
    """Uniform numbers (n, steps), a stream of their own for each seed and temperature; a cut changes what they draw, not them."""
    return np.random.default_rng([seed, round(temperature * 1e6)]).random((n, steps))


def _decode(model: nn.Module, rules: Rules, uniform_RT: Tensor, tokenizer: SpecialIds, pulse: Callable[[], None]) -> Rows:
    device = next(model.parameters()).device
    exactly = exact_device(device)
    uniform_RT, rules = uniform_RT.to(exactly), rules.to(exactly)
    n_rows, steps = uniform_RT.shape
    forbidden = [i for i in (tokenizer.start, tokenizer.unk) if i is not None]
    out_RT = torch.full((n_rows, steps), tokenizer.end, device=exactly)
    entropy_R, nll_R = (torch.zeros(n_rows, dtype=torch.float64, device=exactly) for _ in range(2))
    decoder = Cached(model, n_rows, steps) if hasattr(model, "init_cache") else Replayed(model)
    rows = torch.arange(n_rows, device=exactly)
    ended = torch.zeros(n_rows, dtype=torch.bool, device=exactly)
    ids = torch.full((n_rows,), tokenizer.start, device=exactly)
    for t in range(steps):
        pulse()
        # Moved before it becomes float64, which the model's device may not have.
        logits_RV = decoder.step(ids.to(device)).to(exactly).double()
        log_p_RV = torch.log_softmax(logits_RV, dim=-1)
        logits_RV[:, forbidden] = -torch.inf
        p_RV = distribution(logits_RV, rules)
        ids = draw(p_RV, uniform_RT[rows, t])
        out_RT[rows, t] = ids
        # What a row draws after its end is no part of its text.
        entropy_R[rows] += torch.special.entr(p_RV).sum(-1).masked_fill(ended, 0.0)
        nll_R[rows] -= log_p_RV.gather(1, ids[:, None]).squeeze(1).masked_fill(ended, 0.0)
        ended |= ids == tokenizer.end
        n_ended = int(ended.sum())
        if n_ended == len(rows):
            break
        # Rows that have ended are dropped a quarter at a time: each drop copies the cache.
        if n_ended > len(rows) / 4:
            alive = torch.nonzero(~ended).squeeze(1)
            decoder.keep(alive.to(device))
            rows, ids, ended, rules = rows[alive], ids[alive], ended[alive], rules.keep(alive)
    return Rows([until(row, tokenizer.end) for row in out_RT.tolist()], entropy_R.cpu().numpy(), nll_R.cpu().numpy())


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
