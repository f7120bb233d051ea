"""The harness's own work as a side of the benchmarks: steps of a run or of a crew, evaluation and sampling, on the device that is here.

Runs make and count their steps as in a study. On a CPU a step is timed by itself. On CUDA a block of steps made ahead is timed, with the
wait at its end and without captures, and divided; what captures take is kept beside it.
"""

import math
from time import process_time

import numpy as np
import torch

from benchmarks import _measure as measure
from benchmarks._setup import corpus, run_spec
from harness import together, train
from harness.ahead import AHEAD
from harness.calibrate import captured_s, endless, silent, steps_s
from harness.data.corpus import Corpus
from harness.evaluate import evaluate
from harness.generate import sample
from harness.stepping import Deferred
from harness.train import Run

SAMPLES = 64
# Steps that are timed together on a GPU: all that is worked out at once for them is in the time of a block.
BLOCK = AHEAD


class Steps:
    """Steps of as many runs of a rung, together where there are several; each has a rate of its own.

    `is_crew`: one run is a crew of one, where that is another way than a run's own.
    """

    def __init__(self, rung: str, data: Corpus, size: int = 1, is_crew: bool = False) -> None:
        device = measure.device()
        precision = measure.precision(device)
        specs = [run_spec(rung, data, lr=1e-3 * 1.1**k, trial=k, precision=precision) for k in range(size)]
        self.runs = [Run(endless(spec), silent(data, device)) for spec in specs]
        crew = together.stepper_of(self.runs, device) if size > 1 or is_crew else None
        self._stepper = crew or train.stepper_of(self.runs[0])
        self.block = BLOCK if isinstance(self._stepper, Deferred) else 1
        if self.block > 1:
            # Most sizes of batch have come twice, and are captured, then.
            self.seconds()

    @property
    def capturing_s(self) -> float:
        """Seconds that captures have taken."""
        return captured_s(self.runs)

    def seconds(self, steps: int = 1) -> tuple[float, float]:
        """Wall and CPU seconds of a step of all; at least so many are made."""
        steps, cpu, before_s = max(steps, self.block), process_time(), self.capturing_s
        wall_s = steps_s(self.runs, self._stepper, steps)
        return wall_s, (process_time() - cpu - (self.capturing_s - before_s)) / steps


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
        run = self.steps.runs[0]
        given = "ignore", run.context.device, run.spec.precision
        return measure.timed(lambda: evaluate(run.state.model, self.data, self.data.validation, *given))

    def sample(self, full: bool) -> tuple[float, float]:
        """All samples, by a model whose texts end where the corpus's do."""
        model = self.steps.runs[0].state.model
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
