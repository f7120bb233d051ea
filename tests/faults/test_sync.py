"""Studies and their store in processes of their own: without MLflow, several at once, killed, interrupted, rebuilt.

What runs studies needs `FAULTS` set; the rest is in every test run.
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness import lease
from harness.__main__ import main
from harness.errors import LockedError
from tests import stores, toy
from tests.faults.table import Fault, Row, is_whole

# MLflow's own use of SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
whole_only = pytest.mark.skipif(not is_whole(), reason="runs studies; FAULTS is not set")
# What two equal runs may differ in.
TIMED = ("perf/tokens_per_second",)


@pytest.fixture(autouse=True)
def _local(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store beside the studies."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def without_mlflow(folder: Path) -> Path:
    """A folder in which `import mlflow` fails, as on a cluster's node: what is run there finds this first."""
    (folder / "mlflow").mkdir(parents=True)
    (folder / "mlflow" / "__init__.py").write_text("raise ImportError('there is no MLflow on this node')")
    return folder


def harness(folder: Path, *words: str) -> toy.Finished:
    """One of the other verbs."""
    return toy.finish(toy.start(folder, *words, module="harness"))


def record(folder: Path) -> Path:
    """The journal of the study there."""
    return folder / "mlruns" / "toy" / "journal.jsonl"


def there(folder: Path) -> dict[str, Any]:
    """What the store beside the study holds of it."""
    return stores.contents(folder / "mlruns", record(folder))


def with_store(folder: Path, empty_store: Path) -> Path:
    """A study's folder with a store whose tables are made."""
    shutil.copy(empty_store, folder / "mlruns" / "mlflow.db")
    return folder


def timeless(store: dict[str, Any]) -> dict[str, Any]:
    """What two equal studies that ran at different times hold alike: of each run its status, params, metrics and names of files."""
    return {
        key: {
            "status": run["info"][1],
            "params": run["params"],
            "data": run["data"],
            "files": sorted(run["files"]),
            "metrics": [(name, step, value) for name, step, value, *_ in run["metrics"] if name not in TIMED],
        }
        for key, run in store.items()
    }


VERBS = """
from harness.__main__ import main
from harness.run import parser
print([main([verb, "toy"]) for verb in ("status", "report", "sync")])
"""


