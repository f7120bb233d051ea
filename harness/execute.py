"""Walks the plan: gives runs to workers, skips what is done, retries what was cut off, and writes everything down.

The record's events go in and out here: a run that is done is answered from the record, any other is trained. Outcome is data: a
diverged, pruned or failed run ends with its status and reason, and the study goes on.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

from harness.checkpoint import KEPT, Damaged, each_checkpoint, remove_checkpoints
from harness.crews import Saved, crews, going_on
from harness.errors import StorageError
from harness.journal import Event, Journal, plain
from harness.record import Record
from harness.runspec import RunSpec
from harness.stages import Ended, Group, Lane, RateChoice, Stages
from harness.text import censored
from harness.tries import Tries
from harness.workers import Message, Pool, Task

POLL_S = 0.5
# How long runs have to come to a place where they can stop; then they are ended, and go on from their last checkpoints.
STOP_S = 6.0
# Events that hold numbers and what a model wrote, as it was written; in all others no secret is kept.
VERBATIM = frozenset({"points", "evaluation", "samples"})
# What an event has beside its fields.
OF_THE_LINE = frozenset({"n", "time", "event", "format"})
# Labels of a run that are facts of this study rather than of the training itself.
LABELS = ("stage", "rung", "family", "lr_source", "lr_status")


class Watch(Protocol):
    """Who looks on: events of the record, and how far a run is between them."""

    def event(self, event: Event) -> None:
        """An event was written."""

    def progress(self, key: str, fields: Mapping[str, Any]) -> None:
        """A run has come so far: step, tokens, tokens_per_second."""

    def say(self, text: str) -> None:
        """A sentence for people."""


@dataclass
class _Active:
    """A lane and what it waits for."""

    lane: Lane
    waiting: dict[str, RunSpec] = field(default_factory=dict)
    group: Group | None = None
    todo: list[Task] = field(default_factory=list)


class Executor:
    """Runs the lanes of one invocation.

    `only` limits what is trained to rungs and stages whose names it has (empty: all). `retry`: failed runs are tried again.
    `fail_fast`: the first run that fails for good stops the study.
    """

    def __init__(
        self,
        journal: Journal,
        record: Record,
        pool: Pool,
        watch: Watch,
        checkpoints: Path,
        invocation: str,
        deadline: float | None,
        only: Sequence[str] = (),
        retry: bool = False,
        fail_fast: bool = False,
    ) -> None:
        self.journal, self.record, self.pool, self.watch = journal, record, pool, watch
        self.checkpoints = checkpoints
        self.invocation, self.deadline, self.only = invocation, deadline, frozenset(only)
        self.stopping = self.out_of_time = False
        self.completed = 0
        self.fail_fast = fail_fast
        self._tries = Tries.after(record, retry)
        # By rung, how many runs of one shape the plan has train together; and what is to be tried again before anything else.
        self._crew_of: dict[str, int] = {}
        self._again: list[Task] = []
        self._said_stopping = False
        self._end_at: float | None = None
        self._storage = ""

    def run(self, stages: Stages) -> None:
        """All that the plan holds, as far as time and signals allow: the rungs, dearest first, then the ablations.

        Raises:
            StorageError: a worker could not write; the others were stopped.
        """
        self._sweep()
        self._crew_of = {rung.rung: rung.crew for rung in stages.plan.kept}
        rungs = sorted(stages.plan.kept, key=lambda rung: -rung.estimated_s)
        ladder = self._walk(stages.rung(rung) for rung in rungs)
        if not self.stopping and self._wants_stage("ablation"):
            self._walk([stages.ablations(ladder)])
            if stages.plan.ablation_runs and not any(event["stage"] == "ablation" for event in self.record.selected.values()):
                self.watch.say("no ablations: no ladder run completed that they could start from")

    def _sweep(self) -> None:
        """Remove the checkpoints of runs that had ended when an earlier start was cut off."""
        for key in filter(self.record.is_done, self.record.ended):
            remove_checkpoints(self.checkpoints / key)

    def stop(self) -> None:
        """Start nothing more, and end the running ones after their step, or at once if that takes too long."""
        self.stopping = True
        self._end_at = self._end_at or monotonic() + STOP_S
        self.pool.stop()

    def note(self, kind: str, **fields: Any) -> Event:
        """Write an event, fold it in, and show it."""
        event = self.journal.append(kind, **(fields if kind in VERBATIM else censored(fields)))
        self.record.add(event)
        self.watch.event(event)
        return event

    def _walk(self, lanes: Iterable[Lane]) -> list[Ended]:
        """Drive lanes to their ends side by side; how every run of them ended."""
        active = [_Active(lane) for lane in lanes]
        ended: list[Ended] = []
        for one in active:
            self._advance(one, None, ended)
        while self._again or any(one.todo for one in active) or self.pool.busy:
            self._submit(active)
            if not self.pool.busy:
                break
            for message in self.pool.poll(POLL_S):
                self._take(message)
            if self._end_at is not None and monotonic() > self._end_at:
                self.pool.kill()
            for one in active:
                self._answer(one, ended)
            self._say_stopping()
        if self._storage:
            raise StorageError(self._storage)
        self._say_left_out(active)
        return ended

    def _submit(self, active: Sequence[_Active]) -> None:
        while not self.stopping and self.pool.idle:
            todo = next((queue for queue in (self._again, *(one.todo for one in active)) if queue), None)
            if todo is None:
                return
            if self.deadline is not None and monotonic() > self.deadline:
                self.stopping = self.out_of_time = True
                return
            task = todo.pop(0)
            # A crew that was formed before another one of its size did not fit.
            first, *others = crews(task.specs, {spec.key for spec in task.specs}, self._most_together)
            self._again[:0] = [replace(task, specs=members) for members in others]
            self._start(replace(task, specs=first))

    def _start(self, task: Task) -> None:
        """Give runs to a worker, each from its newest good checkpoint, those of a crew from the newest that all of it have.

        Runs of a crew that can't go on with the others come next.
        """
        found = {spec.key: self._saved(spec, KEPT if len(task.specs) > 1 else 1) for spec in task.specs}
        part, *others = going_on(task.specs, {key: saved for key, (saved, _) in found.items()})
        members = [tuple(spec for spec in task.specs if spec.key in keys) for keys in (part, *others)]
        self._again[:0] = [replace(task, specs=specs) for specs in members[1:]]
        for spec in members[0]:
            self._begin(spec, part[spec.key], found[spec.key][1], tuple(part) if len(part) > 1 else ())
        resume = {key: saved.step for key, saved in part.items() if saved}
        self.pool.submit(replace(task, specs=members[0], resume=resume, micro_batches=self._tries.parts_of(members[0][0])))

    def _saved(self, spec: RunSpec, most: int) -> tuple[list[Saved], list[Damaged]]:
        """The newest checkpoints that a run can go on from, and those of its checkpoints that are damaged, newest first."""
        # A checkpoint counts only if the record has every event that came before it.
        known = self.record.events.get(spec.key, 0) if spec.key in self.record.started else -1
        saved: list[Saved] = []
        damaged: list[Damaged] = []
        for one in each_checkpoint(self.checkpoints / spec.key):
            if isinstance(one, Damaged):
                damaged.append(one)
            elif one.facts["events"] <= known:
                saved.append(Saved(one.step, one.facts["events"], one.facts["ended"] is not None))
            if len(saved) == most:
                break
        return saved, damaged

    def _begin(self, spec: RunSpec, saved: Saved | None, damaged: Sequence[Damaged], crew: Sequence[str]) -> None:
        """Note that a run begins or goes on, and with whom. `damaged`: checkpoints of it that can't be used."""
        key, step = spec.key, saved.step if saved else 0
        facts: dict[str, Any] = {"name": spec.name, "spec": spec.to_dict(), "invocation": self.invocation}
        numbers = {"micro_batches": self._tries.parts_of(spec), "crew_parts": self._tries.crew_parts.get(spec.rung, 1)}
        facts |= {name: parts for name, parts in numbers.items() if parts > 1} | ({"crew": list(crew)} if crew else {})
        for one in damaged:
            if one.step > step:
                self.watch.say(one.sentence(spec.name, step))
        if saved is None:
            remove_checkpoints(self.checkpoints / key)
            self.note("run_started", key=key, **facts)
        else:
            self.note("run_resumed", key=key, step=step, events=saved.events, **facts)

    def _advance(self, one: _Active, answer: list[Ended] | None, ended: list[Ended]) -> None:
        """Let a lane go on until it has runs that must be trained, or is at its end."""
        while True:
            try:
                given = next(one.lane) if answer is None else one.lane.send(answer)
            except StopIteration:
                one.group, one.waiting = None, {}
                return
            if isinstance(given, RateChoice):
                self._choose(given)
                answer = []
                continue
            one.group, one.waiting = given, {spec.key: spec for spec in given.specs}
            for spec in given.specs:
                self._select(spec)
            missing = [spec for spec in one.waiting.values() if not self._is_final(spec.key) and self._wants(spec)]
            keys = {spec.key for spec in missing}
            one.todo = [Task("train", members, given.finished) for members in crews(given.specs, keys, self._most_together)]
            if missing or not self._complete(one):
                return
            answer = self._endings(one)
            ended += answer

    def _most_together(self, spec: RunSpec) -> int:
        return self._tries.crew_of(spec, self._crew_of.get(spec.rung, 1))

    def _say_stopping(self) -> None:
        """Say once why nothing new is started; not in the signal's handler, which may have come in the middle of a line."""
        if not self.stopping or self._said_stopping:
            return
        self._said_stopping = True
        running = f"{self.pool.busy} run{'s' if self.pool.busy > 1 else ''}"
        if self.out_of_time:
            self.watch.say(f"time is up: {running} may still finish, nothing new is started")
        elif self.pool.busy:
            self.watch.say(f"stopping {running} after the current step (Ctrl-C again: at once)")

    def _say_left_out(self, active: Sequence[_Active]) -> None:
        if self.only and not self.stopping:
            waited_for = [spec for one in active for key, spec in one.waiting.items() if not self._is_final(key)]
            names = dict.fromkeys(f"{spec.rung} {spec.stage}" for spec in waited_for)
            if names:
                self.watch.say(f"left out by --only, with all that needs it: {', '.join(names)}")

    def _answer(self, one: _Active, ended: list[Ended]) -> None:
        """If all runs that a lane waits for have ended, send it how."""
        if one.group is not None and not one.todo and one.waiting and self._complete(one):
            answer = self._endings(one)
            ended += answer
            self._advance(one, answer, ended)

    def _complete(self, one: _Active) -> bool:
        return all(self._is_final(key) for key in one.waiting)

    def _is_final(self, key: str) -> bool:
        """Done, or failed for good."""
        return self.record.is_done(key) or key in self._tries.given_up

    def _endings(self, one: _Active) -> list[Ended]:
        assert one.group is not None
        return [Ended(spec, self.record.ended[spec.key], self.record.history(spec.key)) for spec in one.group.specs]

    def _wants(self, spec: RunSpec) -> bool:
        return not self.only or spec.rung in self.only or spec.stage in self.only

    def _wants_stage(self, stage: str) -> bool:
        return not self.only or stage in self.only

    def _select(self, spec: RunSpec) -> None:
        """This run belongs to the current plan, whether it is trained now or was before."""
        if spec.key not in self.record.selected:
            self.note("selected", key=spec.key, name=spec.name, spec=spec.to_dict(), **{label: getattr(spec, label) for label in LABELS})

    def _choose(self, choice: RateChoice) -> None:
        """Write a choice down unless the record has it: a search that went on may keep its rate and change what is known of it."""
        before = self.record.chosen.get(choice.rung, {})
        if plain(censored(dict(choice.fields))) != {key: value for key, value in before.items() if key not in OF_THE_LINE}:
            self.note("lr_chosen", **choice.fields)

    def _take(self, message: Message) -> None:
        if message.kind == "event":
            fields = dict(message.fields)
            if message.event == "run_ended":
                self.completed += fields["status"] != "interrupted"
            self.note(message.event, key=message.key, **fields)
            # Only now: what the record doesn't have yet might still be needed.
            if self.record.is_done(message.key):
                remove_checkpoints(self.checkpoints / message.key)
        elif message.kind == "progress":
            self.watch.progress(message.key, message.fields)
        elif message.kind == "error":
            left = [spec for spec in message.task.specs if not self.record.is_done(spec.key)]
            if len(left) > 1 and message.cause not in ("stopped", "storage"):
                self._crew_failed(left, message)
            else:
                for spec in left:
                    self._failed(spec, message)

    def _crew_failed(self, specs: Sequence[RunSpec], message: Message) -> None:
        """Write down that a crew failed, and try its runs again: which of them it was is not known."""
        for spec in specs:
            self.note("run_ended", key=spec.key, status="failed", **message.fields, final=False)
        parts = self._tries.crew_failed(specs, message.cause, self._crew_of.get(specs[0].rung, 1))
        self._again += [replace(message.task, specs=part, resume={}) for part in parts]
        if message.cause == "memory":
            names = f"{specs[0].name} and {len(specs) - 1} more"
            self.watch.say(f"{names}: out of memory; trying again with at most {self._most_together(specs[0])} of them together")

    def _failed(self, spec: RunSpec, message: Message) -> None:
        """Write down how a run failed, and try it again if it may be; the record keeps every try."""
        if message.cause in ("stopped", "storage"):
            self.note("run_ended", key=spec.key, status="interrupted", **message.fields)
            if message.cause == "storage":
                self._storage = str(message.fields["reason"])
                self.stop()
            return
        again = self._tries.failed(spec, message.cause)
        self.note("run_ended", key=spec.key, status="failed", **message.fields, final=not again)
        if again and not self.stopping:
            if message.cause == "memory":
                self.watch.say(f"{spec.name}: out of memory; trying again with each batch in {self._tries.parts_of(spec)} parts")
            self._again.append(Task("train", (spec,), message.task.finished))
        elif self.fail_fast and not again:
            self.watch.say(f"{spec.name} failed: stopping the others (--fail-fast)")
            self.stop()
