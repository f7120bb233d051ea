"""Fills the tables of docs/performance.md from benchmarks/results/*.json, so that no measured number is typed.

    python -m benchmarks.page

A table stands between `<!-- NAME -->` and `<!-- end of NAME -->`, NAME being that of a result. A target that was missed is said beside
the number.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks._measure import RESULTS

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
RUNGS = ("87k", "557k", "5M", "10M")
Results = Mapping[str, Any]
# What each comparison with the notebook is called, how it is shown, and its target a rung; a target on memory or a share is a most.
NOTEBOOK: dict[str, tuple[str, str, Sequence[float]]] = {
    "training_step_ratio": ("training step", "{:.1f}x", (5, 5, 6, 6)),
    "training_step_ratio_same_allocator": ("the same, the notebook with the allocator setting too", "{:.1f}x", ()),
    "training_step_ratio_cpu_time": ("training step by CPU seconds", "{:.1f}x", ()),
    "evaluation_ratio": ("evaluation", "{:.0f}x", ()),
    "sampling_ratio": ("sampling", "{:.0f}x", ()),
    "composed_epoch_ratio": ("epoch, composed of steps, an evaluation and samples", "{:.1f}x", (10, 10, 10, 10)),
    "evaluation_and_samples_of_training": ("evaluation and samples, of training", "{:.1%}", (0.05, 0.05, 0.05, 0.05)),
    "peak_memory_ratio": ("peak memory of the process", "{:.0%}", (1, 1, 1, 0.25)),
}
# A benchmark just before, of one or two processes, leaves a load of as many.
BUSY = 2.5
AT_MOST = frozenset({"evaluation_and_samples_of_training", "peak_memory_ratio"})
# Hugging Face's Trainer and Lightning; sixteen learning rates against one run, on two processes.
PEERS_TARGET = (3, 3, 0, 0)
RATES_TARGET = (8.5, 8.5, 8.5, 0)
STUDY_PARTS = {
    "training": "training", "evaluation": "evaluation", "sampling_best": "samples at a new best", "sampling_end": "samples at the end",
    "capturing": "captures of steps (on a GPU)",
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
        made = table(results[name]) if name in results else f"Not measured yet: `python -m benchmarks.{name}`."
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
    return f"{on['date'][:10]}, {on['cpu']}, {on['machine'].split(', ')[1]}, torch {on['versions']['torch']}{busy}.{texts}"


def notebook(result: Results) -> str:
    """A row a comparison, a column a rung."""
    seen = [rung for rung in RUNGS if rung in result["rungs"]]
    rows = []
    for key, (name, shown, targets) in NOTEBOOK.items():
        cells = [_cell(result[key][rung], shown, _target(targets, rung), key in AT_MOST) for rung in seen]
        rows.append([name, *cells])
    pairs = {rung: result["rungs"][rung]["parts"]["step"]["against_notebook"]["pairs"] for rung in seen}
    counted = ", ".join(f"{n} at {rung}" for rung, n in pairs.items())
    whole = "whole" if result["full"] else "a part of each, scaled up"
    return f"{grid(['', *seen], rows)}\n\n{where(result)} Pairs of steps: {counted}. Evaluation and sampling of the notebook: {whole}."


def _target(targets: Sequence[float], rung: str) -> float:
    return targets[RUNGS.index(rung)] if targets else 0


def _cell(value: float, shown: str, target: float, at_most: bool = False) -> str:
    missed = target and (value > target if at_most else value < target)
    said = f" (target: {'under ' if at_most else ''}{shown.format(target)})" if missed else ""
    return shown.format(value) + said


def crew(result: Results) -> str:
    """How many single runs' time a crew's step takes the place of."""
    sizes = sorted({size for rung in result["rungs"].values() for size in rung}, key=int)
    rows = [[rung, *(f"{found[size]['speedup']:.2f}x" if size in found else "-" for size in sizes)] for rung, found in _rungs(result)]
    device = next((one["device"] for _, found in _rungs(result) for one in found.values()), "cpu")
    heads = ["", *(f"{size} together" for size in sizes)]
    if result["processes"]:
        heads.append("16 runs on two processes, in times of one run")
        for row in rows:
            row.append(_cell(result["processes"][row[0]]["sixteen_rates"], "{:.1f}", _target(RATES_TARGET, row[0]), at_most=True))
    return f"{grid(heads, rows)}\n\nOn {device}. {where(result)}"


def floor(result: Results) -> str:
    """What a step takes, what it must take, and why."""
    rows = [
        [rung, f"{1e3 * f['step_cpu_s']:.0f} ms", f"{1e3 * f['floor_s']:.0f} ms", f"{f['fraction_of_floor']:.0%}", f["bound_by"]]
        for rung, f in _rungs(result)
    ]
    rates = ", ".join(f"{f['matmul_gflops']:.0f} GFLOP/s and {f['copy_gb_per_s']:.0f} GB/s at {rung}" for rung, f in _rungs(result))
    return f"{grid(['', 'step, CPU', 'floor', 'reached', 'bound by'], rows)}\n\nThe machine's rates: {rates}. {where(result)}"


def peers(result: Results) -> str:
    """How many times faster a step is than that of each peer."""
    names = {key: name for key, name in result["sides"].items() if key != "harness"}
    rows = []
    for rung, found in _rungs(result):
        cells = [_cell(found["against"][key]["ratio"], "{:.1f}x", _target(PEERS_TARGET, rung)) for key in names]
        cpu = [f"{found['against'][key]['ratio_cpu_time']:.1f}x" for key in names]
        rows.append([rung, *cells, *cpu, f"{next(iter(found['peer_n_params'].values())):,}"])
    heads = ["", *names.values(), *(f"{name}, CPU seconds" for name in names.values()), "GPT-2's parameters"]
    return f"{grid(heads, rows)}\n\n{where(result)}"


def study(result: Results) -> str:
    """Where the time of a whole study goes: shares of all CPU seconds, and the runs of each stage."""
    part, whole = result["shares_of_cpu"], result["whole"]
    rows = [[STUDY_PARTS[name], f"{share:.1%}"] for name, share in sorted(part.items(), key=lambda one: -one[1])]
    of_stages = [
        [name, str(stage["runs"]), f"{stage['time_s']:.0f} s", *(f"{_share(stage, names):.1%}" for names in STAGE_PARTS.values())]
        for name, stage in result["stages"].items()
    ]
    beside, kept = result["evaluation_and_samples_of_training"], result["tracking_record_and_plan_of_study"]
    cpu = whole["driver_cpu_s"] + whole["workers_cpu_s"]
    both = [
        f"Evaluation and samples are {_cell(beside, '{:.1%}', 0.05, True)} of training.",
        f"Tracking, record and plan are {_cell(kept, '{:.1%}', 0.01, True)} of the study.",
        f"{result['study']}: {whole['wall_s']:.0f} s, {cpu:.0f} s of CPU, planned at {result['plan']['estimated_s']:.0f} s.",
    ]
    stages = grid(["stage", "runs", "time of runs", *STAGE_PARTS], of_stages)
    return f"{grid(['of all CPU seconds', 'share'], rows)}\n\n{stages}\n\n{' '.join(both)} {where(result)}"


def _share(stage: Results, names: Sequence[str]) -> float:
    return sum(float(stage["parts"][name][0]) for name in names) / float(stage["time_s"])


def _rungs(result: Results) -> list[tuple[str, Any]]:
    return [(rung, result["rungs"][rung]) for rung in RUNGS if rung in result["rungs"]]


TABLES: dict[str, Callable[[Results], str]] = {"notebook": notebook, "peers": peers, "crew": crew, "study": study, "floor": floor}


def kept() -> dict[str, Results]:
    """All results that are there."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in RESULTS.glob("*.json")}


def main() -> None:
    """Write the page."""
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), kept()), encoding="utf-8")
    print(f"filled {PAGE}")


if __name__ == "__main__":
    main()
