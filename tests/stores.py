"""What an MLflow store holds of one record, read from its SQLite file: in a form in which two stores are equal or not."""

import hashlib
import shutil
import sqlite3
from collections import defaultdict
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from harness.journal import read
from harness.tracking import Projection

# Its links name the experiment by its number in the store.
DESCRIPTION = "mlflow.note.content"


def uri(root: Path) -> str:
    """The store beside the studies of a folder."""
    return f"sqlite:///{root}/mlflow.db"


def contents(root: Path, record: Path, served: Path | None = None) -> dict[str, Any]:
    """All that the store in `root` holds of a record, by run key; run ids are replaced by keys.

    Args:
        served: the folder in which a server keeps artifacts, for a store that is one's.

    A key that is there twice, and a step that a metric has twice, are errors.
    """
    identity = str(next(read(record))["time"])
    with closing(sqlite3.connect(root / "mlflow.db")) as store:
        runs, tags = _runs(store), _pairs(store, "tags")
        mine = {id: run for id, run in runs.items() if tags[id].get("harness.record") == identity}
        keys = {id: tags[id]["harness.key"] for id in mine}
        assert len(set(keys.values())) == len(keys), "a run is there twice"
        params, metrics, latest, data = _pairs(store, "params"), _metrics(store), _metrics(store, "latest_metrics"), _data(store)
    found = {}
    for id, (name, status, start, end, artifacts) in mine.items():
        steps = [(key, step) for key, step, *_ in metrics[id]]
        assert len(set(steps)) == len(steps), "a step is there twice"
        own = {tag: keys.get(value, value) for tag, value in tags[id].items() if tag != DESCRIPTION}
        own |= {DESCRIPTION: tags[id].get(DESCRIPTION, "").partition("\n")[2]}
        files = _files(_folder(artifacts, served))
        found[keys[id]] = {"info": (name, status, start, end), "tags": own, "params": params[id], "data": data[id], "files": files}
        found[keys[id]] |= {"metrics": metrics[id], "latest": latest[id]}
    return found


def at_once(folder: Path, root: Path, empty: Path) -> dict[str, Any]:
    """What a store holds after a copy of a study's folder was projected in one go: what any other way must come to."""
    root.mkdir()
    shutil.copytree(folder, root / folder.name)
    shutil.copy(empty, root / "mlflow.db")
    level(root, folder.name)
    return contents(root, root / folder.name / "journal.jsonl")


def level(root: Path, study: str, to: str | None = None) -> None:
    """What `harness sync` does."""
    projection = Projection(root / study / "journal.jsonl", root, to or uri(root))
    projection.sync()
    projection.finish(root / study / "report")


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Where two stores differ, for the message of a test that fails; empty where they are equal."""
    differ = [f"run {key} only in one" for key in set(one) ^ set(other)]
    for key in set(one) & set(other):
        differ += [f"{key} {part}: {one[key][part]} != {other[key][part]}" for part in one[key] if one[key][part] != other[key][part]]
    return differ


def _runs(store: sqlite3.Connection) -> dict[str, tuple[Any, ...]]:
    wanted = "select run_uuid, name, status, start_time, end_time, artifact_uri from runs where lifecycle_stage = 'active'"
    return {id: tuple(rest) for id, *rest in store.execute(wanted)}


def _pairs(store: sqlite3.Connection, table: str) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for id, key, value in store.execute(f"select run_uuid, key, value from {table}"):
        found[id][key] = value
    return found


def _metrics(store: sqlite3.Connection, table: str = "metrics") -> dict[str, list[tuple[Any, ...]]]:
    found: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for id, *point in store.execute(f"select run_uuid, key, step, value, timestamp, is_nan from {table} order by key, step"):
        found[id].append(tuple(point))
    return found


def _data(store: sqlite3.Connection) -> dict[str, list[tuple[Any, ...]]]:
    found: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    joined = "select i.destination_id, d.name, d.digest from inputs i join datasets d on d.dataset_uuid = i.source_id"
    for id, *data in store.execute(joined):
        found[id].append(tuple(data))
    return found


def _folder(artifacts: str, served: Path | None) -> Path:
    if served is not None:
        return served / artifacts.removeprefix("mlflow-artifacts:/")
    return Path(artifacts.removeprefix("file://"))


def _files(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
