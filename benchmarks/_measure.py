"""How benchmarks measure: sides in processes of their own, one at a time, in turns; medians of the pairs; results with the machine.

Each side is one thread in a fresh process, so that it can have its own allocator setting and its own peak of memory. Both wall and CPU
seconds are kept: on a machine that does other work the ratio of CPU seconds is the steadier one. Where there is a CUDA device, all is
measured there, and kept apart from what a CPU took.
"""

import json
import multiprocessing as mp
import os
import platform
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch

from harness import environment
from harness.workers import ALLOCATOR

RESULTS = Path(__file__).parent / "results"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
Times = dict[str, list[tuple[float, float]]]


class Remote:
    """An object in a process of its own; calling `remote(method, ...)` runs one method there and returns its result."""

    def __init__(self, build: Callable[..., Any], *args: Any, allocator: bool = False) -> None:
        context = mp.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, build, args), daemon=True)
        wanted = ONE_THREAD | (ALLOCATOR if allocator else {})
        # The allocator reads its settings once, when a process starts; a spawned one takes over this one's environment.
        before = {name: os.environ.pop(name, None) for name in (*ONE_THREAD, *ALLOCATOR)}
        os.environ.update(wanted)
        try:
            self._process.start()
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value

    def __call__(self, method: str, *args: Any) -> Any:
        """The method's result; an error there is an error here."""
        self.ask(method, *args)
        return self.answer()

    def ask(self, method: str, *args: Any) -> None:
        """Have it run a method while this process goes on."""
        self._pipe.send((method, args))

    def answer(self) -> Any:
        """The result of what was asked, once it is there; an error there is an error here."""
        error, result = self._pipe.recv()
        if error is not None:
            raise RuntimeError(error)
        return result

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()


def _serve(pipe: Connection, build: Callable[..., Any], args: Sequence[Any]) -> None:
    torch.set_num_threads(1)
    built = build(*args)
    while True:
        try:
            method, given = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((None, getattr(built, method)(*given)))
        except Exception as error:
            pipe.send((f"{method}: {error!r}", None))


def device() -> str:
    """Where benchmarks run: on CUDA where there is a device, as a study would."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def precision(device: str) -> str:
    """What a study that leaves it open computes with there."""
    return environment.machine(device, "auto", 1).precision


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of a piece of work in this process."""
    wall, cpu = perf_counter(), process_time()
    work()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return perf_counter() - wall, process_time() - cpu


def peak_bytes() -> int:
    """The largest memory that this process ever had resident, or has reserved on its CUDA device."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_reserved()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def in_turns(sides: Mapping[str, Callable[[], tuple[float, float]]], rounds: int) -> Times:
    """Each side once a round, a different one first each time; what a side did before the first round is its warm-up."""
    times: Times = {name: [] for name in sides}
    names = list(sides)
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            times[name].append(sides[name]())
    return times


def compare(times: Times, slow: str, fast: str) -> dict[str, Any]:
    """How many times faster `fast` is: the median of the pairs, their quartiles, and the same by CPU seconds."""
    pairs = np.array(times[slow]) / np.array(times[fast])
    low, middle, high = (round(float(q), 3) for q in np.quantile(pairs[:, 0], (0.25, 0.5, 0.75)))
    return {"ratio": middle, "quartiles": [low, high], "ratio_cpu_time": round(float(np.median(pairs[:, 1])), 3), "pairs": len(pairs)}


def seconds(times: Times) -> dict[str, float]:
    """The median wall seconds of each side."""
    return {name: float(np.median([wall for wall, _ in measured])) for name, measured in times.items()}


def machine() -> dict[str, Any]:
    """What was measured on, and how busy it was."""
    load = os.getloadavg()[0]
    return {
        "cpu": environment.cpu_name(),
        "machine": environment.describe(device()),
        "precision": precision(device()),
        "versions": {name: version(name) for name in ("torch", "numpy")} | {"python": platform.python_version()},
        # Before anything was measured: other work on the machine makes times, and somewhat less their ratios, unreliable.
        "load_average_1min": round(load, 2),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "commit": environment.git().get("commit"),
    }


def keep(name: str, result: Mapping[str, Any]) -> Path:
    """Write a result to benchmarks/results/NAME.json, or NAME-cuda.json, replacing the one before."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}{'' if device() == 'cpu' else '-cuda'}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path
