"""One driver a study: a lock of the operating system on this machine, and a heartbeat that other machines can see.

On one machine the kernel lets go of the lock with the process, however it ends, so that a stale one never has to be unlocked by hand. Where
several machines share the folder and the lock may not reach across, a lease that another machine wrote counts until three beats are missed.
"""

import fcntl
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import sleep, time

from harness import durable
from harness.errors import LockedError, PreflightError

HEARTBEAT_S = 10.0
MISSED = 3
# How long another machine has to claim a stale lease before this one looks who has it.
SETTLE_S = 0.5
LOCK, LEASE = "lock", "lease.json"


@dataclass(frozen=True)
class Lease:
    """Who runs a study; `beat` is the Unix time of the last sign of life."""

    pid: int
    host: str
    beat: float

    @property
    def is_alive(self) -> bool:
        """Whether its holder has shown itself lately."""
        return time() - self.beat < HEARTBEAT_S * MISSED


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the study's lease for as long as the block runs.

    Raises:
        LockedError: somebody else holds it; PreflightError: the folder can't be written.
    """
    descriptor = _lock(folder)
    stop = threading.Event()
    try:
        _claim(folder)
        beating = threading.Thread(target=_beat, args=(folder, stop), daemon=True)
        beating.start()
        try:
            yield
        finally:
            stop.set()
            beating.join()
            (folder / LEASE).unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def holder(folder: Path) -> Lease | None:
    """Who held the lease last; None where nobody does or the file can't be read."""
    try:
        return Lease(**json.loads((folder / LEASE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _lock(folder: Path) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise PreflightError(f"{folder} can't be written ({error.strerror}). Nothing was run.") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise _refusal(folder, holder(folder)) from None
    return descriptor


def _claim(folder: Path) -> None:
    """Take the lease, unless a living one is another machine's."""
    before = holder(folder)
    foreign = before is not None and before.host != socket.gethostname()
    if before is not None and foreign and before.is_alive:
        raise _refusal(folder, before)
    _write(folder)
    if foreign:
        sleep(SETTLE_S)
        now = holder(folder)
        if now is not None and now.host != socket.gethostname():
            raise _refusal(folder, now)


def _beat(folder: Path, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_S):
        try:
            _write(folder)
        except OSError:
            # A full disk is found by the record itself; the lock still stands on this machine.
            continue


def _write(folder: Path) -> None:
    host = socket.gethostname()
    content = json.dumps(asdict(Lease(os.getpid(), host, time()))).encode()
    durable.replace(folder / LEASE, content, "lease", aside=folder / f"{LEASE}.{host}.part")


def _refusal(folder: Path, lease: Lease | None) -> LockedError:
    who = "another process" if lease is None else f"pid {lease.pid} on {lease.host} (alive {max(0.0, time() - lease.beat):.0f} s ago)"
    return LockedError(f"study {folder.name} is being run by {who}. Watch it: python -m harness status {folder.name}")
