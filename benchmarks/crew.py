"""K learning rates trained together against K single runs, a step of each in turns; one thread.

    python -m benchmarks.crew [--rungs 87k,557k] [--sizes 1,4,16]        DATA=file.csv COLUMN=name for other texts

A single run's step is timed once and counts K times. Beside it what the harness does on a CPU: sixteen runs on two processes of one
thread, against one run by itself. Results: benchmarks/results/crew.json.
"""

import argparse
from typing import Any

import torch

from benchmarks import _measure as measure
from benchmarks._measure import Remote
from benchmarks._setup import RUNGS, corpus, run_spec
from harness.crew import Crew
from harness.data.batches import Order, pack
from harness.state import start
from harness.step import forward_backward, step_seed, update

ROUNDS = {"87k": 7, "557k": 5, "5M": 3, "10M": 3}
# Steps of a crew in memory at once: weights, gradients and moments of each member, and what its batch keeps for the backward pass.
MOST = {"87k": 64, "557k": 16, "5M": 4, "10M": 4}
# Sixteen learning rates on two processes, a stretch of steps of each at a time.
RATES, PROCESSES, STRETCH_S = 16, 2, 1.0


class CrewSide:
    """A crew of K beside one run, both on this device."""

    def __init__(self, rung: str, size: int) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.data, self.done = corpus(), 0
        self.specs = [run_spec(rung, self.data, lr=1e-3 * 1.1**k, trial=k) for k in range(size)]
        self.crew = Crew(self.specs, self.device, token_multiple=1 if self.device == "cpu" else 256)
        self.single = start(self.specs[0], self.device)
        self.order = Order(self.data.train.n_texts, self.specs[0].batch_size, self.specs[0].seed)

    def together(self) -> tuple[float, float]:
        """One step of every member."""
        self.done += 1
        return measure.timed(self._together)

    def _together(self) -> None:
        seeds = [step_seed(spec.seed, self.done) for spec in self.specs]
        self.crew.forward_backward([pack(self.data.train, self.order.rows(self.done))] * len(self.specs), seeds)
        self.crew.update([spec.lr for spec in self.specs])
        self._wait()

    def alone(self) -> tuple[float, float]:
        """One step of one run."""
        return measure.timed(self._alone)

    def _alone(self) -> None:
        forward_backward(self.specs[0], self.single, self.data.train, self.order.rows(self.done), self.done, self.device)
        update(self.single, self.specs[0].lr)
        self._wait()

    def stretch(self, steps: int) -> tuple[float, float]:
        """So many steps of one run."""
        return measure.timed(lambda: [self._alone() for _ in range(steps)])

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def facts(self) -> dict[str, Any]:
        """Where it ran and the memory that it took."""
        return {"device": self.device, "peak_bytes": measure.peak_bytes()}


def measure_size(rung: str, size: int) -> dict[str, Any]:
    """A crew of one size against that many single runs."""
    side = Remote(CrewSide, rung, size, allocator=True)
    try:
        for method in ("together", "alone", "together", "alone"):
            side(method)
        times = measure.in_turns({"together": lambda: side("together"), "alone": lambda: side("alone")}, ROUNDS[rung])
        facts = side("facts")
    finally:
        side.close()
    one = measure.compare(times, "together", "alone")
    return {"seconds": measure.seconds(times), "steps_of_one_run": one, "speedup": size / one["ratio"]} | facts


def measure_processes(rung: str) -> dict[str, Any]:
    """What sixteen runs take on two processes, in times of one run that has the machine for itself."""
    sides = [Remote(CrewSide, rung, 1, allocator=True) for _ in range(PROCESSES)]
    try:
        for side in sides:
            side("alone")
        steps = max(1, round(STRETCH_S / sides[0]("alone")[0]))

        def both() -> tuple[float, float]:
            return measure.timed(lambda: ([side.ask("stretch", steps) for side in sides], [side.answer() for side in sides]))

        times = measure.in_turns({"both": both, "one": lambda: measure.timed(lambda: sides[0]("stretch", steps))}, ROUNDS[rung])
    finally:
        for side in sides:
            side.close()
    one = measure.compare(times, "both", "one")
    return {"seconds": measure.seconds(times), "against_one": one, "sixteen_rates": RATES / PROCESSES * one["ratio"]}


def main() -> None:
    """Measure, print, keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rungs", default=",".join(RUNGS), help="of " + ", ".join(RUNGS))
    parser.add_argument("--sizes", default="1,4,16,64", help="members; sizes too large for a rung are left out")
    given = parser.parse_args()
    result: dict[str, Any] = {"machine": measure.machine(), "rungs": {}, "processes": {}}
    for rung in given.rungs.split(","):
        sizes = [size for size in map(int, given.sizes.split(",")) if size <= MOST[rung]]
        result["rungs"][rung] = {str(size): measure_size(rung, size) for size in sizes}
        shown = {size: f"{found['speedup']:.2f}x" for size, found in result["rungs"][rung].items()}
        print(f"{rung}: K runs together against K single ones: {shown}", flush=True)
        if not torch.cuda.is_available():
            result["processes"][rung] = measure_processes(rung)
            print(f"{rung}: sixteen runs on two processes take the time of {result['processes'][rung]['sixteen_rates']:.1f}", flush=True)
    print(f"kept in {measure.keep('crew', result)}")


if __name__ == "__main__":
    main()
