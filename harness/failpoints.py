"""Named places at which a test can end the process, as a power cut would: before and after writes, syncs and renames.

`HARNESS_FAILPOINT=name:k` ends the process with SIGKILL when the place `name` is reached for the k-th time (1 is the first); without the
variable a failpoint does nothing.
"""

import os
import signal

VARIABLE = "HARNESS_FAILPOINT"
_reached: dict[str, int] = {}


def failpoint(name: str) -> None:
    """Die here if the environment says so."""
    wanted = os.environ.get(VARIABLE)
    if wanted is None:
        return
    target, _, count = wanted.partition(":")
    if target == name:
        _reached[name] = _reached.get(name, 0) + 1
        if _reached[name] == int(count or 1):
            os.kill(os.getpid(), signal.SIGKILL)
