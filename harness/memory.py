"""How much memory there is, how much this process has used at most, whether the system has ended one for want of it; giving it back."""

import ctypes
import resource
import sys
from contextlib import suppress
from pathlib import Path

_MEMINFO, _VMSTAT, _CGROUP = Path("/proc/meminfo"), Path("/proc/vmstat"), Path("/sys/fs/cgroup")


def available_bytes() -> int | None:
    """What new processes may use here, within the limits of a container; None where the system doesn't say."""
    known = [n for n in (_field(_MEMINFO, "MemAvailable:"), _left_in_cgroup()) if n is not None]
    return min(known) if known else None


def peak_bytes() -> int:
    """The most that this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def give_back() -> None:
    """Return to the system what nothing uses any more, where glibc can; else it would add up over runs of several shapes."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def kills() -> int:
    """How often the system has ended a process for want of memory, since it was started; 0 where it doesn't say."""
    return _field(_VMSTAT, "oom_kill") or 0


def _field(path: Path, name: str) -> int | None:
    """A number of a file with a name and a value a line, in bytes where its unit is kB."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    words = next((line.split() for line in lines if line.startswith(f"{name} ") or line.split()[:1] == [name]), None)
    return None if words is None else int(words[1]) * (1024 if words[2:] == ["kB"] else 1)


def _left_in_cgroup() -> int | None:
    try:
        most = (_CGROUP / "memory.max").read_text().strip()
        return None if most == "max" else int(most) - int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return None
