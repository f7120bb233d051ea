"""The table of faults: counted over tests, processes and phases, and written into a page without touching the rest."""

from pathlib import Path

import pytest

from tests.faults import table
from tests.faults.table import Row

pytest_plugins = ["pytester"]


def report(test: str, outcome: str, *counted: tuple[str, int, int | None], when: str = "call", seconds: float = 1.0) -> pytest.TestReport:
    properties = [(table.PROPERTY, value) for value in counted]
    return pytest.TestReport(test, (test, 1, test), {}, outcome, None, when, user_properties=properties, duration=seconds)  # type: ignore[arg-type]


def test_a_row_adds_up_its_tests_and_a_failed_test_counts_none_as_good() -> None:
    reports = [
        report("a", "passed", (Row.KILLS, 10, None)),
        report("a", "passed", (Row.KILLS, 10, None), when="teardown", seconds=0.5),
        report("b", "failed", (Row.KILLS, 10, None)),
        report("c", "failed", (Row.TYPOS, 200, 190)),
        report("d", "passed"),
    ]
    assert table.lines(reports) == [table.Line(Row.KILLS, 20, 10, 2.5), table.Line(Row.TYPOS, 200, 190, 1.0)]


def test_an_error_when_a_test_ends_is_not_good() -> None:
    reports = [report("a", "passed", (Row.KILLS, 1, None)), report("a", "failed", (Row.KILLS, 1, None), when="teardown")]
    assert [line.good for line in table.lines(reports)] == [0]


def test_the_page_keeps_what_is_around_the_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    lines = [table.Line(Row.KILLS, 1_200, 1_199, 61.4)]
    page.write_text(f"# Before\n{table.OPEN}\nold \\1\n{table.CLOSE}\nafter\n")
    table.write(lines, page)
    written = page.read_text()
    assert written.startswith("# Before\n") and written.endswith("\nafter\n") and "old" not in written
    assert f"| {Row.KILLS} | 1,200 | 1,199 | 61 |" in written
    table.write(lines, page)
    assert page.read_text() == written


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_counts_reach_the_end_of_the_session(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, workers: tuple[str, ...]) -> None:
    root = Path(__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.setenv(table.TABLE, "table.md")
    pytester.makeconftest("from tests.faults.conftest import fault\nfrom tests.faults.table import pytest_terminal_summary\n")
    pytester.makepyfile(
        "from tests.faults.table import Row\n"
        "def test_a(fault): fault(Row.KILLS, 7)\n"
        "def test_b(fault): fault(Row.KILLS, 5); assert False\n"
        "def test_c(): pass\n"
    )
    ended = pytester.runpytest_subprocess(*workers)
    ended.assert_outcomes(passed=2, failed=1)
    ended.stdout.re_match_lines([rf"{Row.KILLS} +12 +7 +0"])
    assert f"| {Row.KILLS} | 12 | 7 | 0 |" in pytester.path.joinpath("table.md").read_text()
