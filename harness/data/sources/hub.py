"""Texts of a Hugging Face data set, by name, configuration, splits and columns, pinned by revision; never remote code.

A local folder of csv, jsonl or parquet files takes the same way. `datasets` is an optional extra: imported here only, and late.
"""

import contextlib
import importlib
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import plugins
from harness.data import Texts
from harness.data.sources.file import as_text, interleave, pick_columns
from harness.errors import StudyError
from harness.spec import Data, Split

PROBE_TIMEOUT_S = 5.0
COMMIT = re.compile("[0-9a-f]{40}")


def load(options: Data) -> Texts:
    """The splits that the study names; `validation` and `test` stay None unless they are given as {split: name}."""
    if not options.path:
        raise StudyError("data.path: source hub needs the name of a data set, such as IlyaGusev/headline_cause.")
    splits = _fetch(options)
    train = _texts(splits, options.split or "train", options)
    parts = (options.validation, options.test)
    validation, test = (_texts(splits, part.split, options) if isinstance(part, Split) else None for part in parts)
    name = f"hub {options.path}" + (f" {options.name}" if options.name else "")
    licence = next(iter(splits.values())).info.license or "not stated"
    return Texts(train, validation, test, name, licence, _revision(splits, options))


def _fetch(options: Data) -> Any:
    """All splits of the data set, from the cache where it is whole; each way to fail has its own sentence."""
    datasets = _datasets()
    where = f"data.source hub: {options.path}"
    if options.path in datasets.packaged_modules._PACKAGED_DATASETS_MODULES:
        raise StudyError(f"{where} is a file format, not a data set. Name a data set or a folder, or use data.source=file.")
    local = Path(str(options.path)).is_dir()
    try:
        with contextlib.nullcontext() if local or _online() else _offline():
            return _load(datasets, options)
    except ConnectionError as error:
        raise StudyError(
            f"{where} is not cached and the network is down. Fetch it once online, or use --set data.source=file --set data.path=FILE, "
            "or the embedded corpus: data.source=wire."
        ) from error
    except datasets.exceptions.DatasetNotFoundError as error:
        raise StudyError(f"{where}: there is no such public data set or revision on the Hub. Check data.path and data.revision.") from error
    except (FileNotFoundError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
        raise StudyError(f"{where} can't be loaded: {error}. Check data.name and data.revision.") from error
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error):
            raise
        raise StudyError(
            f"{where} is a script, and remote code is never run. Use the Hub's conversion: --set data.revision=refs/convert/parquet."
        ) from error


def _load(datasets: Any, options: Data) -> Any:
    """The configuration `name`, wherever it is: the Hub's own Parquet conversions keep each one in a folder, under the name default."""
    try:
        return datasets.load_dataset(str(options.path), options.name, revision=options.revision)
    except ValueError as error:
        if options.name is None or "BuilderConfig" not in str(error):
            raise
    return datasets.load_dataset(str(options.path), data_dir=options.name, revision=options.revision)


def _texts(splits: Any, name: str, options: Data) -> list[str]:
    if name not in splits:
        present = list(splits)
        raise StudyError(f"data: {options.path} has no split {name!r}.{plugins.nearest(name, present)} There are: {', '.join(present)}.")
    table = splits[name]
    wanted = list(options.text_columns)
    columns = pick_columns(wanted, table.column_names, f"{options.path} ({name})")
    return interleave([[as_text(value) for value in table[column]] for column in columns])


def _datasets() -> Any:
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise StudyError("data.source hub needs the datasets package, which is optional: pip install -e .[hub]") from error
    # The bars would tear the live table.
    datasets.disable_progress_bars()
    return datasets


def _online() -> bool:
    """Whether the Hub answers at all: its client takes 23 s of retries to find out."""
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    request = urllib.request.Request(os.environ.get("HF_ENDPOINT", "https://huggingface.co"), method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=PROBE_TIMEOUT_S).close()
    except urllib.error.HTTPError as error:
        # A proxy answers 502 to 504 for a network that is down.
        return error.code < 500
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """The libraries' own offline mode, in which they look only into their cache."""
    flags: list[Any] = [importlib.import_module(name) for name in ("datasets.config", "huggingface_hub.constants")]
    before = [flag.HF_HUB_OFFLINE for flag in flags]
    try:
        for flag in flags:
            flag.HF_HUB_OFFLINE = True
        yield
    finally:
        for flag, value in zip(flags, before, strict=True):
            flag.HF_HUB_OFFLINE = value


def _revision(splits: Any, options: Data) -> str:
    """The commit of the texts, by their folder in the cache, which without network may hold another than asked for."""
    files = next(iter(splits.values())).cache_files
    folder = Path(files[0]["filename"]).parent.name if files else ""
    if not COMMIT.fullmatch(folder):
        return options.revision or "not pinned"
    if options.revision and COMMIT.fullmatch(options.revision) and options.revision != folder:
        raise StudyError(
            f"data.source hub: the network is down and the cache holds {options.path} at revision {folder}, not at the {options.revision} "
            f"that the study asks for. Fetch it once online, or use --set data.revision={folder}."
        )
    return folder