def test_everything_but_tracking_works_on_a_node_without_mlflow(finished_study: Path, tmp_path: Path) -> None:
    folder = without_mlflow(tmp_path / "node")
    shutil.copytree(finished_study / "mlruns", folder / "mlruns")
    environment = os.environ | {"PYTHONPATH": str(toy.ROOT)}
    ended = subprocess.run([sys.executable, "-c", VERBS], cwd=folder, env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "[0, 0, 5]"
    (said,) = ended.stderr.splitlines()
    assert "there is no MLflow on this node" in said and "python -m harness sync" in said


def test_a_study_that_is_being_run_is_not_synced_by_another(
    finished_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished_study / "mlruns" / "toy", tmp_path / "mlruns" / "toy")
    monkeypatch.chdir(tmp_path)
    with lease.held(tmp_path / "mlruns" / "toy"):
        assert main(["sync", "toy"]) == LockedError.exit_code
    assert f"pid {os.getpid()}" in capsys.readouterr().err
    assert not (tmp_path / "mlruns" / "mlflow.db").exists()


@pytest.fixture(scope="module")
def tracked(finished_study: Path, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study that was tracked while it ran."""
    folder = with_store(toy.planned(tmp_path_factory.mktemp("tracked") / "live", finished_study), empty_store)
    ended = toy.finish(toy.start(folder, "toy.yaml"))
    assert (ended.code, ended.err) == (0, "")
    return folder


@whole_only
def test_a_study_without_mlflow_copied_as_one_folder_is_synced_to_what_a_tracked_one_holds(tracked: Path, tmp_path: Path) -> None:
    node = without_mlflow(tmp_path / "node")
    ended = toy.run(toy.planned(node, tracked))
    assert (ended.code, ended.err) == (0, "")
    shutil.copytree(node / "mlruns" / "toy", tmp_path / "home" / "mlruns" / "toy")
    synced = harness(tmp_path / "home", "sync", "toy")
    assert (synced.code, synced.err) == (0, "")
    assert stores.difference(timeless(there(tmp_path / "home")), timeless(there(tracked))) == []


@whole_only
def test_tracked_while_it_ran_or_rebuilt_the_store_holds_what_a_sync_in_one_go_gives(
    tracked: Path, empty_store: Path, tmp_path: Path
) -> None:
    live = there(tracked)
    assert stores.difference(live, stores.at_once(tracked / "mlruns" / "toy", tmp_path / "once", empty_store)) == []
    rebuilt = harness(tracked, "sync", "toy", "--rebuild")
    assert (rebuilt.code, rebuilt.err) == (0, "")
    assert stores.difference(there(tracked), live) == []


@whole_only
def test_four_syncs_of_a_study_at_once_make_one_store(finished_study: Path, empty_store: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_study / "mlruns", tmp_path / "mlruns")
    ended = [toy.finish(process) for process in [toy.start(tmp_path, "sync", "toy", module="harness") for _ in range(4)]]
    assert {one.code for one in ended} <= {0, LockedError.exit_code} and any(one.code == 0 for one in ended)
    assert not any("Traceback" in one.err for one in ended)
    assert stores.difference(there(tmp_path), stores.at_once(tmp_path / "mlruns" / "toy", tmp_path / "once", empty_store)) == []


@whole_only
def test_four_studies_synced_at_once_make_one_store(finished_study: Path, empty_store: Path, tmp_path: Path) -> None:
    names = [f"toy-{n}" for n in range(4)]
    for name in names:
        shutil.copytree(finished_study / "mlruns" / "toy", tmp_path / "mlruns" / name)
    ended = [toy.finish(process) for process in [toy.start(tmp_path, "sync", name, module="harness") for name in names]]
    assert [(one.code, one.err) for one in ended] == [(0, "")] * 4
    store = f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    again = [toy.finish(toy.start(tmp_path, "sync", name, module="harness")).out for name in names]
    assert again == [f"0 events of {name} were written to {store}\n" for name in names]


def half_done(folder: Path) -> subprocess.Popen[str]:
    """A tracked study of which half of the runs have ended, and of which the store knows."""
    process = toy.start(folder, "toy.yaml", "--set", "checkpoints.every_s=0.01")
    toy.wait_for(folder, lambda events: sum(event["event"] == "run_ended" for event in events) >= toy.N_RUNS // 2)
    return process


@whole_only
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_is_stopped_is_not_running_in_the_store_and_goes_on_without_a_step_twice(
    number: signal.Signals, code: int, finished_study: Path, empty_store: Path, tmp_path: Path, fault: Fault
) -> None:
    fault(Row.KILLS if number == signal.SIGKILL else Row.SIGNALS)
    folder = with_store(toy.planned(tmp_path / "stopped", finished_study), empty_store)
    process = half_done(folder)
    os.killpg(process.pid, number) if number == signal.SIGKILL else process.send_signal(number)
    assert toy.finish(process).code == code
    if number == signal.SIGKILL:
        assert harness(folder, "sync", "toy").code == 0
    stopped = {key: run["info"][1] for key, run in there(folder).items()}
    assert "RUNNING" not in stopped.values() and stopped["study"] == "KILLED"
    ended = toy.finish(toy.start(folder, "toy.yaml"))
    assert (ended.code, ended.err) == (0, "")
    assert stores.difference(there(folder), stores.at_once(folder / "mlruns" / "toy", tmp_path / "once", empty_store)) == []
    assert set(timeless(there(folder))) >= set(toy.results(finished_study).index)
