"""The rungs of a study as shapes: named, solved for a target, or given outright; all of one family, in one parametrization or in both."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import ModuleType
from typing import Any

from harness import accounting, plugins
from harness.errors import StudyError
from harness.spec import ModelSpec, Shape, parse_count, rung_name

# A shape that nobody means: refused before anything of its size is built.
MOST_PARAMS = 10**11
# What is added to the name of a family, and of a rung that has a standard twin.
MUP = "-mup"


@dataclass(frozen=True)
class Rung:
    """One model size: its shape and what it counts with this study's vocabulary.

    `target` is the number asked for, where one was; `mup_base` the widths that muP scales from, None under the standard parametrization.
    """

    name: str
    family: str
    arch: str
    shape: Mapping[str, Any]
    counts: accounting.Counts
    target: int | None = None
    mup_base: Mapping[str, int] | None = None

    @property
    def n_params(self) -> int:
        """All parameters, as built."""
        return self.counts.n_params


def resolve(model: ModelSpec, vocab_size: int, seq_len: int) -> list[Rung]:
    """Every rung with its shape, those in muP after their standard twins; StudyError names the rung that can't be had, and why."""
    arch = plugins.load("models", model.arch, "model.arch")
    family_name, family = _family(arch, model)
    rungs: list[Rung] = []
    for given in model.rungs:
        rung = _rung(arch, model.arch, given, "rungs", family_name, family, vocab_size, seq_len)
        twin = next((one.name for one in rungs if one.shape == rung.shape), None)
        if twin is not None:
            raise StudyError(f"model.rungs: {rung.name} and {twin} are the same shape; leave one of them out. Nothing was run.")
        rungs.append(rung)
    if model.parametrization == "standard":
        return rungs
    return _in_mup(arch, rungs, base(model, vocab_size, seq_len), keep=model.parametrization == "both")


def base(model: ModelSpec, vocab_size: int, seq_len: int) -> Rung:
    """The size that muP compares widths with: as the study says, else its first rung."""
    arch = plugins.load("models", model.arch, "model.arch")
    given = model.rungs[0] if model.mup_base is None else model.mup_base
    return _rung(arch, model.arch, given, "mup_base", *_family(arch, model), vocab_size, seq_len)


def _in_mup(arch: ModuleType, rungs: Sequence[Rung], narrowest: Rung, keep: bool) -> list[Rung]:
    """The rungs in muP, whose family has its own name so that no law is fitted over both; `keep`: beside the standard ones."""
    if not hasattr(arch, "Base"):
        raise StudyError(f"model.parametrization: {narrowest.arch} has the standard one alone; leave it out. Nothing was run.")
    widths = asdict(arch.Base.of(arch.Shape(**narrowest.shape)))
    names = {rung.name.lower() for rung in rungs}
    pairs: list[Rung] = []
    for rung in rungs:
        mup = replace(rung, name=rung.name + MUP * keep, family=rung.family + MUP, mup_base=widths)
        if keep and mup.name.lower() in names:
            raise StudyError(f"model.rungs: {mup.name} is also the name of {rung.name} in muP; give it another. Nothing was run.")
        pairs += [rung, mup] if keep else [mup]
    return pairs


def _rung(
    arch: ModuleType, arch_name: str, given: str | Shape, key: str, family_name: str, family: dict[str, Any], vocab_size: int, seq_len: int
) -> Rung:
    """One rung with its shape; StudyError names the key and the rung."""
    name = rung_name(given)
    try:
        shape, target = _shape(arch, given, family_name, family, vocab_size, seq_len)
        counts = accounting.counts(arch_name, shape, vocab_size, seq_len)
        _refuse_absurd(counts.n_params)
    except ValueError as error:
        raise StudyError(f"model.{key}: {name}: {error}. Nothing was run.") from None
    return Rung(name, family_name, arch_name, shape, counts, target)


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
