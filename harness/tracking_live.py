"""MLflow while a study runs: a thread of the driver that writes what the record has gained, and never holds training up.

Whatever goes wrong there becomes a warning. The end of a study waits for it only so long, and then leaves it behind: the record is whole.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

from harness.text import without_secrets
from harness.tracking import Projection
from harness.tracking_store import Abandoned

# Seconds between two attempts; where the store is away they double up to the second.
EVERY_S, MOST_S = 2.0, 60.0
WARN_EVERY_S = 60.0
# How long the end of a study waits: for a store that takes what it is given, and for one that has lately failed.
CLOSE_S, CLOSE_AWAY_S = 60.0, 5.0


class Live:
    """A thread of the driver that keeps MLflow up to the record. Whatever goes wrong there becomes a warning, one a minute."""

    def __init__(self, journal: Path, root: Path, warn: Callable[[str], None], uri: str | None = None, every_s: float = EVERY_S) -> None:
        self.projection = Projection(journal, root, uri)
        self._warn, self._every_s = warn, every_s
        self._warned = -float("inf")
        self._stop = threading.Event()
        self._report: Path | None = None
        self._complete = self._is_away = self._left = False
        # A daemon, so that a call that never returns can't keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)
        self._thread.start()

    def close(self, report: Path | None = None, timeout: float = CLOSE_S) -> bool:
        """Project to the end of the record, hang the report on the parent, and stop; whether all of it is in the store.

        Args:
            timeout: seconds that this may take at most; a store that has lately failed gets `CLOSE_AWAY_S` of them.
        """
        self._report = report
        self._stop.set()
        self._thread.join(min(timeout, CLOSE_AWAY_S) if self._is_away else timeout)
        self._left = self._thread.is_alive()
        self.projection.abandon()
        if not self._complete:
            study = self.projection.study
            self._warn(f"MLflow does not hold all of {study} yet. Bring it level: python -m harness sync {study}")
        return self._complete

    @property
    def page(self) -> str:
        """What to append to the UI's address to compare the rungs; empty as long as nothing is in the store."""
        return self.projection.page()

    def _run(self) -> None:
        try:
            self._complete = self._follow()
        except Abandoned:
            return

    def _follow(self) -> bool:
        wait_s = self._every_s
        while not self._stop.wait(wait_s):
            self._is_away = not self._try(self.projection.sync)
            if self._is_away and self._stop.is_set():
                # It failed a moment ago, and a server that hangs takes its time for every answer that it doesn't give.
                return False
            # Where the store is away, asking every two seconds is of no use.
            wait_s = min(2 * wait_s, MOST_S) if self._is_away else self._every_s
        return self._try(lambda: self.projection.finish(self._report))

    def _try(self, work: Callable[[], Any]) -> bool:
        try:
            work()
        except Exception as error:
            if monotonic() - self._warned > WARN_EVERY_S and not self._left:
                self._warned = monotonic()
                self._warn(without_secrets(str(error) or type(error).__name__).splitlines()[0])
            return False
        return True
