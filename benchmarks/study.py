"""A whole study, stage by stage: how much of its time goes into training, evaluation, sampling, tracking, planning and reporting.

    python -m benchmarks.study [--study studies/scaling.yaml] [--within 5m]        DATA=file.csv COLUMN=name for other texts

The study is run as `python -m harness.run` would, in an empty folder that is removed; `--within` scales it down, and the result says so.
Runs' own parts are those of the record; the driver's are counted around its functions. Shares are of CPU seconds, which other work on the
machine leaves alone; where runs are trained on a GPU, of the wall's. Results: benchmarks/results/study.json, or study-cuda.json.
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
from benchmarks._setup import text_column
from harness import invocation, run
from harness.journal import Journal, read
from harness.record import Record
from harness.tracking import Projection
from reports import document

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


def own_texts() -> list[str]:
    """The study's data replaced by a file's, where the environment names one."""
    path, column = os.environ.get("DATA"), os.environ.get("COLUMN")
    if not path:
        return []
    chosen = column or text_column(Path(path))
    data = {"source": "file", "path": str(Path(path).resolve()), "clean": "[lower, letters]"} | ({"column": chosen} if chosen else {})
    return [word for key, value in data.items() for word in ("--set", f"data.{key}={value}")]


def main() -> None:
    """Run the study, print where its time went, keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, default=Path("studies/scaling.yaml"))
    parser.add_argument("--within", help="scale the study down to this time, such as 5m")
    parser.add_argument("--set", action="append", default=[], metavar="KEY.PATH=VALUE", help="as in harness.run")
    given = parser.parse_args()
    study, machine = given.study.resolve(), measure.machine()
    words = [*own_texts(), *(word for value in given.set for word in ("--set", value))]
    words += ["--within", given.within] if given.within else []
    label = f"{given.study.name}{f', scaled down to {given.within}' if given.within else ''}{', other keys set' if given.set else ''}"
    home = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="study-") as folder:
        os.chdir(folder)
        try:
            whole, record = carry_out(study, words)
        finally:
            os.chdir(home)
    by_stage = stages(record)
    plan = {name: record.plan.get(name) for name in ("estimated_s", "within_s", "cut", "workers", "device")}
    result = {
        "machine": machine,
        "study": label,
        "plan": plan,
        **summary(whole, by_stage, measure.device()),
        "whole": whole,
        "stages": by_stage,
    }
    for name, share in sorted(result["shares"].items(), key=lambda item: -item[1]):
        print(f"{name:14} {share:7.2%}")
    print(f"evaluation and samples, of training: {result['evaluation_and_samples_of_training']:.1%}")
    print(f"kept in {measure.keep('study', result)}")


if __name__ == "__main__":
    main()
