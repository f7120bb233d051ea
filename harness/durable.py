"""Files that are whole or not there: written aside, made durable, renamed into place.

`rename` replaces a file in one step for every other process; `fsync` of the file before it and of the folder after it make that hold
through a power cut as well.
"""

import os
from pathlib import Path

from harness.failpoints import failpoint


def replace(path: Path, content: bytes, what: str, aside: Path | None = None) -> None:
    """Put a file in place, or leave what was there; `what` names it among the failpoints.

    Args:
        aside: where it is written first; by default beside it, with `.part` behind its name.
    """
    aside = aside or path.with_name(path.name + ".part")
    write(aside, content, what)
    failpoint(f"{what}.rename")
    aside.replace(path)
    failpoint(f"{what}.renamed")
    sync_folder(path.parent)


def write(path: Path, content: bytes, what: str) -> None:
    """Write a file and make its content durable; its name is so only after `sync_folder`."""
    failpoint(f"{what}.write")
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        failpoint(f"{what}.sync")
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, after a file was made or renamed there."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
