"""What the system refuses becomes a sentence, and leaves what was there and nothing beside it."""

import errno
import os
from pathlib import Path

import pytest
import torch

from harness import durable
from harness.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from harness.errors import PreflightError, StorageError
from harness.failpoints import VARIABLE


@pytest.mark.parametrize(
    "code, said",
    [
        (errno.ENOSPC, "the disk is full: runs/a could not be written. What the record holds is kept; make room and give the same command"),
        (errno.EDQUOT, "the disk quota is used up: runs/a "),
        (errno.EROFS, "the file system is read-only: runs/a "),
        (errno.EIO, "the disk reports an error: runs/a "),
        (errno.EACCES, "permission is denied: runs/a "),
        (errno.EPERM, "permission is denied: runs/a "),
    ],
)
def test_errors_of_the_system_are_explained(code: int, said: str) -> None:
    with pytest.raises(StorageError) as raised, durable.explained(Path("runs/a")):
        raise OSError(code, os.strerror(code))
    assert str(raised.value).startswith(said)
    assert raised.value.exit_code == PreflightError.exit_code


def test_an_error_that_no_user_can_do_anything_about_stays_what_it_is() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"), durable.explained(Path("a")):
        os.write(-1, b"")


@pytest.mark.parametrize("step", ["write", "sync", "rename"])
def test_a_file_that_can_not_be_replaced_stays_and_nothing_lies_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "a"
    durable.replace(path, b"old", "results")
    monkeypatch.setenv(VARIABLE, f"results.{step}:1:full")
    with pytest.raises(StorageError, match=r"the disk is full: .*/a could not be written"):
        durable.replace(path, b"new", "results")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("place", [*(f"write:{k}" for k in (1, 2, 3)), *(f"sync:{k}" for k in (1, 2, 3)), "rename:1"])
def test_a_checkpoint_that_finds_no_room_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    one, two = (Checkpoint(step, {"w": torch.full((4,), float(step))}, {"events": step}) for step in (1, 2))
    save_checkpoint(tmp_path, one)
    with monkeypatch.context() as full:
        full.setenv(VARIABLE, f"checkpoint.{place}:full")
        with pytest.raises(StorageError, match="the disk is full"):
            save_checkpoint(tmp_path, two)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001"]
    saved, damaged = load_checkpoint(tmp_path)
    assert saved is not None and saved.step == 1 and not damaged
    save_checkpoint(tmp_path, two)
    saved, damaged = load_checkpoint(tmp_path)
    assert saved is not None and saved.step == 2 and not damaged


def test_a_file_in_the_way_of_a_folder_and_a_folder_in_the_way_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="a file is in the place of its folder"):
        durable.replace(tmp_path / "file" / "a", b"", "results")
    with pytest.raises(StorageError, match="a folder is in its place"):
        durable.replace(tmp_path / "folder", b"", "results")
