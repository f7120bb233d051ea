"""Decoding on a GPU: a position of all rows is one step over the whole cache, captured as a graph of kernels and replayed.

A step is kept for the next texts of the same model, at a new best, at the end, or of a run that has moved into the weights: as long as
these lie where they did, a replay reads what they are by then. On other devices it is made kernel by kernel. Shapes as in `generate`.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from harness.draws import Rows, Rules, SpecialIds, distribution, draw, until
from harness.graphs import capture, give_stream, take_stream, usable
from harness.strategies import Strategy

# Positions that a GPU goes on for without a look at whether all texts have ended.
LOOK_EVERY = 8
# Steps that wait for further texts: so many, each with a stream; with the one at work they have no more rows than one decoding at most.
KEPT, KEPT_ROWS = 8, 512

# What a graph is bound to beside its model: rows, positions, the ids of start, end and unk, and how many tensors there are of rules.
Asked = tuple[int, int, int, int, int | None, int]

_kept: list["DecodingStep"] = []


def decode_captured(
    model: Any,
    rules: Rules,
    uniform_RT: Tensor,
    tokenizer: SpecialIds,
    pulse: Callable[[], None],
    captured: Callable[[float], None],
) -> Rows:
    """Texts of all rows, which stay to the end; the host looks only now and then. `captured` is told the seconds that a capture took."""
    n_rows, steps = uniform_RT.shape
    step = _step_for(model, (n_rows, steps, tokenizer.start, tokenizer.end, tokenizer.unk, len(rules.tensors)))
    try:
        with step.on_stream():
            step.begin(rules, uniform_RT)
            for t in range(uniform_RT.shape[1]):
                pulse()
                step.go_on(model, captured)
                if t % LOOK_EVERY == LOOK_EVERY - 1 and bool(step.ended.all()):
                    break
            rows = step.rows()
    except BaseException:
        step.discard()
        raise
    _kept.append(step)
    return rows


def make_room() -> None:
    """Let go of all steps that wait for further texts."""
    while _kept:
        _kept.pop().discard()


def _step_for(model: nn.Module, asked: Asked) -> "DecodingStep":
    """The step that waits for such texts, or a new one. Those that nothing can use any more go."""
    for stale in [step for step in _kept if not step.is_alive]:
        _kept.remove(stale)
        stale.discard()
    found = next((step for step in _kept if step.model() is model and step.asked == asked), None)
    if found is not None:
        _kept.remove(found)
        return found
    # Those that have waited longest make room for it.
    while _kept and (len(_kept) >= KEPT or asked[0] + sum(len(step.ids) for step in _kept) > KEPT_ROWS):
        _kept.pop(0).discard()
    return DecodingStep(model, asked)


class DecodingStep:
    """One position of all rows: reads and writes the same tensors every time. It doesn't keep its model."""

    def __init__(self, model: Any, asked: Asked) -> None:
        n_rows, steps, self.start, self.end, unk, n_rules = asked
        self.model, self.asked, self._weights = weakref.ref(model), asked, _places(model)
        device = next(model.parameters()).device
        self.cache = model.init_cache(n_rows, steps)
        self.uniform_RT = torch.zeros(n_rows, steps, dtype=torch.float64, device=device)
        self.rules = Rules.of([Strategy(top_k=None if n_rules == 1 else 1)] * n_rows).to(device)
        self.entropy_R, self.nll_R = (torch.zeros(n_rows, dtype=torch.float64, device=device) for _ in range(2))
        self.forbidden = torch.tensor([i for i in (self.start, unk) if i is not None], device=device)
        self.position_1 = torch.zeros(1, dtype=torch.int64, device=device)
        self.ids = torch.zeros(n_rows, dtype=torch.int64, device=device)
        self.out_RT = torch.zeros(n_rows, steps, dtype=torch.int64, device=device)
        self.ended = torch.zeros(n_rows, dtype=torch.bool, device=device)
        self._stream = _stream_for(device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._is_warm = False

    @property
    def is_alive(self) -> bool:
        """Whether the model is still there, and its weights where a graph reads them."""
        model = self.model()
        return model is not None and _places(model) == self._weights

    @contextmanager
    def on_stream(self) -> Iterator[None]:
        """What is done within comes after all that was begun elsewhere, and before what is begun there later, also if left early."""
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            torch.cuda.current_stream().wait_stream(self._stream)

    def begin(self, rules: Rules, uniform_RT: Tensor) -> None:
        """No text has a token yet."""
        for held, given in zip(self.rules.tensors, rules.tensors, strict=True):
            held.copy_(given)
        self.uniform_RT.copy_(uniform_RT)
        self.ids.fill_(self.start)
        self.out_RT.fill_(self.end)
        # A cache must be finite, whatever texts before had there.
        for tensor in [*self.cache.keys, *self.cache.values, self.position_1, self.entropy_R, self.nll_R, self.ended]:
            tensor.zero_()

    def go_on(self, model: Any, captured: Callable[[float], None]) -> None:
        """The next position: the first that is made is made kernel by kernel, which warms up all that it needs."""
        if self._stream is not None and self._is_warm and self._graph is None and usable():
            self._capture(model, self._stream, captured)
        if self._graph is not None and usable():
            self._graph.replay()
        else:
            self.make(model)
            self._is_warm = True

    def make(self, model: Any) -> None:
        """Draw the next token of every row, and count it where the row's text goes on."""
        with _in_any_order():
            logits_RV = model.step_at(self.ids, self.cache, self.position_1).double()
            log_p_RV = torch.log_softmax(logits_RV, dim=-1)
            p_RV = distribution(logits_RV.index_fill(1, self.forbidden, -torch.inf), self.rules)
            self.ids.copy_(draw(p_RV, self.uniform_RT.index_select(1, self.position_1).squeeze(1)))
            self.out_RT.index_copy_(1, self.position_1, self.ids[:, None])
            self.entropy_R += torch.special.entr(p_RV).sum(-1).masked_fill(self.ended, 0.0)
            self.nll_R -= log_p_RV.gather(1, self.ids[:, None]).squeeze(1).masked_fill(self.ended, 0.0)
            self.ended |= self.ids == self.end
            self.position_1 += 1

    def rows(self) -> Rows:
        """The texts, for which the host waits."""
        texts = [until(row, self.end) for row in self.out_RT.tolist()]
        return Rows(texts, self.entropy_R.cpu().numpy().copy(), self.nll_R.cpu().numpy().copy())

    def discard(self) -> None:
        """Let go of what the graph holds on the device; nothing is decoded any more."""
        if self._stream is None:
            return
        self._stream.synchronize()
        if self._graph is not None:
            self._graph.reset()
        give_stream(self._stream)
        self._graph = self._stream = None

    def _capture(self, model: Any, stream: torch.cuda.Stream, captured: Callable[[float], None]) -> None:
        # A capture waits for all that was begun, which takes its time whether there is a capture or not.
        stream.synchronize()
        started = perf_counter()
        self._graph = capture(lambda: self.make(model), stream)
        captured(perf_counter() - started)


def _stream_for(device: torch.device) -> torch.cuda.Stream | None:
    """A stream of a step's own; None where nothing is captured."""
    return take_stream() if device.type == "cuda" else None


def _places(model: nn.Module) -> list[tuple[int, torch.dtype]]:
    """Where a graph reads the model's weights."""
    return [(tensor.data_ptr(), tensor.dtype) for tensor in (*model.parameters(), *model.buffers())]


@contextmanager
def _in_any_order() -> Iterator[None]:
    """Without the sorting that writing by index takes elsewhere: here every place is written once."""
    asked, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(asked, warn_only=warns)
