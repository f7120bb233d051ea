"""Decoding: a model and temperatures enter, sampled texts as ids leave with what the model says of them, all temperatures in one batch.

Text i at a temperature depends on the model, the seed, the temperature, i and seq_len: not on how many other texts or temperatures are
drawn along with it, nor on the state of any global generator. Shapes: R rows (a text at a temperature), T steps, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from harness.graphs import capture, decoding_stream
from models._layers import exact_device

# Rows decoded together: bounds the cache, which at 10M parameters takes 2.6 MB a row.
MAX_ROWS = 512
# Positions that a GPU goes on for without a look at whether all texts have ended.
LOOK_EVERY = 8


class SpecialIds(Protocol):
    """What decoding must know of a tokenizer."""

    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def unk(self) -> int | None: ...


@dataclass(frozen=True)
class Drawn:
    """Texts drawn at one temperature, as ids without start and end, and what the model says of them; None without any text.

    `entropy`: nats per token, the mean over all positions that were drawn (ends included) of -sum p ln p, where p is what the token was
    drawn from: the whole softmax at the temperature without start and unk. No token is cut off by rank (top-k) or mass (top-p).
    `self_nll`: nats per text, as `nll`: the model's own NLL at temperature 1, whatever the texts were drawn at, over their tokens and ends.
    """

    texts: list[list[int]]
    entropy: float | None
    self_nll: float | None


@dataclass(frozen=True)
class _Rows:
    """Texts as ids; `entropy_R` and `nll_R` are summed over the positions of each, nats."""

    texts: list[list[int]]
    entropy_R: np.ndarray
    nll_R: np.ndarray


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
    """The texts of `sample_sets` alone."""
    drawn = sample_sets(model, n, temperatures, seed=seed, tokenizer=tokenizer, seq_len=seq_len, pulse=pulse)
    return {temperature: one.texts for temperature, one in drawn.items()}


@torch.no_grad()
def sample_sets(
    model: nn.Module,
    n: int,
    temperatures: Sequence[float],
    *,
    seed: int,
    tokenizer: SpecialIds,
    seq_len: int,
    pulse: Callable[[], None] = lambda: None,
) -> dict[float, Drawn]:
    """`n` texts at each temperature; one that never ended has seq_len - 1 ids. Start and unk are never drawn.

    Temperature 0 takes the most likely token. The model is put in evaluation mode meanwhile. `pulse` is called at every step; what it
    raises ends the sampling.
    """
    if any(temperature < 0 for temperature in temperatures):
        raise ValueError(f"temperatures: {min(temperatures)} is below 0")
    distinct = list(dict.fromkeys(temperatures))
    uniform_RT = np.concatenate([_uniform(seed, temperature, n, seq_len - 1) for temperature in distinct] or [np.empty((0, seq_len - 1))])
    temperature_R = np.repeat(np.array(distinct, dtype=np.float64), n)
    decode = _decode if next(model.parameters()).device.type != "cuda" or not hasattr(model, "step_at") else _decode_captured
    parts: list[_Rows] = []
    was_training = model.training
    model.eval()
    try:
        for first in range(0, len(uniform_RT), MAX_ROWS):
            some = slice(first, first + MAX_ROWS)
            parts.append(decode(model, torch.from_numpy(temperature_R[some]), torch.from_numpy(uniform_RT[some]), tokenizer, pulse))
    finally:
        model.train(was_training)
    return {temperature: _drawn(parts, slice(i * n, (i + 1) * n), seq_len) for i, temperature in enumerate(distinct)}


def _drawn(parts: Sequence[_Rows], some: slice, seq_len: int) -> Drawn:
    texts = [text for part in parts for text in part.texts][some]
    if not texts:
        return Drawn([], None, None)
    entropy_R, nll_R = (np.concatenate([getattr(part, name) for part in parts])[some] for name in ("entropy_R", "nll_R"))
    positions = sum(min(len(text) + 1, seq_len - 1) for text in texts)
    return Drawn(texts, float(entropy_R.sum() / positions), float(nll_R.mean()))


def _uniform(seed: int, temperature: float, n: int, steps: int) -> np.ndarray:
    """Uniform numbers (n, steps), a stream of their own for each seed and temperature."""
    return np.random.default_rng([seed, round(temperature * 1e6)]).random((n, steps))


def _decode(model: nn.Module, temperature_R: Tensor, uniform_RT: Tensor, tokenizer: SpecialIds, pulse: Callable[[], None]) -> _Rows:
    device = next(model.parameters()).device
    exactly = exact_device(device)
    uniform_RT, temperature_R = uniform_RT.to(exactly), temperature_R.to(exactly)
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
        p_RV = distribution(logits_RV, temperature_R[rows])
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
            rows, ids, ended = rows[alive], ids[alive], ended[alive]
    return _Rows([_until(row, tokenizer.end) for row in out_RT.tolist()], entropy_R.cpu().numpy(), nll_R.cpu().numpy())


def _decode_captured(model: Any, temperature_R: Tensor, uniform_RT: Tensor, tokenizer: SpecialIds, pulse: Callable[[], None]) -> _Rows:
    """As `_decode`, with one step for every position that a GPU replays; rows stay to the end, and the host looks only now and then."""
    step, stream, graph = _Step(model, temperature_R, uniform_RT, tokenizer), None, None
    if step.ids.device.type == "cuda":
        stream = decoding_stream()
        stream.wait_stream(torch.cuda.current_stream())
    with _on(stream):
        for t in range(uniform_RT.shape[1]):
            pulse()
            if t == 1 and stream is not None:
                graph = capture(step.make, stream)
            if graph is None:
                step.make()
            else:
                graph.replay()
            if t % LOOK_EVERY == LOOK_EVERY - 1 and bool(step.ended.all()):
                break
        texts = [_until(row, tokenizer.end) for row in step.out_RT.tolist()]
        return _Rows(texts, step.entropy_R.cpu().numpy(), step.nll_R.cpu().numpy())


@contextmanager
def _on(stream: torch.cuda.Stream | None) -> Iterator[None]:
    """What is done within is done on the stream; what comes after the block comes after that, also where it is left early."""
    if stream is None:
        yield
        return
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        torch.cuda.current_stream().wait_stream(stream)


class _Step:
    """One position of all rows: reads and writes the same tensors every time."""

    def __init__(self, model: Any, temperature_R: Tensor, uniform_RT: Tensor, tokenizer: SpecialIds) -> None:
        device = next(model.parameters()).device
        n_rows, steps = uniform_RT.shape
        self.model, self.end, self.cache = model, tokenizer.end, model.init_cache(n_rows, steps)
        for tensor in [*self.cache.keys, *self.cache.values]:
            tensor.zero_()
        self.uniform_RT, self.temperature_R = uniform_RT.to(device), temperature_R.to(device)
        self.forbidden = torch.tensor([i for i in (tokenizer.start, tokenizer.unk) if i is not None], device=device)
        self.position_1 = torch.zeros(1, dtype=torch.int64, device=device)
        self.ids = torch.full((n_rows,), tokenizer.start, device=device)
        self.out_RT = torch.full((n_rows, steps), tokenizer.end, device=device)
        self.entropy_R, self.nll_R = (torch.zeros(n_rows, dtype=torch.float64, device=device) for _ in range(2))
        self.ended = torch.zeros(n_rows, dtype=torch.bool, device=device)

    def make(self) -> None:
        """Draw the next token of every row, and count it where the row's text goes on."""
        with _in_any_order():
            logits_RV = self.model.step_at(self.ids, self.cache, self.position_1).double()
            log_p_RV = torch.log_softmax(logits_RV, dim=-1)
            p_RV = distribution(logits_RV.index_fill(1, self.forbidden, -torch.inf), self.temperature_R)
            self.ids.copy_(draw(p_RV, self.uniform_RT.index_select(1, self.position_1).squeeze(1)))
            self.out_RT.index_copy_(1, self.position_1, self.ids[:, None])
            self.entropy_R += torch.special.entr(p_RV).sum(-1).masked_fill(self.ended, 0.0)
            self.nll_R -= log_p_RV.gather(1, self.ids[:, None]).squeeze(1).masked_fill(self.ended, 0.0)
            self.ended |= self.ids == self.end
            self.position_1 += 1


@contextmanager
def _in_any_order() -> Iterator[None]:
    """Without the sorting that writing by index takes elsewhere: here every place is written once."""
    asked, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(asked, warn_only=warns)


def _until(ids: list[int], end: int) -> list[int]:
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
