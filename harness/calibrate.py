"""What a run of a shape costs on this machine: a few real steps, evaluations and samples, in a worker, while the others work too."""

from collections.abc import Mapping
from dataclasses import asdict
from time import perf_counter
from typing import Any

import numpy as np
import torch

from harness import memory
from harness.ahead import Ahead, ahead_of
from harness.context import Context
from harness.data.batches import Order
from harness.data.corpus import Corpus
from harness.evaluate import evaluate
from harness.generate import sample
from harness.pricing import Cost
from harness.runspec import RunSpec
from harness.state import State, start
from harness.step import forward_backward, update

# Long enough to see past the first, slow calls; a large shape is measured on fewer texts rather than for longer.
MEASURE_S = 1.0
MAX_STEPS = 10
FEW_TEXTS = 8
SHORT_SAMPLE = 24
# The first turn makes steps plainly, the second captures them.
AHEAD_STEPS, AHEAD_TURNS = 16, 3


def measure(spec: RunSpec, corpus: Corpus, samples: Mapping[str, Any], device: str) -> dict[str, Any]:
    """Seconds of one step, of scoring a text and of sampling, as the fields of a Cost. Learns nothing and keeps nothing."""
    state = start(spec, device)
    step_s = _step_s(spec, state, corpus, device)
    few = corpus.validation.head(4 * FEW_TEXTS)
    started = perf_counter()
    evaluate(state.model, corpus, few, spec.padding, device, spec.precision)
    text_s = (perf_counter() - started) / few.n_texts
    end_s = _sample_s(state, corpus, samples["texts"], samples["temperatures"], spec)
    best_s = _sample_s(state, corpus, samples["at_best"], [1.0], spec)
    return asdict(Cost(step_s, text_s, end_s, best_s, _peak_bytes(device)))


def _step_s(spec: RunSpec, state: State, corpus: Corpus, device: str) -> float:
    """Seconds per training step; the first, which warms up, is counted only where it alone takes all the time."""
    work = ahead_of([spec], [state], silent(corpus, device))
    if work is not None:
        return ahead_s(work, min(spec.steps, AHEAD_STEPS))
    # Two whole steps, the second with the optimizer's moments in place, show all the memory that a run takes.
    order = Order(corpus.train.n_texts, spec.batch_size, spec.seed)
    times: list[float] = []
    for step in range(1, MAX_STEPS + 1):
        rows = order.rows(step - 1)
        # A step of a slow shape is measured on a part of its batch: time is close to linear in the number of texts.
        part = rows[:FEW_TEXTS] if len(times) > 1 and times[0] > MEASURE_S else rows
        started = perf_counter()
        forward_backward(spec, state, corpus.train, part, step, device)
        update(state, 0.0)
        times.append((perf_counter() - started) * len(rows) / len(part))
        if len(times) > 1 and sum(times) > MEASURE_S:
            break
    return float(np.median(times[1:]))


def silent(corpus: Corpus, device: str) -> Context:
    """For steps of which no one is told."""
    return Context(corpus, emit=lambda event, fields: None, device=device)


def ahead_s(work: Ahead, steps: int) -> float:
    """Seconds of a step, of the run or of all members, where steps are made ahead: captures, which a shape has once, left out."""
    times = []
    for _ in range(AHEAD_TURNS):
        work.mark()
        started, captured_s = perf_counter(), work.capturing_s
        for step in range(1, steps + 1):
            work.launch(step)
        work.read()
        times.append(perf_counter() - started - (work.capturing_s - captured_s))
    work.close()
    return min(times) / steps


def _peak_bytes(device: str) -> int:
    """The most memory that was held so far: of the process, or of the device where the models are there."""
    return torch.cuda.max_memory_reserved() if device == "cuda" else memory.peak_bytes()


def _sample_s(state: State, corpus: Corpus, n: int, temperatures: list[float], spec: RunSpec) -> float:
    """Sampling priced by its first tokens: an untrained model's texts hardly ever end, so this is on the safe side."""
    if not n:
        return 0.0
    started = perf_counter()
    length = min(SHORT_SAMPLE, spec.seq_len)
    sample(state.model, n, temperatures, seed=0, tokenizer=corpus.tokenizer, seq_len=length)
    typical = float(np.mean(corpus.train.lengths)) * 1.5
    return (perf_counter() - started) * min(spec.seq_len, typical) / length
