"""A run of the record, trained again here and compared with what was written down: the test of a reproducible study."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness.checkpoint import load_weights
from harness.context import Context
from harness.data.corpus import Corpus, prepare
from harness.errors import DamageError, StudyError
from harness.invocation import CHECKPOINTS
from harness.journal import Event
from harness.record import Record
from harness.runspec import RunSpec
from harness.spec import Study
from harness.strategies import cut_in_words
from harness.writing import find

# Two machines, or two plans on one, round differently; a stable run stays within this.
TOLERANCE = 1e-6
# Fields that measure the machine, or say where a run was cut.
NOT_RESULTS = frozenset({"n", "time", "event", "key", "time_s", "seconds", "tokens_per_second", "reason", "index"})


@dataclass(frozen=True)
class Difference:
    """A value that came out otherwise; `relative` is infinite where one of the two isn't a number."""

    what: str
    recorded: object
    repeated: object
    relative: float


@dataclass(frozen=True)
class Repeat:
    """How a repeated run compares. `values`: how many were compared; `same_weights`: None where none were kept."""

    name: str
    key: str
    values: int
    differences: tuple[Difference, ...]
    same_weights: bool | None

    @property
    def largest(self) -> float:
        """The largest relative difference; 0 where all values are equal to the last bit."""
        return max((difference.relative for difference in self.differences), default=0.0)

    @property
    def is_same(self) -> bool:
        """Whether nothing differs by more than rounding explains."""
        return self.largest <= TOLERANCE


def repeat(root: Path, run: str, device: str = "cpu") -> Repeat:
    """Train a run again, which is named by its key, the beginning of its key, or its name, and compare every score and text.

    Raises:
        StudyError: no such run, more than one, or one without an outcome. DamageError: its data is not what it was.
    """
    folder, record, key = find(root, run)
    ended = record.ended.get(key)
    if ended is None or not record.is_done(key):
        raise StudyError(f"run {run} has no outcome that could be repeated ({'never ended' if ended is None else ended['status']}).")
    spec = RunSpec.from_dict(record.started[key]["spec"])
    corpus = prepare(Study.model_validate(record.study).data)
    if corpus.fingerprint != spec.data:
        raise DamageError(f"the data of run {run} has changed since it was trained, so that it can't be repeated.")
    with TemporaryDirectory() as aside:
        told, outcome = _train(spec, corpus, record, key, Path(aside), device)
        kept = folder / CHECKPOINTS / key / "best.safetensors"
        same_weights = _same_weights(kept, Path(aside) / "best.safetensors") if kept.exists() else None
    recorded = _values(record.evaluations[key], record.samples[key], ended)
    repeated = _values([e for e in told if e["event"] == "evaluation"], [e for e in told if e["event"] == "samples"], outcome)
    compared = {what: (recorded.get(what), repeated.get(what)) for what in {**recorded, **repeated} if _is_comparable(what, recorded)}
    differences = [Difference(what, a, b, _relative(a, b)) for what, (a, b) in compared.items() if a != b]
    return Repeat(record.started[key]["name"], key, len(compared), tuple(differences), same_weights)


def _train(spec: RunSpec, corpus: Corpus, record: Record, key: str, folder: Path, device: str) -> tuple[list[Event], dict[str, Any]]:
    import torch

    from harness.train import outcome_fields, train

    torch.set_num_threads(int(record.plan["threads"]))
    told: list[Event] = []
    is_trial = spec.stage == "search"
    context = Context(
        corpus=corpus,
        emit=lambda event, fields: told.append({"event": event} | fields),
        device=device,
        folder=None if is_trial else folder,
        samples=None if is_trial else record.study["samples"],
        micro_batches=record.started[key].get("micro_batches", 1),
    )
    if record.ended[key]["status"] == "pruned":
        # Which trials it was judged against is the search's business; here it ends where it ended.
        cut = record.ended[key]["steps"]
        context = replace(context, prune=lambda history: history[-1][0] >= cut)
    return told, outcome_fields(train(spec, context))


def _same_weights(kept: Path, made: Path) -> bool:
    import torch

    one, other = load_weights(kept), load_weights(made)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _values(evaluations: list[Event], samples: list[Event], ended: Mapping[str, Any]) -> dict[str, Any]:
    """Every result of a run by a name that says where it stands."""
    values = {f"end {name}": value for name, value in ended.items() if name not in NOT_RESULTS}
    for event in evaluations:
        values |= {f"step {event['step']} {name}": value for name, value in event.items() if name not in NOT_RESULTS}
    for event in samples:
        cut = cut_in_words(event)
        values[f"{event['at']} {event['step']} at temperature {event['temperature']:g}{cut and ', '}{cut}"] = list(event["texts"])
    # What isn't finite is null in the record.
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()}


def _is_comparable(what: str, recorded: Mapping[str, Any]) -> bool:
    """The floor stands in the record of a finished run only, and is a fact of the data."""
    return what in recorded and not what.startswith("end floor_")


def _relative(one: object, other: object) -> float:
    if isinstance(one, bool) or not isinstance(one, int | float) or not isinstance(other, int | float):
        return math.inf
    return abs(one - other) / max(abs(one), abs(other))
