"""The projection of a study's record to MLflow; the only module that imports mlflow, and late, since that takes seconds.

The record's new lines go in; what they change of the store comes out. A sync that fails forgets everything that it knew and begins again
from the record and the store, as a restart does: what each run should hold is compared with what it holds, so that nothing is there twice.
"""

import json
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pandas as pd

from harness import journal, mlflow_views
from harness.errors import StudyError
from harness.failpoints import failpoint
from harness.tracked import RUNNING, STUDY, Tracked, Tracking

if TYPE_CHECKING:
    from mlflow import MlflowClient

UI_HOST, UI_PORT = "127.0.0.1", 5000
UI_ADDRESS = f"http://{UI_HOST}:{UI_PORT}"
# Lines of the record between two marks of the position.
LINES_A_BATCH = 2000
# MLflow takes 1,000 metrics and 100 params or tags in a call, and 1,000 of all together.
METRICS_A_CALL = 900
MAX_WEIGHTS_BYTES = 64 * 2**20
# Read by mlflow and by servers started from here. A server that is away must not hold a sync up for the minutes that are usual.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ENABLE_AI_GATEWAY": "false",
}
POSITION = "harness.projected"


@dataclass
class _Stored:
    """What the store holds of a run; `written`: (key, step) of its metrics, None where it has to be asked."""

    run_id: str
    began: str
    status: str
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metric_keys: tuple[str, ...] = ()
    written: set[tuple[str, int]] | None = None
    has_data: bool = False
    files: dict[str, int] = field(default_factory=dict)


class Projection:
    """Brings MLflow up to the record. `root`: the folder that holds the studies' folders, the store and the artifacts."""

    def __init__(self, journal: Path, root: Path, uri: str | None = None) -> None:
        self.journal, self.root = journal, root.absolute()
        self.uri = uri or store_uri(root)
        self.study = journal.parent.name
        self._lock = threading.Lock()
        self._forget()

    def sync(self) -> int:
        """Write what the record has gained; the number of events. Raises whatever keeps the store from taking it."""
        with self._lock, self._or_forget():
            return self._sync()

    def finish(self, report: Path | None) -> None:
        """The end of an invocation, after its last event: sync, and hang the report and the flat results on the parent run."""
        with self._lock, self._or_forget():
            self._sync()
            if self._client is None:
                return
            parent, results = self._stored[STUDY][0].run_id, self.journal.parent / "results.csv"
            if results.exists():
                self._client.log_artifact(parent, str(results))
            if report is not None and report.is_dir():
                self._client.log_artifacts(parent, str(report), "report")

    def rebuild(self) -> int:
        """Delete what the store has of this study, and write all of it again; the number of events."""
        with self._lock, self._or_forget():
            self._forget()
            if self._open():
                assert self._client is not None
                for run in [run for runs in self._stored.values() for run in runs]:
                    self._client.delete_run(run.run_id)
            self._forget()
            return self._sync()

    def page(self, view: str = mlflow_views.LADDER) -> str:
        """What to append to the UI's address to see a view of this study; empty before the first sync."""
        return mlflow_views.page(self._experiment, view) if self._experiment else ""

    def _forget(self) -> None:
        self._client: MlflowClient | None = None
        self._experiment = ""
        self._fold = Tracking(self.study)
        self._stored: dict[str, list[_Stored]] = {}
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
        client, self._experiment = _connect(self.uri, self.study, self.root)
        self._fold.links = mlflow_views.links(self._experiment)
        self._stored = _find(client, self._experiment, self._identity)
        position = int(self._stored[STUDY][0].tags.get(POSITION, 0)) if STUDY in self._stored else 0
        # A record that lost lines in a power cut is behind the store; then everything is compared.
        if position <= sum(1 for _ in journal.read(self.journal)):
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

    def _ensure(self, run: Tracked) -> _Stored:
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
            kept = _Stored(created.info.run_id, str(run.began), RUNNING, tags=tags, written=set())
        self._stored[run.id] = [kept]
        if not kept.has_data and self._fold.data:
            self._client.log_inputs(kept.run_id, [_data_set(self._fold.data)])
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

    def _log(self, run: Tracked, stored: _Stored, tags: Mapping[str, str]) -> None:
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

    def _log_files(self, run: Tracked, stored: _Stored, tables: Mapping[str, str]) -> None:
        """Tables that have changed; of a training that has ended, every point and its best weights."""
        assert self._client is not None
        for name, text in tables.items():
            if stored.files.get(name) != hash(text):
                self._client.log_text(stored.run_id, text, name)
                stored.files[name] = hash(text)
        if run.status == RUNNING or "points.parquet" in stored.files:
            return
        if run.points:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "points.parquet"
                pd.DataFrame(run.points).to_parquet(path, index=False)
                self._client.log_artifact(stored.run_id, str(path))
            stored.files["points.parquet"] = 0
        weights = self.journal.parent / "checkpoints" / run.id / "best.safetensors"
        if run.is_training and run.spec["stage"] != "search" and weights.exists() and weights.stat().st_size < MAX_WEIGHTS_BYTES:
            self._client.log_artifact(stored.run_id, str(weights))


