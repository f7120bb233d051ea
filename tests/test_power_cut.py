"""A disk that keeps only what was synced: whatever the harness calls durable is there after a power cut, whole and under its name."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import durable
from harness.checkpoint import Checkpoint, save_checkpoint, save_weights
from harness.journal import Event, Journal
from harness.results import FURTHER_COLUMNS, PUBLIC_COLUMNS, frame, write_csv
from tests import inline

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the names of open files in /proc")


class Disk:
    """Follows syncs and renames. A power cut leaves a file with its content of its last sync, under the name of its folder's last sync."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.contents: dict[int, bytes] = {}
        self.names: dict[Path, dict[str, int]] = {}
        # What was renamed before it was durable: a power cut could leave the new name with nothing behind it.
        self.early: list[str] = []
        self._replace = os.replace
        monkeypatch.setattr(os, "fsync", self.fsync)
        monkeypatch.setattr(os, "replace", self.replace)

    def fsync(self, descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.is_dir():
            self.names[path] = {inside.name: inside.stat().st_ino for inside in path.iterdir()}
        else:
            self.contents[path.stat().st_ino] = path.read_bytes()

    def replace(self, source: Any, target: Any) -> None:
        old, new = Path(source), Path(target)
        self.early += self.lost(old) if old.is_dir() else [] if self.holds(old) else [str(old)]
        self._replace(source, target)
        if old in self.names:
            self.names[new] = self.names.pop(old)

    def holds(self, file: Path) -> bool:
        """Whether a file's content is that of its last sync."""
        return self.contents.get(file.stat().st_ino) == file.read_bytes()

    def keeps(self, path: Path) -> bool:
        """Whether a power cut would leave what is there now, under this name."""
        is_named = self.names.get(path.parent, {}).get(path.name) == path.stat().st_ino
        return is_named and (path.is_dir() or self.holds(path))

    def lost(self, folder: Path) -> list[str]:
        """What a power cut would take of a folder."""
        return [str(path) for path in sorted(folder.rglob("*")) if not self.keeps(path)]


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def test_a_replaced_file_is_durable_before_it_has_its_name_and_its_name_is_too(tmp_path: Path, disk: Disk) -> None:
    for content in (b"old", b"new"):
        durable.replace(tmp_path / "a", content, "results")
        assert not disk.lost(tmp_path) and not disk.early


def test_checkpoints_and_weights_are_durable_when_they_are_said_to_be(tmp_path: Path, disk: Disk) -> None:
    weights = {"w": torch.arange(4.0)}
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, Checkpoint(step, weights, {"events": step}))
        assert not disk.early and disk.keeps(tmp_path / f"step-{step:09d}")
        assert not disk.lost(tmp_path / f"step-{step:09d}")
    save_weights(weights, tmp_path / "best.safetensors")
    assert not disk.early and disk.keeps(tmp_path / "best.safetensors")


def test_the_flat_result_is_never_half_there(tmp_path: Path, disk: Disk) -> None:
    for rows in ([], [{"key": "a", "status": "completed"}]):
        write_csv(frame(rows, [*PUBLIC_COLUMNS, *FURTHER_COLUMNS]), tmp_path / "results.csv")
        assert not disk.lost(tmp_path) and not disk.early


@pytest.mark.parametrize("kind", ["plan", "run_started", "run_resumed", "run_ended", "lr_chosen", "invocation", "invocation_ended"])
def test_what_changes_the_state_of_a_study_is_durable_with_all_before_it(tmp_path: Path, disk: Disk, kind: str) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("points", step=[1, 2])
    journal.append(kind)
    assert disk.keeps(journal.path)
    journal.append("points", step=[3])
    journal.close()
    assert disk.keeps(journal.path)


def test_a_run_is_told_as_ended_only_when_its_weights_and_its_end_are_durable(tmp_path: Path, disk: Disk) -> None:
    ended = []

    def look(event: Event) -> None:
        if event["event"] == "run_ended":
            assert disk.keeps(tmp_path / "journal.jsonl")
            weights = tmp_path / "checkpoints" / event["key"] / "best.safetensors"
            if weights.exists():
                assert disk.keeps(weights)
                ended.append(event["key"])

    inline.run(inline.prepared(), tmp_path, inline.Watch(look))
    assert len(ended) >= 2 and not disk.early


def test_folders_that_are_made_on_the_way_keep_their_names_too(tmp_path: Path, disk: Disk) -> None:
    Journal(tmp_path / "mlruns" / "study" / "journal.jsonl").close()
    run = tmp_path / "mlruns" / "study" / "checkpoints" / "key"
    save_checkpoint(run, Checkpoint(1, {"w": torch.arange(4.0)}, {"events": 1}))
    save_weights({"w": torch.arange(4.0)}, tmp_path / "other" / "deep" / "best.safetensors")
    made = [run, run.parent, run.parents[1], run.parents[2], tmp_path / "other" / "deep", tmp_path / "other"]
    assert all(disk.keeps(folder) for folder in made)
