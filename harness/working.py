"""What a worker does with a task of runs: trains one by itself or several together, and tells the driver of each as it goes.

Everything here runs in a worker; nothing that it sends names another run than the one it is about.
"""

import ctypes
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from time import monotonic
from typing import Any

from harness.checkpoint import load_checkpoint
from harness.context import Context, Emit, StopRun
from harness.runspec import RunSpec
from harness.search import pruning
from harness.together import train_together
from harness.train import outcome_fields, train
from harness.workers import Message, Setting, Task

PROGRESS_S = 0.5


def train_task(task: Task, setting: Setting, stop: ctypes.c_bool, pipe: Connection) -> None:
    """Train the runs of a task to their ends, or until `stop`."""
    contexts = [_context(spec, task, setting, stop, pipe) for spec in task.specs]
    if len(task.specs) == 1:
        contexts[0].emit("run_ended", outcome_fields(train(task.specs[0], contexts[0])))
        return
    emit = {spec.key: context.emit for spec, context in zip(task.specs, contexts, strict=True)}
    for spec, outcome in train_together(task.specs, contexts):
        emit[spec.key]("run_ended", outcome_fields(outcome))


def _context(spec: RunSpec, task: Task, setting: Setting, stop: ctypes.c_bool, pipe: Connection) -> Context:
    """What a run of this task needs beside its spec."""
    own = Task(task.kind, (spec,))

    def pulse() -> None:
        if stop.value:
            raise StopRun

    is_trial = spec.stage == "search"
    folder = setting.folder / spec.key
    at_step = task.resume.get(spec.key)
    saved = None if at_step is None else load_checkpoint(folder, lambda checkpoint: checkpoint.step == at_step)[0]
    # Damaged between the driver's look and this one: the driver tries the run again and finds the one before.
    assert at_step is None or saved is not None, f"checkpoint of step {at_step} is gone"
    return Context(
        corpus=setting.corpus,
        emit=_emit(spec.key, own, pipe),
        progress=_progress(spec.key, own, pipe),
        pulse=pulse,
        prune=pruning(setting.search, spec.steps, task.finished) if is_trial else None,
        device=setting.device,
        folder=None if is_trial else folder,
        checkpoints=folder,
        checkpoint_every_s=setting.checkpoint_every_s,
        checkpoint_every_steps=setting.checkpoint_every_steps,
        resume=saved,
        micro_batches=task.micro_batches,
        samples=None if is_trial else setting.samples,
        floor=setting.floor,
    )


def _emit(key: str, task: Task, pipe: Connection) -> Emit:
    def emit(event: str, fields: Mapping[str, Any]) -> None:
        pipe.send(Message("event", task, event, key, dict(fields)))

    return emit


def _progress(key: str, task: Task, pipe: Connection) -> Callable[[int, int, float | None], None]:
    last_shown = 0.0

    def progress(step: int, tokens: int, tokens_per_second: float | None) -> None:
        nonlocal last_shown
        if monotonic() - last_shown > PROGRESS_S:
            last_shown = monotonic()
            pipe.send(Message("progress", task, key=key, fields={"step": step, "tokens": tokens, "tokens_per_second": tokens_per_second}))

    return progress
