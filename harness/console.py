"""What a person sees while a study runs: one live table on a terminal, one `key=value` line an event anywhere else."""

import json
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any, TextIO

from rich.console import Console as Rich
from rich.console import Group
from rich.live import Live
from rich.padding import Padding
from rich.text import Text

from harness import terminal
from harness.journal import Event
from harness.plan import Plan, duration
from harness.record import Record
from harness.runspec import short_rate
from harness.text import presentable

# Fields of an event that say most, in the order in which a line shows them.
LINE_FIELDS = {
    "run_started": ("name",),
    "run_resumed": ("name", "step"),
    "run_ended": ("name", "status", "reason", "val_nll", "val_top1", "test_nll", "tokens_per_second", "time_s"),
    "lr_chosen": ("rung", "lr", "lr_status", "completed", "pruned", "diverged"),
}
# Where there is no terminal, nothing is cut to fit.
UNLIMITED = 200
# What goes first from the live table where the terminal is narrow.
OPTIONAL = ("tok/s", "tokens", "state")
NAMES_SHOWN = 4


@dataclass
class _Running:
    """A run in the live table."""

    name: str
    rung: str
    steps: int
    first: tuple[int, float] | None = None
    step: int = 0
    tokens: int = 0
    speed: float | None = None
    val_nll: float | None = None
    val_top1: float | None = None
    state: str = "starting"


