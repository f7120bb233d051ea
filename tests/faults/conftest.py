"""The fixture by which fault tests say what they carried out."""

from collections.abc import Callable

import pytest

from tests.faults.table import FIGURE, PROPERTY, Fault, Figure, Row


@pytest.fixture
def fault(record_property: Callable[[str, object], None]) -> Fault:
    """Count cases of a row of the table (`tests/faults/table.py`)."""

    def count(row: Row, cases: int = 1, good: int | None = None) -> None:
        record_property(PROPERTY, (str(row), cases, good))

    return count


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Figure:
    """Say a measured number; it stands under the table."""
    return lambda text: record_property(FIGURE, text)
