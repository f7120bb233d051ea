"""Fixtures that several test files share, and the table of faults at the end of a session."""

import fcntl
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# Before numpy, which it keeps to one thread.
from harness import tracking_store
from tests import toy
from tests.faults.table import pytest_terminal_summary

# Here, not beside the fault tests: where tests run side by side, only this file is read by the process that prints.
__all__ = ["empty_store", "finished_study", "pytest_terminal_summary"]


def pytest_configure() -> None:
    """One thread, as in a worker: models this small gain nothing from more, and test processes side by side would wait for each other's."""
    import torch

    torch.set_num_threads(1)


@contextmanager
def made_once(name: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A path that test processes share, while no other of them is making what stands there."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if hasattr(request.config, "workerinput") else base
    with open(shared / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield shared / name


@pytest.fixture(scope="session")
def finished_study(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The folder of a toy study that has ended; not to be changed. Test processes that run side by side share it."""
    with made_once("finished-study", tmp_path_factory, request) as folder:
        if not folder.exists():
            ended = toy.run(toy.write(folder))
            (folder / "out.txt").write_text(ended.out, encoding="utf-8")
            assert (ended.code, ended.err) == (0, "")
    return folder


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """An MLflow store without a study, to be copied: making its tables costs seconds, copying it nothing."""
    with made_once("empty-store", tmp_path_factory, request) as folder, warnings.catch_warnings():
        # MLflow's own, of its import and of its first use.
        warnings.simplefilter("ignore")
        import mlflow  # noqa: F401

        if not folder.exists():
            folder.mkdir()
            tracking_store.connect(f"sqlite:///{folder}/mlflow.db", "first", folder, threading.Event())
    return folder / "mlflow.db"


@pytest.fixture
def no_step_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the runs that were trained before: no captured step waits, nothing was said of one, and none has failed."""
    from harness import ahead, graphs

    monkeypatch.setattr(ahead, "_idle", {})
    monkeypatch.setattr(ahead, "_said", set())
    monkeypatch.setattr(graphs, "_failed", [])
