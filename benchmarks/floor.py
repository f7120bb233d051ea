"""A training step against this machine's own floor: exact FLOPs at its measured matmul rate, least bytes at its measured copy rate.

    python -m benchmarks.floor [--rungs 87k,557k]        DATA=file.csv COLUMN=name for other texts

The floor of a step is the larger of the two times, as if one hid the other wholly. Least bytes: weights, gradients and both moments,
each read or written as often as a fused AdamW must (7 passes), weights read once forward and once backward, and gradients written once;
activations are taken to stay in the cache, so the floor is a bound that no step reaches. Of a CPU only. Results:
benchmarks/results/floor.json.
"""

import argparse
from typing import Any

import numpy as np
import torch

from benchmarks import _measure as measure
from benchmarks._harness_side import HarnessSide
from benchmarks._measure import Remote
from benchmarks._setup import RUNGS, corpus, run_spec
from harness import accounting
from harness.data.batches import Order

ROUNDS = {"87k": 9, "557k": 7, "5M": 5, "10M": 3}
SIZE, COPIED_VALUES = 1024, 2**25
# AdamW reads weight, gradient and two moments and writes three of them; the passes read the weights twice and write the gradients.
PASSES = 7 + 3


class Machine:
    """The rates that a floor is made of."""

    def __init__(self) -> None:
        self.square = torch.randn(SIZE, SIZE)
        self.source, self.target = torch.randn(COPIED_VALUES), torch.empty(COPIED_VALUES)

    def matmul(self) -> tuple[float, float]:
        """A square product in float32."""
        return measure.timed(lambda: self.square @ self.square)

    def copy(self) -> tuple[float, float]:
        """A copy far larger than the cache of a core."""
        return measure.timed(lambda: self.target.copy_(self.source))


def floor_of(rung: str) -> dict[str, Any]:
    """One rung's step and its floor, measured in turns."""
    data = corpus()
    spec = run_spec(rung, data)
    order = Order(data.train.n_texts, spec.batch_size, spec.seed)
    n_params = accounting.counts(spec.arch, spec.shape, spec.vocab_size, spec.seq_len).n_params
    rounds = ROUNDS[rung]
    step, rates = Remote(HarnessSide, rung, allocator=True), Remote(Machine, allocator=True)
    try:
        for _ in range(2):
            step("step"), rates("matmul"), rates("copy")
        sides = {"step": lambda: step("step"), "matmul": lambda: rates("matmul"), "copy": lambda: rates("copy")}
        times = measure.in_turns(sides, rounds)
    finally:
        step.close()
        rates.close()
    seen = [data.train.lengths[order.rows(i)] for i in range(2, 2 + rounds)]
    flops = float(np.median([accounting.train_flops(spec.arch, spec.shape, spec.vocab_size, lengths) for lengths in seen]))
    least_bytes = PASSES * accounting.FLOAT_BYTES * n_params
    # CPU seconds: what else the machine does is no part of its floor.
    cpu = {name: float(np.median([cpu for _, cpu in measured])) for name, measured in times.items()}
    rate, bandwidth = 2 * SIZE**3 / cpu["matmul"], 2 * accounting.FLOAT_BYTES * COPIED_VALUES / cpu["copy"]
    at_best = max(flops / rate, least_bytes / bandwidth)
    return {
        "step_cpu_s": cpu["step"],
        "step_s": measure.seconds(times)["step"],
        "flops": flops,
        "least_bytes": least_bytes,
        "matmul_gflops": rate / 1e9,
        "copy_gb_per_s": bandwidth / 1e9,
        "floor_s": at_best,
        "bound_by": "arithmetic" if at_best == flops / rate else "memory",
        "fraction_of_floor": at_best / cpu["step"],
    }


def main() -> None:
    """Measure, print, keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rungs", default=",".join(RUNGS), help="of " + ", ".join(RUNGS))
    given = parser.parse_args()
    if measure.device() != "cpu":
        print("floor: left out, it is measured on a CPU only")
        return
    result: dict[str, Any] = {"machine": measure.machine(), "rungs": {}}
    for rung in given.rungs.split(","):
        found = result["rungs"][rung] = floor_of(rung)
        print(f"{rung}: {found['step_cpu_s']:.3f} s a step, floor {found['floor_s']:.3f} s, {found['fraction_of_floor']:.0%}", flush=True)
    print(f"kept in {measure.keep('floor', result)}")


if __name__ == "__main__":
    main()
