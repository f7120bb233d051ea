"""The other verbs, such as `python -m harness status`. Thin: each parses, calls and prints."""

import argparse
import json
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import harness
from harness import advise as advising
from harness import (
    advise_text,
    advised_study,
    affordable,
    doctor,
    durable,
    environment,
    errors,
    fit_table,
    lease,
    plugins,
    terminal,
    tracking,
)
from harness.arguments import advise_arguments, fit_arguments
from harness.confine import confined
from harness.console import Console
from harness.errors import DamageError, HarnessError, PreflightError, StudyError
from harness.invocation import JOURNAL
from harness.journal import read
from harness.plan import Plan
from harness.record import Record
from harness.repair import repair
from harness.repeat import repeat
from harness.results import from_record, write_csv
from harness.run import ROOT
from harness.search_export import export
from harness.strategies import Strategy
from harness.text import visible, without_secrets
from harness.writing import write_texts
from reports import compare_document, compare_words, document, verify
from reports.compare import compare
from reports.rates import rates
from reports.tables import rung_table

PLUGINS = {"archs": "models", "sources": "harness.data.sources", "tokenizers": "harness.data.tokenizers", "figures": "reports.figures"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one verb; the exit code says how it ended."""
    options = parser().parse_args(arguments)
    verb: Callable[[argparse.Namespace], None] = options.verb
    try:
        verb(options)
    except HarnessError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return errors.INTERRUPTED
    except Exception:
        print(without_secrets(traceback.format_exc()), file=sys.stderr)
        print("This is a bug of the harness, not of your study.", file=sys.stderr)
        return errors.BUG
    return errors.DONE


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m harness", description="Look at, and work with, studies that have been run.")
    top.add_argument("--version", action="version", version=f"harness {harness.__version__}")
    verbs = top.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, call: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text)
        sub.set_defaults(verb=call)
        return sub

    verb("status", status, "how far a study is").add_argument("study", metavar="STUDY")
    made = verb("report", report, "write results.csv and the report again, from the record; of two studies: compare them")
    made.add_argument("studies", metavar="STUDY", nargs="+", help="one, or two to be compared")
    made.add_argument("--no-times", action="store_true", help="leave out what differs between two machines")
    made.add_argument("--verify", action="store_true", help="write nothing: compute all again and compare with what is there")
    fit_arguments(verb("fit", fit, "fit E + A/N^alpha + B/D^beta to a CSV of anyone's runs"))
    advise_arguments(verb("advise", advise, "the size, tokens and learning rate for a budget, and the next runs"))
    drawn = verb("sample", sample, "let a trained run write texts")
    drawn.add_argument("run", metavar="RUN", help="a run's key or the beginning of it, or its name, as in results.csv")
    drawn.add_argument("--temperature", type=float, default=1.0)
    drawn.add_argument("--top-k", type=int, metavar="K", help="draw from the K likeliest tokens; default: from all")
    drawn.add_argument("--top-p", type=float, metavar="P", help="draw from the fewest likeliest tokens whose mass is P; default: from all")
    drawn.add_argument("--n", type=int, default=5)
    drawn.add_argument("--seed", type=int, default=0)
    again = verb("repeat", repeat_run, "train a run again from its record, and compare")
    again.add_argument("run", metavar="RUN", help="a run's key or the beginning of it, or its name, as in results.csv")
    verb("doctor", examine, "check this machine, the tracking store and every study; changes nothing")
    level = verb("sync", sync, "bring MLflow level with the record")
    level.add_argument("study", metavar="STUDY")
    level.add_argument("--rebuild", action="store_true", help="delete the study's runs in MLflow first, and write all of them again")
    shown = verb("export-optuna", export_optuna, "write the searches as a file that optuna-dashboard opens")
    shown.add_argument("study", metavar="STUDY")
    shown.add_argument("file", metavar="FILE", nargs="?", type=Path, help="optuna.db in the study's folder unless given")
    verb("repair", mend, "set damaged lines of a record aside and keep the rest").add_argument("study", metavar="STUDY")
    verb("list", list_plugins, "what can be named in a study file").add_argument("what", choices=sorted(PLUGINS))
    verb("ui", ui, "open MLflow over mlruns/").add_argument("--port", type=int, default=tracking.UI_PORT)
    return top


def study_folder(study: str) -> Path:
    """A study's folder, by its name or its folder's path.

    Raises:
        StudyError: there is none.
    """
    name = Path(study).name
    folder = ROOT / name
    # The last part of a path may be `..`, which is no study's name.
    if name in ("", "..") or not (folder / JOURNAL).exists():
        known = sorted(path.parent.name for path in ROOT.glob(f"*/{JOURNAL}"))
        there = f"There are: {', '.join(known)}." if known else "Nothing has been run here yet."
        raise StudyError(f"no study {study!r} under {ROOT}/.{plugins.nearest(study, known)} {there}")
    confined(folder)
    return folder


def load(study: str) -> tuple[Path, Record]:
    """A study's folder and record, by its name or its folder's path.

    Raises:
        StudyError: there is none, or it was stopped before it had a plan.
    """
    folder = study_folder(study)
    record = Record.of(read(folder / JOURNAL))
    if not record.plan:
        raise StudyError(f"study {folder.name} was started, but has no plan yet. Run it first.")
    return folder, record


def status(options: argparse.Namespace) -> None:
    """The plan with what is done of it."""
    folder, record = load(options.study)
    driver = lease.holder(folder)
    if driver is not None:
        state = "alive" if driver.is_alive else "lost: start the study again, it goes on where it was"
        print(f"run by pid {driver.pid} on {driver.host}, {state}")
    plan, console = Plan.from_dict(record.plan), Console()
    console.print(terminal.plan_table(plan, record, console.width))
    for note in terminal.plan_notes(plan, record):
        console.say(f" {note}")
    counts = "   ".join(f"{name} {n}" for name, n in sorted(record.status_counts().items()))
    console.say(f" {counts or 'no run has ended yet'}")


def report(options: argparse.Namespace) -> None:
    """Rebuild what is made of the record, without training; of two studies, set them side by side.

    Raises:
        DamageError: with `--verify`, something there is not what the record gives.
    """
    if len(options.studies) > 1:
        _compare(options.studies, options.verify)
        return
    folder, record = load(options.studies[0])
    results = from_record(record)
    if options.verify:
        formats = results.study["report"]["formats"]
        _say_verified(verify.verify(results, folder, formats, times=not options.no_times), folder, folder.name)
        return
    write_csv(results.runs, folder / "results.csv")
    paths = document.write(results, folder / "report", results.study["report"]["formats"], times=not options.no_times)
    console = Console()
    console.print(terminal.frame_table(rung_table(results), console.width))
    for path in (folder / "results.csv", *(path for path in paths if path.parent.name == "report")):
        console.say(f" {path}")


def _say_verified(found: verify.Verified, folder: Path, studies: str) -> None:
    if found.mismatches:
        listed = "".join(f"\n  {sentence}" for sentence in found.mismatches)
        again = f"Was it edited, made by another version, or with other fonts? Write it again: python -m harness report {studies}"
        raise DamageError(f"{folder}: {len(found.mismatches)} of {found.compared} files are not what the record gives. {again}{listed}")
    print(f"{studies}: all {found.compared} files are what the record gives, to the byte")


def _compare(studies: Sequence[str], verified: bool) -> None:
    """Write the comparison of two studies into the folder of the first, or check what is there."""
    loaded = [load(study) for study in studies]
    names = [folder.name for folder, _ in loaded]
    if len(loaded) > 2 or names[0] == names[1]:
        raise StudyError(f"report takes one study, or two different ones to compare, not {' '.join(names)}. Nothing was written.")
    a, b = (from_record(record) for _, record in loaded)
    folder = loaded[0][0] / f"compared-with-{names[1]}"
    if verified:
        _say_verified(verify.verify_comparison(a, b, folder), folder, " ".join(names))
        return
    console = Console()
    for sentence in compare_words.answer(compare(a, b)):
        console.say(f" - {sentence}")
    for path in compare_document.write(a, b, folder):
        if path.parent == folder:
            console.say(f" {path}")


def fit(options: argparse.Namespace) -> None:
    """The loss surface of a table of runs, by both estimators."""
    if min(options.drop_highest, options.bootstraps, options.seed) < 0:
        raise StudyError("fit: --drop-highest, --bootstraps and --seed must be 0 or more")
    names = {name: getattr(options, name) for name in ("n", "d", "flops", "loss", "sigma", "run", "drop_highest", "bootstraps", "seed")}
    fitted = fit_table.fit_table(fit_table.Request(options.table, **names))
    if options.json:
        print(json.dumps(fit_table.as_data(fitted), indent=1))
    else:
        console = Console()
        console.say(f" L(N, D) = E + A / N^alpha + B / D^beta, {len(fitted.rows)} rows of {options.table}")
        if fitted.problem is None:
            console.print(terminal.frame_table(fit_table.as_table(fitted), console.width))
        for note in fit_table.notes(fitted):
            console.say(f" {note}")
    if fitted.problem is not None:
        raise StudyError(f"{options.table}: {fitted.problem}.")


def advise(options: argparse.Namespace) -> None:
    """What to spend a budget on.

    Raises:
        StudyError: the study's runs don't allow an answer.
    """
    folder, record = load(options.study)
    if options.write is not None and options.write.exists():
        raise StudyError(f"--write {options.write}: there is such a file already; give another name")
    results = from_record(record)
    advice = advising.advise(results, affordable.asked(options.flops, options.within), rates(results), options.narrow)
    if options.json:
        print(json.dumps(advise_text.as_data(advice), indent=1))
    else:
        _show_advice(advice, folder.name)
    if advice.status == "refused":
        raise StudyError(f"{folder.name}: no advice: {advice.reason}")
    if options.write is not None:
        durable.replace(options.write, advised_study.text(advised_study.advised_study(results, advice), advice).encode(), "report")
        if not options.json:
            print(f" written to {options.write}. look at it: {environment.python()} -m harness.run {options.write} --plan")


def _show_advice(advice: advising.Advice, study: str) -> None:
    console = Console()
    console.say(f" {advise_text.heading(advice, study)}")
    if advice.status == "advised":
        console.print(terminal.frame_table(advise_text.as_table(advice), console.width))
    for note in advise_text.notes(advice):
        console.say(f" {note}")


def sample(options: argparse.Namespace) -> None:
    """Texts of a run whose weights were kept."""
    if options.temperature <= 0 or options.n < 1:
        raise StudyError("sample: --temperature must be above 0 and --n at least 1")
    try:
        strategy = Strategy(options.temperature, options.top_k, options.top_p)
    except ValueError as error:
        raise StudyError(f"sample: {error}") from None
    for text in write_texts(ROOT, options.run, options.n, strategy, options.seed):
        print(visible(text))


def repeat_run(options: argparse.Namespace) -> None:
    """A run again, and how it compares.

    Raises:
        DamageError: it came out otherwise.
    """
    made = repeat(ROOT, options.run)
    weights = {True: "; the same weights", False: "; other weights", None: ""}[made.same_weights]
    if not made.differences:
        print(f"{made.name} ({made.key}): all {made.values} values equal to the last bit{weights}")
        return
    told = f"{len(made.differences)} of {made.values} values differ, by {made.largest:.2g} at most{weights}"
    if not made.is_same:
        first = made.differences[0]
        how = f"the first is {first.what}: recorded {first.recorded}, now {first.repeated}"
        raise DamageError(f"{made.name} ({made.key}) came out otherwise: {told}; {how}")
    print(f"{made.name} ({made.key}): {told}, which rounding explains (other machine or other libraries)")


def examine(options: argparse.Namespace) -> None:
    """What is in order and what isn't, a line each.

    Raises:
        PreflightError: something isn't.
    """
    checks = doctor.examine(ROOT)
    console = Console()
    console.print(terminal.table(("", "what", "found"), [[c.state, c.what, c.text] for c in checks], console.width, left=3))
    bad = [check.what for check in checks if check.state == doctor.BAD]
    if bad:
        raise PreflightError(f"not in order: {', '.join(bad)}")


def sync(options: argparse.Namespace) -> None:
    """Write to MLflow what it doesn't have yet; a study that is being run has its driver for that."""
    folder, _ = load(options.study)
    projection = tracking.Projection(folder / JOURNAL, ROOT)
    with lease.held(folder):
        count = projection.rebuild() if options.rebuild else projection.sync()
        projection.finish(folder / "report")
    print(f"{count} events of {folder.name} were written to {without_secrets(projection.uri)}")


def export_optuna(options: argparse.Namespace) -> None:
    """An sqlite file with one Optuna study a rung."""
    folder, record = load(options.study)
    path = options.file or folder / "optuna.db"
    counts = export(record, path)
    print("\n".join(f"{rung}: {n} trials" for rung, n in counts.items()) or "no trial has ended yet")
    print(f"open it with: optuna-dashboard sqlite:///{path}")


def mend(options: argparse.Namespace) -> None:
    """Repair a record in place."""
    folder = study_folder(options.study)
    with lease.held(folder):
        done = repair(folder / JOURNAL)
    if done.original is None:
        print(f"the record of {folder.name} is whole; nothing was changed")
        return
    lines = ", ".join(map(str, done.damaged)) or "none, but lines are missing"
    print(f"damaged lines: {lines}. The record as it was: {done.original}")
    print(f"{len(done.void)} runs lost a part of their record and are trained again by the next start" if done.void else "no run was lost")
    print(f"then bring MLflow level: python -m harness sync {folder.name} --rebuild")


def list_plugins(options: argparse.Namespace) -> None:
    """Names of what is there, one a line."""
    print("\n".join(plugins.names(PLUGINS[options.what])))


def ui(options: argparse.Namespace) -> None:
    """MLflow's own server, on this machine only."""
    command, address = tracking.ui_command(ROOT, options.port), f"http://127.0.0.1:{options.port}"
    print(f"MLflow on {address} (Ctrl-C ends it)")
    # Its first pages are those of chat applications, and show nothing of a study.
    for study, page in tracking.pages(ROOT).items():
        print(f"{study}, its rungs compared: {address}{page}")
    print("Or choose `Model training` at the top left, then a study: the run of its name has links to the comparisons of rungs and of")
    print("trials, and the report among its artifacts (report/report.html).", flush=True)
    subprocess.run(command, check=False)


def console() -> None:
    """The `harness` command."""
    sys.exit(main())


if __name__ == "__main__":
    console()
