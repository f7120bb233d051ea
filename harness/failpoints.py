"""Named places at which a test can break a study: the process dies there as in a power cut, or the disk is full.

`HARNESS_FAILPOINT=name:k[:action[:token]]` acts when a place whose name matches (`*` stands for anything) is reached for the k-th time, 1
being the first. Actions: `kill` (SIGKILL to this process), `group` (to all processes of its group), `full` (no space is left, here and
from here on). Where a `token` is given, the process that can make the file of that name is the only one that dies.
Without the variable a failpoint does nothing.
"""

import errno
import os
import signal
from fnmatch import fnmatchcase

VARIABLE = "HARNESS_FAILPOINT"
# Every place, by what is written and how far that is.
FILES = ("checkpoint", "weights", "results", "lease", "report", "repair", "calibration")
STEPS = ("write", "sync", "rename", "renamed")
NAMES = (
    *(f"{what}.{step}" for what in FILES for step in STEPS),
    *(f"journal.{step}" for step in ("write", "written", "sync", "synced")),
    *("checkpoint.prune", "mlflow.call", "mlflow.called"),
)
_reached: dict[str, int] = {}


def failpoint(name: str) -> None:
    """Act here if the environment says so.

    Raises:
        OSError: no space is left, where the action is `full`.
    """
    assert name in NAMES, name
    wanted = os.environ.get(VARIABLE)
    if wanted is None:
        return
    pattern, count, action, token = _parts(wanted)
    if not fnmatchcase(name, pattern):
        return
    _reached[wanted] = _reached.get(wanted, 0) + 1
    if action == "full":
        if _reached[wanted] >= count:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    elif _reached[wanted] == count and _first(token):
        os.killpg(os.getpgid(0), signal.SIGKILL) if action == "group" else os.kill(os.getpid(), signal.SIGKILL)


def _parts(wanted: str) -> tuple[str, int, str, str]:
    given = wanted.split(":", 3)
    pattern, count, action, token = given + ["", "1", "kill", ""][len(given) :]
    return pattern, int(count), action, token


def _first(token: str) -> bool:
    """Whether nobody has acted yet."""
    if not token:
        return True
    try:
        os.close(os.open(token, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True
