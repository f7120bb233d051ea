"""Whether this machine and what lies under mlruns/ are in order: a list of checks, each with a sentence, nothing changed."""

import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement

from harness import environment, lease, memory
from harness.errors import HarnessError
from harness.invocation import JOURNAL, free_bytes
from harness.journal import read
from harness.record import Record
from harness.terminal import memory as shown

GOOD, NOTE, BAD = "ok", "note", "bad"
LITTLE_BYTES = 10**9


@dataclass(frozen=True)
class Check:
    """What was looked at, whether it is in order (ok, note, bad), and what there is to say."""

    what: str
    state: str
    text: str


def examine(root: Path) -> list[Check]:
    """All checks: this machine, then the store, then each study."""
    checks = [_python(), *_packages(), _device(), _memory(), _disk(root), _writable(root)]
    store = root / "mlflow.db"
    if store.exists():
        checks.append(_store(store))
    for path in sorted(root.glob(f"*/{JOURNAL}")):
        checks += _study(path)
    return checks


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    return Check("python", GOOD if sys.version_info >= (3, 11) else BAD, f"{version}; 3.11 or later is needed")


def _packages() -> Iterator[Check]:
    """What is installed against the ranges that the package asks for."""
    found = environment.versions(everything=True)
    off = []
    for line in requires("scaling-study-harness") or []:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = found.get(requirement.name.lower())
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            off.append(f"{requirement.name} {version or 'is missing'} (asked: {requirement.specifier or 'any'})")
    yield Check(
        "packages", BAD if off else GOOD, "; ".join(off) or f"all as asked; torch {found.get('torch')}, mlflow {found.get('mlflow')}"
    )


def _device() -> Check:
    machine = environment.machine("auto", "auto", 64)
    return Check("device", GOOD, f"{environment.describe(machine.device)}; up to {machine.workers} workers, {machine.precision}")


def _memory() -> Check:
    free = memory.available_bytes()
    if free is None:
        return Check("memory", NOTE, "the system doesn't say how much is free; plans can't be checked against it")
    return Check("memory", GOOD if free > LITTLE_BYTES else BAD, f"{shown(free)} free")


def _disk(root: Path) -> Check:
    free = free_bytes(root)
    return Check("disk", GOOD if free > LITTLE_BYTES else BAD, f"{shown(free)} free under {root}/")


def _writable(root: Path) -> Check:
    there = next(path for path in (root, *root.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            return Check("writing", GOOD, f"{root}/ can be written")
    except OSError as error:
        return Check("writing", BAD, f"{root}/ can't be written: {error.strerror}")


def _store(path: Path) -> Check:
    """The tracking store by SQLite's own check, without MLflow, and without changing it."""
    try:
        with closing(sqlite3.connect(f"file:{path.absolute()}?mode=ro", uri=True, timeout=2.0)) as connection:
            (answer,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            (running,) = connection.execute("SELECT count(*) FROM runs WHERE status = 'RUNNING' AND lifecycle_stage = 'active'").fetchone()
    except sqlite3.Error as error:
        return Check("MLflow store", BAD, f"{path}: {error}; move it aside, then: python -m harness sync STUDY --rebuild")
    if answer != "ok":
        return Check("MLflow store", BAD, f"{path} is damaged ({answer}); move it aside, then: python -m harness sync STUDY --rebuild")
    return Check("MLflow store", GOOD, f"{path} is whole; {running} runs are marked as running")


def _study(path: Path) -> Iterator[Check]:
    """A study's record, and whether somebody runs it or left it."""
    name, driver = f"study {path.parent.name}", lease.holder(path.parent)
    try:
        record = Record.of(read(path))
    except HarnessError as error:
        yield Check(name, BAD, str(error))
        return
    open_runs = sum(key in record.started and not record.is_done(key) and key not in record.ended for key in record.selected)
    counts = ", ".join(f"{n} {status}" for status, n in sorted(record.status_counts().items())) or "no run has ended"
    if driver is not None and driver.is_alive:
        yield Check(name, GOOD, f"is being run by pid {driver.pid} on {driver.host}; {counts}")
    elif driver is not None or open_runs:
        yield Check(name, NOTE, f"was cut off; {counts}. Start it again, and it goes on where it was")
    else:
        yield Check(name, GOOD, counts)
