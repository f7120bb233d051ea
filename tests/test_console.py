"""What a person sees: lines of pairs without a terminal, a live table that fits its terminal, sentences of starts and ends."""

import io
import json
import re
import shlex
from dataclasses import replace
from typing import Any

import pytest
from rich.console import RenderableType

from harness import terminal
from harness.console import Console
from harness.journal import Event
from harness.plan import Plan
from harness.record import Record
from reports.tables import rung_table
from tests import fakes, synthetic

RUNGS = ["20k", "40k", "87k-assignment", "230k", "557k-assignment", "2M", "5M-assignment", "10M-assignment"]


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def plan() -> Plan:
    """Of the widest ladder there is, cut short so that rungs are left out."""
    study = fakes.make_study(model={"rungs": RUNGS})
    return fakes.make_plan(study, 3000.0)


def event(kind: str, **fields: Any) -> Event:
    return {"n": 0, "time": 0.0, "event": kind} | fields


def started(key: str, name: str, steps: int = 100) -> Event:
    return event("run_started", key=key, name=name, spec={"rung": "20k", "steps": steps}, invocation="i")


def evaluated(key: str, step: int) -> Event:
    return event("evaluation", key=key, step=step, tokens=1000 * step, val_nll=96.31, val_top1=0.402, val_loss=2.1)


def rendered(table: RenderableType, width: int) -> list[str]:
    console = Console(stream=io.StringIO())
    console.rich.width = width
    console.rich.print(table)
    stream = console.stream
    assert isinstance(stream, io.StringIO)
    return stream.getvalue().splitlines()


def on_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> Console:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    return Console(stream=Terminal())


def text(console: Console) -> str:
    assert isinstance(console.stream, io.StringIO)
    return console.stream.getvalue()


def test_a_line_of_pairs_can_be_read_back() -> None:
    console = Console(stream=io.StringIO())
    console.event(started("a", "20k-all-s0-lr1e-3"))
    reason = 'ValueError: two\nlines, a "quote" and x=1'
    console.event(event("run_ended", key="a", status="failed", reason=reason, val_nll=None, time_s=1.25))
    first, second = text(console).splitlines()
    assert shlex.split(first)[:2] == ["event=run_started", "name=20k-all-s0-lr1e-3"]
    assert all(re.fullmatch(r"\w+=\S+", pair) for pair in first.split())
    said = re.search(r'reason=("(?:[^"\\]|\\.)*")', second)
    assert said is not None and json.loads(said[1]) == reason
    assert "time_s=1.25" in second and "val_nll" not in second


