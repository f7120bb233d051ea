"""The harness beside the assignment's own procedure: step, evaluation, sampling, memory, and an epoch composed of them.

    python -m benchmarks.notebook [--full] [--rungs 87k,557k] [--pairs 5]        DATA=file.csv COLUMN=name for other texts

Three sides in turns, one thread each: the notebook, the notebook with the allocator setting that the harness gives its workers (on a CPU),
and the harness. An epoch is not run but composed of measured parts, and so labelled. Where there is a CUDA device all of it runs there, the
notebook in float32 as it would be. Results: benchmarks/results/notebook.json, or notebook-cuda.json.
"""

import argparse
from functools import partial
from typing import Any

import numpy as np

from benchmarks import _measure as measure
from benchmarks._harness_side import SAMPLES, HarnessSide
from benchmarks._measure import Remote, Times
from benchmarks._notebook_model import Notebook
from benchmarks._setup import RUNGS, corpus, sequences

ROUNDS = {"87k": 15, "557k": 11, "5M": 5, "10M": 3}
# Turns of evaluation and of sampling, which take as long as many steps.
FEW_ROUNDS = {"87k": 3, "557k": 3, "5M": 2, "10M": 1}
# A notebook's evaluation and sampling take minutes at the large rungs: a part is timed and scaled to the whole.
FEW_TEXTS, FEW_POSITIONS = 64, 2
# Steps of the notebook that are timed together: a GPU's are too short for one.
TOGETHER = {"cpu": 1, "cuda": 16}


class NotebookSide:
    """The assignment's procedure, timed."""

    def __init__(self, rung: str) -> None:
        data = corpus()
        self.seq_len, self.validation = data.seq_len, sequences(data.validation, data.seq_len)
        ids, device = sequences(data.train, data.seq_len), measure.device()
        self.notebook = Notebook(RUNGS[rung], data.tokenizer.vocab_size, ids, data.tokenizer.start, device)
        self.together = TOGETHER[device]

    def step(self) -> tuple[float, float]:
        """One training step."""
        times = measure.timed(lambda: [self.notebook.step() for _ in range(self.together)])
        return _scaled(times, 1 / self.together)

    def evaluate(self, full: bool) -> tuple[float, float]:
        """Both passes, scaled to the whole validation set."""
        part = self.validation if full else self.validation[:FEW_TEXTS]
        return _scaled(measure.timed(lambda: self.notebook.evaluate(part)), len(self.validation) / len(part))

    def sample(self, full: bool) -> tuple[float, float]:
        """All samples, scaled to every position."""
        whole = list(range(self.seq_len - 1))
        part = whole if full else whole[:FEW_POSITIONS]
        return _scaled(measure.timed(lambda: self.notebook.sample(SAMPLES, self.seq_len, part)), len(whole) / len(part))

    def peak(self) -> int:
        """Peak memory so far, bytes."""
        return measure.peak_bytes()


def _scaled(times: tuple[float, float], factor: float) -> tuple[float, float]:
    return times[0] * factor, times[1] * factor


def compare_rung(rung: str, rounds: int, full: bool) -> dict[str, Any]:
    """All parts of one rung, the three sides in turns."""
    is_cpu = measure.device() == "cpu"
    tuned = {"notebook_allocator": Remote(NotebookSide, rung, allocator=True)} if is_cpu else {}
    sides = {"notebook": Remote(NotebookSide, rung), **tuned, "harness": Remote(HarnessSide, rung, allocator=True)}
    full = full or not is_cpu
    few = 3 if full else FEW_ROUNDS[rung]
    try:
        before = {name: side("peak") for name, side in sides.items()}
        parts: dict[str, Times] = {}
        for method, turns, given in (("step", rounds, ()), ("evaluate", few, (full,)), ("sample", few, (full,))):
            for side in sides.values():
                side(method, *given)
            parts[method] = measure.in_turns({name: partial(side, method, *given) for name, side in sides.items()}, turns)
            if method == "step":
                peaks, capturing_s = {name: side("peak") for name, side in sides.items()}, sides["harness"]("capturing_s")
    finally:
        for side in sides.values():
            side.close()
    memory = {"peak_bytes": peaks, "peak_bytes_before_training": before}
    return {"parts": {name: _part(times) for name, times in parts.items()}, "capturing_s": capturing_s, **memory}


