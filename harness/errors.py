"""What a user can get wrong or meet: each error has a sentence for people and the exit code of the command.

Programmers' mistakes are `assert` or a plain exception, and end with exit code 70.
"""

from harness.text import presentable


class HarnessError(Exception):
    """An error that a user can act on; its text says where, what, why and what to do."""

    exit_code = 70

    def __init__(self, text: str) -> None:
        """Names of files, keys and columns may hold anything: what would act on a terminal is shown instead, secrets are left out."""
        super().__init__(presentable(text))


class StudyError(HarnessError):
    """The study file or the command line is wrong; nothing was run."""

    exit_code = 2


class LockedError(HarnessError):
    """Another process is running this study."""

    exit_code = 4


class PreflightError(HarnessError):
    """Disk, memory or permission would not carry the plan; nothing was run."""

    exit_code = 5


class StorageError(HarnessError):
    """The disk refused what was asked of it while a study ran: full, gone, read-only, broken. What was recorded before is kept."""

    exit_code = 5


class DamageError(HarnessError):
    """The record or the data on disk is not what was written."""

    exit_code = 6


DONE = 0
RUNS_FAILED = 3
BUG = 70
INTERRUPTED = 130
TERMINATED = 143
