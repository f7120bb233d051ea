"""The projection of studies that were cut off and go on, that are rebuilt, and of what must not be seen: infinities and passwords."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.environment import without_secrets
from harness.errors import StudyError
from harness.journal import read
from harness.tracked import Tracking
from harness.tracked_run import RUNNING, Tracked
from harness.tracking import ui_command
from harness.tracking_store import StoreError, telling
from tests import stores
from tests.records import Study, artifacts, by_name, close_records, projection, root, small_study, stored

__all__ = ["close_records", "root"]

# MLflow's own use of SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


@pytest.fixture
def study(root: Path) -> Study:
    """A study with a plan and nothing else."""
    study = Study(root / "scaling", steps=40, evaluations=4)
    study.begin("a")
    study.plan()
    return study


def all_of(root: Path) -> dict[str, Any]:
    """What the store holds of the study's record."""
    return stores.contents(root, root / "scaling" / "journal.jsonl")


def statuses(root: Path) -> dict[str, str]:
    """The status of every run by its name."""
    return {name: run.info.status for name, run in by_name(root).items()}


def test_what_a_killed_process_left_open_is_ended_and_goes_on_with_the_study(root: Path, study: Study) -> None:
    """Its record knows of no end: only that nobody runs the study any more."""
    search, spec = study.spec("20k", "search", 1e-3, 1_000_003, trial=0, search="5ea2c4"), study.spec("20k", "ladder", 3e-3)
    study.run(search, None)
    study.run(spec, None)
    projection(root).sync()
    assert set(statuses(root).values()) == {RUNNING}
    stores.level(root, "scaling")
    assert set(statuses(root).values()) == {"KILLED"}
    assert all(run.info.end_time is not None and run.data.tags["status"] == "interrupted" for run in stored(root).values())
    before = all_of(root)
    stores.level(root, "scaling")
    assert all_of(root) == before, "saying it again changes nothing"
    study.begin("b")
    study.run(search, select=False, resumed_at=10)
    study.run(spec, select=False, resumed_at=10)
    live = projection(root)
    live.sync()
    assert stored(root)["study"].info.status == RUNNING
    study.end("b", 0)
    live.finish(None)
    assert statuses(root)["20k-all-s0-lr3e-3"] == statuses(root)["scaling"] == "FINISHED"
    assert RUNNING not in statuses(root).values()


@pytest.mark.parametrize("status", ["interrupted", "failed"])
def test_a_run_that_goes_on_from_its_checkpoint_ends_with_its_whole_series(root: Path, study: Study, status: str) -> None:
    """Also where the store was told of the first part, by the projection that writes the second."""
    spec = study.spec("20k", "ladder", 3e-3)
    weights = root / "scaling" / "checkpoints" / spec.key / "best.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"of the first part")
    study.run(spec, status, "stopped at step 20 of 40")
    live = projection(root)
    live.sync()
    assert len(pd.read_parquet(artifacts(stored(root)[spec.key]) / "points.parquet")) == 20
    weights.write_bytes(b"of all")
    study.run(spec, select=False, resumed_at=20)
    study.end("a", 0)
    live.sync()
    folder = artifacts(stored(root)[spec.key])
    assert list(pd.read_parquet(folder / "points.parquet")["step"]) == list(range(1, 41))
    assert (folder / "best.safetensors").read_bytes() == b"of all"
    rows = json.loads((folder / "sample_measures.json").read_text())["data"]
    assert [row[1] for row in rows] == [10, 20, 30, 40, 40]
    points = [(key, step) for key, step, *_ in all_of(root)[spec.key]["metrics"]]
    assert len(points) == len(set(points)) and {step for key, step in points if key == "train/loss"} == {n * 1540 for n in range(1, 41)}


def test_a_rebuilt_store_holds_what_it_held(root: Path) -> None:
    small_study(root / "scaling")
    stores.level(root, "scaling")
    before = all_of(root)
    lost = stored(root)["study"].info.run_id
    assert projection(root).rebuild() > 0
    assert stored(root)["study"].info.run_id != lost, "nothing was written again"
    assert stores.difference(all_of(root), before) == []


def test_a_run_that_is_there_twice_is_taken_out_by_the_next_sync(root: Path, study: Study) -> None:
    """As after a request that was carried out, and whose answer was lost."""
    study.run(study.spec("20k", "ladder", 3e-3))
    study.end("a", 0)
    stores.level(root, "scaling")
    before, one = all_of(root), next(run for run in stored(root).values() if run.data.tags["harness.key"] != "study")
    from mlflow import MlflowClient

    began = (one.info.experiment_id, one.info.start_time, one.data.tags, one.info.run_name)
    twin = MlflowClient(stores.uri(root)).create_run(*began)
    assert twin.info.status == RUNNING
    stores.level(root, "scaling")
    assert stores.difference(all_of(root), before) == []


def test_the_report_on_the_page_is_the_last_one(root: Path, study: Study) -> None:
    study.end("a", 0)
    report = root / "scaling" / "report"
    (report / "figures").mkdir(parents=True)
    (report / "report.md").write_text("first")
    (report / "figures" / "old.csv").write_text("1")
    stores.level(root, "scaling")
    (report / "figures" / "old.csv").unlink()
    (report / "figures" / "new.csv").write_text("2")
    (report / "report.md").write_text("second")
    stores.level(root, "scaling")
    page = artifacts(stored(root)["study"]) / "report"
    assert {path.relative_to(page).as_posix(): path.read_text() for path in page.rglob("*.*")} == {
        "report.md": "second",
        "figures/new.csv": "2",
    }


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
def test_what_is_not_finite_is_no_metric(value: float) -> None:
    """The store would make 1.8e308 of an infinity."""
    run = Tracked("key", None, "name", 0, 0.0)
    run.measure({"train_loss": value, "lr": 1.0}, {"train/loss": "train_loss", "optim/lr": "lr"}, 7, 0.0)
    assert run.metrics == {("optim/lr", 7): (1.0, 0.0)}


def test_a_record_with_infinities_has_gaps_in_its_curves(tmp_path: Path) -> None:
    study = Study(tmp_path / "scaling", steps=4, evaluations=1)
    study.begin("a")
    study.plan()
    spec = study.spec("20k", "ladder", 3e-3)
    study.run(spec, None)
    points = {"tokens": [5, 6], "train_loss": [float("inf"), 2.0], "lr": [1.0, 1.0], "grad_norm": [float("nan"), -float("inf")]}
    study.note("points", key=spec.key, step=[3, 4], **points)
    fold = Tracking("scaling")
    for event in read(study.journal.path):
        fold.add(event)
    found = {at: value for at, (value, _) in fold.runs[spec.key].metrics.items() if at[1] in (5, 6)}
    # A constant rate is a line through its ends.
    assert found == {("train/loss", 6): 2.0, ("optim/lr", 6): 1.0}


@pytest.mark.parametrize("password", ["simple", "with@sign", "a:b", "p%40ss"])
def test_an_address_is_shown_without_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, password: str) -> None:
    uri = f"https://someone:{password}@tracking.example:5000/base"
    assert (
        without_secrets(f"at {uri}, and {uri}") == "at https://***@tracking.example:5000/base, and https://***@tracking.example:5000/base"
    )
    with pytest.raises(StoreError) as raised, telling(uri):
        raise ValueError(f"no route to {uri}")
    assert password not in str(raised.value) and "no route to https://***@tracking.example" in str(raised.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(StudyError, match=r"open https://\*\*\*@tracking") as refused:
        ui_command(tmp_path)
    assert password not in str(refused.value)
