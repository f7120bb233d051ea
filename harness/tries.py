"""What becomes of runs that failed: tried again, tried with smaller micro-batches or crews, or given up. The record keeps every try."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.record import Record
from harness.runspec import RunSpec

# How many times a run that fails is tried in one invocation.
TRIES = 2


@dataclass
class Tries:
    """Failures by run key.

    `given_up`: runs that have failed for good. `micro_batches`: by rung, into how many parts its batches are cut to fit the memory.
    `crew_parts`: the same for its crews. `crew_counts`: failures of the crew that a run was in.
    """

    given_up: set[str]
    micro_batches: dict[str, int]
    counts: dict[str, int] = field(default_factory=dict)
    crew_parts: dict[str, int] = field(default_factory=dict)
    crew_counts: dict[str, int] = field(default_factory=dict)

    @classmethod
    def after(cls, record: Record, retry: bool) -> "Tries":
        """What earlier invocations leave: failed runs stay failed unless they are to be tried again."""
        failed = {key for key, ended in record.ended.items() if ended["status"] == "failed" and ended.get("final", True)}
        parts: dict[str, int] = {}
        crews: dict[str, int] = {}
        for event in record.started.values():
            rung = event["spec"]["rung"]
            parts[rung] = max(parts.get(rung, 1), event.get("micro_batches", 1))
            crews[rung] = max(crews.get(rung, 1), event.get("crew_parts", 1))
        return cls(set() if retry else failed, parts, crew_parts=crews)

    def parts_of(self, spec: RunSpec) -> int:
        """In how many parts a batch of this run goes through the model."""
        return self.micro_batches.get(spec.rung, 1)

    def crew_of(self, spec: RunSpec, planned: int) -> int:
        """How many runs like this one train together at most; a batch that goes through in parts does so by itself."""
        return 1 if self.parts_of(spec) > 1 else max(1, planned // self.crew_parts.get(spec.rung, 1))

    def crew_failed(self, specs: Sequence[RunSpec], cause: str, planned: int) -> list[tuple[RunSpec, ...]]:
        """What a crew is tried again as: the same once more, and then each run by itself. Want of memory makes the rung's crews smaller
        (`crew_of`), by which they are cut before they begin."""
        if cause == "memory":
            while self.crew_of(specs[0], planned) >= len(specs):
                self.crew_parts[specs[0].rung] = 2 * self.crew_parts.get(specs[0].rung, 1)
            return [tuple(specs)]
        for spec in specs:
            self.crew_counts[spec.key] = self.crew_counts.get(spec.key, 0) + 1
        again = max(self.crew_counts[spec.key] for spec in specs) < TRIES
        return [tuple(specs)] if again else [(spec,) for spec in specs]

    def failed(self, spec: RunSpec, cause: str) -> bool:
        """Count a failure; whether the run is to be tried again. Want of memory halves its micro-batches, down to single texts."""
        if cause == "memory" and self.parts_of(spec) < spec.batch_size:
            self.micro_batches[spec.rung] = min(2 * self.parts_of(spec), spec.batch_size)
            return True
        self.counts[spec.key] = self.counts.get(spec.key, 0) + 1
        if self.counts[spec.key] < TRIES and cause != "memory":
            return True
        self.given_up.add(spec.key)
        return False
