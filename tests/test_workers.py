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
from harness.workers import Message, Pool, Task, carry_out, worker_count
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


def _work(pipe: Connection, setting: Any, stop: Any, place: int) -> None:
    """A worker that says of each task in which process it was done, and at which place."""

    def do(task: Task, *given: Any) -> None:
        if task.kind == "measure":
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        pipe.send(Message("result", task, fields={"pid": os.getpid(), "place": place}))

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


def test_workers_side_by_side_have_places_of_their_own_which_the_next_one_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A place is what says on which of several devices a worker is."""
    monkeypatch.setattr(workers, "work", _work)
    with Pool(3, SimpleNamespace(threads=1, device="cpu")) as pool:  # type: ignore[arg-type]
        for kinds in (("train",) * 3, ("train", "measure", "train"), ("train",) * 3):
            for kind in kinds:
                pool.submit(Task(kind, (tiny.spec(),)))
            said: list[Message] = []
            while len(said) < 3:
                said += pool.poll(1.0)
            assert sorted(message.fields["place"] for message in said if message.kind == "result") == (
                [0, 1, 2] if "measure" not in kinds else [0, 2]
            )


@pytest.mark.parametrize(
    ("device", "most", "asked", "expected"),
    [
        ("cuda", 16, None, 4),
        ("cuda", 2, None, 2),
        ("cuda", 16, 6, 6),
        ("cuda", 4, 6, 4),
        ("mps", 16, None, 1),
        ("mps", 16, 2, 2),
        ("cpu", 16, None, 3),
        ("cpu", 2, None, 2),
        ("cpu", 16, 6, 3),
        ("cpu", 16, 1, 1),
    ],
)
def test_there_is_a_worker_for_each_core_or_device_and_more_on_a_device_if_asked(
    device: str, most: int, asked: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})
    assert worker_count(device, most, asked) == expected
