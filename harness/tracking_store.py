"""A study's place in an MLflow store: connect, find what is there, and turn whatever goes wrong into one sentence without secrets.

With `tracking.py` the only module that imports mlflow, and late, since that takes seconds and a cluster's nodes may not have it.
"""

import fcntl
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from harness import mlflow_views
from harness.errors import PreflightError
from harness.failpoints import failpoint
from harness.text import without_secrets

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Read by mlflow and by servers started from here. A server that is away must not hold a sync up for the minutes that are usual.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ENABLE_AI_GATEWAY": "false",
}
ALWAYS = {
    # A request whose answer was lost may have been carried out, and repeated blindly it makes a second run. The next sync looks first.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    # Two lines on stdout for every run that ends, with the password of the address.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
MAX_REASON = 300
# The HTTP libraries take an answer that was cut off in its head for a good and empty one. None of these is empty when it was carried out
# (histories are only asked of metrics that are there).
IS_EMPTY: dict[str, Callable[[Any], bool]] = {
    "create_run": lambda run: not run.info.run_id,
    "create_experiment": lambda id: not id,
    "get_experiment_by_name": lambda experiment: experiment is not None and not experiment.experiment_id,
    "get_metric_history": lambda points: not points,
    "get_run": lambda run: not run.info.run_id,
}


class StoreError(PreflightError):
    """MLflow can't be read or written; the record is whole without it."""


class Abandoned(BaseException):
    """Nobody waits for this projection any more; not an `Exception`, so that no library on the way takes it for a failed request."""


@dataclass
class Stored:
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


class _Guarded:
    """A client whose every call lies between two failpoints, and whose failures are `StoreError`s."""

    def __init__(self, client: "MlflowClient", uri: str, abandoned: threading.Event) -> None:
        self._client, self._uri, self._abandoned = client, uri, abandoned

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*words: Any, **named: Any) -> Any:
            if self._abandoned.is_set():
                raise Abandoned
            failpoint("mlflow.call")
            with telling(self._uri):
                answer = method(*words, **named)
                if name in IS_EMPTY and IS_EMPTY[name](answer):
                    raise ConnectionError(f"the answer to {name} was cut off")
            failpoint("mlflow.called")
            return answer

        return call


@contextmanager
def telling(uri: str) -> Iterator[None]:
    """Say what MLflow failed at in a sentence, whichever of its libraries has raised it."""
    try:
        yield
    except Exception as error:
        reason = without_secrets(_reason(error))
        # Not `from error`: its text, which a traceback prints, may hold the password.
        what = f"MLflow ({without_secrets(uri)}) can't be written: {reason}"
        raise StoreError(f"{what}. The record holds everything; bring MLflow level later: python -m harness sync STUDY") from None


def _reason(error: BaseException) -> str:
    """The first line of the innermost error: what failed, without what MLflow and requests wrap around it."""
    reason = type(error).__name__
    one: BaseException | None = error
    while one is not None:
        if str(one).strip():
            reason = str(one).strip().splitlines()[0][:MAX_REASON]
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    return reason.rstrip(".")


def store_uri(root: Path) -> str:
    """Where the store is: MLFLOW_TRACKING_URI, else a file beside the studies."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.absolute()}/mlflow.db"


def set_environment() -> None:
    """What mlflow, and servers that are started from here, are to read."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ.update(ALWAYS)


def connect(uri: str, study: str, root: Path, abandoned: threading.Event) -> tuple["MlflowClient", str]:
    """A client and the id of the study's experiment, which is made if there is none.

    Raises:
        StoreError: MLflow isn't installed here, or the store can't be reached.
    """
    set_environment()
    with _opened_by_one(uri):
        client = _client(uri, abandoned)
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


def experiments(uri: str) -> dict[str, str]:
    """The ids of the studies in a store, by name; the one that MLflow makes by itself is none.

    Raises:
        StoreError: MLflow isn't installed here, or the store can't be read.
    """
    set_environment()
    with _opened_by_one(uri):
        found = _client(uri, threading.Event()).search_experiments()
    return {experiment.name: experiment.experiment_id for experiment in found if experiment.name != "Default"}


def _client(uri: str, abandoned: threading.Event) -> "MlflowClient":
    with telling(uri):
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        # Its warnings repeat what is told here, and may hold more of the address.
        logging.getLogger("urllib3").setLevel(logging.ERROR)
        return cast("MlflowClient", _Guarded(MlflowClient(tracking_uri=uri, registry_uri=uri), uri, abandoned))


@contextmanager
def _opened_by_one(uri: str) -> Iterator[None]:
    """Let one process at a time open a store that is a file: the first makes its tables, which two at once can't.

    The lock is on the file's folder, so that no other file is needed for it.
    """
    if not uri.startswith("sqlite:///"):
        yield
        return
    folder = Path(uri.removeprefix("sqlite:///")).parent
    with telling(uri):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


def find(client: "MlflowClient", experiment: str, identity: str) -> dict[str, list[Stored]]:
    """What an earlier projection of this record has left in the store, by run id."""
    # Nothing may be an answer that was cut off, and would make everything a second time.
    return _find(client, experiment, identity) or _find(client, experiment, identity)


def _find(client: "MlflowClient", experiment: str, identity: str) -> dict[str, list[Stored]]:
    found: dict[str, list[Stored]] = {}
    token = None
    while True:
        page = client.search_runs([experiment], f"tags.`harness.record` = '{identity}'", max_results=1000, page_token=token)
        for run in page:
            data, inputs = run.data, run.inputs.dataset_inputs if run.inputs else []
            stored = Stored(run.info.run_id, data.tags["harness.began"], run.info.status, data.params, data.tags, tuple(data.metrics))
            stored.has_data = bool(inputs)
            found.setdefault(data.tags["harness.key"], []).append(stored)
        token = page.token
        if not token:
            return found


def data_set(data: Mapping[str, Any]) -> Any:
    """The study's data as MLflow's pages show it."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = {name: data.get(name) for name in ("source", "revision", "licence")}
    profile = {name: data.get(name) for name in ("n_train", "n_validation", "n_test", "vocab_size", "mean_tokens")}
    schema = {"mlflow_colspec": [{"type": "string", "name": "text", "required": True}]}
    facts = [json.dumps(value) for value in (source, schema, profile)]
    dataset = Dataset(str(data["source"]), str(data["fingerprint"])[:8], "code", *facts)
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def replace_folder(client: "MlflowClient", run_id: str, uri: str, folder: Path, name: str) -> None:
    """Upload a folder in the place of what stands under its name; what it no longer holds is taken out last."""
    client.log_artifacts(run_id, str(folder), name)
    wanted = {f"{name}/{path.relative_to(folder).as_posix()}" for path in folder.rglob("*") if path.is_file()}
    stale = [path for path in _files(lambda at: client.list_artifacts(run_id, at), name) if path not in wanted]
    if not stale:
        return
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    address = client.get_run(run_id).info.artifact_uri
    with telling(uri):
        artifacts: Any = get_artifact_repository(address, tracking_uri=uri)
        for path in stale:
            artifacts.delete_artifacts(path)


def _files(listed: Callable[[str], list[Any]], folder: str) -> Iterator[str]:
    for entry in listed(folder):
        if entry.is_dir:
            yield from _files(listed, entry.path)
        else:
            yield entry.path
