"""A training step as one graph of kernels that a GPU replays: forward, backward, norm, clip and update of a run, or of a crew of runs.

A step of many small kernels takes as long as a host needs to launch them, which up to some millions of parameters is most of the time. Per
size of batch the step is made once as it is, which warms up all that it uses, then captured at the second such batch and replayed from
there on. Whatever changes from step to step is read from the same few tensors on the device. On other devices it is made as it is.
Shapes: K members of a crew, or the one run, and B texts of a batch at most.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import perf_counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.crew import Crew
from harness.data.filled import Size, filled, filled_together
from harness.evaluate import packed_logits
from harness.graphs import capture, generator, give_stream, take_stream, usable
from harness.runspec import RunSpec
from harness.state import State
from harness.step import autocast, clipped
from models._stacked import NO_TARGET

log = logging.getLogger(__name__)


class CapturedStep(ABC):
    """The step of a shape, on weights that stay where they are: other runs of the shape move in with `adopt`.

    `batch`, (K, 2, B + 1), describes the step's batches (`filled.table`); `rates`, (groups,), are those of the optimizer's groups; `out`,
    (2, K), is loss and gradient norm after the step. `capturing_s`: seconds that captures took.
    """

    def __init__(self, ids: Tensor, texts: int, device: str, members: int, optimizer: torch.optim.Optimizer) -> None:
        """`ids`: of all training texts, on the device. `texts`: of a batch, at most."""
        self.ids, self.device, self.optimizer = ids, device, optimizer
        self.batch = torch.zeros(members, 2, texts + 1, dtype=torch.int64, device=device)
        self.rates = torch.zeros(len(optimizer.param_groups), device=device)
        self.out = torch.zeros(2, members, device=device)
        self.capturing_s = 0.0
        self._is_cuda = torch.device(device).type == "cuda"
        self._stream = take_stream() if self._is_cuda else None
        self._pool = torch.cuda.graph_pool_handle() if self._is_cuda else None
        # None until the second batch of a size.
        self._graphs: dict[Size, torch.cuda.CUDAGraph | None] = {}
        self._strictly = True
        for group, rate in zip(optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate
        _begin_moments(optimizer)
        self._moving = [*self._weights(), *_moments(optimizer)]
        self._marked: list[Tensor] = []

    @abstractmethod
    def adopt(self, specs: Sequence[RunSpec], states: Sequence[State]) -> None:
        """Take over the weights and moments of runs of this shape; their states have these from here on."""

    @abstractmethod
    def _weights(self) -> list[Tensor]:
        """What the optimizer moves."""

    @abstractmethod
    def _draw(self, size: Size, seeds: Sequence[int], drawn: Sequence[int]) -> None:
        """Have what the next step draws follow from these seeds."""

    @abstractmethod
    def _gradients(self, size: Size) -> Tensor:
        """Losses and gradient norms of the batches, (2, K); the gradients are in place, clipped where that is asked for."""

    def on_stream(self) -> AbstractContextManager[Any]:
        """Where steps are made: off the stream that can't be captured."""
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def wait(self) -> None:
        """Have the next step come after all that the device was given elsewhere; the host doesn't wait."""
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream())

    def mark(self) -> None:
        """Keep weights and moments as they are, on the device."""
        with self.on_stream():
            if not self._marked:
                self._marked = [torch.empty_like(tensor) for tensor in self._moving]
            _copy(self._marked, self._moving)

    def rewind(self) -> None:
        """Weights and moments as they were at the last mark; whatever is done with them elsewhere comes after it."""
        with self.on_stream():
            _copy(self._moving, self._marked)
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)

    @abstractmethod
    def left(self) -> None:
        """The runs go on elsewhere; until others move in, nothing is kept for them."""

    def discard(self) -> None:
        """Let go of what graphs hold on the device; no step is made any more."""
        for graph in self._graphs.values():
            if graph is not None:
                graph.reset()
        self._graphs.clear()
        if self._stream is not None:
            give_stream(self._stream)
            self._stream = None

    def make(self, size: Size, seeds: Sequence[int], drawn: Sequence[int]) -> None:
        """One step on what `batch` and `rates` hold; what a member draws depends on its seed and for how many tokens it is drawn."""
        if self._is_cuda and usable() and size in self._graphs and self._graphs[size] is None:
            self._capture(size)
        self._draw(size, seeds, drawn)
        graph = self._graphs.setdefault(size, None)
        if graph is not None and usable():
            graph.replay()
        else:
            self._plainly(size, seeds, drawn)

    def _seed(self, seed: int) -> None:
        (generator() if self._is_cuda else torch.default_generator).manual_seed(seed)

    def _plainly(self, size: Size, seeds: Sequence[int], drawn: Sequence[int]) -> None:
        try:
            self._step(size)
        except RuntimeError as error:
            # Before anything has changed: the update comes last.
            if not self._strictly or "deterministic" not in str(error):
                raise
            self._strictly = False
            log.warning("A step can't repeat its sums in one order on this device (%s): a resumed run may differ in its last bits.", error)
            self._draw(size, seeds, drawn)
            self._step(size)

    def _capture(self, size: Size) -> None:
        assert self._stream is not None
        # A capture waits for all that was begun, which takes its time whether there is a capture or not.
        self._stream.synchronize()
        started = perf_counter()
        with _capturable(self.optimizer):
            self._graphs[size] = capture(lambda: self._step(size), self._stream, self._pool)
        self.capturing_s += perf_counter() - started

    def _step(self, size: Size) -> None:
        with _in_one_order(self._strictly):
            told = self._gradients(size)
            self.optimizer.step()
            self.out.copy_(told)


