"""Which model sizes a budget could be spent on, and what their tokens cost: from a study's recorded plan, without its data.

FLOPs are those of the project's own accounting, for shapes that can be built. Seconds are those that were measured when the plan was
made, between its rungs by interpolation and past them in proportion to FLOPs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from harness import accounting, ladder
from harness._values import duration_seconds
from harness.errors import StudyError
from harness.plan import OVERHEAD_S, Plan
from harness.spec import ModelSpec

# Sizes that are looked at, from REACH times below the smallest rung to REACH times above the largest.
SIZES, REACH = 150, 300.0
# Texts of these lengths show how FLOPs a token grow with length; they are linear in it.
SHORT, LONG = 16, 144


@dataclass(frozen=True)
class Size:
    """A shape that can be built: `rung` is what a study file calls it."""

    rung: str
    n_params: int
    flops_per_token: float


@dataclass(frozen=True, eq=False)
class Market:
    """The family, vocabulary and texts of a study, and the rungs that were priced on a machine."""

    study: dict[str, Any]
    plan: Plan
    data: dict[str, Any]

    @property
    def model(self) -> ModelSpec:
        """The family in which sizes are solved."""
        return ModelSpec.model_validate(self.study["model"])

    @property
    def step_tokens(self) -> float:
        """Tokens of a step on average, as in `harness.pricing`."""
        n_train, batch = int(self.data["n_train"]), int(self.study["train"]["batch_size"])
        return n_train * float(self.data["mean_tokens"]) / math.ceil(n_train / batch)

    @property
    def unique_tokens(self) -> float:
        """Different training tokens that there are."""
        return float(self.data["n_train"] * self.data["mean_tokens"])

    def sizes(self) -> list[Size]:
        """Sizes over the whole range, smallest first, each with a name of three digits from which it is solved."""
        known = [rung.n_params for rung in self.plan.rungs]
        targets = np.geomspace(max(1000.0, min(known) / REACH), max(known) * REACH, SIZES)
        found: dict[int, Size] = {}
        for target in targets:
            try:
                size = self.size(short_count(target))
            except StudyError:
                # No shape of this family is so small or so large.
                continue
            found.setdefault(size.n_params, size)
        return [found[n] for n in sorted(found)]

    def size(self, rung: str) -> Size:
        """The shape that a name stands for."""
        spec = self.model.model_copy(update={"rungs": (rung,)})
        (one,) = ladder.resolve(spec, int(self.data["vocab_size"]), int(self.study["data"]["seq_len"]))
        return Size(rung, one.n_params, self._flops(one.arch, one.shape, self._length))

    def _flops(self, arch: str, shape: Any, length: float) -> float:
        """FLOPs a token over texts whose length, weighted by tokens, is `length`."""
        low, high = (accounting.flops_per_token(arch, shape, int(self.data["vocab_size"]), [n]) for n in (SHORT, LONG))
        return low + (high - low) * (length - SHORT) / (LONG - SHORT)

    @cached_property
    def _length(self) -> float:
        """The length at which a recorded rung has its recorded FLOPs a token: all that they depend on in the lengths of texts."""
        rung = self.plan.rungs[-1]
        low, high = (self._flops(rung.arch, rung.shape, n) for n in (SHORT, LONG))
        return SHORT + (rung.flops_per_token - low) / (high - low) * (LONG - SHORT) if high > low else float(SHORT)

    def seconds(self, flops_per_token: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Seconds a token of training, and those of a run beside (evaluations, test, samples), on one worker, for sizes by their FLOPs."""
        rungs = sorted(self.plan.rungs, key=lambda rung: rung.flops_per_token)
        own = np.log([rung.flops_per_token for rung in rungs])
        step = [rung.priced_step_s for rung in rungs]
        whole = [rung.estimated_s / rung.runs if rung.run_s is None else rung.run_s for rung in rungs]
        beside = [max(run - rung.steps * s, 1e-3) for run, rung, s in zip(whole, rungs, step, strict=True)]
        x = np.log(np.asarray(flops_per_token, float))
        return _between(x, own, step) / self.step_tokens, _between(x, own, beside)


@dataclass(frozen=True)
class Budget:
    """What one training run may take. `seconds` count from the start of the study to its report, on one worker."""

    amount: float
    unit: Literal["FLOPs", "seconds"]

    def prices(self, market: Market, sizes: Sequence[Size]) -> tuple[np.ndarray, np.ndarray]:
        """What a token costs at each size, and how many tokens the budget is enough for (none or less: 0)."""
        flops = np.array([size.flops_per_token for size in sizes])
        if self.unit == "FLOPs":
            return flops, self.amount / flops
        per_token, beside = market.seconds(flops)
        return per_token, np.maximum(self.amount - OVERHEAD_S - beside, 0.0) / per_token

    def cost(self, market: Market, size: Size, tokens: np.ndarray) -> np.ndarray:
        """What runs of a size cost in this unit, the time of a start and a report left out."""
        if self.unit == "FLOPs":
            return size.flops_per_token * tokens
        per_token, beside = market.seconds([size.flops_per_token])
        found: np.ndarray = per_token[0] * tokens + beside[0]
        return found


def asked(flops: float | None, within: str | None) -> Budget:
    """The budget as given on the command line, one of the two.

    Raises:
        StudyError: it is none.
    """
    if within is not None:
        try:
            return Budget(duration_seconds(within), "seconds")
        except ValueError as error:
            raise StudyError(f"--within {error}") from None
    if flops is None or not (math.isfinite(flops) and flops > 0):
        raise StudyError(f"--flops must be a number above 0 such as 1e16, not {flops}")
    return Budget(flops, "FLOPs")


def short_count(target: float) -> str:
    """A count in three digits, as a study file has a size: 87.3k, 1.23M."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if target >= size:
            return f"{float(f'{target / size:.3g}'):g}{unit}"
    return f"{target:.0f}"


def _between(x: np.ndarray, own: np.ndarray, values: Sequence[float]) -> np.ndarray:
    """Values at x by lines through their logarithms; past both ends in proportion to exp(x)."""
    logs = np.log(np.maximum(values, 1e-12))
    inside: np.ndarray = np.interp(x, own, logs)
    found: np.ndarray = np.exp(inside + np.minimum(x - own[0], 0.0) + np.maximum(x - own[-1], 0.0))
    return found
