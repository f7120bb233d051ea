"""Steps of a run made ahead of the host: what each needs is worked out for many at once and brought to the device in one go.

Enters: a run's spec and state, and its corpus. A step costs the host a replay and three copies within the device; only `read` waits.
"""

import logging

import numpy as np
import torch
from torch import Tensor

from harness.captured import CapturedStep
from harness.context import Context
from harness.data.batches import Order
from harness.data.filled import Size, on_device, size_of, table
from harness.runspec import RunSpec, digest
from harness.state import State
from harness.step import rate_at, step_seed
from harness.stepping import MOST_UNREAD

# Steps whose batches and rates are brought to the device together.
AHEAD = 256
# Captured steps that wait for another run of their shape; each holds weights, moments and what its graphs work on.
KEPT = 2
# What runs may differ in that share a captured step.
OWN = frozenset(
    {"stage", "rung", "family", "lr", "seed", "trial", "search", "lr_source", "lr_status", "steps", "evaluate_at", "eval_texts", "patience"}
    | {"schedule", "warmup_steps", "lr_min_fraction", "train_texts", "batch_size"}
)

log = logging.getLogger(__name__)
_idle: dict[str, CapturedStep] = {}
_said: set[str] = set()


class Ahead:
    """The work of one run (`stepping.Work`)."""

    def __init__(self, spec: RunSpec, state: State, context: Context) -> None:
        self._spec, self._texts = spec, context.corpus.train.head(spec.train_texts)
        self._order = Order(self._texts.n_texts, spec.batch_size, spec.seed)
        self._n_texts = min(spec.batch_size, self._texts.n_texts)
        self._key = _key(spec, self._n_texts, context.device)
        ids = on_device(context.corpus.train, context.device)
        step = _idle.pop(self._key, None)
        if step is None or step.ids is not ids:
            step = CapturedStep(spec, state, ids, self._n_texts, context.device)
        step.adopt(state)
        self._step, self._factors = step, [group["factor"] for group in state.optimizer.param_groups]
        self._results = torch.zeros(MOST_UNREAD, 2, device=context.device)
        self._launched, self._first = 0, 0
        self._sizes: list[Size] = []
        self._seeds: list[int] = []
        self._before_s = step.capturing_s

    @property
    def capturing_s(self) -> float:
        """Seconds that this run's captures took."""
        return self._step.capturing_s - self._before_s

    def launch(self, step: int) -> None:
        """Begin a step, counted from 1."""
        if not self._first <= step < self._first + len(self._sizes):
            self._prepare(step)
        i = step - self._first
        with self._step.on_stream():
            self._step.batch.copy_(self._tables[i])
            self._step.rates.copy_(self._rates[i])
            self._step.make(self._sizes[i], self._seeds[i])
            self._results[self._launched].copy_(self._step.out)
        self._launched += 1

    def read(self) -> list[tuple[float, float]]:
        """Loss and gradient norm of each step since the last reading; the one wait for the device."""
        with self._step.on_stream():
            told = self._results[: self._launched].tolist()
        self._launched = 0
        return [(loss, grad_norm) for loss, grad_norm in told]

    def mark(self) -> None:
        """Keep weights and moments; what was done to them elsewhere comes first."""
        self._step.wait()
        self._step.mark()

    def rewind(self) -> None:
        """Weights and moments as they were at the last mark."""
        self._step.rewind()

    def close(self) -> None:
        """Another run of the shape may use the step from here on."""
        _idle[self._key] = self._step
        while len(_idle) > KEPT:
            del _idle[next(iter(_idle))]

    def _prepare(self, step: int) -> None:
        """Batches, rates and seeds of the steps from this one on."""
        steps = range(step, min(step + AHEAD, self._spec.steps + 1))
        rows = [self._order.rows(s - 1) for s in steps]
        self._sizes = [size_of(self._texts.lengths[some], self._n_texts, self._spec.seq_len - 1) for some in rows]
        self._seeds = [step_seed(self._spec.seed, s) for s in steps]
        tables = [table(self._texts, some, size) for some, size in zip(rows, self._sizes, strict=True)]
        rates = [[rate_at(self._spec, s) * factor for factor in self._factors] for s in steps]
        with self._step.on_stream():
            self._tables, self._rates = self._brought(np.stack(tables)), self._brought(np.array(rates, dtype=np.float32))
        self._first = step

    def _brought(self, values: np.ndarray) -> Tensor:
        host = torch.from_numpy(values)
        device = self._step.batch.device
        # From pinned memory, so that the host need not wait until it has arrived.
        return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host


def ahead_of(spec: RunSpec, state: State, context: Context) -> Ahead | None:
    """The work of a run on a GPU; None elsewhere, and where its steps can't be captured, which is said once."""
    if torch.device(context.device).type != "cuda":
        return None
    reason = _against(spec, state, context)
    if reason and reason not in _said:
        _said.add(reason)
        log.warning("Steps are made one by one, with a wait for the device at each: %s.", reason)
    if reason:
        # A batch in parts is one that didn't fit: what waits for other runs makes room.
        _idle.clear()
        return None
    return Ahead(spec, state, context)


def _against(spec: RunSpec, state: State, context: Context) -> str:
    """Why steps can't be made ahead, if so."""
    if spec.padding != "ignore":
        return f"train.padding is {spec.padding}"
    if context.micro_batches > 1:
        return f"a batch goes through the model in {context.micro_batches} parts"
    if not hasattr(state.model, "forward_packed"):
        return f"{spec.arch} has no forward_packed"
    return ""


def _key(spec: RunSpec, n_texts: int, device: str) -> str:
    """The same for runs that can share a captured step."""
    shared = {name: value for name, value in spec.to_dict().items() if name not in OWN}
    return digest(shared | {"texts": n_texts, "device": device, "in_one_order": torch.are_deterministic_algorithms_enabled()})
