"""Who trains with whom: a group of runs, and the checkpoints that there are, give crews and the step that each goes on from.

All of it follows from the plan, the record and the disk, so that a study that goes on forms the crews that it had.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.checkpoint import KEPT
from harness.crew import together
from harness.runspec import RunSpec

Members = tuple[RunSpec, ...]


@dataclass(frozen=True)
class Saved:
    """A checkpoint that a run can go on from. `events`: how many of its events came before. `is_over`: it only has to be scored."""

    step: int
    events: int
    is_over: bool


def crews(group: Sequence[RunSpec], missing: Collection[str], most: Callable[[RunSpec], int]) -> list[Members]:
    """Runs that train together: those of the group that can, at most so many at a time, as far as their keys are missing.

    Who is with whom depends on the whole group, and not on what is done of it.
    """
    formed: list[Members] = []
    for alike in _alike(group):
        n_crews = math.ceil(len(alike) / most(alike[0]))
        for part in np.array_split(np.arange(len(alike)), n_crews):
            formed.append(tuple(alike[i] for i in part if alike[i].key in missing))
    place = {spec.key: i for i, spec in enumerate(group)}
    return sorted(filter(None, formed), key=lambda members: place[members[0].key])


def _alike(group: Sequence[RunSpec]) -> list[list[RunSpec]]:
    """The group's runs by who can be in one crew."""
    found: list[list[RunSpec]] = []
    for spec in group:
        own = next((alike for alike in found if together([alike[0], spec])), None)
        if own is None:
            found.append([spec])
        else:
            own.append(spec)
    return found


def going_on(members: Members, saved: Mapping[str, Sequence[Saved]]) -> list[dict[str, Saved | None]]:
    """Parts of a crew that can go on together, as where each run does so, by key; None: at its start.

    A crew is saved as one, run by run. One that was cut off in the middle of it goes on from the last step that all have; where there is
    none, because checkpoints are damaged or were made in other company, those of the same newest step go on together.

    Args:
        saved: the usable checkpoints of each run, newest first.
    """
    over = {spec.key: saved[spec.key][0] for spec in members if saved[spec.key] and saved[spec.key][0].is_over}
    steps = {spec.key: _steps(saved[spec.key]) for spec in members if spec.key not in over}
    common = set.intersection(*map(set, steps.values())) if steps else set()
    newest = {key: max(common) if common else own[0] for key, own in steps.items()}
    parts: list[dict[str, Saved | None]] = []
    for step in sorted(set(newest.values()), reverse=True) or [0]:
        part: dict[str, Saved | None] = dict(over) if not parts else {}
        for key in (key for key, at in newest.items() if at == step):
            part[key] = next((one for one in saved[key] if one.step == step), None)
        parts.append({spec.key: part[spec.key] for spec in members if spec.key in part})
    return parts


def _steps(saved: Sequence[Saved]) -> list[int]:
    """Where a run can go on, newest first; its start is among the last places as long as it was not saved more often."""
    return [one.step for one in saved] + ([0] if len(saved) < KEPT else [])
