"""A run repeated from its record is the run that was recorded; one that is not is told with where it first differs."""

from dataclasses import replace
from pathlib import Path

import pytest

from harness import __main__ as verbs
from harness import milestones
from harness.errors import StudyError
from harness.journal import encode, read
from harness.record import Record
from harness.repeat import repeat
from tests import inline

SAMPLES = {"texts": 2, "at_best": 1, "temperatures": [0.5, 1.0], "top_k": [3], "top_p": [0.5]}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a study of seven runs has been carried out."""
    folder = tmp_path_factory.mktemp("root") / "mlruns"
    inline.run(inline.prepared(search={"trials": 8, "batch": 4}, samples=SAMPLES), folder / "inline")
    return folder


@pytest.fixture(scope="module")
def record(root: Path) -> Record:
    return inline.run(inline.prepared(search={"trials": 8, "batch": 4}, samples=SAMPLES), root / "inline")


def test_every_run_of_a_study_comes_out_to_the_last_bit(root: Path, record: Record) -> None:
    statuses = set()
    for key, selected in record.selected.items():
        made = repeat(root, key)
        assert made.differences == () and made.is_same
        # Each evaluation and each outcome is there to be compared.
        assert made.values > 10 * len(record.evaluations[key])
        assert made.same_weights is (None if selected["stage"] == "search" else True)
        statuses.add(record.ended[key]["status"])
    assert "completed" in statuses


def test_a_change_of_the_code_is_found_where_it_first_shows(root: Path, record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness import step

    monkeypatch.setattr(step, "step_seed", lambda seed, number: seed + number)
    key = next(key for key, event in record.selected.items() if event["stage"] == "ladder")
    made = repeat(root, key)
    assert not made.is_same and made.same_weights is False and made.differences


def test_texts_that_differ_are_named_by_how_they_were_drawn(root: Path, record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    key = next(key for key, event in record.selected.items() if event["stage"] == "ladder")
    asked = milestones.strategies
    monkeypatch.setattr(milestones, "strategies", lambda samples: asked(samples)[::-1])
    assert repeat(root, key).is_same
    drawn = milestones.sample_sets
    monkeypatch.setattr(
        milestones,
        "sample_sets",
        lambda *given, **more: {one: replace(sets, texts=[[1], [2]]) for one, sets in drawn(*given, **more).items()},
    )
    step = record.ended[key]["best_step"]
    told = {one.what for one in repeat(root, key).differences if one.what.startswith("end ")}
    assert told == {f"end {step} at temperature {how}" for how in ("0.5", "1", "1, top-k 3", "1, top-p 0.5")}


def test_a_run_without_an_outcome_can_not_be_repeated(root: Path) -> None:
    with pytest.raises(StudyError, match="no run 'nothing'"):
        repeat(root, "nothing")


def test_the_verb_says_what_came_out(
    root: Path, record: Record, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root.parent)
    key = next(iter(record.selected))
    assert verbs.main(["repeat", key]) == 0
    assert "values equal to the last bit" in capsys.readouterr().out
    # A record in which a loss was changed, with its checksum: only training again can tell.
    path = root / "inline" / "journal.jsonl"
    whole = path.read_bytes()
    events = [e | {"val_loss": 1.0} if e["event"] == "evaluation" and e["key"] == key else e for e in read(path)]
    path.write_bytes(b"".join(map(encode, events)))
    try:
        assert verbs.main(["repeat", key]) == 6
        assert "recorded 1.0, now" in capsys.readouterr().err
    finally:
        path.write_bytes(whole)
