"""The harness's own work as a side of the benchmarks: steps of a run or of a crew, evaluation and sampling, on the device that is here.

On a CPU a step is timed by itself. On CUDA steps are made ahead, as in a study: a block of them is timed with the wait at its end and
without captures, and divided; what captures take is kept beside it.
"""

import math
from time import perf_counter, process_time

import numpy as np
import torch

from benchmarks import _measure as measure
from benchmarks._setup import corpus, run_spec
from harness.ahead import ahead_of
from harness.calibrate import silent
from harness.crew import Crew
from harness.data.batches import Order, pack
from harness.data.corpus import Corpus
from harness.evaluate import evaluate
from harness.generate import sample
from harness.state import start
from harness.step import forward_backward, step_seed, update

SAMPLES = 64
# Steps that are begun before one is waited for, as between two evaluations of a study.
BLOCK = 64
# Longer than any benchmark's steps.
STEPS = 10**6


class Steps:
    """Steps of as many runs of a rung, together where there are several; each has a rate of its own."""

    def __init__(self, rung: str, data: Corpus, size: int = 1, device: str | None = None) -> None:
        self.data, self.device, self.done = data, device or measure.device(), 0
        own = {"steps": STEPS, "evaluate_at": (STEPS,), "precision": measure.precision(self.device)}
        self.specs = [run_spec(rung, data, lr=1e-3 * 1.1**k, trial=k, **own) for k in range(size)]
        self.states = [start(spec, self.device) for spec in self.specs]
        self.order = Order(data.train.n_texts, self.specs[0].batch_size, self.specs[0].seed)
        self._work = ahead_of(self.specs, self.states, silent(data, self.device))
        self._crew = Crew(self.specs, self.device, states=self.states) if self._work is None and size > 1 else None

    @property
    def capturing_s(self) -> float:
        """Seconds that captures have taken."""
        return 0.0 if self._work is None else self._work.capturing_s

    def seconds(self, steps: int = 1) -> tuple[float, float]:
        """Wall and CPU seconds of a step of all; at least so many are made."""
        steps = steps if self._work is None else max(steps, BLOCK)
        wall, cpu, before_s = perf_counter(), process_time(), self.capturing_s
        if self._work is not None:
            self._work.mark()
        for _ in range(steps):
            self.done += 1
            self._begin()
        if self._work is not None:
            self._work.read()
        captured_s = self.capturing_s - before_s
        return (perf_counter() - wall - captured_s) / steps, (process_time() - cpu - captured_s) / steps

    def _begin(self) -> None:
        rows = self.order.rows(self.done - 1)
        if self._work is not None:
            self._work.launch(self.done)
        elif self._crew is None:
            forward_backward(self.specs[0], self.states[0], self.data.train, rows, self.done, self.device)
            update(self.states[0], self.specs[0].lr)
        else:
            self._crew.forward_backward([pack(self.data.train, rows)] * len(self.specs), [step_seed(0, self.done)] * len(self.specs))
            self._crew.update([spec.lr for spec in self.specs])


class HarnessSide:
    """The harness's own step, evaluation and sampling, timed."""

    def __init__(self, rung: str) -> None:
        self.data = corpus()
        self.steps = Steps(rung, self.data)

    def step(self) -> tuple[float, float]:
        """One training step."""
        return self.steps.seconds()

    def capturing_s(self) -> float:
        """Seconds that captures have taken, on a GPU."""
        return self.steps.capturing_s

    def evaluate(self, full: bool) -> tuple[float, float]:
        """The whole validation set."""
        model, precision = self.steps.states[0].model, self.steps.specs[0].precision
        return measure.timed(lambda: evaluate(model, self.data, self.data.validation, "ignore", self.steps.device, precision))

    def sample(self, full: bool) -> tuple[float, float]:
        """All samples, by a model whose texts end where the corpus's do."""
        model = self.steps.states[0].model
        end_like_the_corpus(model, self.data)
        tokenizer, seq_len = self.data.tokenizer, self.data.seq_len
        return measure.timed(lambda: sample(model, SAMPLES, [1.0], seed=0, tokenizer=tokenizer, seq_len=seq_len))

    def peak(self) -> int:
        """Peak memory so far, bytes."""
        return measure.peak_bytes()


def end_like_the_corpus(model: torch.nn.Module, data: Corpus) -> None:
    """Replace the output layer's weights by a bias: every token is as likely as any, the end once in a mean text length."""
    head = model.get_submodule("head")
    assert isinstance(head, torch.nn.Linear) and head.bias is not None
    others = head.out_features - 2
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
        head.bias[data.tokenizer.end] = math.log(others / (float(np.mean(data.train.lengths)) - 1))
