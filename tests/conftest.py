"""Fixtures that several test files share."""

import fcntl
from pathlib import Path

import pytest

# Before numpy, which it keeps to one thread.
import harness  # noqa: F401
from tests import toy


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
