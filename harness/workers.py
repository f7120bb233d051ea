"""Processes that train: each takes tasks from the driver, sends events back, and holds the corpus once.

A worker never writes the record or the tracking store. It ends with its driver, however that ends, so that two never train one run.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any

from harness import memory
from harness.data import Floor
from harness.data.corpus import Corpus
from harness.errors import StorageError
from harness.runspec import RunSpec
from harness.search import Trial
from harness.spec import Search

# glibc's allocator gives large blocks back at every free and fetches them again, which costs half of the time of a wide model's step.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "1073741824"}
LINES_OF_ERROR = 6
# The cause of an error after which a process can do nothing on its device any more.
LOST = "device"
# prctl(2): the signal that a process gets when its parent dies.
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Setting:
    """What all tasks of a study share. `folder`: where weights and checkpoints go, one folder a run key."""

    corpus: Corpus
    floor: Floor | None
    search: Search
    samples: Mapping[str, Any]
    folder: Path
    device: str
    threads: int
    checkpoint_every_s: float
    checkpoint_every_steps: int | None = None


@dataclass(frozen=True)
class Task:
    """Work for one worker: to `train` runs, several together as a crew, or to `measure` what one costs, or `crew`s of several sizes.

    `finished`: earlier trials, for pruning. `resume`: by run key, the step of the checkpoint to go on from. `micro_batches`: parts in which
    a batch goes through the model.
    """

    kind: str
    specs: tuple[RunSpec, ...]
    finished: tuple[Trial, ...] = ()
    resume: Mapping[str, int] = field(default_factory=dict)
    micro_batches: int = 1


@dataclass(frozen=True)
class Message:
    """From a worker: an `event` of a run, its `progress`, a task's `result`, or its `error` (`fields`: reason, traceback's last lines).

    `cause` of an error, where it is known: `memory` (there is not enough), `storage` (files can't be written), `stopped` (ended by us),
    `device` (the process has lost its device, and another one takes its place).
    """

    kind: str
    task: Task
    event: str = ""
    key: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    cause: str = ""


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    task: Task | None = None
    ended_by_us: bool = False
    place: int = 0


def allocator() -> dict[str, str]:
    """The allocator's settings that workers have: a person's own, else ours."""
    return {name: os.environ.get(name, value) for name, value in ALLOCATOR.items()}


class Pool:
    """At most `n` workers, each started when there is work for it; `submit` to an idle one, and `poll` for what they say."""

    def __init__(self, n: int, setting: Setting) -> None:
        self._context = multiprocessing.get_context("spawn")
        self.setting = setting
        # Without a lock: a worker that is killed while it looks must not hold up the others.
        self._stop = self._context.RawValue(ctypes.c_bool, False)
        os.environ.update(allocator())
        os.environ["OMP_NUM_THREADS"] = str(setting.threads)
        self._n = n
        self._workers: list[_Worker] = []
        self._out_of_memory = memory.kills()

    @property
    def size(self) -> int:
        """How many workers there can be."""
        return self._n

    @property
    def idle(self) -> int:
        """How many workers have nothing to do."""
        return self._n - self.busy

    @property
    def busy(self) -> int:
        """How many are at work."""
        return sum(worker.task is not None for worker in self._workers)

    def submit(self, task: Task) -> None:
        """Give a task to an idle worker."""
        worker = next((w for w in self._workers if w.task is None), None) or self._start()
        worker.task = task
        # A worker that has died meanwhile is found, and its task given back as failed, by the next poll.
        with suppress(BrokenPipeError):
            worker.pipe.send(task)

    def poll(self, timeout: float) -> list[Message]:
        """Messages that have come, waiting up to `timeout` seconds for the first."""
        by_handle: dict[Any, _Worker] = {w.pipe: w for w in self._workers} | {w.process.sentinel: w for w in self._workers}
        ready = {id(w): w for w in (by_handle[handle] for handle in wait(list(by_handle), timeout))}
        return [message for worker in ready.values() for message in self._drain(worker)]

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stop(self) -> None:
        """Ask all runs to end after their current step."""
        self._stop.value = True

    def kill(self) -> None:
        """End all workers that are at work, now: their runs go on from their last checkpoints."""
        for worker in self._workers:
            if worker.task is not None:
                worker.ended_by_us = True
                worker.process.kill()

    def close(self) -> None:
        """End all workers, at once if they don't end by themselves."""
        for worker in self._workers:
            worker.pipe.close()
        for worker in self._workers:
            worker.process.join(timeout=5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    def _drain(self, worker: _Worker) -> list[Message]:
        messages: list[Message] = []
        try:
            while worker.pipe.poll():
                message: Message = worker.pipe.recv()
                messages.append(message)
                if message.kind in ("result", "error"):
                    worker.task = None
                if message.cause == LOST:
                    # Another process takes its place.
                    worker.process.kill()
                    return [*messages, *self._bury(worker)]
        except (EOFError, OSError):
            messages += self._bury(worker)
        return messages

    def _bury(self, worker: _Worker) -> list[Message]:
        """A worker died: its task has failed, and its place is free."""
        worker.process.join()
        code, task = worker.process.exitcode, worker.task
        self._workers.remove(worker)
        if task is None:
            return []
        if worker.ended_by_us:
            return [Message("error", task, fields={"reason": "did not stop in time and was ended"}, cause="stopped")]
        if memory.kills() > self._out_of_memory:
            self._out_of_memory = memory.kills()
            return [Message("error", task, fields={"reason": "out of memory: the system ended its process"}, cause="memory")]
        how = f"was ended by signal {-code}" if code and code < 0 else f"ended with code {code}"
        return [Message("error", task, fields={"reason": f"its process {how}"})]

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        place = min(set(range(self._n)) - {worker.place for worker in self._workers})
        process = self._context.Process(target=work, args=(theirs, self.setting, self._stop, place), daemon=True)
        # Its start ends with signals let through: done within the block it would undo it.
        resource_tracker.ensure_running()
        with _signals_held(), _main_left_out():
            process.start()
        theirs.close()
        self._workers.append(_Worker(process, ours, place=place))
        return self._workers[-1]


@contextmanager
def _main_left_out() -> Iterator[None]:
    """Keep a new process from importing the main module, as it would by default: figures, reports and tables, for two seconds of CPU."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _signals_held() -> Iterator[None]:
    """Block what a person sends to the process group: a process inherits the block, and can't be interrupted before it ignores them."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def work(pipe: Connection, setting: Setting, stop: ctypes.c_bool, place: int) -> None:
    """The life of a worker: tasks in, messages out, until the pipe closes. `place`: from 0, among those that work beside it."""
    import torch

    _end_with_driver()
    # Ctrl-C reaches the whole process group; the driver decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(setting.threads)
    if setting.device == "cuda":
        # In turn where there are more workers than devices.
        torch.cuda.set_device(place % torch.cuda.device_count())
        make_deterministic()
    try:
        while True:
            carry_out(pipe.recv(), setting, stop, pipe)
            memory.give_back()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def make_deterministic() -> None:
    """Have CUDA repeat its sums in one order, so that a resumed run has equal bits; what torch can't is a warning, not an error."""
    import torch

    # Read by cuBLAS when it makes its first workspace.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_deterministic_debug_mode("warn")
    # Otherwise every tensor that is made is filled with NaN first: a kernel each, that changes no result.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def carry_out(task: Task, setting: Setting, stop: ctypes.c_bool, pipe: Connection) -> None:
    """Do a task and say how it went; what it raises is an answer too."""
    cause = ""
    try:
        _do(task, setting, stop, pipe)
    except (EOFError, BrokenPipeError):
        raise
    except Exception as error:
        lines = traceback.format_exc().strip().splitlines()[-LINES_OF_ERROR:]
        reason = str(error) if isinstance(error, StorageError) else f"{type(error).__name__}: {error}"
        cause = cause_of(error)
        pipe.send(Message("error", task, fields={"reason": reason, "traceback": lines}, cause=cause))
    if cause == "memory" and setting.device == "cuda":
        from harness.ahead import make_room

        make_room()


def _end_with_driver() -> None:
    """Have the kernel end this process with its parent; elsewhere than on Linux it ends at its next message."""
    parent = multiprocessing.parent_process()
    if sys.platform == "linux" and parent is not None:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent.pid:
            os._exit(1)


def cause_of(error: BaseException) -> str:
    """Why a run raised, where something is done about it: `memory`, `storage`, `device`, or nothing known.

    `device`: an illegal access or a failed assertion there, after which this process can do nothing on it any more.
    """
    if isinstance(error, StorageError):
        return "storage"
    if type(error).__name__ == "AcceleratorError":
        return LOST
    told = str(error)
    out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in told
    return "memory" if out_of_memory else ""


def _do(task: Task, setting: Setting, stop: ctypes.c_bool, pipe: Connection) -> None:
    if task.kind == "measure":
        from harness.calibrate import measure

        pipe.send(Message("result", task, fields=measure(task.specs[0], setting.corpus, setting.samples, setting.device)))
        return
    if task.kind == "crew":
        from harness.crew_sizes import measure_crews

        pipe.send(Message("result", task, fields=measure_crews(task.specs, setting.corpus, setting.device)))
        return
    from harness.working import train_task

    train_task(task, setting, stop, pipe)
    pipe.send(Message("result", task))


def worker_count(device: str, most: int, asked: int | None = None) -> int:
    """One worker a core that this process may use, or a CUDA device, at most `most`.

    `asked`: what a person wants instead; on an accelerator these may be more, whose processes then share it, on a CPU no more than cores.
    """
    if device == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, min(cores, most, asked or cores))
    return max(1, min(asked or _devices(device), most))


def _devices(device: str) -> int:
    import torch

    return torch.cuda.device_count() if device == "cuda" else 1
