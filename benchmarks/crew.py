"""K learning rates trained together against K single runs, a step of each in turns; one thread.

    python -m benchmarks.crew [--rungs 87k,557k] [--sizes 1,4,16]        DATA=file.csv COLUMN=name for other texts

A single run's step is timed once and counts K times. Beside it what the harness does on a CPU: sixteen runs on two processes of one
thread, against one run by itself. Results: benchmarks/results/crew.json, or crew-cuda.json where there is a CUDA device.
"""

import argparse
from typing import Any

from benchmarks import _measure as measure
from benchmarks._harness_side import Steps
from benchmarks._measure import Remote
from benchmarks._setup import RUNGS, corpus

ROUNDS = {"87k": 7, "557k": 5, "5M": 3, "10M": 3}
# Members of the crews that are tried, as far as a rung's largest, below, allows.
SIZES = (1, 4, 16, 64)
# Steps of a crew in memory at once: weights, gradients and moments of each member, and what its batch keeps for the backward pass.
MOST = {
    "cpu": {"87k": 64, "557k": 16, "5M": 4, "10M": 4},
    "cuda": {"87k": 64, "557k": 64, "5M": 16, "10M": 16},
}
# Sixteen learning rates on two processes, a stretch of steps of each at a time.
RATES, PROCESSES, STRETCH_S = 16, 2, 1.0


class CrewSide:
    """A crew of K beside one run, both on this device."""

    def __init__(self, rung: str, size: int) -> None:
        data = corpus()
        self._together, self._alone = Steps(rung, data, size, is_crew=True), Steps(rung, data)

    def together(self) -> tuple[float, float]:
        """One step of every member."""
        return self._together.seconds()

    def alone(self) -> tuple[float, float]:
        """One step of one run."""
        return self._alone.seconds()

    def stretch(self, steps: int) -> tuple[float, float]:
        """So many steps of one run."""
        return measure.timed(lambda: self._alone.seconds(steps))

    def facts(self) -> dict[str, Any]:
        """Where it ran, the memory that it took, and how long captures of the crew's steps."""
        return {"device": measure.device(), "peak_bytes": measure.peak_bytes(), "capturing_s": self._together.capturing_s}


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
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="members; sizes too large for a rung are left out")
    given = parser.parse_args()
    result: dict[str, Any] = {"machine": measure.machine(), "rungs": {}, "processes": {}}
    for rung in given.rungs.split(","):
        sizes = [size for size in map(int, given.sizes.split(",")) if size <= MOST[measure.device()][rung]]
        result["rungs"][rung] = {str(size): measure_size(rung, size) for size in sizes}
        shown = {size: f"{found['speedup']:.2f}x" for size, found in result["rungs"][rung].items()}
        print(f"{rung}: K runs together against K single ones: {shown}", flush=True)
        if measure.device() == "cpu":
            result["processes"][rung] = measure_processes(rung)
            print(f"{rung}: sixteen runs on two processes take the time of {result['processes'][rung]['sixteen_rates']:.1f}", flush=True)
    print(f"kept in {measure.keep('crew', result)}")


if __name__ == "__main__":
    main()
