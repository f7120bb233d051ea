"""What MLflow shows of a study: the record's events go in and are folded into runs (`tracked_run`). No MLflow here.

One parent for the study, a child for each ladder, budget and ablation run, and a child for each search with its trials under it. All that
a run holds is a function of the events, so that a projection that was cut off can be compared with what it should be.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from harness import tracked_page
from harness.journal import Event
from harness.record import ENDED, still_selected
from harness.runspec import digest
from harness.strategies import CUTS
from harness.tracked_run import (
    END_METRICS,
    EVALUATION_METRICS,
    FAILED,
    FINISHED,
    KILLED,
    MAX_POINTS,
    OF_EXIT_CODE,
    OF_STATUS,
    POINT_METRICS,
    RUNG_PARAMS,
    RUNNING,
    SAMPLE_MEASURES,
    SEARCH_PARAMS,
    SPEC_PARAMS,
    Table,
    Tracked,
    text_of,
)

STUDY = "study"


class Tracking:
    """The fold. `runs`: by id, in the order in which they began. `touched`: ids that events since the last `clear` have changed.

    `links`: Markdown that opens the study's description.
    """

    def __init__(self, study: str) -> None:
        self.links = ""
        self.runs: dict[str, Tracked] = {}
        self.touched: dict[str, None] = {}
        self.data: dict[str, Any] = {}
        self.study: dict[str, Any] = {}
        self.plan: dict[str, Any] = {}
        self._name = study
        self._selected: dict[str, Event] = {}
        self._chosen: dict[str, Event] = {}
        self._search_of: dict[str, str] = {}
        self._invocation: Mapping[str, Any] = {}

    def add(self, event: Event) -> None:
        """Take in one event; kinds that say nothing to MLflow are passed over."""
        if STUDY not in self.runs:
            self._begin(Tracked(STUDY, None, self._name, event["n"], event["time"]), "study")
        handler = getattr(self, f"_on_{event['event']}", None)
        if handler is not None:
            handler(event)

    def clear(self) -> None:
        """All that was touched is written: what a run that has ended held is no longer needed."""
        for run in (self.runs[id] for id in self.touched):
            # A run that was interrupted or failed can go on, and its full series is written at its end.
            if run.is_training and run.tags["status"] in ENDED:
                run.metrics, run.points, run.tables = {}, {}, {}
        self.touched.clear()

    def in_order(self) -> list[Tracked]:
        """What was touched, parents before children."""
        if STUDY in self.touched:
            self.runs[STUDY].tag({"mlflow.note.content": self._page()})
        depth = {STUDY: 0} | {run.id: 1 for run in self.runs.values() if not run.is_training and run.id != STUDY}
        return [self.runs[id] for id in sorted(self.touched, key=lambda id: depth.get(id, 2))]

    def cut_off(self) -> None:
        """Nobody runs the study any more: whatever is still open was cut off by what ended its process."""
        self._close_orphans()
        parent = self.runs.get(STUDY)
        if parent is not None and parent.status == RUNNING:
            parent.end(KILLED, parent.last_time)
            parent.tag({"status": "interrupted"})
            self.touched[STUDY] = None

    def _page(self) -> str:
        selected = [(label, self.runs[key]) for key, label in self._selected.items() if key in self.runs]
        return tracked_page.description(self.links, self.study, self.plan, self._chosen, selected)

    def _touch(self, run: Tracked, event: Event) -> Tracked:
        run.last_time = event["time"]
        self.touched[run.id] = None
        return run

    def _begin(self, run: Tracked, kind: str) -> Tracked:
        """A new run; what was known under its id is void."""
        run.tag({"harness.kind": kind, "harness.key": run.id, "harness.began": run.began})
        self.runs.pop(run.id, None)
        self.runs[run.id] = run
        self.touched[run.id] = None
        return run

    def _on_plan(self, event: Event) -> None:
        self.study, self.plan, self.data = event["study"], event["plan"], event["data"]
        self._selected, self._chosen, self._search_of = {}, {}, {}
        parent = self._touch(self.runs[STUDY], event)
        parent.tag({"harness.plan": digest(self.plan)} | self._provenance())
        columns = ("rung", "family", "arch", *RUNG_PARAMS, "steps", "train_tokens", "train_flops", "runs", "estimated_s", "skipped")
        parent.tables["plan.json"] = Table(columns, [[rung.get(name) for name in columns] for rung in self.plan["rungs"]])

    def _on_invocation(self, event: Event) -> None:
        self._invocation = event
        self._close_orphans()
        parent = self._touch(self.runs[STUDY], event)
        parent.status, parent.end_time = RUNNING, None
        parent.tag({"status": "running", "repeat": event["command"]} | self._provenance())
        columns = ("started", "command", "host", "commit", "dirty", "seconds", "exit_code", "completed", "id")
        git = event.get("git") or {}
        row = [event.get("started"), event["command"], event.get("host"), git.get("commit"), git.get("dirty")]
        parent.tables.setdefault("invocations.json", Table(columns)).rows.append([*row, None, None, None, event["id"]])

    def _on_invocation_ended(self, event: Event) -> None:
        self._close_orphans()
        parent = self._touch(self.runs[STUDY], event)
        # Its beginning may have been on a line that a repair left out.
        for row in parent.tables["invocations.json"].rows if "invocations.json" in parent.tables else ():
            if row[-1] == event["id"]:
                row[-4:-1] = [event["seconds"], event["exit_code"], event["completed"]]
        parent.end(OF_EXIT_CODE.get(event["exit_code"], FAILED), event["time"])
        parent.tag({"status": {FINISHED: "completed", KILLED: "interrupted", FAILED: "failed"}[parent.status]})

    def _on_selected(self, event: Event) -> None:
        self._selected[event["key"]] = event
        if event["stage"] == "search":
            self._search_of[event["rung"]] = _search_id(event["spec"])

    def _on_run_started(self, event: Event) -> None:
        spec = event["spec"]
        parent = self._search(event) if spec["stage"] == "search" else self.runs[STUDY]
        run = Tracked(event["key"], parent.id, event["name"], event["n"], event["time"], spec=spec)
        run.params = self._params(spec, SPEC_PARAMS)
        if spec["stage"] == "search":
            # The UI has no logarithmic axis for params.
            run.params["log10_lr"] = f"{math.log10(spec['lr']):.3f}"
        run.tag({"stage": spec["stage"], "status": "running"} | self._of_rung(spec["rung"]))
        self._touch(self._begin(run, "run"), event)

    def _on_run_resumed(self, event: Event) -> None:
        """The run goes on under its old name; what came after the checkpoint comes again, with equal values."""
        run = self.runs.get(event["key"])
        if run is None:
            return
        run.status, run.end_time = RUNNING, None
        run.tag({"status": "running", "reason": f"resumed at step {event['step']}"})
        kept = sum(step <= event["step"] for step in run.points.get("step", []))
        run.points = {name: values[:kept] for name, values in run.points.items()}
        for name in ("samples.json", "sample_measures.json"):
            if name in run.tables:
                rows = [row for row in run.tables[name].rows if row[1] <= event["step"]]
                run.tables[name] = Table(run.tables[name].columns, rows)
        self._touch(run, event)

    def _on_points(self, event: Event) -> None:
        run = self._run_of(event)
        if run is None:
            return
        steps = run.spec["steps"]
        every = math.ceil(steps / MAX_POINTS)
        # A constant rate is a line through its first point and its last.
        flat_after = run.spec["warmup_steps"] + 1 if run.spec["schedule"] == "constant" else steps
        for i, (step, tokens) in enumerate(zip(event["step"], event["tokens"], strict=True)):
            if step % every == 0 or step == steps:
                names = {m: name for m, name in POINT_METRICS.items() if m != "optim/lr" or step < flat_after + every or step == steps}
                run.measure({name: event[name][i] for name in names.values()}, names, tokens, event["time"])
        for name in ("step", "tokens", *POINT_METRICS.values()):
            run.points.setdefault(name, []).extend(event[name])

    def _on_evaluation(self, event: Event) -> None:
        run = self._run_of(event)
        if run is not None:
            run.measure(event, EVALUATION_METRICS, event["tokens"], event["time"])

    def _on_samples(self, event: Event) -> None:
        run = self._run_of(event)
        if run is None:
            return
        place = ("at", "step", "temperature", *CUTS)
        where = [event.get(name) for name in place]
        texts = run.tables.setdefault("samples.json", Table((*place, "text")))
        texts.rows.extend([*where, text] for text in event["texts"])
        measures = run.tables.setdefault("sample_measures.json", Table((*place, *SAMPLE_MEASURES)))
        measures.rows.append([*where, *(event.get(name) for name in SAMPLE_MEASURES)])

    def _on_run_ended(self, event: Event) -> None:
        run = self._run_of(event)
        if run is None:
            return
        last = {name: values[-1] for name, values in run.points.items()}
        if event["status"] != "interrupted":
            if last:
                run.measure(last, POINT_METRICS, last["tokens"], event["time"])
            run.measure(event, END_METRICS, event.get("train_tokens") or 0, event["time"])
        run.outcome = {name: event.get(name) for name in ("status", "steps", "val_loss", "val_nll", "test_nll", "test_top1")}
        run.tag({"status": event["status"]} | _reason(event))
        if event.get("traceback"):
            run.tables["traceback.json"] = Table(("line",), [[line] for line in event["traceback"]])
        run.end(OF_STATUS[event["status"]], event["time"])
        if run.spec["stage"] == "search":
            self._count_trial(run, event)
        self._touch(self.runs[STUDY], event)

    def _on_lr_chosen(self, event: Event) -> None:
        self._selected = still_selected(self._selected, self._chosen.get(event["rung"]), event)
        self._chosen[event["rung"]] = event
        search = self.runs.get(self._search_of.get(event["rung"], ""))
        if search is not None:
            search.tag({"status": "completed", "lr": event["lr"], "lr_status": event["lr_status"]} | _reason(event))
            self._touch(search, event).end(FINISHED, event["time"])
        self._touch(self.runs[STUDY], event)

    def _search(self, event: Event) -> Tracked:
        """The search that a trial belongs to; its first trial begins it."""
        spec = event["spec"]
        id = self._search_of[spec["rung"]] = _search_id(spec)
        search = self.runs.get(id)
        if search is None:
            # Listed by time, it stands before its first trial.
            search = Tracked(id, STUDY, f"{spec['rung']} search", event["n"], event["time"] - 0.001)
            search.params = self._params(spec, SEARCH_PARAMS)
            low_high = self.study.get("search", {}).get("lr") or {}
            search.params |= {f"lr_{end}": str(low_high[end]) for end in ("low", "high") if end in low_high}
            search.tag({"stage": "search"} | self._of_rung(spec["rung"]))
            self._begin(search, "search")
        search.status, search.end_time = RUNNING, None
        search.tag({"status": "running"})
        return self._touch(search, event)

    def _count_trial(self, run: Tracked, event: Event) -> None:
        """A finished trial is a point of its search (step = its number) and a row of its table."""
        search = self._touch(self.runs[run.parent or STUDY], event)
        trial, lr = run.spec["trial"], run.spec["lr"]
        table = search.tables.setdefault("trials.json", Table(("trial", "lr", "status", "val_loss", "val_nll", "steps", "reason")))
        table.rows[:] = [row for row in table.rows if row[0] != trial]
        table.rows.append([trial, lr, event["status"], *(event.get(name) for name in ("val_loss", "val_nll", "steps", "reason"))])
        table.rows.sort(key=lambda row: row[0])
        if event["status"] not in ("failed", "interrupted"):
            search.measure({"lr": lr} | event, {"search/lr": "lr", "search/val_loss": "val_loss"}, trial, event["time"])

    def _run_of(self, event: Event) -> Tracked | None:
        run = self.runs.get(event["key"])
        return self._touch(run, event) if run is not None else None

    def _close_orphans(self) -> None:
        """What no event ended when its invocation did: trainings whose process was killed, and searches that have trials to come.

        A search that found the same rate again has no event of its own.
        """
        open_runs = [run for run in self.runs.values() if run.id != STUDY and run.status == RUNNING]
        cut_off = [run for run in self.runs.values() if run.is_training and run.tags["status"] in ("running", "interrupted", "failed")]
        unfinished = {run.parent for run in cut_off}
        for run in open_runs:
            is_done = not run.is_training and run.id not in unfinished and run.tags["rung"] in self._chosen
            run.end(FINISHED if is_done else KILLED, run.last_time)
            run.tag({"status": "completed" if is_done else "interrupted"})
            if run.is_training:
                run.tag({"reason": "its invocation ended before it did"})
            self.touched[run.id] = None

    def _params(self, spec: Mapping[str, Any], names: Iterable[str]) -> dict[str, str]:
        rungs: dict[str, Mapping[str, Any]] = {rung["rung"]: rung for rung in self.plan.get("rungs", ())}
        rung = rungs.get(spec["rung"], {})
        found = {name: spec.get(name) for name in names} | dict(spec["shape"]) | {name: rung.get(name) for name in RUNG_PARAMS}
        return {name: text_of(value) for name, value in found.items() if value is not None and value != ""}

    def _provenance(self) -> dict[str, Any]:
        git = self._invocation.get("git") or {}
        facts = {"git.commit": git.get("commit"), "git.dirty": git.get("dirty"), "data": self.data.get("fingerprint")}
        return {name: value for name, value in facts.items() if value is not None}

    def _of_rung(self, rung: str) -> dict[str, Any]:
        """Tags of whatever belongs to a rung: the line that repeats it, and what it was made with."""
        command = re.sub(r"\s--(only(=|\s+)\S+|replan)", "", self._invocation.get("command", ""))
        return {"rung": rung, "repeat": f"{command} --only {rung}"} | self._provenance()


def _search_id(spec: Mapping[str, Any]) -> str:
    """Equal for the trials of one search: all of a spec but what differs between them, and labels."""
    own = ("lr", "trial", "lr_source", "lr_status")
    return digest({name: value for name, value in spec.items() if name not in own})


def _reason(event: Event) -> dict[str, str]:
    return {"reason": event["reason"]} if event.get("reason") else {}
