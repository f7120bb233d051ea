"""Plan and end of a study as a terminal shows them: tables for people, in the order in which they are asked."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import pandas as pd
from rich import box
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness import plan as planning
from harness.calibration import trust
from harness.data.corpus import Corpus
from harness.held_out import held_out_rung
from harness.plan import Plan, duration
from harness.pricing import RungPlan
from harness.record import Record
from harness.runspec import short_rate
from harness.spec import Study
from harness.text import presentable

if TYPE_CHECKING:
    # With torch, which a plan needn't load.
    from harness.coordinates import Sizes

GAP = 1
INDENT = 1
# Where a terminal is narrow, these columns go, the first one first.
PLAN_OPTIONAL = ("layers", "width", "steps", "memory", "non-emb", "FLOPs")
PARAMETERS_OPTIONAL = ("norms", "heads", "steps", "positions", "layers")
COORDINATES_READ = (
    "mean absolute values after these steps, and the powers of the width by which they and their change since the first one grow:",
    "w^0 is level, as muP has it; its scores may still shrink in the first steps, while queries and keys learn to agree",
)
END_OPTIONAL = ("Planned", "Top-1", "Parameters", "Time", "Outcome")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int, optional: Sequence[str] = (), left: int = 1) -> Padding:
    """A plain table that fits `width`: the first `left` columns are text, the others aligned right; `optional` ones go one by one.

    A column goes when its name starts with that of an optional one.
    """
    shown = fitting(columns, rows, width - INDENT, optional)
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False, padding=(0, GAP, 0, 0), collapse_padding=True)
    for i in shown:
        made.add_column(columns[i], justify="left" if i < left else "right", no_wrap=i < left)
    for row in rows:
        made.add_row(*(row[i] for i in shown))
    return Padding(made, (0, 0, 0, INDENT), expand=False)


def fitting(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int, optional: Sequence[str]) -> list[int]:
    """The columns to show so that no cell is cut, as far as leaving out optional ones can bring that about."""
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    shown = list(range(len(columns)))
    for name in optional:
        if sum(widths[i] for i in shown) + (GAP + 1) * (len(shown) - 1) <= width:
            break
        last = next((i for i in reversed(shown) if columns[i].startswith(name)), None)
        shown = [i for i in shown if i != last]
    return shown


def plan_heading(plan: Plan, study: Study, corpus: Corpus) -> Text:
    """What is studied, on what data, on which machine."""
    sizes = f"{corpus.train.n_texts:,} + {corpus.validation.n_texts:,} + {corpus.test.n_texts:,} texts"
    data = f"data {presentable(corpus.source)} {sizes} (sha {corpus.fingerprint[:6]})"
    runs = f"{study.seeds} seeds, {study.search.trials} trials a rung"
    where = f"{plan.workers} x {plan.device}, {plan.precision}"
    held = held_out_rung(study.model_dump(mode="json"), plan.to_dict())
    checked = f"held out {held}" if held else "nothing held out"
    runs, estimate = f"{runs}   {checked}", trust(plan.calibrated_runs, plan.spread)
    return Text(f"study {study.study}  {plan.study[:6]}   {data}   {runs}   device {where}   estimate {estimate}", style="bold")


def frame_table(frame: pd.DataFrame, width: int) -> Padding:
    """A data frame whose cells are ready to be read."""
    rows = [[str(cell) for cell in row] for row in frame.itertuples(index=False)]
    return table([str(c) for c in frame.columns], rows, width, END_OPTIONAL)


def plan_table(plan: Plan, record: Record, width: int) -> Padding:
    """A row a rung: size, budget, runs and how many are done, rate, price."""
    columns = ("rung", "layers", "width", "params", "non-emb", "tokens", "steps", "done", "learning rate", "FLOPs", "time", "memory")
    return table(columns, [_plan_row(rung, plan, record) for rung in plan.rungs], width, PLAN_OPTIONAL)


def _plan_row(rung: RungPlan, plan: Plan, record: Record) -> list[str]:
    shape = rung.shape
    done = sum(1 for key, s in record.selected.items() if s["rung"] == rung.rung and s["stage"] != "ablation" and record.is_done(key))
    size = [rung.rung, str(shape.get("n_layer", "")), str(shape.get("d_model", "")), f"{rung.n_params:,}", f"{rung.non_embedding_params:,}"]
    budget = [tokens(rung.train_tokens), f"{rung.steps:,}"]
    if rung.skipped:
        return [*size, *budget, "-", "skipped", _power(rung.train_flops), "-", memory(rung.memory_bytes)]
    cost = [_power(rung.train_flops * rung.runs), duration(rung.estimated_s / plan.workers), memory(rung.memory_bytes)]
    return [*size, *budget, f"{done}/{runs_of(rung, record)}", _rate(rung, record), *cost]


def _rate(rung: RungPlan, record: Record) -> str:
    chosen = record.chosen.get(rung.rung)
    return f"{short_rate(chosen['lr'])} {chosen['lr_status']}" if chosen else "to be searched"


def runs_of(rung: RungPlan, record: Record) -> int:
    """A rung's runs, as far as is known."""
    return planning.runs_of(asdict(rung), record.chosen.get(rung.rung))


