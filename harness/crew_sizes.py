"""How many runs of a shape train together: given by the study, or measured where a device may be left idle by one. Costs in, costs out.

On a CPU it is one unless a study says otherwise: there processes of one thread side by side cost no more, and a run by itself has the bits
that it always had.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from harness.ahead import make_room
from harness.calibrate import endless, settled_s, silent, step_s
from harness.crew import together
from harness.data.corpus import Corpus
from harness.pricing import Cost, trains_apart
from harness.runspec import RunSpec
from harness.spec import Study
from harness.together import stepper_of
from harness.train import Run
from harness.workers import Pool, Task, cause_of

# A crew may take this share of the device's memory; what evaluations and samples take comes on top.
MEMORY_SHARE = 0.6
# Of sizes whose runs cost nearly the same the smallest is taken: it is saved sooner, and less waits for its slowest run.
NEARLY = 1.05

log = logging.getLogger(__name__)


def with_crews(study: Study, probes: Mapping[str, RunSpec], costs: Mapping[str, Cost], device: str, pool: Pool) -> dict[str, Cost]:
    """The costs of each rung at the size of crew that its runs will have.

    Args:
        probes: a run of each rung. pool: idle workers on the device.
    """
    searches = study.search.trials > 0
    most = study.seeds if trains_apart(study) else max(study.search.batch if searches else 1, study.seeds + 1)
    can = {rung for rung, spec in probes.items() if together([spec, spec])}
    if study.crew != "auto":
        most = min(most, study.crew)
    elif device == "cpu":
        most = 1
    else:
        # So many runs there are at a time that each device has some.
        in_turn = searches and (study.search.order == "in_turn" or study.search.transfer == "predict")
        at_a_time = most * (1 if in_turn else len(can))
        most = min(most, max(1, at_a_time // pool.size))
    found = {rung: replace(cost, crew=most if rung in can else 1) for rung, cost in costs.items()}
    if device == "cpu" or most == 1:
        # There a crew takes as long as its runs one after the other.
        return found
    for rung in sorted(can, key=lambda rung: -costs[rung].step_s):
        seconds, why = _asked(Task("crew", tuple(replace(probes[rung], trial=k, seed=k) for k in range(most))), pool)
        if not seconds:
            log.warning("Crews of %s can't be measured (%s): its runs train one by one.", rung, why)
            found[rung] = replace(costs[rung], crew=1)
            continue
        size = best_size(seconds) if study.crew == "auto" else most
        # Runs by themselves that have ended know more than a few steps do.
        scale = costs[rung].step_s / seconds[1] if costs[rung].runs else 1.0
        pairs = tuple((n, scale * share_s) for n, share_s in sorted(seconds.items()))
        found[rung] = replace(costs[rung], crew=size, crew_step_s=pairs).of_crew(size)
    return found


def as_they_were(cost: Cost, known: Cost | None) -> Cost:
    """The price of runs in crews by the crews of this size that have ended, where these tell one."""
    if known is None:
        return cost
    pairs = tuple((size, seconds * known.step_s / cost.step_s) for size, seconds in cost.crew_step_s)
    # Trials write no texts, and may be all that were in crews of this size.
    end_s, best_s = (cost.margin * one for one in (cost.sample_end_s, cost.sample_best_s))
    known = replace(known, sample_end_s=known.sample_end_s or end_s, sample_best_s=known.sample_best_s or best_s)
    return replace(known, crew=cost.crew, crew_step_s=pairs, process_bytes=cost.process_bytes, text_step_s=cost.text_step_s)


def _asked(task: Task, pool: Pool) -> tuple[dict[int, float], str]:
    """Seconds of a step a run by size of the crew, that of one among them; or none, and why."""
    pool.submit(task)
    while True:
        for message in pool.poll(1.0):
            if message.kind == "error":
                return {}, message.fields["reason"]
            return {int(size): float(seconds) for size, seconds in message.fields["step_s"]}, "there is too little memory"


def best_size(seconds: Mapping[int, float]) -> int:
    """The smallest crew whose runs cost nearly as little as in any. `seconds`: of a step a run, by size of the crew."""
    least = min(seconds.values())
    return min(size for size, one in seconds.items() if one <= NEARLY * least)


def measure_crews(specs: Sequence[RunSpec], corpus: Corpus, device: str) -> dict[str, Any]:
    """(size, seconds of a step a run) of one of these runs, and of crews of 2, 4, 8 ... of them, as far as the memory goes."""
    found: list[tuple[int, float]] = []
    sizes = sorted({min(2**i, len(specs)) for i in range(len(specs).bit_length() + 1)})
    try:
        for size in sizes:
            _empty(device)
            share_s = _step_s(specs[:size], corpus, device) / size
            # Reserved, since what graphs work on is not allocated while none of them runs.
            if device == "cuda" and torch.cuda.max_memory_reserved() > MEMORY_SHARE * torch.cuda.mem_get_info()[1]:
                break
            found.append((size, share_s))
    except RuntimeError as error:
        if cause_of(error) != "memory":
            raise
    _empty(device)
    return {"step_s": found}


def _empty(device: str) -> None:
    """Nothing of a crew that was measured before takes part in what the next one holds."""
    make_room()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def _step_s(specs: Sequence[RunSpec], corpus: Corpus, device: str) -> float:
    """Seconds of a step of a crew, as its runs make and count it, captures left out."""
    runs = [Run(endless(spec), silent(corpus, device)) for spec in specs]
    if len(runs) == 1:
        return step_s(runs[0])
    stepper = stepper_of(runs, device)
    seconds = settled_s(runs, stepper)
    stepper.close()
    return seconds
