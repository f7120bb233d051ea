"""Files that are whole or not there: written aside, made durable, renamed into place.

`rename` replaces a file in one step for every other process; `fsync` of the file before it and of the folder after it make that hold
through a power cut as well. What the system refuses becomes a sentence here and nowhere else. A failed `fsync` is never tried again: the
kernel may have dropped what it could not write, and a second call would succeed without it.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.errors import StorageError
from harness.failpoints import failpoint

# Why the system refuses to read or write, and what helps.
REASONS = {
    errno.ENOSPC: ("the disk is full", "make room"),
    errno.EDQUOT: ("the disk quota is used up", "make room"),
    errno.EFBIG: ("a limit on the size of files is reached", "raise it (ulimit -f)"),
    errno.EROFS: ("the file system is read-only", "mount it for writing, or work in another folder,"),
    errno.EIO: ("the disk reports an error", "check the disk, restore what it lost from a copy,"),
    errno.EACCES: ("permission is denied", "give this user the right to read and write there"),
    errno.EPERM: ("permission is denied", "give this user the right to read and write there"),
    errno.ENOENT: ("its folder is gone", "put it back, or start anew without it,"),
    errno.ESTALE: ("its folder is gone", "mount it again"),
    errno.EISDIR: ("a folder is in its place", "move that away"),
    errno.ENOTDIR: ("a file is in the place of its folder", "move that away"),
    errno.EEXIST: ("a file is in the place of its folder", "move that away"),
    errno.EMFILE: ("too many files are open", "raise the limit (ulimit -n)"),
    errno.ENFILE: ("too many files are open on this machine", "close some"),
}


@contextmanager
def explained(path: Path, what: str = "written") -> Iterator[None]:
    """Say in a sentence why a file could not be `what` (written, read).

    Raises:
        StorageError: in place of an error of the system that a person can do something about.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in REASONS:
            raise
        why, way_out = REASONS[error.errno]
        kept = f"What the record holds is kept; {way_out} and give the same command again."
        raise StorageError(f"{why}: {path} could not be {what}. {kept}") from error


def replace(path: Path, content: bytes, what: str, aside: Path | None = None) -> None:
    """Put a file in place, or leave what was there; `what` names it among the failpoints.

    Args:
        aside: where it is written first; by default beside it, with `.part` behind its name.
    """
    aside = aside or path.with_name(path.name + ".part")
    with explained(path):
        try:
            _write(aside, content, what)
            failpoint(f"{what}.rename")
            aside.replace(path)
        except OSError:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
            raise
        failpoint(f"{what}.renamed")
    sync_folder(path.parent)


def write(path: Path, content: bytes, what: str) -> None:
    """Write a file and make its content durable; its name is so only after `sync_folder`."""
    with explained(path):
        _write(path, content, what)


def _write(path: Path, content: bytes, what: str) -> None:
    failpoint(f"{what}.write")
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        failpoint(f"{what}.sync")
        os.fsync(file.fileno())


def make_folder(path: Path) -> None:
    """Make a folder, and those above it that are missing, with names that survive a power cut."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    with explained(path):
        path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, after a file was made or renamed there."""
    with explained(folder):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
