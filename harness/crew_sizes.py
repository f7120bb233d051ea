"""How many runs of a shape train together: given by the study, or measured where a device may be left idle by one. Costs in, costs out.

On a CPU it is one unless a study says otherwise: there processes of one thread side by side cost no more, and a run by itself has the bits
that it always had.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from harness.ahead import make_room
from harness.calibrate import AHEAD_STEPS, AHEAD_TURNS, endless, silent, steps_s
from harness.crew import together
from harness.data.corpus import Corpus
from harness.errors import PreflightError
from harness.pricing import Cost
from harness.runspec import RunSpec
from harness.spec import Study
from harness.together import stepper_of
from harness.train import Run
from harness.workers import Pool, Task, cause_of

# A crew may take this share of the device's memory; what evaluations and samples take comes on top.
MEMORY_SHARE = 0.6
# Of sizes whose runs cost nearly the same the smallest is taken: it is saved sooner, and less waits for its slowest run.
NEARLY = 1.05


def with_crews(study: Study, probes: Mapping[str, RunSpec], costs: Mapping[str, Cost], device: str, pool: Pool) -> dict[str, Cost]:
    """The costs of each rung at the size of crew that its runs will have.

    Args:
        probes: a run of each rung. pool: idle workers on the device.

    Raises:
        PreflightError: a worker could not measure.
    """
    most = max(study.search.batch if study.search.trials else 1, study.seeds + 1)
    can = {rung for rung, spec in probes.items() if together([spec, spec])}
    if study.crew != "auto":
        return {rung: replace(cost, crew=min(study.crew, most) if rung in can else 1) for rung, cost in costs.items()}
    if device == "cpu" or most == 1:
        return dict(costs)
    found = dict(costs)
    for rung in sorted(can, key=lambda rung: -costs[rung].step_s):
        specs = tuple(replace(probes[rung], trial=k, seed=k) for k in range(most))
        seconds = {1: costs[rung].step_s} | _asked(Task("crew", specs), pool)
        size = best_size(seconds)
        found[rung] = replace(costs[rung], crew=size, step_s=seconds[size])
    return found


def _asked(task: Task, pool: Pool) -> dict[int, float]:
    pool.submit(task)
    while True:
        for message in pool.poll(1.0):
            if message.kind == "error":
                raise PreflightError(f"rung {task.specs[0].rung} can't be trained here: {message.fields['reason']}. Nothing was run.")
            return {int(size): float(seconds) for size, seconds in message.fields["step_s"]}


def best_size(seconds: Mapping[int, float]) -> int:
    """The smallest crew whose runs cost nearly as little as in any. `seconds`: of a step a run, by size of the crew."""
    least = min(seconds.values())
    return min(size for size, one in seconds.items() if one <= NEARLY * least)


def measure_crews(specs: Sequence[RunSpec], corpus: Corpus, device: str) -> dict[str, Any]:
    """(size, seconds of a step a run) of crews of 2, 4, 8 ... of these runs, as far as the memory goes."""
    found: list[tuple[int, float]] = []
    sizes = sorted({min(2**i, len(specs)) for i in range(1, len(specs).bit_length() + 1)} - {1})
    try:
        for size in sizes:
            _empty(device)
            step_s = _step_s(specs[:size], corpus, device) / size
            # Reserved, since what graphs work on is not allocated while none of them runs.
            if device == "cuda" and torch.cuda.max_memory_reserved() > MEMORY_SHARE * torch.cuda.mem_get_info()[1]:
                break
            found.append((size, step_s))
    except RuntimeError as error:
        if cause_of(error) != "memory":
            raise
    _empty(device)
    return {"step_s": found}


def _empty(device: str) -> None:
    """Nothing of a crew that was measured before takes part in what the next one holds."""
    make_room()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _step_s(specs: Sequence[RunSpec], corpus: Corpus, device: str) -> float:
    """Seconds of a step of a crew, as its runs make and count it; what comes before the last turn warms up and captures."""
    runs = [Run(endless(spec), silent(corpus, device)) for spec in specs]
    stepper = stepper_of(runs, device)
    seconds = [steps_s(runs, stepper, AHEAD_STEPS) for _ in range(AHEAD_TURNS)]
    stepper.close()
    return seconds[-1]