class Console:
    """Shows events and progress; `quiet` shows neither, warnings and errors apart."""

    def __init__(self, quiet: bool = False, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout
        self.quiet = quiet
        is_terminal = self.stream.isatty()
        self.rich = Rich(file=self.stream, highlight=False, soft_wrap=not is_terminal, width=None if is_terminal else UNLIMITED)
        self.live = is_terminal and not quiet and not self.rich.is_dumb_terminal
        self.started = monotonic()
        self._plan: Plan | None = None
        self._record = Record()
        self._running: dict[str, _Running] = {}
        self._names: dict[str, str] = {}
        self._live: Live | None = None

    @property
    def width(self) -> int:
        """Characters in a line."""
        return self.rich.width

    @contextmanager
    def showing(self, plan: Plan, record: Record) -> Iterator[None]:
        """Show the live table, where there is a terminal, for as long as the block runs."""
        self._plan, self._record = plan, record
        if not self.live:
            yield
            return
        self._live = Live(get_renderable=self._table, console=self.rich, refresh_per_second=2, transient=True)
        try:
            with self._live:
                yield
        finally:
            self._live = None

    def print(self, table: Padding | Text) -> None:
        """A table for people."""
        if not self.quiet:
            self.rich.print(table)

    def resumed(self, plan: Plan, record: Record) -> None:
        """What an earlier start of this plan has left."""
        if not record.selected:
            return
        again = [key for key in record.selected if key in record.started and not record.is_done(key)]
        failed = [key for key in again if record.ended.get(key, {}).get("status") == "failed"]
        cut_off = [key for key in again if key not in failed]
        text = f"resumed: {sum(map(record.is_done, record.selected))} of {terminal.total_runs(plan, record)} done"
        for keys, what in ((cut_off, "cut off, going on where they were saved"), (failed, "failed before")):
            names = [record.started[key]["name"] for key in keys[:NAMES_SHOWN]] + ["..."] * (len(keys) > NAMES_SHOWN)
            text += f"; {len(keys)} {what}: {', '.join(names)}" if keys else ""
        self.say(text)

    def say(self, text: str) -> None:
        """A sentence for people, above the live table."""
        if not self.quiet:
            self.rich.print(Text(self._wrapped(presentable(text))))

    def _wrapped(self, text: str) -> str:
        """On a terminal, lines that go on are set in."""
        if not self.stream.isatty():
            return text
        lead = " " * (len(text) - len(text.lstrip()) + 2)
        return textwrap.fill(text, self.width, subsequent_indent=lead, break_long_words=False, break_on_hyphens=False)

    def warn(self, text: str) -> None:
        """A warning; shown even when quiet."""
        rich = self.rich if self._live is not None else Rich(stderr=True, highlight=False, soft_wrap=True)
        rich.print(Text(f"warning: {presentable(text)}"))

    def event(self, event: Event) -> None:
        """Take in one event of the record."""
        kind, key = event["event"], event.get("key", "")
        if kind in ("run_started", "run_resumed"):
            self._names[key] = event["name"]
            self._running[key] = _Running(event["name"], event["spec"]["rung"], event["spec"]["steps"])
        elif kind == "evaluation" and key in self._running:
            run = self._running[key]
            run.val_nll, run.val_top1, run.step, run.tokens = event["val_nll"], event["val_top1"], event["step"], event["tokens"]
            # Test scores and samples are still to come; a run that stops early is in this state for a moment too.
            run.state = "scoring" if run.step == run.steps else "training"
        elif kind == "run_ended":
            self._running.pop(key, None)
            if self.live and event["status"] in ("diverged", "failed"):
                self.say(f" {self._names.get(key, key)} {event['status']}: {event['reason']}")
        elif kind == "lr_chosen" and self.live:
            # The reason opens with the status itself.
            self.say(f" {event['rung']}: learning rate {short_rate(event['lr'])}, {event['reason']}")
        if not self.live and not self.quiet and kind in LINE_FIELDS:
            self._line(kind, {"name": self._names.get(key)} | event)

    def progress(self, key: str, fields: Mapping[str, Any]) -> None:
        """How far a run is, between events; nothing that is recorded."""
        run = self._running.get(key)
        if run is not None:
            run.step, run.tokens, run.speed, run.state = fields["step"], fields["tokens"], fields["tokens_per_second"], "training"
            run.first = run.first or (run.step, monotonic())

    def _line(self, kind: str, event: Mapping[str, Any]) -> None:
        pairs = [f"event={kind}", *(f"{name}={_plain(event[name])}" for name in LINE_FIELDS[kind] if event.get(name) not in (None, ""))]
        pairs += [f"done={self._done()}/{self._total()}", f"elapsed={duration(monotonic() - self.started)}"]
        self.rich.print(Text(presentable(" ".join(pairs))))

    def _table(self) -> Group:
        columns = ("run", "state", "", "tokens", "val nll", "top1", "tok/s", "eta")
        rows = [_row(run) for run in list(self._running.values())]
        return Group(terminal.table(columns, rows, self.width, OPTIONAL, left=2), Text(self._summary(), style="bold"))

    def _summary(self) -> str:
        counts = self._record.status_counts()
        parts = [f"done {self._done()}/{self._total()}"]
        parts += [f"{name} {counts[name]}" for name in ("failed", "diverged", "pruned") if counts.get(name)]
        parts += [f"elapsed {duration(monotonic() - self.started)}", f"left {self._left()}"]
        return " " + "   ".join(parts)

    def _done(self) -> int:
        return sum(n for status, n in self._record.status_counts().items() if status != "interrupted")

    def _total(self) -> int:
        return terminal.total_runs(self._plan, self._record) if self._plan else 0

    def _left(self) -> str:
        """What is left, by how much runs here have missed their times."""
        left_s, spread = self._left_s(), self._plan.spread if self._plan else None
        # A spread of more than all of it says no more than that.
        if spread is None or spread >= 1:
            return f"about {duration(left_s)}"
        return f"{duration(left_s)} +- {duration(left_s * spread)}"

    def _left_s(self) -> float:
        """What the plan still holds, at the speed that the runs so far have had."""
        if self._plan is None:
            return 0.0
        price = {rung.rung: rung.estimated_s / rung.runs for rung in self._plan.kept}
        ended = {key: e for key, e in self._record.ended.items() if key in self._record.selected and e.get("time_s")}
        priced = sum(price[self._record.selected[key]["rung"]] for key in ended)
        speed = sum(e["time_s"] for e in ended.values()) / priced if priced else 1.0
        total = sum(rung.estimated_s for rung in self._plan.kept) + self._plan.ablation_runs * max(price.values())
        running = sum(price.get(run.rung, 0.0) * run.step / run.steps for run in self._running.values())
        return max(0.0, total - priced - running) * speed / self._plan.workers


def _row(run: _Running) -> list[str]:
    share = run.step / run.steps
    eta = ""
    if run.first is not None and run.step > run.first[0]:
        eta = duration((monotonic() - run.first[1]) * (run.steps - run.step) / (run.step - run.first[0]))
    speed = "" if run.speed is None else f"{run.speed / 1000:.1f}k"
    nll = "" if run.val_nll is None else f"{run.val_nll:.2f}"
    top1 = "" if run.val_top1 is None else f"{run.val_top1:.3f}".removeprefix("0")
    return [run.name, run.state, f"{100 * share:.0f} %", terminal.tokens(run.tokens), nll, top1, speed, eta]


def _plain(value: Any) -> str:
    """A value without a space or a line break outside of quotes."""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    return text if text.isprintable() and not {" ", '"', "="} & set(text) else json.dumps(text, ensure_ascii=False)