class _Guarded:
    """A client whose every call lies between two failpoints."""

    def __init__(self, client: "MlflowClient") -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*words: Any, **named: Any) -> Any:
            failpoint("mlflow.call")
            answer = method(*words, **named)
            failpoint("mlflow.called")
            return answer

        return call


def store_uri(root: Path) -> str:
    """Where the store is: MLFLOW_TRACKING_URI, else a file beside the studies."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.absolute()}/mlflow.db"


def ui_command(root: Path, port: int = UI_PORT) -> list[str]:
    """The command that shows what is in the store, on this machine alone; sets the environment that it is to inherit.

    Raises:
        StudyError: the store is a server, which has pages of its own.
    """
    uri = store_uri(root)
    if uri.startswith("http"):
        raise StudyError(f"MLFLOW_TRACKING_URI is a server already: open {uri} in a browser.")
    _set_environment()
    root.mkdir(parents=True, exist_ok=True)
    artifacts = (root.absolute() / "artifacts").as_uri()
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--default-artifact-root", artifacts]
    return [*command, "--host", UI_HOST, "--port", str(port), "--workers", "1"]


def _set_environment() -> None:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def _connect(uri: str, study: str, root: Path) -> tuple["MlflowClient", str]:
    """A client and the id of the study's experiment, which is made if there is none."""
    _set_environment()
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    client = cast("MlflowClient", _Guarded(MlflowClient(tracking_uri=uri, registry_uri=uri)))
    # The kind opens the pages of a training rather than those of a chat application.
    tags = {"mlflow.experimentKind": "custom_model_development"} | mlflow_views.tags()
    experiment = client.get_experiment_by_name(study)
    if experiment is None:
        # A server keeps artifacts where it was told to; any other store gets them beside the studies.
        location = None if uri.startswith("http") else (root / "artifacts" / study).as_uri()
        return client, client.create_experiment(study, location, tags)
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    for name, value in tags.items():
        if experiment.tags.get(name) != value:
            client.set_experiment_tag(experiment.experiment_id, name, value)
    return client, experiment.experiment_id


def _find(client: "MlflowClient", experiment: str, identity: str) -> dict[str, list[_Stored]]:
    """What an earlier projection of this record has left in the store, by run id."""
    found: dict[str, list[_Stored]] = {}
    token = None
    while True:
        page = client.search_runs([experiment], f"tags.`harness.record` = '{identity}'", max_results=1000, page_token=token)
        for run in page:
            data, inputs = run.data, run.inputs.dataset_inputs if run.inputs else []
            stored = _Stored(run.info.run_id, data.tags["harness.began"], run.info.status, data.params, data.tags, tuple(data.metrics))
            stored.has_data = bool(inputs)
            found.setdefault(data.tags["harness.key"], []).append(stored)
        token = page.token
        if not token:
            return found


def _data_set(data: Mapping[str, Any]) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = {name: data.get(name) for name in ("source", "revision", "licence")}
    profile = {name: data.get(name) for name in ("n_train", "n_validation", "n_test", "vocab_size", "mean_tokens")}
    schema = {"mlflow_colspec": [{"type": "string", "name": "text", "required": True}]}
    facts = [json.dumps(value) for value in (source, schema, profile)]
    data_set = Dataset(str(data["source"]), str(data["fingerprint"])[:8], "code", *facts)
    return DatasetInput(data_set, [InputTag("mlflow.data.context", "training")])


def _milliseconds(time: float) -> int:
    return round(time * 1000)
