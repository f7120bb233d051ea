"""Weights on disk come back bit by bit, and a file that is not whole is refused."""

from pathlib import Path

import pytest
import torch

from harness.checkpoint import load_weights, save_weights
from harness.errors import DamageError

WEIGHTS = {"a": torch.arange(6.0).view(2, 3), "turned": torch.arange(6.0).view(2, 3).T, "low": torch.ones(3, dtype=torch.bfloat16)}


def test_weights_come_back_and_are_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "run" / "best.safetensors"
    for factor in (1, 2):
        save_weights({name: factor * tensor for name, tensor in WEIGHTS.items()}, path)
        back = load_weights(path)
        assert back.keys() == WEIGHTS.keys()
        assert all(torch.equal(back[name], factor * WEIGHTS[name]) and back[name].dtype == WEIGHTS[name].dtype for name in WEIGHTS)
        assert [file.name for file in path.parent.iterdir()] == ["best.safetensors"]


@pytest.mark.parametrize("keep", [None, 0, 5, 60, -1])
def test_a_missing_or_cut_file_is_refused_by_name(tmp_path: Path, keep: int | None) -> None:
    path = tmp_path / "best.safetensors"
    if keep is not None:
        save_weights(WEIGHTS, path)
        path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DamageError, match=r"weights .*best\.safetensors can't be read"):
        load_weights(path)
