"""MLflow while a study runs: a thread of the driver that writes what the record has gained, and never holds training up."""

import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

from harness.environment import without_secrets
from harness.tracking import Projection


class Live:
    """A thread of the driver that keeps MLflow up to the record. Whatever goes wrong there becomes a warning, one a minute."""

    def __init__(self, journal: Path, root: Path, warn: Callable[[str], None], uri: str | None = None, every_s: float = 2.0) -> None:
        self.projection = Projection(journal, root, uri)
        self._warn, self._every_s = warn, every_s
        self._warned = -float("inf")
        self._stop = threading.Event()
        self._report: Path | None = None
        self._complete = False
        self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)
        self._thread.start()

    def close(self, report: Path | None = None, timeout: float = 60.0) -> bool:
        """Project to the end of the record, hang the report on the parent, and stop; whether all of it is in the store."""
        self._report = report
        self._stop.set()
        self._thread.join(timeout)
        if not self._complete:
            self._warn(f"MLflow does not hold all of {self.projection.journal}: the next start of the study brings it up to date")
        return self._complete

    @property
    def page(self) -> str:
        """What to append to the UI's address to compare the rungs; empty as long as nothing is in the store."""
        return self.projection.page()

    def _run(self) -> None:
        wait_s = self._every_s
        while not self._stop.wait(wait_s):
            # Where the store is away, asking every two seconds is of no use.
            wait_s = self._every_s if self._try(self.projection.sync) else min(2 * wait_s, 60.0)
        self._complete = self._try(lambda: self.projection.finish(self._report))

    def _try(self, work: Callable[[], Any]) -> bool:
        try:
            work()
        except Exception as error:
            if monotonic() - self._warned > 60.0:
                self._warned = monotonic()
                first_line = (str(error) or type(error).__name__).splitlines()[0][:300]
                self._warn(f"MLflow ({without_secrets(self.projection.uri)}) can't be written, the record goes on without it: {first_line}")
            return False
        return True
