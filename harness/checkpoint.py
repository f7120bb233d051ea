"""Weights and checkpoints on disk: safetensors and JSON, written aside, made durable and renamed, so that what has the right name is whole.

A run's checkpoints are folders `step-000000120` with `tensors.safetensors`, `facts.json` and `manifest.json`, which holds the SHA-256 of
the other two. The last two are kept; on resume the newest that matches its manifest counts.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, load_file, save
from torch import Tensor

from harness import durable
from harness.errors import DamageError
from harness.failpoints import failpoint

FORMAT = 2
KEPT = 2
TENSORS, FACTS, MANIFEST = "tensors.safetensors", "facts.json", "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """What a run is made of after `step`: named tensors, and plain data that JSON holds exactly."""

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]


def save_weights(weights: dict[str, Tensor], path: Path) -> None:
    """Write named tensors durably, replacing what was there in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
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
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    contents = {TENSORS: save(saved.tensors), FACTS: json.dumps(saved.facts).encode()}
    for name, content in contents.items():
        durable.write(aside / name, content, "checkpoint")
    manifest = {"format": FORMAT, "step": saved.step, "sha256": {name: _sha256(content) for name, content in contents.items()}}
    durable.write(aside / MANIFEST, json.dumps(manifest).encode(), "checkpoint")
    durable.sync_folder(aside)
    failpoint("checkpoint.rename")
    shutil.rmtree(final, ignore_errors=True)
    aside.replace(final)
    failpoint("checkpoint.renamed")
    durable.sync_folder(folder)
    failpoint("checkpoint.prune")
    for old in _folders(folder)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(folder: Path, usable: Callable[[Checkpoint], bool] = lambda saved: True) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole and `usable`, and a sentence for each that was passed over because it is damaged."""
    passed = []
    for path in reversed(_folders(folder)):
        saved = _read(path)
        if saved is None:
            passed.append(f"checkpoint {path.parent.name}/{path.name} is damaged")
        elif usable(saved):
            return saved, passed
    return None, passed


def remove_checkpoints(folder: Path) -> None:
    """A run has ended: only its best weights stay."""
    for path in [*folder.glob("step-*"), *folder.glob("*.part")]:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _folders(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if not path.name.endswith(".part"))


def _read(path: Path) -> Checkpoint | None:
    """A checkpoint that matches its manifest, or None: files of a damaged one are never parsed."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        contents = {name: (path / name).read_bytes() for name in (TENSORS, FACTS)}
        if manifest["format"] != FORMAT or manifest["sha256"] != {name: _sha256(content) for name, content in contents.items()}:
            return None
        return Checkpoint(int(manifest["step"]), load(contents[TENSORS]), json.loads(contents[FACTS]))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
