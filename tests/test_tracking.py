"""The projection of a record to MLflow, against a real store: what is there, that it is there once, and that failures are survived."""

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.journal import Event, read
from harness.tracked import Tracking
from harness.tracked_run import MAX_POINTS, RUNNING
from harness.tracking import POSITION, pages, ui_command
from harness.tracking_live import Live
from harness.tracking_store import StoreError
from tests.records import AWKWARD, Study, artifacts, by_name, client, close_records, contents, projection, root, small_study, stored

__all__ = ["close_records", "root"]

# MLflow's own use of SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


class CutOff(Exception):
    """The store goes away."""


class Wire:
    """Lets the client make so many writes, and fails from then on: the first failure before or after the store has taken it."""

    METHODS = ("create_run", "log_batch", "log_inputs", "log_text", "log_artifact", "set_terminated", "set_tag", "delete_run", "update_run")

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made, self.limit, self.after = 0, 10**9, False
        self.logged: Counter[tuple[str, str, int]] = Counter()
        from mlflow import MlflowClient

        for name in self.METHODS:
            monkeypatch.setattr(MlflowClient, name, self._limited(getattr(MlflowClient, name)))

    def cut(self, calls: int, after: bool) -> None:
        self.made, self.limit, self.after = 0, calls, after
        self.logged.clear()

    def mend(self) -> None:
        self.limit = 10**9

    def _limited(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def limited(client: Any, *args: Any, **kwargs: Any) -> Any:
            self.made += 1
            if self.made > self.limit + self.after:
                raise CutOff
            result = original(client, *args, **kwargs)
            if original.__name__ == "log_batch" and len(args) > 1:
                self.logged.update((args[0], metric.key, metric.step) for metric in args[1])
            if self.made > self.limit:
                raise CutOff
            return result

        return limited


@pytest.fixture(scope="session")
def small(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small study, projected in one go."""
    root = tmp_path_factory.mktemp("small")
    shutil.copy(empty_store, root / "mlflow.db")
    study = small_study(root / "scaling")
    weights = root / "scaling" / "checkpoints" / study.spec("20k", "ladder", 3e-3, 0).key / "best.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    assert projection(root).sync() == study.journal._n
    return root


def test_runs_hang_where_people_look_for_them(small: Path) -> None:
    runs = stored(small)
    parents = {run.info.run_name: runs_by_id(runs).get(run.data.tags.get("mlflow.parentRunId")) for run in runs.values()}
    trials = {name for name, parent in parents.items() if parent == "20k search"}
    assert trials == {"20k-search-t00-lr1e-3", "20k-search-t01-lr3e-2", "20k-search-t02-lr3e-3", "20k-search-t03-lr3e-5"}
    assert parents["scaling"] is None
    assert {parent for name, parent in parents.items() if name not in trials | {"scaling"}} == {"scaling"}


def runs_by_id(runs: dict[str, Any]) -> dict[str, str]:
    return {run.info.run_id: run.info.run_name for run in runs.values()}


def test_statuses_are_outcomes_and_nothing_is_left_running(small: Path) -> None:
    runs = by_name(small)
    found = {name: (run.info.status, run.data.tags["status"], run.data.tags.get("reason")) for name, run in runs.items()}
    assert found == {
        "scaling": ("FAILED", "failed", None),
        "20k search": ("FINISHED", "completed", "a minimum inside the range"),
        "20k-search-t00-lr1e-3": ("FINISHED", "completed", None),
        "20k-search-t01-lr3e-2": ("FAILED", "diverged", "the loss was not finite at step 212"),
        "20k-search-t02-lr3e-3": ("FINISHED", "completed", None),
        "20k-search-t03-lr3e-5": ("FINISHED", "pruned", "behind the others"),
        "20k-all-s0-lr3e-3": ("FINISHED", "completed", None),
        "20k-all-s1-lr3e-3": ("FINISHED", "completed", None),
        "20k-all-s0-lr1e-3": ("KILLED", "interrupted", "its invocation ended before it did"),
        "20k-all-s0-lr3e-2": ("FAILED", "diverged", "the loss rose"),
        "20k-1000texts-s0-lr3e-3": ("FAILED", "failed", "MemoryError: no memory"),
    }
    assert all(run.info.end_time is not None for run in runs.values())


def test_facts_of_a_run(small: Path) -> None:
    run = by_name(small)["20k-all-s1-lr3e-3"]
    assert run.data.params["n_params"] == "20412" and run.data.params["d_head"] == "16" and run.data.params["lr"] == "0.003"
    assert not {"grad_clip", "trial", "lr_status"} & set(run.data.params)
    assert run.data.tags["repeat"] == "python -m harness.run studies/scaling.yaml --only 20k"
    assert run.data.tags["git.commit"].startswith("0123456789") and run.data.tags["git.dirty"] == "false"
    assert [(d.dataset.name, d.dataset.digest) for d in run.inputs.dataset_inputs] == [("wire", "91be0200")]
    assert by_name(small)["20k-search-t02-lr3e-3"].data.params["trial"] == "2"


def test_metrics_are_the_record_s(small: Path) -> None:
    run, store = by_name(small)["20k-all-s1-lr3e-3"], client(small)
    key = run.data.tags["harness.key"]
    events = list(read(small / "scaling" / "journal.jsonl"))
    last_try = max(event["n"] for event in events if event["event"] == "run_started" and event["key"] == key)
    events = [event for event in events if event["n"] > last_try and event.get("key") == key]
    expected = {(e["tokens"], e["val_nll"], round(e["time"] * 1000)) for e in events if e["event"] == "evaluation"}
    assert {(m.step, m.value, m.timestamp) for m in store.get_metric_history(run.info.run_id, "val/nll")} == expected
    losses = {t: value for e in events if e["event"] == "points" for t, value in zip(e["tokens"], e["train_loss"], strict=True)}
    assert {m.step: m.value for m in store.get_metric_history(run.info.run_id, "train/loss")} == losses
    norms = [m.step for m in store.get_metric_history(run.info.run_id, "optim/grad_norm")]
    assert len(norms) == 39 and 3 * 1540 not in norms, "a norm that was not finite is left out"
    assert run.data.metrics["test/nll"] == events[-1]["test_nll"]
    search = by_name(small)["20k search"]
    assert {m.step for m in store.get_metric_history(search.info.run_id, "search/val_loss")} == {0, 1, 2, 3}


def test_files_of_a_run(small: Path) -> None:
    folder = artifacts(by_name(small)["20k-all-s0-lr3e-3"])
    points = pd.read_parquet(folder / "points.parquet")
    assert list(points["step"]) == list(range(1, 41)) and points["grad_norm"].isna().sum() == 1
    samples = json.loads((folder / "samples.json").read_text())
    assert samples["columns"] == ["at", "step", "temperature", "top_k", "top_p", "text"]
    assert [row[5] for row in samples["data"][:6]] == AWKWARD and {row[0] for row in samples["data"]} == {"best", "end"}
    assert (folder / "best.safetensors").read_bytes() == b"weights"
    assert not (artifacts(by_name(small)["20k-search-t00-lr1e-3"]) / "best.safetensors").exists()


def test_the_study_s_page_says_what_was_found(small: Path) -> None:
    note = by_name(small)["scaling"].data.tags["mlflow.note.content"]
    scores = [run.data.metrics["test/nll"] for name, run in by_name(small).items() if name in ("20k-all-s0-lr3e-3", "20k-all-s1-lr3e-3")]
    assert f"| 20k | 20,412 | 0.003 (resolved) | 2 | {sum(scores) / 2:.2f} | 0.400 |" in note
    assert "| 10M-assignment | 10,122,749 | skipped | 0 |  |  |" in note
    assert "viewStateShareKey=ladder" in note.splitlines()[0] and "How does NLL fall with size?" in note


def test_syncing_again_changes_nothing(small: Path) -> None:
    before = contents(small)
    assert projection(small).sync() == 0
    assert contents(small) == before


def test_projection_goes_on_where_the_record_does(root: Path) -> None:
    study = Study(root / "scaling", steps=4, evaluations=1)
    study.begin("a")
    study.plan()
    spec = study.spec("20k", "ladder", 3e-3)
    study.run(spec, None)
    live = projection(root)
    live.sync()
    assert stored(root)[spec.key].info.status == RUNNING
    study.end("a", 143)
    assert live.sync() == 1
    assert {run.info.status for run in stored(root).values()} == {"KILLED"}
    study.begin("b")
    study.run(spec, select=False)
    live.sync()
    assert {key: run.info.status for key, run in stored(root).items()} == {"study": RUNNING, spec.key: "FINISHED"}
    assert stored(root)["study"].data.tags[POSITION] == str(study.journal._n)
    report = root / "scaling" / "report"
    report.mkdir()
    (report / "report.md").write_text("# Report")
    study.end("b", 0)
    live.finish(report)
    assert stored(root)["study"].info.status == "FINISHED"
    assert (artifacts(stored(root)["study"]) / "report" / "report.md").exists()


def test_a_search_that_finds_the_same_rate_again_is_complete(root: Path) -> None:
    study = Study(root / "scaling", steps=4, evaluations=1)
    study.begin("a")
    study.plan()
    study.search("20k", (1e-3, 3e-3))
    study.end("a", 0)
    study.begin("b")
    study.run(study.spec("20k", "search", 4e-3, 1_000_003, trial=2, search="5ea2c4"))
    study.end("b", 0)
    projection(root).sync()
    search = by_name(root)["20k search"]
    assert (search.info.status, search.data.tags["status"]) == ("FINISHED", "completed")


def test_cut_anywhere_and_repeated_is_the_same(root: Path, empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study(tmp_path / "scaling", steps=4, evaluations=2)
    study.begin("a")
    study.plan()
    study.search("20k", (3e-2, 3e-3))
    spec = study.spec("20k", "ladder", 3e-3)
    study.run(spec, None)
    projection(root).sync()
    study.end("a", 130)
    study.begin("b")
    study.run(spec, select=False)
    study.end("b", 0)
    half = tmp_path / "half.db"
    shutil.copy(root / "mlflow.db", half)
    wire = Wire(monkeypatch)
    projection(root).sync()
    total, whole = wire.made, contents(root)
    assert total > 12
    for k, after in product(range(total), (False, True)):
        shutil.copy(half, root / "mlflow.db")
        again = projection(root)
        wire.cut(k, after)
        with pytest.raises(StoreError, match="CutOff"):
            again.sync()
        wire.mend()
        # By turns as the same process would go on, and as a new one would.
        (again if k % 2 else projection(root)).sync()
        assert contents(root) == whole, f"cut at call {k} of {total}"
        assert set(wire.logged.values()) == {1}, f"a step was written twice, cut at call {k} of {total}"


def test_tables_of_texts_say_what_was_cut_off(root: Path) -> None:
    study = Study(root / "scaling", steps=40, evaluations=4)
    study.begin("a")
    study.plan()
    spec = study.spec("20k", "ladder", 3e-3, 0)
    study.run(spec, None)
    study.samples(spec, "end", 40, 1.0, top_k=5)
    study.samples(spec, "end", 40, 1.0, top_p=0.9)
    fold = Tracking("scaling")
    for event in read(study.journal.path):
        fold.add(event)
    for table in (fold.runs[spec.key].tables[name] for name in ("samples.json", "sample_measures.json")):
        cuts = [row[2:5] for row in table.rows if row[0] == "end"]
        assert table.columns[:5] == ("at", "step", "temperature", "top_k", "top_p")
        assert cuts[0] == [1.0, 5, None] and cuts[-1] == [1.0, None, 0.9]
        assert all(row[3:5] == [None, None] for row in table.rows if row[0] == "best")


def test_batches_that_end_anywhere_give_the_same(small: Path, root: Path) -> None:
    lines = (small / "scaling" / "journal.jsonl").read_bytes().splitlines(keepends=True)
    shutil.copytree(small / "scaling", root / "scaling")
    journal = root / "scaling" / "journal.jsonl"
    live = projection(root)
    for end in (0, 3, 4, 21, 22, 40, 55, 56, 57, 70, len(lines)):
        # A line that is still being written is left for the next time.
        journal.write_bytes(b"".join(lines[:end]) + b"".join(lines[end : end + 1])[:20])
        live.sync()
    assert contents(root) == contents(small)


@pytest.mark.parametrize("steps", [1, 999, 1000, 1001, 2500])
def test_thinning_keeps_the_last_point_and_at_most_a_thousand(steps: int, tmp_path: Path) -> None:
    study = Study(tmp_path / "scaling", steps=steps, evaluations=min(steps, 3))
    study.begin("a")
    study.plan()
    spec = study.spec("20k", "ladder", 3e-3)
    study.run(spec)
    fold = Tracking("scaling")
    for event in read(study.journal.path):
        fold.add(event)
    kept = [step for key, step in fold.runs[spec.key].metrics if key == "train/loss"]
    assert MAX_POINTS // 2 <= len(kept) <= MAX_POINTS or len(kept) == steps
    assert max(kept) == steps * 1540
    assert len(fold.runs[spec.key].points["step"]) == steps


def test_events_of_kinds_unknown_to_it_are_passed_over() -> None:
    fold = Tracking("scaling")
    strange: Event = {"n": 0, "time": 1.0, "event": "renamed"}
    fold.add(strange)
    assert list(fold.runs) == ["study"]


@pytest.fixture
def study_and_warnings(root: Path) -> tuple[Study, list[str]]:
    study = Study(root / "scaling", steps=4, evaluations=1)
    study.begin("a")
    study.plan()
    study.run(study.spec("20k", "ladder", 3e-3))
    study.end("a", 0)
    return study, []


def test_live_follows_the_record_and_closes_complete(root: Path, study_and_warnings: tuple[Study, list[str]]) -> None:
    study, warned = study_and_warnings
    live = Live(study.journal.path, root, warned.append, uri=f"sqlite:///{root}/mlflow.db", every_s=0.05)
    assert live.close(None, timeout=30)
    assert warned == [] and len(stored(root)) == 2
    assert "viewStateShareKey=ladder" in live.page


def test_a_server_that_is_away_neither_blocks_nor_raises(root: Path, study_and_warnings: tuple[Study, list[str]]) -> None:
    study, warned = study_and_warnings
    live = Live(study.journal.path, root, warned.append, uri="http://127.0.0.1:9", every_s=0.05)
    started = time.monotonic()
    assert not live.close(None, timeout=8)
    assert time.monotonic() - started < 8
    assert len(warned) == 2 and "127.0.0.1:9" in warned[0], "one warning a minute, and one at the end"
    projection(root).sync()
    assert len(stored(root)) == 2


def test_a_damaged_record_is_a_warning_of_live(root: Path, study_and_warnings: tuple[Study, list[str]]) -> None:
    study, warned = study_and_warnings
    path = study.journal.path
    path.write_bytes(path.read_bytes().replace(b"scaling", b"scalang", 1))
    live = Live(path, root, warned.append, uri=f"sqlite:///{root}/mlflow.db", every_s=0.05)
    assert not live.close(None, timeout=30)
    assert "damaged" in warned[0]


def test_a_run_that_was_resumed_holds_what_an_unbroken_one_holds(tmp_path: Path) -> None:
    """It was stopped at step 20 and goes on from the checkpoint of step 10, so that one evaluation comes twice."""
    folds = []
    for parts in (1, 2):
        study = Study(tmp_path / f"{parts}" / "toy", steps=40, evaluations=4)
        study.begin("a")
        study.plan()
        spec = study.spec("20k", "ladder", 3e-3, 1)
        if parts == 2:
            study.run(spec, "interrupted", "stopped at step 20 of 40")
            study.end("a", 130)
            study.begin("b")
        study.run(spec, select=parts == 1, resumed_at=10 if parts == 2 else None)
        fold = Tracking("toy")
        for event in read(study.journal.path):
            fold.add(event)
            # As after a sync that wrote everything.
            fold.clear() if event["event"] == "invocation_ended" else None
        folds.append(fold.runs[spec.key])
    one, other = folds
    assert {at: value for at, (value, _) in one.metrics.items()} == {at: value for at, (value, _) in other.metrics.items()}
    assert str(one.points) == str(other.points) and one.tables == other.tables
    assert one.status == other.status == "FINISHED" and one.tags["status"] == other.tags["status"] == "completed"


def test_ui_names_the_page_of_every_study_in_the_store(root: Path, tmp_path: Path) -> None:
    assert pages(tmp_path / "nothing here") == {}
    small_study(root / "scaling")
    projected = projection(root)
    projected.sync()
    assert projected.page() and pages(root)["scaling"] == projected.page()


def test_ui_command_serves_this_machine_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    command = ui_command(tmp_path, 5055)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--backend-store-uri") + 1] == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somewhere:5000")
    with pytest.raises(Exception, match="open http://somewhere:5000"):
        ui_command(tmp_path)
