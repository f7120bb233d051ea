"""Plug-ins are one file each, found by file name; an unknown name is answered with the nearest one and the list."""

import difflib
import importlib
import pkgutil
from types import ModuleType

from harness.errors import StudyError


def names(package: str) -> list[str]:
    """The plug-ins in a package: its modules whose names don't start with an underscore, sorted."""
    paths = importlib.import_module(package).__path__
    return sorted(m.name for m in pkgutil.iter_modules(paths) if not m.name.startswith("_"))


def load(package: str, name: str, what: str) -> ModuleType:
    """Import the plug-in `name` of `package`; `what` is the word for it in the error."""
    found = names(package)
    if name not in found:
        raise StudyError(f"unknown {what} {name!r}.{nearest(name, found)} There are: {', '.join(found)}.")
    return importlib.import_module(f"{package}.{name}")


def nearest(name: str, known: list[str]) -> str:
    """A sentence that suggests the nearest known name, or nothing."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean {close[0]}?" if close else ""
