"""Before the first step: whether disk and memory carry the plan, and what has changed since the record was begun."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import PreflightError
from harness.plan import COSMETIC, LATER, Plan
from harness.pricing import RungPlan
from harness.record import Record
from harness.spec import Study
from harness.terminal import memory
from harness.text import censored

GONE = "Nothing was run."


def check(plan: Plan, done: float, free_disk: int, free_memory: int | None, where: Path) -> None:
    """Refuse a plan that this machine can't carry.

    Args:
        done: share of the plan's runs that have ended; what they wrote is on the disk already.
        free_disk: bytes where the study writes. free_memory: bytes that the workers may use together; None where the system doesn't say.

    Raises:
        PreflightError: what is short, by how much, and what to change.
    """
    needed = plan.disk_bytes * (1 - done)
    if needed > free_disk:
        what = f"disk: the plan needs about {memory(needed)} under {where}/, {memory(free_disk)} are free"
        raise PreflightError(f"{what}. Make room, or plan fewer runs (seeds, rungs, samples). {GONE}")
    largest = max(plan.kept, key=lambda rung: rung.memory_bytes)
    if free_memory is None or plan.workers * largest.memory_bytes <= free_memory:
        return
    each = f"{memory(largest.memory_bytes)} in each of {plan.workers} workers" if plan.workers > 1 else memory(largest.memory_bytes)
    fit = int(free_memory // largest.memory_bytes)
    advice = f"--workers {fit} --replan fits" if fit else f"leave {largest.rung} out, or lower train.batch_size"
    raise PreflightError(f"memory: the rung {largest.rung} needs {each}, {memory(free_memory)} are free here; {advice}. {GONE}")


def check_one(rungs: Sequence[RungPlan], free_memory: int | None) -> None:
    """Refuse a rung that not even one worker can hold, before one is asked to measure it.

    Raises:
        PreflightError: which one, how much it needs, and what to change.
    """
    largest = max(rungs, key=lambda rung: rung.memory_bytes)
    if free_memory is not None and largest.memory_bytes > free_memory:
        short = f"the rung {largest.rung} needs {memory(largest.memory_bytes)}, {memory(free_memory)} are free here"
        raise PreflightError(f"memory: {short}; leave it out, or lower train.batch_size. {GONE}")


def changes(record: Record, study: Study, fingerprint: str) -> list[str]:
    """What a study says otherwise than the recorded one: `key: old -> new`, and whether that means other runs."""
    if not record.study:
        return []
    old, new = {**LATER, **flat(record.study)}, flat(censored(study.model_dump(mode="json")))
    changed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    lines = [f"{key}: {old.get(key)} -> {new.get(key)}{_no_matter(key)}" for key in changed]
    before = record.data.get("fingerprint", fingerprint)
    return lines + ([f"the texts: {before[:12]} -> {fingerprint[:12]} (other runs)"] if before != fingerprint else [])


def other_code(record: Record, now: Mapping[str, Any]) -> list[str]:
    """What the last start ran with and this one doesn't: versions of libraries, the commit. `now`: the facts of this start."""
    last = next(reversed(record.invocations.values()), None)
    if last is None:
        return []
    old = {**last.get("versions", {}), "commit": last.get("git", {}).get("commit", "")[:12]}
    new = {**now["versions"], "commit": now["git"].get("commit", "")[:12]}
    return [
        f"{name}: {old.get(name) or 'none'} -> {new.get(name) or 'none'}" for name in sorted({*old, *new}) if old.get(name) != new.get(name)
    ]


def _no_matter(key: str) -> str:
    return " (same runs)" if key.split(".")[0] in COSMETIC else ""


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as one level: `train.batch_size`."""
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= flat(inner, f"{prefix}{key}.") if isinstance(inner, Mapping) else {f"{prefix}{key}": inner}
    return found
