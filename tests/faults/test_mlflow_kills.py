"""kill -9 before and after every call of MLflow's client: the next sync brings the store level, with nothing there twice.

Each projection runs in a fork of this process, which has loaded MLflow already.
"""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from harness import tracking
from harness.failpoints import VARIABLE
from harness.journal import encode, read
from tests import stores
from tests.faults.table import Fault, Row, is_whole

# MLflow's own use of SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
SOME = (2, 41, 90)
RUNG = "small"


@pytest.fixture(scope="module")
def small(finished_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The record of a finished study, less all but two trials and two ladder runs of one rung."""
    folder = tmp_path_factory.mktemp("kills") / "toy"
    shutil.copytree(finished_study / "mlruns" / "toy", folder)
    events = list(read(folder / "journal.jsonl"))
    labels = [event for event in events if event["event"] == "selected" and event["rung"] == RUNG]
    kept = {event["key"] for stage in ("search", "ladder") for event in [e for e in labels if e["stage"] == stage][:2]}
    events = [event for event in events if event.get("key", next(iter(kept))) in kept and event.get("rung", RUNG) == RUNG]
    (folder / "journal.jsonl").write_bytes(b"".join(encode(event | {"n": n}) for n, event in enumerate(events)))
    return folder


@pytest.fixture(scope="module")
def whole(small: Path, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the store holds when nobody is killed."""
    return stores.at_once(small, tmp_path_factory.mktemp("whole") / "once", empty_store)


def killed(root: Path, k: int) -> bool:
    """Project in a fork that dies at the k-th place before or after a call; whether there was one."""
    child = os.fork()
    if child == 0:
        os.environ[VARIABLE] = f"mlflow.call*:{k}"
        try:
            stores.level(root, "toy")
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def test_killed_at_any_call_and_synced_again_everything_is_there_once(
    small: Path, whole: dict[str, Any], empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    # So that many kills come behind a mark of the position.
    monkeypatch.setattr(tracking, "LINES_A_BATCH", 25)
    k = 0
    while is_whole() or k < len(SOME):
        k += 1
        root = tmp_path / str(k)
        shutil.copytree(small, root / "toy")
        shutil.copy(empty_store, root / "mlflow.db")
        if not killed(root, k if is_whole() else SOME[k - 1]):
            break
        stores.level(root, "toy")
        assert stores.difference(stores.contents(root, root / "toy" / "journal.jsonl"), whole) == [], f"killed at place {k}"
        shutil.rmtree(root)
        fault(Row.FAILPOINTS)
    assert k > 100 if is_whole() else k == len(SOME)
    assert "RUNNING" not in {run["info"][1] for run in whole.values()}
