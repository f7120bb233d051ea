"""The front door: `python -m harness.run STUDY`. Parses, calls the stages in order, prints; nothing is decided here."""

import argparse
import json
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from typing import Any

import harness
from harness import calibration, environment, errors, invocation, ladder, lease, memory, power, preflight, spec, terminal, tracking
from harness.calibration import Calibration
from harness.confine import confined
from harness.console import Console
from harness.data import Floor
from harness.errors import HarnessError
from harness.execute import Executor
from harness.held_out import held_out_rung
from harness.invocation import Prepared
from harness.journal import Journal, read
from harness.lease import Held
from harness.plan import Machine, Plan
from harness.record import Record
from harness.results import Results, from_record, write_csv
from harness.signals import Terminated, stopping_on_signals, terminable
from harness.stages import Stages
from harness.text import censored, without_secrets
from harness.tracking_live import Live
from reports import document
from reports.findings import findings
from reports.tables import rung_table

ROOT = Path("mlruns")
# Runs are cut so that the study fits its time; past this share of it nothing new is started, should the machine be slower than measured.
OVERTIME = 1.25
# How long the end of a study may wait for the tracking store, in seconds: when it was stopped, and when it is done.
QUICK_S, PATIENT_S = 3.0, 60.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a study from the command line; the exit code says how it ended (harness/errors.py)."""
    command_line = parser()
    options = command_line.parse_args(arguments)
    if options.json and not options.plan:
        command_line.error("--json goes with --plan")
    try:
        with terminable():
            return run(options)
    except HarnessError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as stop:
        print("stopped; what the record holds is kept", file=sys.stderr)
        return errors.TERMINATED if isinstance(stop, Terminated) else errors.INTERRUPTED
    except Exception:
        print(without_secrets(traceback.format_exc()), file=sys.stderr)
        print("This is a bug of the harness, not of your study; the record up to here is kept.", file=sys.stderr)
        return errors.BUG


def parser() -> argparse.ArgumentParser:
    """The command line."""
    about = "Run a study: train, search, track and report; repeat it to resume."
    parser = argparse.ArgumentParser(prog="python -m harness.run", description=about)
    parser.add_argument("study", type=Path, metavar="STUDY", help="the study file, such as studies/scaling.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY.PATH=VALUE", help="override a key; the value is read as YAML")
    parser.add_argument("--plan", action="store_true", help="print the priced plan and write nothing")
    parser.add_argument("--json", action="store_true", help="with --plan: the plan as data")
    about = "print how values inside the model grow with its width, under both parametrizations, and write nothing"
    parser.add_argument("--coord-check", action="store_true", help=about)
    parser.add_argument("--within", metavar="15m", help="time for this invocation; budgets are cut to fit when the plan is made")
    parser.add_argument("--replan", action="store_true", help="make a new plan instead of reusing the recorded one")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="run only this rung or stage; can be repeated")
    parser.add_argument("--retry", choices=("failed",), help="try runs again that have failed for good")
    parser.add_argument("--fail-fast", action="store_true", help="stop at the first run that fails for good")
    parser.add_argument(
        "--workers",
        type=_count,
        metavar="N",
        help="so many processes that train, of a CPU's cores at most; decided when the plan is made",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="default: an accelerator if there is one")
    parser.add_argument("--no-track", action="store_true", help="write the record alone, no MLflow")
    parser.add_argument("--quiet", action="store_true", help="print only warnings and errors")
    parser.add_argument("--version", action="version", version=f"harness {harness.__version__}")
    return parser


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= invocation.MAX_WORKERS):
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {invocation.MAX_WORKERS}, not {text!r}")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """One invocation, in the order in which data flows."""
    overrides = [*options.set, *([f"within={options.within}"] if options.within else [])]
    study = spec.load(options.study, overrides)
    console = Console(options.quiet or options.json)
    console.say(f"study {study.study}: preparing the data")
    prepared = invocation.prepare(study)
    for notice in prepared.corpus.notices:
        console.say(f" {notice}")
    only = invocation.wanted(options.only, prepared)
    if options.coord_check:
        return _show_coordinates(prepared, console)
    machine = invocation.machine_for(study, options.device, options.workers)
    if options.plan:
        return _show_plan(options, prepared, machine, console)
    confined(ROOT / study.study)
    with lease.held(ROOT / study.study) as held:
        return _carry_out(options, prepared, machine, console, only, held)


def _show_plan(options: argparse.Namespace, prepared: Prepared, machine: Machine, console: Console) -> int:
    """Price the plan, or look up the recorded one, and print it."""
    folder = ROOT / prepared.study.study
    record = Record.of(read(folder / invocation.JOURNAL))
    prior = power.known_prior(from_record(record)) if record.plan else power.ASSUMED
    plan = None if options.replan else invocation.recorded_plan(record, prepared)
    if plan is None:
        known = _known(prepared, machine, console)
        with invocation.make_pool(prepared, None, machine, folder) as pool:
            plan = invocation.new_plan(prepared, machine, pool, known)
        # What was done under another plan may have had another budget.
        record = Record()
    told = power.power(plan, prepared.study.seeds, prior)
    if options.json:
        print(json.dumps(plan.to_dict() | {"power": told.to_dict()}, indent=1))
        return errors.DONE
    console.print(terminal.plan_heading(plan, prepared.study, prepared.corpus))
    console.print(terminal.plan_table(plan, record, console.width))
    console.print(terminal.parameter_table(plan, console.width))
    for note in (*power.notes(told, plan.workers), *terminal.plan_notes(plan, record, invocation.free_bytes(ROOT))):
        console.say(f" {note}")
    console.say(f" nothing written. start: {environment.command(without=('--plan',))}")
    return errors.DONE


def _show_coordinates(prepared: Prepared, console: Console) -> int:
    """Measure values inside models over widths, and print them."""
    # Not earlier: torch is loaded in the workers alone.
    from harness import coordinates

    study, size = prepared.study, prepared.size
    base = ladder.base(study.model, size.vocab_size, study.data.seq_len)
    spec = invocation.probe(prepared, invocation.machine_for(study, "cpu"))
    lr = study.search.default_lr
    times = ", ".join(map(str, coordinates.MULTIPLES))
    console.say(f"training models {times} times as wide as {base.name} for {coordinates.STEPS} steps at {lr:g}")
    found = coordinates.check(spec, base, prepared.corpus, lr)
    for table in terminal.coordinate_tables(found, console.width):
        console.print(table)
    for line in terminal.COORDINATES_READ:
        console.say(f" {line}")
    console.say(" nothing written")
    return errors.DONE


def _carry_out(options: argparse.Namespace, prepared: Prepared, machine: Machine, console: Console, only: Sequence[str], held: Held) -> int:
    """Plan or resume, train what is missing, and leave results, tracking and report behind."""
    started, free_memory = monotonic(), memory.available_bytes()
    folder = ROOT / prepared.study.study
    journal = Journal(folder / invocation.JOURNAL, held.check)
    record = Record.of(read(journal.path))
    recorded = None if options.replan else invocation.recorded_plan(record, prepared)
    machine = machine if recorded is None else invocation.as_planned(machine, recorded)
    floor = invocation.floor_of(prepared)
    within_s = invocation.within_s(prepared.study, machine)
    deadline = None if within_s is None else started + within_s * OVERTIME
    projection: Live | None = None
    with ExitStack() as at_end:
        at_end.callback(journal.close)
        with invocation.make_pool(prepared, floor, machine, folder) as pool:
            facts = invocation.facts(machine)
            # Runs of a start that was killed as well.
            _learn(machine, record, console)
            again, fast = bool(options.retry), options.fail_fast
            executor = Executor(journal, record, pool, console, folder / invocation.CHECKPOINTS, facts["id"], deadline, only, again, fast)
            _say_changes(record, prepared, facts, console)
            plan = recorded or _new_plan(prepared, machine, executor, console)
            done = sum(map(record.is_done, record.selected)) / terminal.total_runs(plan, record) if recorded else 0.0
            preflight.check(plan, done, invocation.free_bytes(ROOT), invocation.free_memory(machine, free_memory), ROOT)
            # Not earlier: a study that can't be planned leaves nothing behind.
            executor.note("invocation", **facts)
            _note_study(executor, prepared, floor, None if recorded else plan)
            if not options.no_track:
                # Not earlier: loading MLflow would take time from what is being measured.
                projection = live = Live(journal.path, ROOT, console.warn)
                at_end.callback(lambda: _finish_tracking(live, folder / "report", executor))
            console.say(f" allocator of the workers: {' '.join(f'{name}={value}' for name, value in facts['allocator'].items())}")
            console.resumed(plan, record)
            with console.showing(plan, record), stopping_on_signals(executor) as stopped:
                executor.run(Stages(prepared.study, plan, prepared.size))
        code = invocation.exit_code(record, stopped.code, executor.out_of_time)
        _learn(machine, record, console)
        # Before the report, which tells of this start as well.
        executor.note("invocation_ended", id=facts["id"], seconds=monotonic() - started, exit_code=code, completed=executor.completed)
        results = from_record(record)
        write_csv(results.runs, folder / "results.csv")
        if not stopped.code:
            console.say("writing the report")
            paths = document.write(results, folder / "report", prepared.study.report.formats)
            executor.note("reported", paths=[str(path) for path in paths])
    _say_end(executor, results, folder, console, code, projection.page if projection else "")
    return code


def _say_changes(record: Record, prepared: Prepared, facts: Mapping[str, Any], console: Console) -> None:
    """What is not as it was at the last start: the study, the texts, the code."""
    for change in preflight.changes(record, prepared.study, prepared.corpus.fingerprint):
        console.say(f" changed since the last start: {change}")
    other = preflight.other_code(record, facts)
    if other:
        console.warn(f"not the code of the last start: {'; '.join(other)}. Runs that are done are kept; new ones may differ in last digits")


def _note_study(executor: Executor, prepared: Prepared, floor: Floor | None, plan: Plan | None) -> None:
    """Record a new plan, or a study whose wording alone has changed."""
    study = censored(prepared.study.model_dump(mode="json"))
    if plan is not None:
        facts = invocation.plan_facts(plan)
        facts["held_out"] = held_out_rung(study, facts)
        executor.note("plan", study=study, plan=facts, data=invocation.data_facts(prepared, floor))
    elif study != executor.record.study:
        executor.note("study", study=study)


def _known(prepared: Prepared, machine: Machine, console: Console) -> Calibration:
    """What finished runs have told of this machine, and a line on how the plan is priced."""
    known = calibration.load(ROOT, environment.speed_facts(machine))
    for said in (known.note, invocation.how_priced(prepared, machine, known)):
        if said:
            console.say(f" {said}")
    return known


def _learn(machine: Machine, record: Record, console: Console) -> None:
    """Keep what the record's runs tell of this machine's speed; a study does without where that can't be written."""
    said = calibration.learn(ROOT, environment.speed_facts(machine), record)
    if said:
        console.warn(said)