def _part(times: Times) -> dict[str, Any]:
    against = {f"against_{name}": measure.compare(times, name, "harness") for name in times if name != "harness"}
    return {"seconds": measure.seconds(times), **against}


def epoch(rung: dict[str, Any], n_texts: int) -> dict[str, Any]:
    """Seconds of an epoch in which validation improved, put together from the parts: steps, one evaluation, one set of samples."""
    parts = {name: part["seconds"] for name, part in rung["parts"].items()}
    steps = -(-n_texts // 32)
    totals = {side: steps * parts["step"][side] + parts["evaluate"][side] + parts["sample"][side] for side in parts["step"]}
    beside = (parts["evaluate"]["harness"] + parts["sample"]["harness"]) / (steps * parts["step"]["harness"])
    same = {"ratio_same_allocator": totals["notebook_allocator"] / totals["harness"]} if "notebook_allocator" in totals else {}
    return {
        "composed": f"{steps} steps + 1 evaluation + 1 set of {SAMPLES} samples, each as measured; no epoch was run",
        "seconds": totals,
        "ratio": totals["notebook"] / totals["harness"],
        **same,
        "evaluation_and_samples_of_training": beside,
    }


def summary(rungs: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """One number a rung for each comparison."""
    out: dict[str, dict[str, float]] = {}
    for name, rung in rungs.items():
        parts, whole, peaks = rung["parts"], rung["epoch"], rung["peak_bytes"]
        numbers = {
            "training_step_ratio": parts["step"]["against_notebook"]["ratio"],
            "training_step_ratio_cpu_time": parts["step"]["against_notebook"]["ratio_cpu_time"],
            "evaluation_ratio": parts["evaluate"]["against_notebook"]["ratio"],
            "sampling_ratio": parts["sample"]["against_notebook"]["ratio"],
            "composed_epoch_ratio": whole["ratio"],
            "evaluation_and_samples_of_training": whole["evaluation_and_samples_of_training"],
            "peak_memory_ratio": peaks["harness"] / peaks["notebook"],
        }
        if rung.get("capturing_s"):
            numbers["capturing_s"] = rung["capturing_s"]
        if "ratio_same_allocator" in whole:
            numbers["training_step_ratio_same_allocator"] = parts["step"]["against_notebook_allocator"]["ratio"]
            numbers["composed_epoch_ratio_same_allocator"] = whole["ratio_same_allocator"]
        for key, value in numbers.items():
            out.setdefault(key, {})[name] = round(float(value), 3)
    return out


def main() -> None:
    """Measure, print a table, keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="three times the pairs; evaluation and sampling whole instead of scaled")
    parser.add_argument("--rungs", default=",".join(RUNGS), help="of " + ", ".join(RUNGS))
    parser.add_argument("--pairs", type=int, help="pairs of training steps a rung; by default " + str(ROUNDS))
    given = parser.parse_args()
    data = corpus()
    facts = {"source": data.source, "train_texts": data.train.n_texts, "mean_length": float(np.mean(data.train.lengths))}
    full = given.full or measure.device() == "cuda"
    result: dict[str, Any] = {"machine": measure.machine(), "data": facts, "full": full, "rungs": {}}
    for rung in given.rungs.split(","):
        measured = compare_rung(rung, given.pairs or ROUNDS[rung] * (3 if given.full else 1), given.full)
        result["rungs"][rung] = measured | {"epoch": epoch(measured, data.train.n_texts)}
        print(rung, {key: numbers[rung] for key, numbers in summary({rung: result["rungs"][rung]}).items()}, flush=True)
        path = measure.keep("notebook", summary(result["rungs"]) | result)
    print(f"kept in {path}")


if __name__ == "__main__":
    main()
