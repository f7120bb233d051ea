"""What becomes of a run that failed: tried again, tried with smaller micro-batches, or given up. The record keeps every try."""

from dataclasses import dataclass, field

from harness.record import Record
from harness.runspec import RunSpec

# How many times a run that fails is tried in one invocation.
TRIES = 2


@dataclass
class Tries:
    """Failures by run key.

    `given_up`: runs that have failed for good. `micro_batches`: by rung, into how many parts its batches are cut to fit the memory.
    """

    given_up: set[str]
    micro_batches: dict[str, int]
    counts: dict[str, int] = field(default_factory=dict)

    @classmethod
    def after(cls, record: Record, retry: bool) -> "Tries":
        """What earlier invocations leave: failed runs stay failed unless they are to be tried again."""
        failed = {key for key, ended in record.ended.items() if ended["status"] == "failed" and ended.get("final", True)}
        parts: dict[str, int] = {}
        for event in record.started.values():
            rung = event["spec"]["rung"]
            parts[rung] = max(parts.get(rung, 1), event.get("micro_batches", 1))
        return cls(set() if retry else failed, parts)

    def parts_of(self, spec: RunSpec) -> int:
        """In how many parts a batch of this run goes through the model."""
        return self.micro_batches.get(spec.rung, 1)

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
