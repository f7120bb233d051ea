"""Fills the tables of docs/performance.md from benchmarks/results/*.json, so that no measured number is typed.

    python -m benchmarks.page

A table stands between `<!-- NAME -->` and `<!-- end of NAME -->`, NAME being that of a result; those of a GPU end in -cuda. A target that
was missed is said beside the number.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks._measure import RESULTS
from benchmarks.crew import MOST, SIZES
from harness.plan import duration

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
RUNGS = ("87k", "557k", "5M", "10M")
Results = Mapping[str, Any]
# What each comparison with the notebook is called, and how it is shown.
NOTEBOOK = {
    "training_step_ratio": ("training step", "{:.1f}x"),
    "training_step_ratio_same_allocator": ("the same, the notebook with the allocator setting too", "{:.1f}x"),
    "training_step_ratio_cpu_time": ("training step by CPU seconds", "{:.1f}x"),
    "evaluation_ratio": ("evaluation", "{:.0f}x"),
    "sampling_ratio": ("sampling", "{:.0f}x"),
    "composed_epoch_ratio": ("epoch, composed of steps, an evaluation and samples", "{:.1f}x"),
    "composed_epoch_ratio_same_allocator": ("the epoch, the notebook with the allocator setting too", "{:.1f}x"),
    "evaluation_and_samples_of_training": ("evaluation and samples, of training", "{:.1%}"),
    "peak_memory_ratio": ("peak memory of the process", "{:.0%}"),
    "capturing_s": ("captures of the shape's steps, once", "{:.1f} s"),
}
# A benchmark just before, of one or two processes, leaves a load of as many.
BUSY = 2.5
# Says nothing of what a GPU does.
OF_A_CPU = frozenset({"training_step_ratio_cpu_time"})
AT_MOST = frozenset({"evaluation_and_samples_of_training", "peak_memory_ratio", "sixteen_rates"})
# By device, a number a rung, 0 where there is none. `peers`: Hugging Face's Trainer and Lightning. `sixteen_rates`: their time in times of
# one run's, on two processes or together on a GPU.
TARGETS: dict[str, dict[str, Sequence[float]]] = {
    "cpu": {
        "training_step_ratio": (5, 5, 6, 6),
        "training_step_ratio_same_allocator": (5, 5, 6, 6),
        "composed_epoch_ratio": (10, 10, 10, 10),
        "composed_epoch_ratio_same_allocator": (10, 10, 10, 10),
        "evaluation_and_samples_of_training": (0.05, 0.05, 0.05, 0.05),
        "peak_memory_ratio": (1, 1, 1, 0.25),
        "peers": (3, 3, 0, 0),
        "sixteen_rates": (8.5, 8.5, 8.5, 0),
    },
    "cuda": {
        "training_step_ratio": (10, 10, 14, 16),
        "training_step_ratio_same_allocator": (10, 10, 14, 16),
        "composed_epoch_ratio": (30, 30, 30, 30),
        "composed_epoch_ratio_same_allocator": (30, 30, 30, 30),
        "evaluation_and_samples_of_training": (0.05, 0.05, 0.05, 0.05),
        "peak_memory_ratio": (1, 1, 1, 0.25),
        "peers": (5, 5, 2, 2),
        "sixteen_rates": (1.3, 2.6, 9, 0),
    },
}
# The share of tracking, record and plan, and the seconds of the assignment's whole study where they are asked for.
KEPT_TARGET = {"cpu": 0.01, "cuda": 0.02}
STUDY_S = {"cpu": 0.0, "cuda": 300.0}
# The assignment's 4,332, less a few that cleaning may empty.
LEAST_TEXTS = 4_300
COMMANDS = {"study-assignment": "study --assignment --force", "study-assignment-cuda": "study --assignment"}
STUDY_PARTS = {
    "training": "training", "evaluation": "evaluation", "sampling_best": "samples at a new best", "sampling_end": "samples at the end",
    "capturing": "captures (on a GPU)",
    "saving": "checkpoints and weights", "planning": "planning (the start of the workers that measure included)", "record": "record",
    "calibration": "calibration", "tracking": "tracking", "reporting": "results and report", "data": "data", "start": "start of the driver",
    "rest": "the rest: start of workers and of runs, waiting",
}  # fmt: skip
STAGE_PARTS = {
    "training": ("training",),
    "evaluation": ("evaluation",),
    "samples": ("sampling_best", "sampling_end"),
    "saving": ("saving",),
}


def fill(page: str, results: Mapping[str, Results]) -> str:
    """The page with every table made anew; one that was never measured says so."""
    for name, table in TABLES.items():
        first, last = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, found, rest = page.partition(first)
        assert found and last in rest, f"docs/performance.md has no place for {name}"
        words = COMMANDS.get(name, name.removesuffix("-cuda"))
        command = f"`python -m benchmarks.{words}`{' where there is a CUDA device' * name.endswith('-cuda')}"
        made = table(results[name]) if name in results else f"Not measured yet: {command}."
        page = f"{before}{first}\n\n{made}\n\n{last}{rest.partition(last)[2]}"
    return page


def grid(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def where(result: Results) -> str:
    """What a result was measured on, and when."""
    on = result["machine"]
    load = on["load_average_1min"]
    busy = f", **while other work kept it busy** (load {load:.1f})" if load > BUSY else ""
    data = result.get("data", {})
    texts = f" {data['train_texts']:,} texts of {data['mean_length']:.0f} tokens on average ({data['source']})." if data else ""
    name, cores = on["machine"].split(", ")[:2]
    device = f"{name} in {on['precision']}, " if name != "CPU" else ""
    return f"{on['date'][:10]}, {device}{on['cpu']}, {cores}, torch {on['versions']['torch']}{busy}.{texts}"


def notebook(result: Results, device: str = "cpu") -> str:
    """A row a comparison, a column a rung."""
    seen = [rung for rung in RUNGS if rung in result["rungs"]]
    rows = []
    for key, (name, shown) in NOTEBOOK.items():
        if key in result and not (device == "cuda" and key in OF_A_CPU):
            rows.append([name, *(_cell(result[key][rung], shown, key, rung, device) for rung in seen)])
    pairs = {rung: result["rungs"][rung]["parts"]["step"]["against_notebook"]["pairs"] for rung in seen}
    counted = ", ".join(f"{n} at {rung}" for rung, n in pairs.items())
    whole = "whole" if result["full"] else "a part of each, scaled up"
    return f"{grid(['', *seen], rows)}\n\n{where(result)} Pairs of steps: {counted}. Evaluation and sampling of the notebook: {whole}."


def _cell(value: float, shown: str, key: str, rung: str, device: str) -> str:
    targets = TARGETS[device].get(key)
    return _beside(value, shown, targets[RUNGS.index(rung)] if targets else 0, key in AT_MOST)


def _beside(value: float, shown: str, target: float, at_most: bool = True) -> str:
    """A number, with its target where that was missed."""
    missed = target and (value > target if at_most else value < target)
    said = f" (target: {'under ' if at_most else ''}{shown.format(target)})" if missed else ""
    return shown.format(value) + said


def crew(result: Results, device: str = "cpu") -> str:
    """How many single runs' time a crew's step takes the place of."""
    sizes = sorted({size for rung in result["rungs"].values() for size in rung}, key=int)
    rows = [[rung, *(f"{found[size]['speedup']:.2f}x" if size in found else "-" for size in sizes)] for rung, found in _rungs(result)]
    heads = ["", *(f"{size} together" for size in sizes)]
    heads.append("16 runs on two processes, in times of one run" if device == "cpu" else "16 together, in times of one run")
    for row in rows:
        own = result["rungs"][row[0]].get("16")
        processes = result["processes"].get(row[0], {}).get("sixteen_rates")
        rates = processes if device == "cpu" else 16 / own["speedup"] if own else None
        row.append("-" if rates is None else _cell(rates, "{:.1f}", "sixteen_rates", row[0], device))
    return f"{grid(heads, rows)}\n\n{_crews_left_out(result, device)} {where(result)}"


def _crews_left_out(result: Results, device: str) -> str:
    """Which sizes of crew are tried at which rung, and those that this result has nowhere."""
    most, seen = MOST[device], {int(size) for rung in result["rungs"].values() for size in rung}
    limits = ", ".join(f"{most[rung]} at {rung}" for rung, _ in _rungs(result))
    said = [f"-: not tried. A crew has all its members in memory at once and takes its time: at most {limits}."]
    for size in SIZES:
        rungs = [rung for rung in RUNGS if most[rung] >= size]
        if size not in seen and rungs:
            said.append(f"{size} together: only by `make bench-full`, at {' and '.join(rungs)}.")
    return " ".join(said)


def floor(result: Results) -> str:
    """What a step takes, what it must take, and why."""
    rows = [
        [rung, f"{1e3 * f['step_cpu_s']:.0f} ms", f"{1e3 * f['floor_s']:.0f} ms", f"{f['fraction_of_floor']:.0%}", f["bound_by"]]
        for rung, f in _rungs(result)
    ]
    rates = ", ".join(f"{f['matmul_gflops']:.0f} GFLOP/s and {f['copy_gb_per_s']:.0f} GB/s at {rung}" for rung, f in _rungs(result))
    return f"{grid(['', 'step, CPU', 'floor', 'reached', 'bound by'], rows)}\n\nThe machine's rates: {rates}. {where(result)}"


def peers(result: Results, device: str = "cpu") -> str:
    """How many times faster a step is than that of each peer."""
    names = {key: name for key, name in result["sides"].items() if key != "harness"}
    by_cpu = names if device == "cpu" else {}
    rows = []
    for rung, found in _rungs(result):
        cells = [_cell(found["against"][key]["ratio"], "{:.1f}x", "peers", rung, device) for key in names]
        cpu = [f"{found['against'][key]['ratio_cpu_time']:.1f}x" for key in by_cpu]
        rows.append([rung, *cells, *cpu, f"{next(iter(found['peer_n_params'].values())):,}"])
    heads = ["", *names.values(), *(f"{name}, CPU seconds" for name in by_cpu.values()), "GPT-2's parameters"]
    missing = " and ".join(rung for rung in RUNGS if rung not in result["rungs"])
    left_out = f"{missing}: not measured{', only `make bench-full` does on a CPU' if device == 'cpu' else ''}. " if missing else ""
    return f"{grid(heads, rows)}\n\n{left_out}{where(result)}"


def study(result: Results, device: str = "cpu", at_most_s: float = 0.0) -> str:
    """Where the time of a whole study goes: shares of all CPU seconds, or on a GPU of the time, and the runs of each stage.

    `at_most_s`: the seconds that the study was to take, where that is asked for.
    """
    part, whole = result["shares"], result["whole"]
    rows = [[STUDY_PARTS[name], f"{share:.1%}"] for name, share in sorted(part.items(), key=lambda one: -one[1])]
    of_stages = [
        [name, str(stage["runs"]), f"{stage['time_s']:.0f} s", *(f"{_share(stage, names):.1%}" for names in STAGE_PARTS.values())]
        for name, stage in result["stages"].items()
    ]
    beside, kept = result["evaluation_and_samples_of_training"], result["tracking_record_and_plan_of_study"]
    cpu = whole["driver_cpu_s"] + whole["workers_cpu_s"]
    both = [
        f"Evaluation and samples are {_beside(beside, '{:.1%}', 0.05)} of training.",
        f"Tracking, record and plan are {_beside(kept, '{:.1%}', KEPT_TARGET[device])} of the study.",
        f"{result['study']}: {_beside(whole['wall_s'], '{:.0f} s', at_most_s)}, {cpu:.0f} s of CPU, planned at "
        f"{result['plan']['estimated_s']:.0f} s.",
        *_limited(result["plan"]),
    ]
    stages = grid(["stage", "runs", "time of runs", *STAGE_PARTS], of_stages)
    heads = ["of all CPU seconds" if device == "cpu" else "of the time", "share"]
    return f"{grid(heads, rows)}\n\n{stages}\n\n{' '.join(both)} {where(result)}"


def _limited(plan: Results) -> list[str]:
    """A sentence on what a limit of time took from a study; none where it took nothing. Earlier results don't know their rungs."""
    cut, left_out = plan.get("cut"), plan.get("left_out")
    if not cut and not left_out:
        return []
    lost = [f"budgets cut to {2 ** (-cut / 2):.2%} of the study file's"] if cut else []
    if left_out is not None:
        names = f" ({', '.join(left_out)})" if left_out else ""
        lost.append(f"{len(left_out) or 'none'} of {plan['rungs']} rungs left out{names}")
    return [f"To fit its limit of {duration(plan['within_s'])}: {', '.join(lost)}."]


