"""The rungs of a study as shapes: named, solved for a target, or given outright; all of one family."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any

from harness import accounting, plugins
from harness.errors import StudyError
from harness.spec import ModelSpec, Shape, parse_count

# A shape that nobody means: refused before anything of its size is built.
MOST_PARAMS = 10**11


@dataclass(frozen=True)
class Rung:
    """One model size: its shape and what it counts with this study's vocabulary. `target` is the number asked for, where one was."""

    name: str
    family: str
    arch: str
    shape: Mapping[str, Any]
    counts: accounting.Counts
    target: int | None = None

    @property
    def n_params(self) -> int:
        """All parameters, as built."""
        return self.counts.n_params


def resolve(model: ModelSpec, vocab_size: int, seq_len: int) -> list[Rung]:
    """Every rung with its shape; StudyError names the rung that can't be had, and why."""
    arch = plugins.load("models", model.arch, "model.arch")
    family_name, family = _family(arch, model)
    rungs: list[Rung] = []
    for given in model.rungs:
        name = given if isinstance(given, str) else given.name
        try:
            shape, target = _shape(arch, given, family_name, family, vocab_size, seq_len)
            counts = accounting.counts(model.arch, shape, vocab_size, seq_len)
            _refuse_absurd(counts.n_params)
        except ValueError as error:
            raise StudyError(f"model.rungs: {name}: {error}. Nothing was run.") from None
        twin = next((rung.name for rung in rungs if rung.shape == shape), None)
        if twin is not None:
            raise StudyError(f"model.rungs: {name} and {twin} are the same shape; leave one of them out. Nothing was run.")
        rungs.append(Rung(name, family_name, model.arch, shape, counts, target))
    return rungs


def _refuse_absurd(n_params: int) -> None:
    if n_params > MOST_PARAMS:
        raise ValueError(f"{n_params:,} parameters are more than any study here can train (at most {MOST_PARAMS:,})")


def _family(arch: ModuleType, model: ModelSpec) -> tuple[str, dict[str, Any]]:
    """The family's name for people and its choices."""
    if isinstance(model.family, str):
        if model.family not in arch.FAMILIES:
            known = sorted(arch.FAMILIES)
            close = plugins.nearest(model.family, known)
            raise StudyError(f"model.family: {model.arch} has no family {model.family!r}.{close} There are: {', '.join(known)}.")
        return model.family, asdict(arch.FAMILIES[model.family])
    try:
        family = arch.Family(**model.family)
    except (TypeError, ValueError) as error:
        raise StudyError(f"model.family: {error}. Nothing was run.") from None
    named = next((name for name, known in arch.FAMILIES.items() if known == family), None)
    changed = ",".join(f"{k}={v}" for k, v in sorted(model.family.items()))
    return named or f"own({changed})", asdict(family)


def _shape(
    arch: ModuleType, given: str | Shape, family_name: str, family: dict[str, Any], vocab_size: int, seq_len: int
) -> tuple[dict[str, Any], int | None]:
    if isinstance(given, Shape):
        sizes = given.model_dump(exclude={"name"}, exclude_none=True)
        return asdict(arch.explicit(sizes, **family)), None
    if given in arch.NAMED:
        if family_name != "assignment":
            raise ValueError(f"this shape belongs to the family assignment, and the study's is {family_name}; give a target such as 87k")
        return asdict(arch.NAMED[given]), None
    try:
        target = parse_count(given)
    except ValueError:
        known = list(arch.NAMED)
        close = plugins.nearest(given, known)
        raise ValueError(f"neither a number of parameters such as 500k nor a named shape.{close} Named: {', '.join(known)}") from None
    _refuse_absurd(target)
    return asdict(arch.solve(target, vocab_size, seq_len, **family)), target
