"""Ctrl-C and SIGTERM: the first asks the study to stop where it can go on later, the second ends it at once."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from harness.errors import INTERRUPTED, TERMINATED
from harness.execute import Executor

# The live table hides the cursor, and nobody else would bring it back.
SHOW_CURSOR = b"\x1b[?25h\r\n"


class Terminated(KeyboardInterrupt):
    """SIGTERM came where there is nothing to keep."""


@dataclass
class Stopped:
    """The exit code that a signal asks for; 0 while none came."""

    code: int = 0


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that files are closed and workers ended."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise Terminated

    previous = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def stopping_on_signals(executor: Executor) -> Iterator[Stopped]:
    """Turn signals into a request to stop, for as long as the block runs."""
    stopped = Stopped()

    def handle(number: int, frame: FrameType | None) -> None:
        if stopped.code:
            # The record is whole at every line, so that leaving at once loses only what the running workers had not sent.
            if sys.stdout.isatty():
                os.write(sys.stdout.fileno(), SHOW_CURSOR)
            os._exit(stopped.code)
        stopped.code = INTERRUPTED if number == signal.SIGINT else TERMINATED
        executor.stop()

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