class RunStep(CapturedStep):
    """The step of a run by itself."""

    def __init__(self, spec: RunSpec, state: State, ids: Tensor, texts: int, device: str) -> None:
        self.spec, self.model = spec, state.model
        super().__init__(ids, texts, device, 1, state.optimizer)

    def adopt(self, specs: Sequence[RunSpec], states: Sequence[State]) -> None:
        (state,) = states
        if state.model is not self.model:
            _begin_moments(state.optimizer)
            _copy(self._moving, [*state.model.parameters(), *_moments(state.optimizer)])
            state.model, state.optimizer = self.model, self.optimizer

    def left(self) -> None:
        """Its state has the weights and moments until then."""

    def _weights(self) -> list[Tensor]:
        return list(self.model.parameters())

    def _draw(self, size: Size, seeds: Sequence[int], drawn: Sequence[int]) -> None:
        # A replay reads seed and place of this generator from the host when it begins, as a kernel does that is launched by itself.
        self._seed(seeds[0])

    def _gradients(self, size: Size) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        batch = filled(self.ids, self.batch[0], size)
        assert batch.targets_N is not None
        with autocast(self.spec, self.device):
            logits_NV = packed_logits(self.model, batch)
        # The mean over real tokens, whose number need not be known.
        loss = F.cross_entropy(logits_NV.float(), batch.targets_N, ignore_index=NO_TARGET)
        loss.backward()  # type: ignore[no-untyped-call]
        return torch.stack((loss.detach(), clipped(self.spec, self.model)))[:, None]


class CrewStep(CapturedStep):
    """The step of a crew. What its members' dropout keeps is drawn before it, since a graph has one seed."""

    def __init__(self, specs: Sequence[RunSpec], states: Sequence[State], ids: Tensor, texts: int, device: str) -> None:
        self.crew = Crew(specs, device, states=states)
        # By the number of tokens.
        self._kept: dict[int, Tensor] = {}
        super().__init__(ids, texts, device, len(specs), self.crew.optimizer)

    def adopt(self, specs: Sequence[RunSpec], states: Sequence[State]) -> None:
        if self.crew.states != tuple(states):
            self.crew.take(specs, states)

    def left(self) -> None:
        self.crew.states = ()

    def _weights(self) -> list[Tensor]:
        return [self.crew.model.rows]

    def _draw(self, size: Size, seeds: Sequence[int], drawn: Sequence[int]) -> None:
        model = self.crew.model
        if model.dropout:
            if size.tokens not in self._kept:
                self._kept[size.tokens] = model.rows.new_ones(len(seeds), size.tokens, model.shape.d_model)
            model.draw(self._kept[size.tokens], seeds, drawn, self._seed)

    def _gradients(self, size: Size) -> Tensor:
        return self.crew.gradients(filled_together(self.ids, self.batch, size), self._kept.get(size.tokens))


def _begin_moments(optimizer: torch.optim.Optimizer) -> None:
    """What AdamW makes at its first step."""
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if not optimizer.state[weight]:
                zeros = {name: torch.zeros_like(weight, requires_grad=False) for name in ("exp_avg", "exp_avg_sq")}
                optimizer.state[weight] = {"step": torch.zeros((), device=weight.device)} | zeros


def _moments(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [value for group in optimizer.param_groups for weight in group["params"] for _, value in sorted(optimizer.state[weight].items())]


@torch.no_grad()
def _copy(to: list[Tensor], from_: list[Tensor]) -> None:
    torch._foreach_copy_(to, from_)


@contextmanager
def _capturable(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """AdamW as fused computes the same either way, and wants to be told when it is captured and when it isn't."""
    for group in optimizer.param_groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group in optimizer.param_groups:
            group["capturable"] = False


@contextmanager
def _in_one_order(strictly: bool) -> Iterator[None]:
    """Where sums are to be repeated in one order, have attention do so too, which at a mere warning prefers speed."""
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    if not (strictly and warns and torch.are_deterministic_algorithms_enabled()):
        yield
        return
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(True, warn_only=True)
