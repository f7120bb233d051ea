"""Everything that moves during a run, and its form on disk: a run that is put back from a checkpoint goes on as if it had never stopped.

No generator has a state worth keeping: order, dropout and samples are functions of (seed, epoch or step). What is kept is the weights, the
optimizer's moments, the best weights and their scores, and the counters of the loop.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness import plugins
from harness.checkpoint import Checkpoint
from harness.divergence import DivergenceMonitor
from harness.evaluate import Evaluation
from harness.runspec import RunSpec
from models._mup import by_rate

# Groups of tensors in a checkpoint, by the beginning of their names.
MODEL, BEST, MOMENTS = "model.", "best.", "moments."
COUNTERS = (
    "step",
    "tokens",
    "flops",
    "best_step",
    "stale",
    "evaluated",
    "since_evaluation",
    "events",
    "timed_tokens",
    "timed_s",
    "spent_s",
)


@dataclass
class State:
    """A run in motion.

    `points`: training points since the last evaluation. `evaluated`: the step of that evaluation. `events`: how many events of the run have
    been emitted. `ended`: status and reason, once training is over and only the last scores and samples may be missing. `seconds`: wall and
    CPU seconds spent on each part of the work so far.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    monitor: DivergenceMonitor
    step: int = 0
    tokens: int = 0
    flops: float = 0.0
    best: Evaluation | None = None
    best_step: int | None = None
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    stale: int = 0
    evaluated: int = 0
    since_evaluation: int = 0
    history: list[tuple[int, float]] = field(default_factory=list)
    points: list[tuple[int, int, float, float, float]] = field(default_factory=list)
    events: int = 0
    timed_tokens: int = 0
    timed_s: float = 0.0
    spent_s: float = 0.0
    ended: tuple[str, str] | None = None
    seconds: dict[str, list[float]] = field(default_factory=dict)

    @property
    def tokens_per_second(self) -> float | None:
        """Training speed after warm-up, evaluations left out."""
        return self.timed_tokens / self.timed_s if self.timed_s else None

    @contextmanager
    def timing(self, part: str) -> Iterator[None]:
        """Count what the block takes, ended by an error or not, as seconds of a part of the work."""
        wall, cpu = perf_counter(), process_time()
        try:
            yield
        finally:
            self.took(part, perf_counter() - wall, process_time() - cpu)

    def took(self, part: str, wall_s: float, cpu_s: float) -> None:
        """Count wall and CPU seconds of a part of the work."""
        spent = self.seconds.setdefault(part, [0.0, 0.0])
        spent[0] += wall_s
        spent[1] += cpu_s

    def moved(self, from_part: str, to_part: str, seconds: float) -> None:
        """Count seconds of one part as those of another; a host that prepares work is busy, so that they are CPU seconds too."""
        if seconds:
            self.took(from_part, -seconds, -seconds)
            self.took(to_part, seconds, seconds)


def build_model(spec: RunSpec, dropout: float | None = None) -> nn.Module:
    """The untrained model of a run; its initial weights are a function of the seed."""
    arch = plugins.load("models", spec.arch, "architecture")
    torch.manual_seed(spec.seed)
    base = {} if spec.mup_base is None else {"base": arch.Base(**spec.mup_base)}
    dropped = spec.dropout if dropout is None else dropout
    model: nn.Module = arch.Model(arch.Shape(**spec.shape), spec.vocab_size, spec.seq_len, dropped, **base)
    return model


def start(spec: RunSpec, device: str) -> State:
    """A run before its first step."""
    model = build_model(spec).to(device)
    # Moments in a checkpoint are numbered in the order of these groups.
    groups = [{"params": list(group.values()), **group_facts(spec, factor)} for factor, group in by_rate(model)]
    return State(model, torch.optim.AdamW(groups, fused=True), DivergenceMonitor(spec.vocab_size))


def group_facts(spec: RunSpec, factor: float) -> dict[str, Any]:
    """What AdamW does with the parameters whose rate is `factor` times the run's.

    It multiplies weights by 1 - rate x decay at each step. That product is what is held: every weight decays as fast at any width.
    """
    facts = {"betas": (spec.beta1, spec.beta2), "eps": spec.eps, "weight_decay": spec.weight_decay / factor}
    return {"lr": spec.lr * factor, "factor": factor} | facts


def set_rate(optimizer_groups: Iterable[dict[str, Any]], lr: float) -> None:
    """Give each group of parameters its share of a rate."""
    for group in optimizer_groups:
        group["lr"] = lr * group["factor"]


def snapshot(state: State) -> Checkpoint:
    """The state as tensors and plain data."""
    tensors = {MODEL + name: tensor for name, tensor in state.model.state_dict().items()}
    tensors |= {BEST + name: tensor for name, tensor in state.best_weights.items()}
    for index, moments in state.optimizer.state_dict()["state"].items():
        tensors |= {f"{MOMENTS}{index}.{name}": torch.as_tensor(value) for name, value in moments.items()}
    facts: dict[str, Any] = {name: getattr(state, name) for name in COUNTERS}
    best = None if state.best is None else {k: v for k, v in asdict(state.best).items() if not isinstance(v, np.ndarray)}
    facts |= {"monitor": state.monitor.to_dict(), "best": best, "history": state.history, "points": state.points, "ended": state.ended}
    facts["seconds"] = {part: list(spent) for part, spent in state.seconds.items()}
    return Checkpoint(state.step, {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}, facts)


def restore(spec: RunSpec, device: str, saved: Checkpoint) -> State:
    """A run as it was when the checkpoint was made."""
    state, facts = start(spec, device), saved.facts
    state.model.load_state_dict(_group(saved.tensors, MODEL))
    state.best_weights = {name: tensor.to(device) for name, tensor in _group(saved.tensors, BEST).items()}
    state.optimizer.load_state_dict(state.optimizer.state_dict() | {"state": _moments(_group(saved.tensors, MOMENTS))})
    for name in COUNTERS:
        setattr(state, name, facts[name])
    state.monitor = DivergenceMonitor.from_dict(facts["monitor"])
    if facts["best"] is not None:
        # Scores of single texts are only needed where they were made.
        state.best = Evaluation(**facts["best"], text_nll=np.empty(0), text_hits=np.empty(0))
    state.history = [(step, loss) for step, loss in facts["history"]]
    state.points = [tuple(point) for point in facts["points"]]
    state.ended = None if facts["ended"] is None else tuple(facts["ended"])
    state.seconds = {part: list(spent) for part, spent in facts.get("seconds", {}).items()}
    return state


def _group(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _moments(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, moment = name.split(".", 1)
        moments.setdefault(int(index), {})[moment] = tensor
    return moments
