"""The doctor finds what is wrong, says so in a sentence, and changes nothing."""

import sqlite3
from pathlib import Path

import pytest

from harness import __main__ as verbs
from harness import doctor
from harness.journal import Journal


def states(root: Path) -> dict[str, str]:
    return {check.what: check.state for check in doctor.examine(root)}


def study(root: Path, name: str) -> Path:
    journal = Journal(root / name / "journal.jsonl")
    journal.append("plan", study={"study": name}, plan={"rungs": []}, data={})
    journal.append("selected", key="a", name="a", spec={}, stage="ladder", rung="20k")
    journal.append("run_started", key="a", name="a", spec={})
    journal.close()
    return root / name / "journal.jsonl"


def test_an_empty_place_is_in_order(tmp_path: Path) -> None:
    assert set(states(tmp_path / "mlruns").values()) <= {"ok", "note"}
    assert not (tmp_path / "mlruns").exists()


def test_a_study_that_was_cut_off_is_noted_and_a_damaged_one_is_bad(tmp_path: Path) -> None:
    study(tmp_path, "cut")
    path = study(tmp_path, "damaged")
    path.write_bytes(path.read_bytes().replace(b"selected", b"Selected"))
    found = states(tmp_path)
    assert (found["study cut"], found["study damaged"]) == ("note", "bad")
    text = next(check.text for check in doctor.examine(tmp_path) if check.what == "study damaged")
    assert "journal.jsonl:2: " in text and "harness repair damaged" in text


def test_a_store_that_is_not_a_database_is_bad_and_left_alone(tmp_path: Path) -> None:
    store = tmp_path / "mlflow.db"
    store.write_bytes(b"not a database at all, " * 100)
    before = store.read_bytes()
    assert states(tmp_path)["MLflow store"] == "bad" and store.read_bytes() == before
    store.unlink()
    with sqlite3.connect(store) as connection:
        connection.execute("CREATE TABLE runs (status TEXT, lifecycle_stage TEXT)")
        connection.execute("INSERT INTO runs VALUES ('RUNNING', 'active')")
    connection.close()
    assert "1 runs are marked as running" in next(check.text for check in doctor.examine(tmp_path) if check.what == "MLflow store")


def test_a_package_outside_of_its_range_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor.environment.versions
    monkeypatch.setattr(doctor.environment, "versions", lambda everything=False: real(everything) | {"optuna": "4.9.0"})
    (found,) = (check for check in doctor.examine(tmp_path) if check.what == "packages")
    assert found.state == "bad" and "optuna 4.9.0" in found.text


def test_the_verb_ends_with_5_where_something_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert verbs.main(["doctor"]) == 0
    path = study(tmp_path / "mlruns", "broken")
    path.write_bytes(path.read_bytes().replace(b"selected", b"Selected"))
    assert verbs.main(["doctor"]) == 5
    assert "not in order: study broken" in capsys.readouterr().err
