"""One driver a study: a lock of the operating system on this machine, and a heartbeat that other machines can see.

On one machine the kernel lets go of the lock with the process, however it ends, so that a stale one never has to be unlocked by hand. Where
several machines share the folder and the lock may not reach across, a lease that another machine wrote counts until three beats are missed.
Whoever was silent for so long (paused, cut off) looks whether the lease is still its own before it writes again.
"""

import fcntl
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic, sleep, time
from typing import Any

from harness import durable
from harness.errors import LockedError, PreflightError, StorageError

HEARTBEAT_S = 10.0
MISSED = 3
# How long another machine has to claim a stale lease before this one looks who has it.
SETTLE_S = 0.5
# How long one that was refused waits for the holder of the lock to write who it is.
PATIENCE_S = 2.0
LOOK_EVERY_S = 0.02
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


class Held:
    """A lease in this process's hands. `lost` is set once another has it; then nothing of the study may be written any more."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lost = threading.Event()
        self._me = (os.getpid(), socket.gethostname())
        self._beat = 0.0

    def check(self) -> None:
        """Return if the lease is still held; costs nothing while the heart beats.

        Raises:
            LockedError: another process has taken it over meanwhile.
        """
        if not self.lost.is_set() and self._is_overdue and not self.is_own:
            self.lost.set()
        if self.lost.is_set():
            by = holder(self.folder)
            who = "another process" if by is None else f"pid {by.pid} on {by.host}"
            silent = "while this one was paused or cut off, so this one stops"
            raise LockedError(f"study {self.folder.name} was taken over by {who} {silent}. {_watch(self.folder)}")

    @property
    def is_own(self) -> bool:
        """Whether the lease is this process's; where there is none, one that was silent too long must think that others came and went."""
        now = holder(self.folder)
        return not self._is_overdue if now is None else (now.pid, now.host) == self._me

    def renew(self) -> None:
        """Show a sign of life, unless the lease is lost."""
        if not self.is_own:
            self.lost.set()
            return
        self.write()

    def write(self) -> None:
        """Take the lease, whoever has it."""
        pid, host = self._me
        lease = Lease(pid, host, time())
        durable.replace(self.folder / LEASE, json.dumps(asdict(lease)).encode(), "lease", aside=self.folder / f"{LEASE}.{host}.part")
        self._beat = lease.beat

    @property
    def _is_overdue(self) -> bool:
        # By the clock of others, who judge by it as well: a steady clock stands still while a machine sleeps.
        return not 0 <= time() - self._beat < HEARTBEAT_S * MISSED


@contextmanager
def held(folder: Path) -> Iterator[Held]:
    """Hold the study's lease for as long as the block runs.

    Raises:
        LockedError: somebody else holds it; PreflightError, StorageError: the folder can't be written.
    """
    descriptor = _lock(folder)
    stop = threading.Event()
    try:
        own = _claim(folder)
        beating = threading.Thread(target=_beat, args=(own, stop), daemon=True)
        beating.start()
        try:
            yield own
        finally:
            stop.set()
            beating.join()
            if own.is_own:
                with suppress(OSError):
                    (folder / LEASE).unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def holder(folder: Path) -> Lease | None:
    """Who held the lease last; None where nobody does or the file can't be read."""
    try:
        known: dict[str, Any] = json.loads((folder / LEASE).read_bytes())
        lease = Lease(int(known["pid"]), str(known["host"]), float(known["beat"]))
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return lease if 0 < lease.pid < 2**31 and lease.beat >= 0 else None


def _lock(folder: Path) -> int:
    """The lock, as an open file; refused with the name of who has it, which may have to write that first."""
    until = monotonic() + PATIENCE_S
    descriptor = _open(folder)
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            lease = holder(folder)
            if _is_there(lease) or monotonic() > until:
                os.close(descriptor)
                raise _refusal(folder, lease if _is_there(lease) else None) from None
        sleep(LOOK_EVERY_S)


def _open(folder: Path) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        way_out = "Give this user the right to write there, or start from another folder."
        raise PreflightError(f"{folder} can't be written ({error.strerror}). Nothing was run. {way_out}") from None


def _is_there(lease: Lease | None) -> bool:
    """Whether a lease names a process that lives: on this machine its number is looked up, on another its heart must beat."""
    if lease is None or lease.host != socket.gethostname():
        return lease is not None and lease.is_alive
    try:
        os.kill(lease.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _claim(folder: Path) -> Held:
    """Take the lease, unless a living one is another machine's."""
    before = holder(folder)
    foreign = before is not None and before.host != socket.gethostname()
    if before is not None and foreign and before.is_alive:
        raise _refusal(folder, before)
    own = Held(folder)
    own.write()
    if foreign:
        sleep(SETTLE_S)
        if not own.is_own:
            raise _refusal(folder, holder(folder))
    return own


def _beat(own: Held, stop: threading.Event) -> None:
    while not own.lost.is_set() and not stop.wait(HEARTBEAT_S):
        # A full disk is found by the record itself; the lock still stands on this machine.
        with suppress(OSError, StorageError):
            own.renew()


def _refusal(folder: Path, lease: Lease | None) -> LockedError:
    who = "another process" if lease is None else f"pid {lease.pid} on {lease.host} (alive {max(0.0, time() - lease.beat):.0f} s ago)"
    return LockedError(f"study {folder.name} is being run by {who}. {_watch(folder)}")


def _watch(folder: Path) -> str:
    return f"Watch it: python -m harness status {folder.name}"
