"""The projection of a study's record to MLflow.

The record's new lines go in; what they change of the store comes out. A sync that fails forgets everything that it knew and begins again
from the record and the store, as a restart does: what each run should hold is compared with what it holds, so that nothing is there twice.
"""

import json
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from harness import journal, mlflow_views, tracking_store
from harness.errors import StudyError
from harness.text import without_secrets
from harness.tracked import STUDY, Tracking
from harness.tracked_run import RUNNING, Tracked
from harness.tracking_store import Stored, store_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

UI_HOST, UI_PORT = "127.0.0.1", 5000
UI_ADDRESS = f"http://{UI_HOST}:{UI_PORT}"
# Lines of the record between two marks of the position.
LINES_A_BATCH = 2000
# MLflow takes 1,000 metrics and 100 params or tags in a call, and 1,000 of all together.
METRICS_A_CALL = 900
MAX_WEIGHTS_BYTES = 64 * 2**20
POSITION = "harness.projected"
POINTS = "points.parquet"


class Projection:
    """Brings MLflow up to the record. `root`: the folder that holds the studies' folders, the store and the artifacts."""

    def __init__(self, journal: Path, root: Path, uri: str | None = None) -> None:
        self.journal, self.root = journal, root.absolute()
        self.uri = uri or store_uri(root)
        self.study = journal.parent.name
        self._lock = threading.Lock()
        self._abandoned = threading.Event()
        self._forget()

    def sync(self) -> int:
        """Write what the record has gained; the number of events.

        Raises:
            StoreError: the store doesn't take it; DamageError: the record can't be read.
        """
        with self._lock, self._or_forget():
            return self._sync()

    def finish(self, report: Path | None) -> None:
        """Nobody runs the study any more: sync, end what is open, and hang the report and the flat results on the parent run."""
        with self._lock, self._or_forget():
            self._sync()
            if self._client is None:
                return
            self._fold.cut_off()
            self._write()
            parent, results = self._stored[STUDY][0].run_id, self.journal.parent / "results.csv"
            if results.exists():
                self._client.log_artifact(parent, str(results))
            if report is not None and report.is_dir():
                tracking_store.replace_folder(self._client, parent, self.uri, report, "report")

    def rebuild(self) -> int:
        """Delete what the store has of this study, and write all of it again; the number of events."""
        with self._lock, self._or_forget():
            self._forget()
            if self._open():
                assert self._client is not None
                # The parent first: it knows how far the store is, and what is cut off here must not count as written.
                for id in sorted(self._stored, key=lambda id: id != STUDY):
                    for run in self._stored[id]:
                        self._client.delete_run(run.run_id)
            self._forget()
            return self._sync()

    def abandon(self) -> None:
        """Have a sync that goes on in another thread end before its next call; nothing is written afterwards."""
        self._abandoned.set()

    def page(self, view: str = mlflow_views.LADDER) -> str:
        """What to append to the UI's address to see a view of this study; empty before the first sync."""
        return mlflow_views.page(self._experiment, view) if self._experiment else ""

    def _forget(self) -> None:
        self._client: MlflowClient | None = None
        self._experiment = ""
        self._fold = Tracking(self.study)
        self._stored: dict[str, list[Stored]] = {}
        self._offset = self._line = 0

    @contextmanager
    def _or_forget(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._forget()
            raise

    def _sync(self) -> int:
        count = 0
        if self._client is None and not self._open():
            return 0
        events = journal.read_from(self.journal, self._offset, self._line)
        while batch := list(islice(events, LINES_A_BATCH)):
            for event, offset in batch:
                self._fold.add(event)
                self._offset = offset
            self._line += len(batch)
            count += len(batch)
            self._write()
        return count

    def _open(self) -> bool:
        """Connect, find what is there, and fold the lines that the store already has; False where there is no record yet."""
        first = next(journal.read(self.journal), None)
        if first is None:
            return False
        self._identity = str(first["time"])
        client, self._experiment = tracking_store.connect(self.uri, self.study, self.root, self._abandoned)
        self._fold.links = mlflow_views.links(self._experiment)
        self._stored = tracking_store.find(client, self._experiment, self._identity)
        position = int(self._stored[STUDY][0].tags.get(POSITION, 0)) if STUDY in self._stored else 0
        is_clear = all(len(runs) == 1 for runs in self._stored.values())
        # Where a run is there twice, or a record that lost lines in a power cut is behind the store, everything is compared.
        if is_clear and position <= sum(1 for _ in journal.read(self.journal)):
            for event, offset in islice(journal.read_from(self.journal, 0, 0), position):
                self._fold.add(event)
                self._offset, self._line = offset, event["n"] + 1
            self._fold.clear()
        self._client = client
        return True

    def _write(self) -> None:
        """Bring every run that was touched up to date, then say how far the store is."""
        for run in self._fold.in_order():
            self._reconcile(run)
        assert self._client is not None
        self._client.set_tag(self._stored[STUDY][0].run_id, POSITION, str(self._line))
        self._fold.clear()

    def _reconcile(self, run: Tracked) -> None:
        assert self._client is not None
        if run.parent is not None and run.parent not in self._stored:
            self._reconcile(self._fold.runs[run.parent])
        tables = {name: table.to_json() for name, table in run.tables.items()}
        stored = self._ensure(run)
        tags = self._tags(run, tables)
        self._log(run, stored, tags)
        self._log_files(run, stored, tables)
        if stored.status != run.status:
            if run.status == RUNNING:
                self._client.update_run(stored.run_id, status=RUNNING)
            else:
                self._client.set_terminated(stored.run_id, run.status, end_time=_milliseconds(run.end_time or run.last_time))
            stored.status = run.status

    def _ensure(self, run: Tracked) -> Stored:
        """The run's place in the store. A try that the record has given up is taken out, so that a key is one run."""
        assert self._client is not None
        found = self._stored.get(run.id, [])
        kept = next((stored for stored in found if stored.began == str(run.began)), None)
        for stored in found:
            if stored is not kept:
                self._client.set_terminated(stored.run_id, "KILLED")
                self._client.set_tag(stored.run_id, "harness.superseded", "true")
                self._client.delete_run(stored.run_id)
        if kept is None:
            tags = self._tags(run, {})
            created = self._client.create_run(self._experiment, _milliseconds(run.start_time), tags, run.name)
            kept = Stored(created.info.run_id, str(run.began), RUNNING, tags=tags, written=set())
        self._stored[run.id] = [kept]
        if not kept.has_data and self._fold.data:
            self._client.log_inputs(kept.run_id, [tracking_store.data_set(self._fold.data)])
            kept.has_data = True
        return kept

    def _tags(self, run: Tracked, tables: Mapping[str, str]) -> dict[str, str]:
        tags = run.tags | {"harness.record": self._identity, "mlflow.source.type": "LOCAL"}
        if run.parent is not None:
            tags["mlflow.parentRunId"] = self._stored[run.parent][0].run_id
        if "git.commit" in tags:
            tags["mlflow.source.git.commit"] = tags["git.commit"]
        if "repeat" in tags:
            tags["mlflow.source.name"] = tags["repeat"].split("--")[0].strip()
        if tables:
            tags["mlflow.loggedArtifacts"] = json.dumps([{"path": name, "type": "table"} for name in tables])
        return tags

    def _log(self, run: Tracked, stored: Stored, tags: Mapping[str, str]) -> None:
        """Params, metrics and tags that the store lacks, in as few calls as MLflow allows; tags go with the last."""
        assert self._client is not None
        from mlflow.entities import Metric, Param, RunTag

        if stored.written is None:
            histories = (self._client.get_metric_history(stored.run_id, key) for key in stored.metric_keys)
            stored.written = {(point.key, point.step) for history in histories for point in history}
        missing = [(at, *run.metrics[at]) for at in run.metrics if at not in stored.written]
        metrics = [Metric(key, value, _milliseconds(time), step) for (key, step), value, time in missing]
        params = [Param(name, value) for name, value in run.params.items() if name not in stored.params]
        changed = {name: value for name, value in tags.items() if stored.tags.get(name) != value}
        for first in range(0, len(metrics) - METRICS_A_CALL, METRICS_A_CALL):
            self._client.log_batch(stored.run_id, metrics[first : first + METRICS_A_CALL])
        rest = metrics[len(metrics) - (len(metrics) % METRICS_A_CALL or METRICS_A_CALL) :] if metrics else []
        if rest or params or changed:
            self._client.log_batch(stored.run_id, rest, params, [RunTag(name, value) for name, value in changed.items()])
        stored.written |= {at for at, _, _ in missing}
        stored.params |= run.params
        stored.tags |= changed

    def _log_files(self, run: Tracked, stored: Stored, tables: Mapping[str, str]) -> None:
        """Tables that have changed; of a training that has ended, every point and its best weights."""
        assert self._client is not None
        for name, text in tables.items():
            if stored.files.get(name) != hash(text):
                self._client.log_text(stored.run_id, text, name)
                stored.files[name] = hash(text)
        # An interrupted run that goes on ends with more points, or with other best weights.
        ended = hash((run.tags.get("status"), len(run.points.get("step", ()))))
        if run.status == RUNNING or stored.files.get(POINTS) == ended:
            return
        if run.points:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / POINTS
                pd.DataFrame(run.points).to_parquet(path, index=False)
                self._client.log_artifact(stored.run_id, str(path))
        weights = self.journal.parent / "checkpoints" / run.id / "best.safetensors"
        if run.is_training and run.spec["stage"] != "search" and weights.exists() and weights.stat().st_size < MAX_WEIGHTS_BYTES:
            self._client.log_artifact(stored.run_id, str(weights))
        stored.files[POINTS] = ended


def ui_command(root: Path, port: int = UI_PORT) -> list[str]:
    """The command that shows what is in the store, on this machine alone; sets the environment that it is to inherit.

    Raises:
        StudyError: the store is a server, which has pages of its own.
    """
    uri = store_uri(root)
    if uri.startswith("http"):
        raise StudyError(f"MLFLOW_TRACKING_URI is a server already: open {without_secrets(uri)} in a browser.")
    tracking_store.set_environment()
    root.mkdir(parents=True, exist_ok=True)
    artifacts = (root.absolute() / "artifacts").as_uri()
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--default-artifact-root", artifacts]
    return [*command, "--host", UI_HOST, "--port", str(port), "--workers", "1"]


def pages(root: Path) -> dict[str, str]:
    """By study in the local store, what to append to the UI's address to compare its rungs; none where there is no store yet."""
    uri = store_uri(root)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        return {}
    return {study: mlflow_views.page(id, mlflow_views.LADDER) for study, id in sorted(tracking_store.experiments(uri).items())}


def _milliseconds(time: float) -> int:
    return round(time * 1000)
