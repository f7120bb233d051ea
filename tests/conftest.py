"""Fixtures that several test files share, and the table of faults at the end of a session."""

import fcntl
from pathlib import Path

import pytest
import torch

from tests import toy
from tests.faults.table import pytest_terminal_summary

# Here, not beside the fault tests: where tests run side by side, only this file is read by the process that prints.
__all__ = ["finished_study", "pytest_terminal_summary"]

# As in a worker: models this small gain nothing from threads, and test processes side by side would wait for each other's.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def finished_study(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The folder of a toy study that has ended; not to be changed. Test processes that run side by side share it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if hasattr(request.config, "workerinput") else base
    folder = shared / "finished-study"
    with open(shared / "finished-study.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            ended = toy.run(toy.write(folder))
            (folder / "out.txt").write_text(ended.out, encoding="utf-8")
            assert (ended.code, ended.err) == (0, "")
    return folder
