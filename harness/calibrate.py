"""What a run of a shape costs on this machine: a few real steps, evaluations and samples, in a worker, while the others work too."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from time import perf_counter
from typing import Any

import numpy as np
import torch

from harness import memory
from harness.context import Context
from harness.data.corpus import Corpus
from harness.evaluate import evaluate
from harness.generate import MAX_ROWS, sample_sets
from harness.pricing import Cost
from harness.runspec import RunSpec
from harness.state import State
from harness.step import forward_backward, update
from harness.stepping import Deferred, Stepper
from harness.strategies import Strategy, strategies
from harness.train import Run, stepper_of

# Long enough to see past the first, slow calls; a large shape is measured on fewer texts rather than for longer.
MEASURE_S = 1.0
MAX_STEPS = 10
FEW_TEXTS = 8
SHORT_SAMPLE = 24
# The first turn makes steps plainly, the second captures them; batches of a crew have more sizes, which a few turns more go through.
AHEAD_STEPS, AHEAD_TURNS, MOST_TURNS = 16, 3, 8
# More steps than are ever measured.
ENDLESS = 10**6


def measure(spec: RunSpec, corpus: Corpus, samples: Mapping[str, Any], device: str) -> dict[str, Any]:
    """Seconds of one step, of scoring a text and of sampling, as the fields of a Cost. Learns nothing and keeps nothing."""
    run = Run(endless(spec), silent(corpus, device))
    a_step_s = step_s(run)
    state = run.state
    text_s = _text_s(state, corpus, spec, device)
    end_s = _sample_s(state, corpus, samples["texts"], strategies(samples), spec)
    best_s = _sample_s(state, corpus, samples["at_best"], [Strategy()], spec)
    return asdict(Cost(a_step_s, text_s, end_s, best_s, _peak_bytes(device)))


def step_s(run: Run) -> float:
    """Seconds per training step; the first, which warms up, is counted only where it alone takes all the time."""
    stepper = stepper_of(run)
    if isinstance(stepper, Deferred):
        seconds = settled_s([run], stepper)
        stepper.close()
        return seconds
    # Two whole steps, the second with the optimizer's moments in place, show all the memory that a run takes.
    times: list[float] = []
    for step in range(1, MAX_STEPS + 1):
        rows = run.order.rows(step - 1)
        # A step of a slow shape is measured on a part of its batch: time is close to linear in the number of texts.
        part = rows[:FEW_TEXTS] if len(times) > 1 and times[0] > MEASURE_S else rows
        started = perf_counter()
        forward_backward(run.spec, run.state, run.texts, part, step, run.context.device)
        update(run.state, 0.0)
        times.append((perf_counter() - started) * len(rows) / len(part))
        if len(times) > 1 and sum(times) > MEASURE_S:
            break
    return float(np.median(times[1:]))


def _text_s(state: State, corpus: Corpus, spec: RunSpec, device: str) -> float:
    """Seconds of scoring a text. Where many go through at once, away from a CPU, it is a share of a whole evaluation, the second one."""
    texts = corpus.validation.head(4 * FEW_TEXTS if device == "cpu" else spec.eval_texts)
    seconds = 0.0
    for _ in range(1 if device == "cpu" else 2):
        started = perf_counter()
        evaluate(state.model, corpus, texts, spec.padding, device, spec.precision)
        seconds = perf_counter() - started
    return seconds / texts.n_texts


def silent(corpus: Corpus, device: str) -> Context:
    """For steps of which no one is told."""
    return Context(corpus, emit=lambda event, fields: None, device=device)


def endless(spec: RunSpec) -> RunSpec:
    """The run with as many steps as anyone may want to measure, and no evaluation among them."""
    return replace(spec, steps=ENDLESS, evaluate_at=(ENDLESS,))


def settled_s(runs: Sequence[Run], stepper: Stepper) -> float:
    """Seconds of a step of all these runs once their sizes have been captured: turn by turn until one captures nothing."""
    seconds = 0.0
    for turn in range(MOST_TURNS):
        before_s = captured_s(runs)
        seconds = steps_s(runs, stepper, AHEAD_STEPS)
        if turn >= AHEAD_TURNS - 1 and captured_s(runs) == before_s:
            break
    return seconds


def steps_s(runs: Sequence[Run], stepper: Stepper, steps: int) -> float:
    """Seconds of a step of all these runs, as they make and count it; without captures, which a shape has once."""
    started, before_s = perf_counter(), captured_s(runs)
    for _ in range(steps):
        if stepper.full:
            stepper.settle()
        stepper.step()
    stepper.settle()
    return (perf_counter() - started - (captured_s(runs) - before_s)) / steps


def captured_s(runs: Sequence[Run]) -> float:
    """Seconds that captures have taken."""
    return sum(run.state.seconds.get("capturing", [0.0])[0] for run in runs)


def _peak_bytes(device: str) -> int:
    """The most memory that was held so far: of the process, or of the device where the models are there."""
    return torch.cuda.max_memory_reserved() if device == "cuda" else memory.peak_bytes()


@torch.no_grad()
def _fill_cache(model: Any, n_rows: int, length: int) -> None:
    if hasattr(model, "init_cache"):
        cache = model.init_cache(n_rows, length)
        for tensor in [*cache.keys, *cache.values]:
            tensor.zero_()


def _sample_s(state: State, corpus: Corpus, n: int, sets: Sequence[Strategy], spec: RunSpec) -> float:
    """Sampling priced by its first tokens: an untrained model's texts hardly ever end, so this is on the safe side.

    Without captures, which a model has once, however many texts it writes.
    """
    if not n:
        return 0.0
    # The memory that whole texts take, which the peak is to show.
    _fill_cache(state.model, min(n * len(sets), MAX_ROWS), spec.seq_len)
    captures: list[float] = []
    started = perf_counter()
    length = min(SHORT_SAMPLE, spec.seq_len)
    sample_sets(state.model, n, sets, seed=0, tokenizer=corpus.tokenizer, seq_len=length, captured=captures.append)
    typical = float(np.mean(corpus.train.lengths)) * 1.5
    return (perf_counter() - started - sum(captures)) * min(spec.seq_len, typical) / length