def assignment(result: Results, device: str = "cpu") -> str:
    """The assignment's whole study; its time is compared with the target where it was carried out as asked for, whole."""
    target, less = STUDY_S[device], _less_than_asked(result)
    said = f" Not compared with the target of {target:.0f} s: {', '.join(less)}." if target and less else ""
    return study(result, device, 0.0 if less else target) + said


def _less_than_asked(result: Results) -> list[str]:
    """In what a run of the assignment's study was not all of it."""
    plan, code, n_texts = result["plan"], result["whole"]["exit_code"], result["data"]["train_texts"]
    found = {
        "budgets were cut": plan["cut"],
        "rungs were left out": plan["left_out"],
        "other keys were set": result["keys_set"],
        f"it ended with exit code {code}": code,
        f"it had {n_texts:,} texts only": n_texts < LEAST_TEXTS,
    }
    return [what for what, is_so in found.items() if is_so]


def _share(stage: Results, names: Sequence[str]) -> float:
    return sum(float(stage["parts"][name][0]) for name in names) / float(stage["time_s"])


def _rungs(result: Results) -> list[tuple[str, Any]]:
    return [(rung, result["rungs"][rung]) for rung in RUNGS if rung in result["rungs"]]


ON_EITHER = {"notebook": notebook, "peers": peers, "crew": crew, "study": study, "study-assignment": assignment}
TABLES: dict[str, Callable[[Results], str]] = {
    **ON_EITHER,
    "floor": floor,
    **{f"{name}-cuda": partial(table, device="cuda") for name, table in ON_EITHER.items()},
}


def kept() -> dict[str, Results]:
    """All results that are there."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in RESULTS.glob("*.json")}


def main() -> None:
    """Write the page."""
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), kept()), encoding="utf-8")
    print(f"filled {PAGE}")


if __name__ == "__main__":
    main()
