"""Bugs of the kinds that would break what is promised, each as a change of the source and the cheapest test that must find it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Planted:
    """One bug. `before` stands once in `file`, `after` takes its place, and one of `tests` must fail."""

    name: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]


def planted(name: str, file: str, before: str, after: str, *tests: str) -> Planted:
    """A bug, with its tests as the rest of the line."""
    return Planted(name, f"harness/{file}.py", before, after, tests)
