"""A whole study, stage by stage: how much of its time goes into training, evaluation, sampling, tracking, planning and reporting.

    python -m benchmarks.study [--study studies/scaling.yaml] [--within 5m]        DATA=file.csv COLUMN=name for other texts
    python -m benchmarks.study --assignment [--force]                              the assignment's whole study

The study is run as `python -m harness.run` would, in an empty folder that is removed; `--within` scales it down, and the result says so.
Runs' own parts are those of the record; the driver's are counted around its functions. Shares are of CPU seconds, which other work on the
machine leaves alone; where runs are trained on a GPU, of the wall's. Results: benchmarks/results/study.json, or study-cuda.json.

The assignment's takes a CPU days, and is left out where there is no CUDA device, unless `--force` is given. Results:
benchmarks/results/study-assignment-cuda.json, or study-assignment.json.
"""

import argparse
import os
import resource
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from benchmarks import _measure as measure
from benchmarks._clock import Clock, children_cpu_s
from benchmarks._setup import HELD_OUT, TEXTS, text_column
from harness import invocation, run
from harness.journal import Journal, read
from harness.record import Record
from harness.tracking import Projection
from reports import document

SCALING, HEADLINES = Path("studies/scaling.yaml"), Path("studies/headlines.yaml")
# What the assignment's whole study sets beside studies/headlines.yaml, whose are the four shapes, the epochs, the ablation and the
# temperatures. The file's `learn` computes all 149 positions and makes its steps one by one on a GPU; it and float32 are for comparing with
# the assignment's table.
ASSIGNMENT = {"search.trials": "16", "train.padding": "ignore", "train.precision": "auto", "within": "null"}
# The embedded texts, as many as the assignment's, in place of its own from the Hub.
OF_THE_HUB = ("data.path", "data.name", "data.revision")
EMBEDDED = {"data.source": "wire", "data.clean": "[]", "data.columns": "[]"} | dict.fromkeys(OF_THE_HUB, "null")
AS_MANY = {"data.texts": str(TEXTS), "data.validation": str(HELD_OUT), "data.test": str(HELD_OUT)}
PARTS = ("training", "capturing", "evaluation", "sampling_best", "sampling_end", "saving")
# The driver's pieces of work and the functions that do them.
WATCHED: dict[str, Sequence[tuple[Any, str]]] = {
    "data": ((invocation, "prepare"), (invocation, "floor_of")),
    "planning": ((run, "_known"), (invocation, "new_plan")),
    "record": ((Journal, "append"),),
    "calibration": ((run, "_learn"),),
    "tracking": ((Projection, "sync"), (Projection, "finish")),
    "reporting": ((run, "from_record"), (run, "write_csv"), (document, "write")),
}


def carry_out(study: Path, words: Sequence[str]) -> tuple[dict[str, Any], Record]:
    """Run a study here; seconds of the whole, of the driver's pieces and of the workers, and its record."""
    clock, planning_cpu = Clock(), [0.0]
    for piece, functions in WATCHED.items():
        for owner, name in functions:
            clock.watch(owner, name, piece)
    planned = invocation.new_plan

    def plan_with_workers(*args: Any) -> Any:
        try:
            return planned(*args)
        finally:
            planning_cpu[0] += children_cpu_s()

    invocation.new_plan = plan_with_workers
    started, before = perf_counter(), process_time()
    code = run.main([str(study), *words])
    wall_s, driver_s = perf_counter() - started, process_time()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    (journal,) = run.ROOT.glob(f"*/{invocation.JOURNAL}")
    clock.spent.setdefault("planning", [0.0, 0.0])[1] += planning_cpu[0]
    return {
        "exit_code": code,
        "wall_s": wall_s,
        "driver": clock.spent | {"start": [0.0, before]},
        "driver_cpu_s": driver_s,
        "workers_cpu_s": children.ru_utime + children.ru_stime,
        "planning_cpu_s_of_workers": planning_cpu[0],
    }, Record.of(read(journal))


def stages(record: Record) -> dict[str, dict[str, Any]]:
    """What the runs of each stage took, by part of their work: wall and CPU seconds."""
    found: dict[str, dict[str, Any]] = {}
    for key, selected in record.selected.items():
        ended = record.ended.get(key)
        if ended is None or "seconds" not in ended:
            continue
        stage = found.setdefault(selected["stage"], {"runs": 0, "time_s": 0.0, "parts": {part: [0.0, 0.0] for part in PARTS}})
        stage["runs"] += 1
        stage["time_s"] += ended["time_s"]
        for part, spent in ended["seconds"].items():
            for i in (0, 1):
                stage["parts"][part][i] += spent[i]
    return found


