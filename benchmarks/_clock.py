"""Where a study's time goes: functions of the driver enter, wall and CPU seconds of each piece of its work leave, none counted twice."""

import multiprocessing
import os
import threading
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any

Seconds = list[float]


class Clock:
    """Counts what functions take, by piece of work; a piece inside another counts as itself only. Threads are counted apart and added."""

    def __init__(self) -> None:
        self.spent: dict[str, Seconds] = {}
        self._open = threading.local()

    def watch(self, owner: Any, name: str, piece: str) -> None:
        """Replace a function of a module or class by one that is timed."""
        setattr(owner, name, self.timed(piece, getattr(owner, name)))

    def timed(self, piece: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its seconds counted."""

        @wraps(call)
        def counted(*args: Any, **kwargs: Any) -> Any:
            outer = getattr(self._open, "inner", None)
            self._open.inner = inner = [0.0, 0.0]
            wall, cpu = perf_counter(), thread_time()
            try:
                return call(*args, **kwargs)
            finally:
                took = [perf_counter() - wall, thread_time() - cpu]
                self._open.inner = outer
                spent = self.spent.setdefault(piece, [0.0, 0.0])
                for i in (0, 1):
                    spent[i] += took[i] - inner[i]
                    if outer is not None:
                        outer[i] += took[i]

        return counted


def children_cpu_s() -> float:
    """CPU seconds so far of the processes that this one has started and that still live; 0 where the system doesn't say."""
    return sum(_cpu_s(child.pid) for child in multiprocessing.active_children() if child.pid)


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    # User and system time, the 14th and 15th field of proc(5).
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
