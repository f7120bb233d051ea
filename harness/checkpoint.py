"""Weights on disk: safetensors, written aside and renamed, so that a file with the right name is whole."""

import os
from pathlib import Path

from safetensors.torch import load_file, save
from torch import Tensor

from harness.errors import DamageError
from harness.journal import sync_folder


def save_weights(weights: dict[str, Tensor], path: Path) -> None:
    """Write named tensors durably, replacing what was there in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    with open(aside, "wb") as file:
        file.write(save({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}))
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    sync_folder(path.parent)


def load_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file.

    Raises:
        DamageError: the file is missing or not what was written.
    """
    try:
        return load_file(path)
    except Exception as error:
        way_out = "Restore the file from a copy, or move the study's folder aside to train anew."
        raise DamageError(f"weights {path} can't be read ({error}). {way_out}") from error