def total_runs(plan: Plan, record: Record) -> int:
    """All runs of the study, as far as is known: those of the plan, and never fewer than belong to it by now."""
    return max(planning.total_runs(plan.to_dict(), record.chosen), len(record.selected))


def plan_notes(plan: Plan, record: Record, free_bytes: int | None = None) -> list[str]:
    """The lines under the table."""
    total, counts = total_runs(plan, record), record.status_counts()
    done = sum(n for status, n in counts.items() if status not in ("failed", "interrupted"))
    notes = [f"{rung.rung} skipped: {rung.skipped}" for rung in plan.rungs if rung.skipped]
    if plan.cut:
        notes.append(f"budgets cut to {2 ** (-plan.cut / 2):.3g} of the study's, for all rungs alike, so that it fits its time")
    crews = [f"{rung.crew} of {rung.rung}" for rung in plan.kept if rung.crew > 1]
    if crews:
        notes.append(f"trained together: {', '.join(crews)}")
    free = "" if free_bytes is None else f" of {memory(free_bytes)} free"
    limit = "no limit" if plan.within_s is None else duration(plan.within_s)
    skipped = f", {sum(bool(r.skipped) for r in plan.rungs)} rungs skipped" if len(plan.kept) < len(plan.rungs) else ""
    notes.append(f"to run {total - done} of {total} ({done} done, {counts.get('failed', 0)} failed{skipped})")
    notes.append(f"{duration(plan.estimated_s)} of {limit} on {plan.workers} x {plan.device}   disk {memory(plan.disk_bytes)}{free}")
    return notes


def parameter_table(plan: Plan, width: int) -> Padding:
    """Every rung's shape, steps, and parameters by group; the groups sum to the total."""
    groups = list(plan.rungs[0].parameters)
    columns = ("rung", "layers", "width", "heads", "mlp", "steps", *groups)
    rows = []
    for rung in plan.rungs:
        shape = [str(rung.shape.get(name, "")) for name in ("n_layer", "d_model", "n_head", "d_ff")]
        rows.append([rung.rung, *shape, f"{rung.steps:,}", *(f"{rung.parameters[group]:,}" for group in groups)])
    return table(columns, rows, width, PARAMETERS_OPTIONAL)


def coordinate_tables(found: "Sequence[Sizes]", width: int) -> list[Padding]:
    """A table for each parametrization: the size of values by place and width, and how they grow."""
    tables = []
    for name in dict.fromkeys(one.parametrization for one in found):
        own = [one for one in found if one.parametrization == name]
        columns = (name, *(f"width {w}" for w in own[0].widths), "grows as", "its change as")
        rows = [[one.place, *(f"{v:.3g}" for v in one.values), *(f"w^{p:.2f}" for p in (one.growth, one.change_growth))] for one in own]
        tables.append(table(columns, rows, width))
    return tables


def tokens(count: float) -> str:
    """Tokens for people: 0.32M."""
    return f"{count / 1e6:.2f}M" if count < 1e8 else f"{count / 1e9:.2f}B"


def memory(size: float) -> str:
    """Bytes for people, in decimal units."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


def _power(value: float) -> str:
    """3.1e11"""
    return f"{value:.1e}".replace("e+", "e")