def _finish_tracking(live: Live, report: Path, executor: Executor) -> None:
    """Bring MLflow level; somebody who has stopped the study doesn't wait for a server."""
    live.close(report if report.exists() else None, QUICK_S if executor.stopping else PATIENT_S)


def _new_plan(prepared: Prepared, machine: Machine, executor: Executor, console: Console) -> Plan:
    """Price, plan and show; whatever was recorded before stays and is reused where a run is the same."""
    plan = invocation.new_plan(prepared, machine, executor.pool, _known(prepared, machine, console))
    # What was done under another plan may have had another budget; a run that comes out the same is reused when its turn comes.
    console.print(terminal.plan_table(plan, Record(), console.width))
    for note in terminal.plan_notes(plan, Record(), invocation.free_bytes(ROOT)):
        console.say(f" {note}")
    return plan


def _say_end(executor: Executor, results: Results, folder: Path, console: Console, code: int, page: str) -> None:
    """The answer in short: a table, three findings, the paths, and the line that goes on or repeats it."""
    again = environment.command(without=("--replan", "--retry", "failed"))
    if code in (errors.INTERRUPTED, errors.TERMINATED):
        why = "out of time" if executor.out_of_time else "stopped"
        console.say(f"{why}; what has ended is kept. go on: {again}")
        return
    console.print(terminal.frame_table(rung_table(results), console.width))
    for finding in findings(results)[:3]:
        console.say(f" - {finding.text}")
    failed = results.runs[results.runs["status"] == "failed"]
    for name, reason in zip(failed["name"], failed["reason"], strict=True):
        console.warn(f"{name} failed: {reason}")
    if len(failed):
        console.say(f" retry    {again} --retry failed")
    console.say(f" results  {folder / 'results.csv'}")
    for path in sorted((folder / "report").glob("report.*")):
        console.say(f" report   {path}")
    console.say(f" MLflow   make ui   (or: python -m harness ui), then {tracking.UI_ADDRESS}{page}")
    console.say(f" again    {again}")


if __name__ == "__main__":
    sys.exit(main())
