"""`report --verify`: silent about an untouched report, and names the file and the line of anything else."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from harness.results import write_csv
from reports import document
from reports.verify import verify
from tests.synthetic import synthetic_results

RESULTS = synthetic_results(4)
FORMATS = ["md", "pdf", "html"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_csv(RESULTS.runs, folder / "results.csv")
    document.write(RESULTS, folder / "report", FORMATS)
    return folder


@pytest.fixture
def copied(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "copy"))


def test_an_untouched_report_is_what_the_record_gives(written: Path) -> None:
    before = {path: path.read_bytes() for path in written.rglob("*") if path.is_file()}
    found = verify(RESULTS, written, FORMATS)
    assert found.mismatches == () and found.compared == len(before)
    assert {path: path.read_bytes() for path in written.rglob("*") if path.is_file()} == before


def test_one_changed_digit_is_found_in_its_file_and_line(copied: Path) -> None:
    path = copied / "report" / "report.md"
    lines = path.read_text().split("\n")
    at = next(i for i, line in enumerate(lines) if line.startswith("| 230k | 229,871"))
    lines[at] = lines[at].replace("229,871", "229,872")
    path.write_text("\n".join(lines))
    csv = copied / "results.csv"
    csv.write_text(csv.read_text().replace("completed", "Completed", 1))
    a, b = verify(RESULTS, copied, FORMATS).mismatches
    page = copied / "report" / "report.html"
    page.write_text(page.read_text().replace('<td class="numbers">229,871', '<td class="numbers">229,872', 1))
    [c] = [said for said in verify(RESULTS, copied, FORMATS).mismatches if said.startswith("report/report.html, line ")]
    assert "229,872" in c and "229,871" in c
    assert a.startswith(f"report/report.md, line {at + 1}: ") and "229,872" in a and "229,871" in a
    assert b.startswith("results.csv, line 2: ")


def test_missing_added_and_cut_files_are_named(copied: Path) -> None:
    report = copied / "report"
    (report / "figures" / "scaling.csv").unlink()
    (report / "figures" / "mine.png").write_bytes(b"x")
    pdf = (report / "report.pdf").read_bytes()
    (report / "report.pdf").write_bytes(pdf[:-1])
    assert verify(RESULTS, copied, FORMATS).mismatches == (
        "report/figures/mine.png is not made from this record",
        "report/figures/scaling.csv is missing",
        f"report/report.pdf: byte {len(pdf) - 1:,} differs",
    )


def test_a_record_that_says_otherwise_shows_in_every_place(written: Path) -> None:
    one = (RESULTS.runs["rung"] == "20k") & (RESULTS.runs["stage"] == "ladder") & (RESULTS.runs["seed"] == 1)
    changed = replace(RESULTS, runs=RESULTS.runs.assign(test_nll=RESULTS.runs["test_nll"] + 5.0 * one))
    differing = {sentence.split(",")[0].split(":")[0] for sentence in verify(changed, written, FORMATS).mismatches}
    assert {
        "results.csv",
        "report/report.md",
        "report/report.pdf",
        "report/report.html",
        "report/numbers.json",
        "report/figures/scaling.csv",
    } <= differing
