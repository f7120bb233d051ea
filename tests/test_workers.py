"""Workers are started so that a person's signals don't reach them, and are replaced where they can do nothing any more."""

import os
import signal
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harness import ahead, workers
from harness.workers import Message, Pool, Task, carry_out
from tests import tiny, toy

# The mask of the first worker, which is also the start of the process that watches over shared memory.
FIRST_WORKER = """
from pathlib import Path
from types import SimpleNamespace
from harness.workers import Pool

worker = Pool(1, SimpleNamespace(threads=1, device="cpu"))._start()
status = Path(f"/proc/{worker.process.pid}/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("SigBlk")))
worker.process.kill()
"""


def test_ctrl_c_can_not_reach_a_worker_that_is_still_being_loaded(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FIRST_WORKER], cwd=toy.ROOT, capture_output=True, text=True, timeout=toy.LIMIT_S)
    assert done.returncode == 0, done.stderr
    blocked = int(done.stdout, 16)
    assert all(blocked >> (number - 1) & 1 for number in (signal.SIGINT, signal.SIGTERM)), done.stdout


def _work(pipe: Connection, setting: Any, stop: Any) -> None:
    """A worker that says of each task in which process it was done."""

    def do(task: Task, *given: Any) -> None:
        if task.kind == "measure":
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        pipe.send(Message("result", task, fields={"pid": os.getpid()}))

    workers._do = do
    while True:
        carry_out(pipe.recv(), setting, stop, pipe)


def test_a_process_that_has_lost_its_device_is_replaced_and_its_task_answered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "work", _work)
    seen: list[Message] = []
    with Pool(1, SimpleNamespace(threads=1, device="cpu")) as pool:  # type: ignore[arg-type]
        for kind in ("train", "measure", "train"):
            pool.submit(Task(kind, (tiny.spec(),)))
            before = len(seen)
            while len(seen) == before:
                seen += pool.poll(1.0)
            assert pool.idle == 1
    assert [(message.kind, message.cause) for message in seen] == [("result", ""), ("error", "device"), ("result", "")]
    assert "illegal memory access" in seen[1].fields["reason"] and seen[0].fields["pid"] != seen[2].fields["pid"]


@pytest.mark.parametrize(("device", "expected"), [("cuda", 1), ("cpu", 0)])
def test_who_had_too_little_memory_leaves_it_to_the_next(device: str, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: Any) -> None:
        raise torch.OutOfMemoryError("out of memory")

    made: list[int] = []
    monkeypatch.setattr(workers, "_do", full)
    monkeypatch.setattr(ahead, "make_room", lambda: made.append(1))
    said: list[Message] = []
    carry_out(Task("measure", (tiny.spec(),)), SimpleNamespace(device=device), None, SimpleNamespace(send=said.append))  # type: ignore[arg-type]
    assert [message.cause for message in said] == ["memory"] and len(made) == expected
