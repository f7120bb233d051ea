"""Which rung a study holds out, and whether that was decided before the rung was trained.

A study and its plan go in, the name of a rung comes out. The record keeps what was named when each rung's first run began: a prediction
that was chosen after its answer was known is none, and the report says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LARGEST, NONE = "largest", "none"


@dataclass(frozen=True)
class Lock:
    """The rung held out now, and what was named when its first measured run began (None: it hasn't begun); empty for no rung."""

    rung: str = ""
    then: str | None = None

    @property
    def held(self) -> bool:
        """Whether the rung was named before it was trained."""
        return self.then is None or self.then == self.rung


def held_out_rung(study: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    """The rung that is held out, the largest that is trained unless the study names one; empty for none.

    Args:
        study: the study file as recorded. plan: the plan as recorded.
    """
    asked = str((study.get("analysis") or {}).get("held_out", LARGEST))
    if asked == NONE:
        return ""
    if asked != LARGEST:
        return asked
    kept = [rung for rung in plan.get("rungs", []) if not rung.get("skipped")]
    return str(max(kept, key=lambda rung: rung["n_params"])["rung"]) if kept else ""