def test_quiet_shows_warnings_alone(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(quiet=True, stream=io.StringIO())
    console.say("hello")
    console.event(started("a", "x"))
    console.print(terminal.table(("a",), [["1"]], 80))
    assert text(console) == ""
    console.warn("the store is away")
    assert capsys.readouterr().err == "warning: the store is away\n"


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_the_plan_fits_its_terminal(plan: Plan, width: int) -> None:
    record = Record()
    for rung in plan.kept:
        chosen = {"rung": rung.rung, "lr": 3.1e-3, "lr_status": "unresolved", "default_lr": 1e-3}
        record.chosen[rung.rung] = event("lr_chosen", **chosen)
    lines = rendered(terminal.plan_table(plan, record, width), width)
    assert len(lines) == 2 + len(RUNGS)
    assert all(len(line) <= width and "…" not in line for line in lines)
    for said in ("10,122,749", "3.1e-3 unresolved", "skipped", "0/9"):
        assert said in "\n".join(lines)
    head = lines[0].split()
    assert {"rung", "params", "tokens", "done", "time"} <= set(head)
    assert width < 100 or {"non-emb", "FLOPs"} <= set(head)
    assert width < 120 or {"layers", "width", "steps", "memory"} <= set(head)
    assert all(len(line) <= width and "…" not in line for line in rendered(terminal.parameter_table(plan, width), width))


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_the_end_fits_its_terminal(width: int) -> None:
    frame = rung_table(synthetic.synthetic_results())
    lines = rendered(terminal.frame_table(frame, width), width)
    assert len(lines) == 2 + len(frame)
    assert all(len(line) <= width and "…" not in line for line in lines)
    assert "Best rate" in lines[0] and "Test NLL" in lines[0] and "NLL at" in lines[0]
    assert width < 200 or all(column in lines[0] for column in frame.columns)


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_live_table_fits_its_terminal(plan: Plan, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    console = on_terminal(monkeypatch, width)
    console._plan = plan
    console.event(started("a", "557k-assignment-search-t08-lr2.4e-3"))
    console.event(started("b", "10M-assignment-all-s0-lr1.2e-3"))
    console.event(evaluated("a", 50))
    console.progress("a", {"step": 60, "tokens": 60_000, "tokens_per_second": 14_700.0})
    lines = rendered(console._table(), width)
    assert all(len(line) <= width and "…" not in line for line in lines)
    row = next(line for line in lines if "search-t08" in line)
    assert "60 %" in row and "96.31" in row and ".402" in row
    assert width < 100 or ("14.7k" in row and "training" in row)
    assert "done 0/" in lines[-1] and "elapsed 0:00" in lines[-1]


def test_progress_is_that_of_steps_and_the_end_is_not_the_last_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """After its last step a run still scores and samples: the table says so instead of standing still."""
    console = on_terminal(monkeypatch, 120)
    console.event(started("a", "x", steps=40))
    assert "starting" in "\n".join(rendered(console._table(), 120))
    console.progress("a", {"step": 10, "tokens": 10_000, "tokens_per_second": None})
    assert "25 %" in "\n".join(rendered(console._table(), 120))
    console.event(evaluated("a", 40))
    shown = "\n".join(rendered(console._table(), 120))
    assert "100 %" in shown and "scoring" in shown
    console.event(event("run_ended", key="a", status="completed", reason="", time_s=1.0))
    assert "100 %" not in "\n".join(rendered(console._table(), 120))


def test_the_time_left_of_a_run_follows_from_its_own_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("harness.console.monotonic", lambda: clock[0])
    console = on_terminal(monkeypatch, 120)
    console.event(started("a", "x"))
    # The process took half a minute to start, which says nothing about its steps.
    clock[0] = 30.0
    console.progress("a", {"step": 10, "tokens": 1, "tokens_per_second": None})
    clock[0] = 40.0
    console.progress("a", {"step": 20, "tokens": 2, "tokens_per_second": None})
    assert "1:20" in next(line for line in rendered(console._table(), 120) if "20 %" in line)


def test_a_live_table_leaves_nothing_behind(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    console = on_terminal(monkeypatch, 80)
    with pytest.raises(KeyboardInterrupt), console.showing(plan, Record()):
        console.event(started("a", "x"))
        raise KeyboardInterrupt
    shown = text(console)
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    # The last thing done to the screen is that the table's lines are cleared.
    assert shown.endswith("\x1b[2K")


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    console = Console(stream=Terminal())
    console.event(started("a", "x"))
    assert text(console).startswith("event=run_started name=x")


def test_broken_runs_and_chosen_rates_are_said_above_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    console = on_terminal(monkeypatch, 80)
    console.event(started("a", "20k-all-s0-lr1e-1"))
    console.event(event("run_ended", key="a", status="diverged", reason="loss was not finite at step 3"))
    console.event(event("lr_chosen", rung="20k", lr=3.1e-3, lr_status="edge", reason="edge: the best rate is the largest"))
    said = text(console).splitlines()
    assert said[0] == " 20k-all-s0-lr1e-1 diverged: loss was not finite at step 3"
    assert said[1] == " 20k: learning rate 3.1e-3, edge: the best rate is the largest"


def test_long_sentences_are_set_in_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    console = on_terminal(monkeypatch, 40)
    console.say(" - " + "word " * 20)
    lines = text(console).splitlines()
    assert len(lines) > 1 and all(len(line) <= 40 for line in lines)
    assert all(line.startswith("   word") for line in lines[1:])


def recorded(plan: Plan, statuses: dict[str, str | None]) -> Record:
    record = Record()
    rung = plan.kept[0].rung
    for key, status in statuses.items():
        record.add(event("selected", key=key, rung=rung, stage="ladder"))
        if status != "not started":
            record.add(started(key, f"run-{key}"))
        if status not in (None, "not started"):
            record.add(event("run_ended", key=key, status=status))
    return record


def test_a_start_says_what_the_earlier_ones_have_left(plan: Plan) -> None:
    statuses = {"a": "completed", "b": "diverged", "c": "failed", "d": "interrupted", "e": None, "f": "not started"}
    console = Console(stream=io.StringIO())
    console.resumed(plan, recorded(plan, statuses))
    total = terminal.total_runs(plan, Record())
    assert text(console) == (
    left = "2 cut off, going on where they were saved: run-d, run-e; 1 failed before: run-c"
    assert text(console) == f"resumed: 2 of {total} done; {left}\n"
    )
    fresh = Console(stream=io.StringIO())
    fresh.resumed(plan, Record())
    assert text(fresh) == ""


def test_a_rung_whose_search_chose_the_default_rate_has_one_run_less(plan: Plan) -> None:
    record = Record()
    rung = plan.kept[0]
    before = terminal.total_runs(plan, record)
    record.chosen[rung.rung] = event("lr_chosen", rung=rung.rung, lr=1e-3, lr_status="edge", default_lr=1e-3)
    assert terminal.runs_of(rung, record) == rung.runs - 1
    assert terminal.total_runs(plan, record) == before - 1


def test_what_is_left_shrinks_with_what_is_done(plan: Plan) -> None:
    console = Console(stream=io.StringIO())
    console._plan, console._record = plan, recorded(plan, {})
    whole = console._left_s()
    assert whole == pytest.approx(plan.estimated_s - 30.0, rel=0.2)
    key_seconds = plan.kept[0].estimated_s / plan.kept[0].runs
    console._record = recorded(plan, {"a": "completed"})
    console._record.ended["a"]["time_s"] = key_seconds
    assert console._left_s() == pytest.approx(whole - key_seconds / plan.workers)
    # Runs that take twice as long as was measured double what is left.
    console._record.ended["a"]["time_s"] = 2 * key_seconds
    assert console._left_s() == pytest.approx(2 * (whole - key_seconds / plan.workers))


def test_notes_of_a_plan_name_what_is_left_out(plan: Plan) -> None:
    assert len(plan.kept) < len(plan.rungs)
    notes = terminal.plan_notes(replace(plan, cut=2), Record(), 10**12)
    assert [f"{rung.rung} skipped: {rung.skipped}" for rung in plan.rungs if rung.skipped] == notes[: len(plan.rungs) - len(plan.kept)]
    assert "budgets cut to 0.5 of the study's" in "\n".join(notes)
    assert "of 1000.0 GB free" in notes[-1] and "of 50:00 on 2 x cpu" in notes[-1]