def shares(whole: dict[str, Any], by_stage: dict[str, dict[str, Any]], device: str = "cpu") -> dict[str, float]:
    """Shares of all CPU seconds; what is left is the start of processes and of runs, the live table and the waiting for workers.

    On a GPU they are of the wall's seconds: of what the driver does beside the runs, nothing is left then.
    """
    clock, total = (1, whole["driver_cpu_s"] + whole["workers_cpu_s"]) if device == "cpu" else (0, whole["wall_s"])
    spent = {part: sum(stage["parts"][part][clock] for stage in by_stage.values()) for part in PARTS}
    spent |= {piece: seconds[clock] for piece, seconds in whole["driver"].items()}
    left = total - sum(spent.values())
    spent["rest"] = left if device == "cpu" else max(0.0, left)
    return {name: value / total for name, value in spent.items()}


def summary(whole: dict[str, Any], by_stage: dict[str, dict[str, Any]], device: str = "cpu") -> dict[str, Any]:
    """The shares, and the two that have a target."""
    part = shares(whole, by_stage, device)
    beside = part["evaluation"] + part["sampling_best"] + part["sampling_end"]
    kept = sum(part.get(piece, 0.0) for piece in ("tracking", "record", "planning", "calibration"))
    return {
        "shares": part,
        "evaluation_and_samples_of_training": beside / part["training"],
        "tracking_record_and_plan_of_study": kept,
    }


def own_texts() -> dict[str, str]:
    """Keys that replace the study's data by a file's, where the environment names one."""
    path, column = os.environ.get("DATA"), os.environ.get("COLUMN")
    if not path:
        return {}
    chosen = column or text_column(Path(path))
    keys = {"data.source": "file", "data.path": str(Path(path).resolve()), "data.clean": "[lower, letters]"}
    return keys | ({"data.column": chosen} if chosen else {})


def overrides(assignment: bool, given: Sequence[str]) -> list[str]:
    """What is set beside the study file, as KEY.PATH=VALUE: the benchmark's own keys, then those that were asked for."""
    own = (ASSIGNMENT | EMBEDDED | AS_MANY if assignment else {}) | own_texts()
    return [*(f"{key}={value}" for key, value in own.items()), *given]


def label(study: Path, assignment: bool, within: str | None, given: Sequence[str]) -> str:
    """What a result calls its study."""
    name = f"The assignment's whole study ({study.name}, 16 trials a search, real tokens only)" if assignment else study.name
    return f"{name}{f', scaled down to {within}' if within else ''}{', other keys set' if given else ''}"


def planned(record: Record) -> dict[str, Any]:
    """What the plan says of time: the price, the limit, by how much budgets were cut for it, which of how many rungs were left out."""
    named = {name: record.plan[name] for name in ("estimated_s", "within_s", "cut", "workers", "device")}
    rungs = record.plan["rungs"]
    return named | {"rungs": len(rungs), "left_out": [rung["rung"] for rung in rungs if rung["skipped"]]}


def texts(record: Record) -> dict[str, Any]:
    """What the study was trained on."""
    return {"source": record.data["source"], "train_texts": record.data["n_train"], "mean_length": record.data["mean_tokens"]}


def main() -> None:
    """Run the study, print where its time went, keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--study", type=Path, default=SCALING)
    which.add_argument("--assignment", action="store_true", help="four sizes, 16 trials a search, an ablation, five temperatures, no limit")
    parser.add_argument("--force", action="store_true", help="with --assignment: where there is no CUDA device, too")
    parser.add_argument("--within", help="scale the study down to this time, such as 5m")
    parser.add_argument("--set", action="append", default=[], metavar="KEY.PATH=VALUE", help="as in harness.run")
    given = parser.parse_args()
    if given.assignment and measure.device() == "cpu" and not given.force:
        print("study: the assignment's is left out, without a CUDA device it would take days (--force runs it all the same)")
        return
    file = HEADLINES if given.assignment else given.study
    study, machine = file.resolve(), measure.machine()
    words = [word for value in overrides(given.assignment, given.set) for word in ("--set", value)]
    words += ["--within", given.within] if given.within else []
    home = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="study-") as folder:
        os.chdir(folder)
        try:
            whole, record = carry_out(study, words)
        finally:
            os.chdir(home)
    by_stage = stages(record)
    result = {
        "machine": machine,
        "study": label(file, given.assignment, given.within, given.set),
        "keys_set": given.set,
        "data": texts(record),
        "plan": planned(record),
        **summary(whole, by_stage, measure.device()),
        "whole": whole,
        "stages": by_stage,
    }
    for name, share in sorted(result["shares"].items(), key=lambda item: -item[1]):
        print(f"{name:14} {share:7.2%}")
    print(f"evaluation and samples, of training: {result['evaluation_and_samples_of_training']:.1%}")
    print(f"kept in {measure.keep('study-assignment' if given.assignment else 'study', result)}")


if __name__ == "__main__":
    main()
