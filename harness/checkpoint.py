"""Weights and checkpoints on disk: safetensors and JSON, written aside, made durable and renamed, so that what has the right name is whole.

A run's checkpoints are folders `step-000000120` with `tensors.safetensors`, `facts.json` and `manifest.json`, which holds size and SHA-256
of the other two. The last two are kept; on resume the newest whose manifest is, byte by byte, that of its content counts.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, load_file, save
from torch import Tensor

from harness import durable
from harness.errors import DamageError, StorageError
from harness.failpoints import failpoint

FORMAT = 2
KEPT = 2
TENSORS, FACTS, MANIFEST = "tensors.safetensors", "facts.json", "manifest.json"
NAME = re.compile(r"step-(\d{9,15})")
UNITS = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"), (1, "bytes"))
# A whole manifest has a few hundred bytes.
MANIFEST_BYTES = 4096


@dataclass(frozen=True)
class Checkpoint:
    """What a run is made of after `step`: named tensors, and plain data that JSON holds exactly."""

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]


@dataclass(frozen=True)
class Damaged:
    """A checkpoint that is passed over: of which step it was, and what is wrong with it."""

    step: int
    what: str

    def sentence(self, run: str, back_to: int) -> str:
        """What a user is told when the run goes on from step `back_to` instead, 0 being its start."""
        where = f"going on from {back_to}" if back_to else "training the run from its start"
        again = "1 step is" if self.step - back_to == 1 else f"{self.step - back_to:,} steps are"
        return f"checkpoint {run}/{self.step} is damaged ({self.what}): {where}; {again} done again."


def save_weights(weights: dict[str, Tensor], path: Path) -> None:
    """Write named tensors durably, replacing what was there in one step."""
    durable.make_folder(path.parent)
    durable.replace(path, save({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}), "weights")


def load_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file.

    Raises:
        DamageError: the file is missing or not what was written.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        way_out = "Restore the file from a copy, or move the study's folder aside to train anew."
        raise DamageError(f"weights {path} can't be read ({error}). {way_out}") from error


def save_checkpoint(folder: Path, saved: Checkpoint) -> None:
    """Write a checkpoint into a run's folder and let go of all but the last two."""
    aside, final = folder / f"step-{saved.step:09d}.part", folder / f"step-{saved.step:09d}"
    contents = {TENSORS: save(saved.tensors), FACTS: json.dumps(saved.facts).encode()}
    try:
        durable.make_folder(folder)
        with durable.explained(final):
            _discard(aside)
            aside.mkdir()
        for name, content in [*contents.items(), (MANIFEST, _manifest(saved.step, contents))]:
            durable.write(aside / name, content, "checkpoint")
        durable.sync_folder(aside)
        with durable.explained(final):
            failpoint("checkpoint.rename")
            _discard(final)
            aside.replace(final)
            failpoint("checkpoint.renamed")
    except StorageError:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    durable.sync_folder(folder)
    failpoint("checkpoint.prune")
    # Later steps are those of a damaged one, or of what the record never had: the run has gone back behind them.
    steps = sorted(_checkpoints(folder))
    for step in {*steps} - {*[step for step in steps if step <= saved.step][-KEPT:]}:
        _discard(folder / f"step-{step:09d}")


def find_checkpoint(folder: Path, usable: Callable[[Checkpoint], bool] = lambda saved: True) -> tuple[Checkpoint | None, list[Damaged]]:
    """The newest checkpoint that is whole and `usable`, and what is wrong with each later one that is damaged, newest first."""
    damaged = []
    for found in each_checkpoint(folder):
        if isinstance(found, Damaged):
            damaged.append(found)
        elif usable(found):
            return found, damaged
    return None, damaged


def each_checkpoint(folder: Path) -> Iterator[Checkpoint | Damaged]:
    """All of a run's checkpoints, newest first, those that are damaged too."""
    for step, path in sorted(_checkpoints(folder).items(), reverse=True):
        try:
            yield _read(step, path)
        except DamageError as error:
            yield Damaged(step, str(error))


def load_checkpoint(folder: Path, usable: Callable[[Checkpoint], bool] = lambda saved: True) -> tuple[Checkpoint | None, list[str]]:
    """As `find_checkpoint`, with a sentence for each that is damaged."""
    saved, damaged = find_checkpoint(folder, usable)
    return saved, [one.sentence(folder.name, saved.step if saved else 0) for one in damaged]


def remove_checkpoints(folder: Path) -> None:
    """A run has ended: only its best weights stay."""
    for path in [*folder.glob("step-*"), *folder.glob("*.part")]:
        _discard(path)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _checkpoints(folder: Path) -> dict[int, Path]:
    """What has a finished checkpoint's name, by step."""
    named = ((NAME.fullmatch(path.name), path) for path in folder.glob("step-*"))
    return {int(name[1]): path for name, path in named if name}


def _discard(path: Path) -> None:
    """Remove a folder, or what is in its place, as far as that can be done."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _read(step: int, path: Path) -> Checkpoint:
    """A checkpoint that matches its manifest; files of a damaged one are never parsed.

    Raises:
        DamageError: what is wrong with it, in a few words.
    """
    contents = {name: _content(path / name) for name in (TENSORS, FACTS)}
    manifest = _content(path / MANIFEST, MANIFEST_BYTES)
    if manifest != _manifest(step, contents):
        raise DamageError(_difference(manifest, contents))
    try:
        return Checkpoint(step, load(contents[TENSORS]), json.loads(contents[FACTS]))
    except (ValueError, SafetensorError) as error:
        raise DamageError(f"its content can't be read: {error}") from error


def _content(path: Path, most: int = -1) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(most)
    except FileNotFoundError:
        raise DamageError(f"{path.name} is missing") from None
    except OSError as error:
        raise DamageError(f"{path.name} can't be read: {error.strerror}") from None


def _manifest(step: int, contents: Mapping[str, bytes]) -> bytes:
    """What a manifest of this content has, to the byte: so that damage to the manifest itself shows as well."""
    files = {name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()} for name, content in contents.items()}
    return json.dumps({"format": FORMAT, "step": step, "files": files}).encode()


def _difference(manifest: bytes, contents: Mapping[str, bytes]) -> str:
    """What a manifest that doesn't match tells about the damage."""
    try:
        said = json.loads(manifest)
        if said["format"] != FORMAT:
            return f"it has format {said['format']!r:.20}, this version reads {FORMAT}"
        for name, content in contents.items():
            whole, here = said["files"][name]["bytes"], len(content)
            if here != whole:
                return _sizes(here, whole)
            if said["files"][name]["sha256"] != hashlib.sha256(content).hexdigest():
                return f"{name} is not what was written"
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return f"{MANIFEST} is not what was written"


def _sizes(here: int, whole: int) -> str:
    """Two sizes in the unit of the larger, or to the byte where they would look the same."""
    unit, name = next(((unit, name) for unit, name in UNITS if max(here, whole) >= unit), UNITS[-1])
    short, long = (f"{size / unit:.1f}" if 0 < size < 10 * unit else f"{size / unit:.0f}" for size in (here, whole))
    return f"{short} of {long} {name}" if short != long and unit > 1 else f"{here:,} of {whole:,} bytes"
