"""The record in memory: what is known of a study so far, folded from the journal's events.

`execute` asks it what is done, `results` makes tables of it. A run that was started again counts as its last try.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from harness.held_out import Lock, held_out_rung
from harness.journal import Event

# Statuses after which a run is not trained again.
ENDED = frozenset({"completed", "pruned", "diverged"})
# What may change where a run goes on.
HOW = ("micro_batches", "crew", "crew_parts")


@dataclass
class Record:
    """Facts by run key, and the study's own.

    `selected`: the runs that belong to the current plan, in the order in which they were chosen, as the fields of their spec and labels.
    `ended`, `evaluations`, `samples`: by run key. `events`: how many numbered events of its run are known. `chosen`: the learning
    rate of each rung. `data`: counts, fingerprint and floor. `named`: the held-out rung as it stood when each rung's first run beside
    its search began.
    """

    study: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    selected: dict[str, Event] = field(default_factory=dict)
    started: dict[str, Event] = field(default_factory=dict)
    ended: dict[str, Event] = field(default_factory=dict)
    evaluations: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    samples: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    events: dict[str, int] = field(default_factory=dict)
    chosen: dict[str, Event] = field(default_factory=dict)
    invocations: dict[str, Event] = field(default_factory=dict)
    named: dict[str, str] = field(default_factory=dict)
    last_time: float = 0.0

    @classmethod
    def of(cls, events: Iterable[Event]) -> "Record":
        """Fold events in order."""
        record = cls()
        for event in events:
            record.add(event)
        return record

    def add(self, event: Event) -> None:
        """Take in one event; a kind that this version doesn't know is passed over."""
        self.last_time = event["time"]
        if "index" in event and "key" in event:
            self.events[event["key"]] = event["index"] + 1
        handler = getattr(self, f"_on_{event['event']}", None)
        if handler is not None:
            handler(event)

    def is_done(self, key: str) -> bool:
        """Whether a run has an outcome that stands."""
        return key in self.ended and self.ended[key]["status"] in ENDED

    def history(self, key: str) -> tuple[tuple[int, float], ...]:
        """(step, validation loss) at each evaluation of a run, leaving out losses that were not finite."""
        return tuple((e["step"], e["val_loss"]) for e in self.evaluations[key] if e["val_loss"] is not None)

    def lock(self) -> Lock:
        """The held-out rung, and what was named when its first run began."""
        rung = held_out_rung(self.study, self.plan)
        return Lock(rung, self.named.get(rung))

    def status_counts(self) -> dict[str, int]:
        """How many of the selected runs have each status."""
        counts: dict[str, int] = defaultdict(int)
        for key in self.selected:
            if key in self.ended:
                counts[self.ended[key]["status"]] += 1
        return dict(counts)

    def _on_plan(self, event: Event) -> None:
        self.study, self.plan, self.data = event["study"], event["plan"], event["data"]
        self.selected, self.chosen = {}, {}

    def _on_study(self, event: Event) -> None:
        self.study = event["study"]

    def _on_selected(self, event: Event) -> None:
        self.selected.setdefault(event["key"], event)

    def _on_run_started(self, event: Event) -> None:
        key = event["key"]
        self.started[key] = event
        selected = self.selected.get(key)
        if selected and selected["stage"] != "search":
            self.named.setdefault(selected["rung"], held_out_rung(self.study, self.plan))
        self.ended.pop(key, None)
        self.evaluations[key], self.samples[key], self.events[key] = [], [], 0

    def _on_run_resumed(self, event: Event) -> None:
        """What came after the checkpoint will come again."""
        key, known = event["key"], event["events"]
        if key in self.started:
            # How it is trained from here on: in other company, or in other parts, where there was too little memory.
            self.started[key] = {k: v for k, v in self.started[key].items() if k not in HOW} | {k: event[k] for k in HOW if k in event}
        self.ended.pop(key, None)
        for events in (self.evaluations[key], self.samples[key]):
            events[:] = [e for e in events if e["index"] < known]
        self.events[key] = known

    def _on_evaluation(self, event: Event) -> None:
        self.evaluations[event["key"]].append(event)

    def _on_samples(self, event: Event) -> None:
        self.samples[event["key"]].append(event)

    def _on_run_ended(self, event: Event) -> None:
        self.ended[event["key"]] = event

    def _on_run_voided(self, event: Event) -> None:
        """A part of the run's record was lost: it is trained again."""
        key = event["key"]
        self.ended.pop(key, None)
        self.started.pop(key, None)
        self.evaluations[key], self.samples[key], self.events[key] = [], [], 0

    def _on_lr_chosen(self, event: Event) -> None:
        self.selected = still_selected(self.selected, self.chosen.get(event["rung"]), event)
        self.chosen[event["rung"]] = event

    def _on_invocation(self, event: Event) -> None:
        self.invocations[event["id"]] = dict(event)

    def _on_invocation_ended(self, event: Event) -> None:
        # Its beginning may have been on a damaged line.
        if event["id"] in self.invocations:
            self.invocations[event["id"]] |= {k: event[k] for k in ("seconds", "exit_code", "completed")}


def still_selected(selected: dict[str, Event], before: Event | None, chosen: Event) -> dict[str, Event]:
    """The runs that belong to the plan after a rung's rate was chosen: where it was another one before, what rested on it is selected anew.

    A rate changes within a plan where the code that finds it has changed.
    """
    if before is None or before["lr"] == chosen["lr"]:
        return selected
    rung = chosen["rung"]
    # Ablations follow the best rung, which may be another one now.
    return {key: e for key, e in selected.items() if e["stage"] == "search" or (e["stage"] != "ablation" and e["rung"] != rung)}
