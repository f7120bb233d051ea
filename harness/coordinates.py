"""The coordinate check: how large the values inside a decoder are after a few steps, over widths, under both parametrizations.

Yang et al. 2022 (arXiv 2203.03466), Appendix D.1: under muP they stay level as the width grows; under the standard parametrization the
scores, the logits and what attention and MLP write grow with it. A run and a corpus enter; sizes by place leave; nothing is written.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness import plugins
from harness.data.batches import Order, pack
from harness.data.corpus import Corpus
from harness.errors import StudyError
from harness.evaluate import packed_logits
from harness.ladder import Rung
from harness.runspec import RunSpec
from harness.state import State, start
from harness.step import forward_backward, update

MULTIPLES = (1, 2, 4, 8)
STEPS = 10
SEEDS = 3
# Tokens whose scores are looked at, all pairs of them.
SCORED = 64
PLACES = {"dropout": "embedding", "attention": "attention", "mlp": "MLP", "head": "logits"}


@dataclass(frozen=True)
class Sizes:
    """One place of a model over widths: mean absolute value after the steps, and of its change by them (means over layers and seeds)."""

    parametrization: str
    place: str
    widths: tuple[int, ...]
    values: tuple[float, ...]
    changes: tuple[float, ...]

    @property
    def growth(self) -> float:
        """The power of the width with which the values grow: 0 is level."""
        return _power(self.widths, self.values)

    @property
    def change_growth(self) -> float:
        """The power of the width with which the change grows."""
        return _power(self.widths, self.changes)


def check(
    spec: RunSpec, base: Rung, corpus: Corpus, lr: float, *, multiples: Sequence[int] = MULTIPLES, steps: int = STEPS, seeds: int = SEEDS
) -> list[Sizes]:
    """Train models that are so many times as wide as the base for a few steps, and measure them before and after.

    Args:
        spec: a run of the study, for all but shape and rate. base: the shape to widen; its heads grow wider, not more.

    Raises:
        StudyError: the architecture has no muP.
    """
    # Models this small gain nothing from more.
    torch.set_num_threads(1)
    arch = plugins.load("models", spec.arch, "architecture")
    if not hasattr(arch, "Base"):
        raise StudyError(f"--coord-check: {spec.arch} has the standard parametrization alone. Nothing was run.")
    widths = asdict(arch.Base.of(arch.Shape(**base.shape)))
    found: list[Sizes] = []
    for parametrization, mup_base in (("standard", None), ("mup", widths)):
        runs = [[_measured(replace(spec, lr=lr, mup_base=mup_base, seed=seed, **_wider(base.shape, k)), corpus, steps)
                 for seed in range(seeds)] for k in multiples]  # fmt: skip
        for place in runs[0][0]:
            means = [np.mean([run[place] for run in of_width], axis=0) for of_width in runs]
            values, changes = (tuple(float(mean[i]) for mean in means) for i in (0, 1))
            found.append(Sizes(parametrization, place, tuple(k * widths["d_model"] for k in multiples), values, changes))
    return found


def _wider(shape: Mapping[str, Any], k: int) -> dict[str, Any]:
    """The part of a spec that makes its model k times as wide."""
    return {"shape": {**shape, **{name: k * shape[name] for name in ("d_model", "d_head", "d_ff")}}, "dropout": 0.0}


def _measured(spec: RunSpec, corpus: Corpus, steps: int) -> dict[str, tuple[float, float]]:
    """Size and change of every place by some steps of training, on texts that are the same for all widths."""
    state, texts = start(spec, "cpu"), corpus.train
    order = Order(texts.n_texts, spec.batch_size, spec.seed)
    before = _looked_at(state, corpus)
    for step in range(1, steps + 1):
        forward_backward(spec, state, texts, order.rows(step - 1), step, "cpu")
        update(state, spec.lr)
    after = _looked_at(state, corpus)
    return {place: (_size(now), _size([b - a for a, b in zip(before[place], now, strict=True)])) for place, now in after.items()}


@torch.no_grad()
def _looked_at(state: State, corpus: Corpus) -> dict[str, list[Tensor]]:
    """The values of every place for the first validation texts, a tensor a layer."""
    seen: dict[str, list[Tensor]] = {}
    with ExitStack() as hooks:
        for name, module in state.model.named_modules():
            place = PLACES.get(name.rpartition(".")[2])
            if place is not None:
                hooks.enter_context(_Hook(module, place, seen))
        state.model.eval()
        packed_logits(state.model, pack(corpus.validation, np.arange(min(8, corpus.validation.n_texts))))
        state.model.train()
    return seen


class _Hook:
    """Notes what a module gives out, and the scores of an attention as well."""

    def __init__(self, module: nn.Module, place: str, seen: dict[str, list[Tensor]]) -> None:
        self.module, self.place, self.seen = module, place, seen

    def __enter__(self) -> None:
        self.handle = self.module.register_forward_hook(self._note)

    def __exit__(self, *_: object) -> None:
        self.handle.remove()

    def _note(self, module: nn.Module, given: tuple[Any, ...], out: Tensor) -> None:
        if self.place == "attention":
            self.seen.setdefault("scores", []).append(_scores(module, given[0][:SCORED]))
        self.seen.setdefault(self.place, []).append(out.clone())


def _scores(attention: Any, x_NC: Tensor) -> Tensor:
    """Scores of all pairs of tokens in every head, (H, N, N); queries and keys aren't turned by position, which keeps their size."""
    q, k, _ = F.linear(x_NC, attention.qkv.weight, attention.qkv.bias).view(len(x_NC), 3, attention.n_head, -1).permute(1, 2, 0, 3)
    scale = attention.d_head**-0.5 if attention.scale is None else attention.scale
    scores: Tensor = q @ k.transpose(1, 2) * scale
    return scores


def _size(tensors: Sequence[Tensor]) -> float:
    return float(np.mean([float(tensor.abs().mean()) for tensor in tensors]))


def _power(widths: Sequence[int], sizes: Sequence[float]) -> float:
    """The slope of a straight line in logarithms."""
    return float(np.polyfit(np.log(widths), np.log(sizes), 1)[0])
