"""Steps of runs made ahead of the host: what each needs is worked out for many at once and brought to the device in one go.

Enter: spec and state of a run, or of several that are one crew, and the corpus. A step costs the host a replay and three copies within the
device, and for a crew what its members draw; only `read` waits.
"""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from harness import captured_decoding
from harness.captured import CapturedStep, CrewStep, RunStep
from harness.context import Context
from harness.data.batches import Order
from harness.data.filled import Size, joint, on_device, size_of, table
from harness.runspec import RunSpec, digest
from harness.state import State
from harness.step import rate_at, step_seed
from harness.stepping import MOST_UNREAD, Told

# Steps whose batches and rates are brought to the device together.
AHEAD = 256
# Captured steps that wait for another run of their shape; each holds weights, moments and what its graphs work on.
KEPT = 4
# What runs may differ in that share a captured step.
OWN = frozenset(
    {"stage", "rung", "family", "lr", "seed", "trial", "search", "lr_source", "lr_status", "steps", "evaluate_at", "eval_texts", "patience"}
    | {"schedule", "warmup_steps", "lr_min_fraction", "train_texts", "batch_size"}
)

log = logging.getLogger(__name__)
_idle: dict[str, CapturedStep] = {}
_said: set[str] = set()


class Ahead:
    """The work of one run, or of a crew (`stepping.Work`)."""

    def __init__(self, specs: Sequence[RunSpec], states: Sequence[State], context: Context) -> None:
        first = specs[0]
        self._specs, self._texts = tuple(specs), context.corpus.train.head(first.train_texts)
        self._orders = [Order(self._texts.n_texts, spec.batch_size, spec.seed) for spec in specs]
        self._n_texts = min(first.batch_size, self._texts.n_texts)
        self._steps = min(spec.steps for spec in specs)
        self._key = _key(specs, self._n_texts, context.device)
        ids = on_device(context.corpus.train, context.device)
        step = _idle.pop(self._key, None)
        if step is not None and step.ids is not ids:
            step.discard()
            step = None
        if step is None:
            if is_short(context.device):
                make_room()
            step = _new(specs, states, ids, self._n_texts, context.device)
        step.adopt(specs, states)
        self._step, self._factors = step, [group["factor"] for group in states[0].optimizer.param_groups]
        self._results = torch.zeros(MOST_UNREAD, *step.out.shape, device=context.device)
        self._launched, self._first = 0, 0
        self._sizes: list[Size] = []
        self._seeds: list[list[int]] = []
        self._drawn: list[list[int]] = []
        self._before_s = step.capturing_s

    @property
    def capturing_s(self) -> float:
        """Seconds that captures took since this work began."""
        return self._step.capturing_s - self._before_s

    def launch(self, step: int) -> None:
        """Begin a step, counted from 1."""
        if not self._first <= step < self._first + len(self._sizes):
            self._prepare(step)
        i = step - self._first
        with self._step.on_stream():
            self._step.batch.copy_(self._tables[i])
            self._step.rates.copy_(self._rates[i])
            self._step.make(self._sizes[i], self._seeds[i], self._drawn[i])
            self._results[self._launched].copy_(self._step.out)
        self._launched += 1

    def read(self) -> list[Told]:
        """Loss and gradient norm of each member in each step since the last reading; the one wait for the device."""
        with self._step.on_stream():
            told = self._results[: self._launched].tolist()
        self._launched = 0
        return [list(zip(*losses_and_norms, strict=True)) for losses_and_norms in told]

    def mark(self) -> None:
        """Keep weights and moments; what was done to them elsewhere comes first."""
        self._step.wait()
        self._step.mark()

    def rewind(self) -> None:
        """Weights and moments as they were at the last mark."""
        self._step.rewind()

    def close(self) -> None:
        """Another run of the shape may use the step from here on."""
        self._step.left()
        _idle[self._key] = self._step
        while len(_idle) > KEPT:
            _idle.pop(next(iter(_idle))).discard()

    def _prepare(self, step: int) -> None:
        """Batches, rates and seeds of the steps from this one on."""
        steps = range(step, min(step + AHEAD, self._steps + 1))
        rows = [[order.rows(s - 1) for order in self._orders] for s in steps]
        own = [[size_of(self._texts.lengths[some], self._n_texts, self._specs[0].seq_len - 1) for some in members] for members in rows]
        self._sizes = [joint(sizes) for sizes in own]
        self._drawn = [[size.tokens for size in sizes] for sizes in own]
        self._seeds = [[step_seed(spec.seed, s) for spec in self._specs] for s in steps]
        tables = [[table(self._texts, some, size) for some in members] for members, size in zip(rows, self._sizes, strict=True)]
        rates = [[rate_at(spec, s) * factor for spec in self._specs for factor in self._factors] for s in steps]
        with self._step.on_stream():
            self._tables, self._rates = self._brought(np.array(tables)), self._brought(np.array(rates, dtype=np.float32))
        self._first = step

    def _brought(self, values: np.ndarray) -> Tensor:
        host = torch.from_numpy(values)
        device = self._step.batch.device
        # From pinned memory, so that the host need not wait until it has arrived.
        return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host


def ahead_of(specs: Sequence[RunSpec], states: Sequence[State], context: Context) -> Ahead | None:
    """The work of a run, or of a crew, on a GPU; None elsewhere, and where its steps can't be captured, which is said once."""
    if torch.device(context.device).type != "cuda":
        return None
    reason = _against(specs[0], context)
    if reason and reason not in _said:
        _said.add(reason)
        log.warning("Steps are made one by one, with a wait for the device at each: %s.", reason)
    if reason:
        # A batch in parts is one that didn't fit.
        make_room()
        return None
    return Ahead(specs, states, context)


def make_room() -> None:
    """Let go of all that waits for other runs or for further texts, and leave the device all memory that this process can spare."""
    while _idle:
        _idle.popitem()[1].discard()
    captured_decoding.make_room()
    torch.cuda.empty_cache()


def is_short(device: str) -> bool:
    """Whether a device has less memory left than this process holds, what waiting graphs work on included: a new step may be as large."""
    if torch.device(device).type != "cuda":
        return False
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0] < torch.cuda.memory_reserved()


def _new(specs: Sequence[RunSpec], states: Sequence[State], ids: Tensor, n_texts: int, device: str) -> CapturedStep:
    if len(specs) == 1:
        return RunStep(specs[0], states[0], ids, n_texts, device)
    return CrewStep(specs, states, ids, n_texts, device)


def _against(spec: RunSpec, context: Context) -> str:
    """Why steps can't be made ahead, if so."""
    if spec.padding != "ignore":
        return f"train.padding is {spec.padding}"
    if context.micro_batches > 1:
        return f"a batch goes through the model in {context.micro_batches} parts"
    return ""


def _key(specs: Sequence[RunSpec], n_texts: int, device: str) -> str:
    """The same for runs, or crews, that can share a captured step."""
    shared = [{name: value for name, value in spec.to_dict().items() if name not in OWN} for spec in specs]
    return digest({"runs": shared, "texts": n_texts, "device": device, "in_one_order": torch.are_deterministic_algorithms_enabled()})
