"""The command line: what it refuses and how, what it prints, what it leaves alone, and its exit codes."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

import harness
from harness import __main__ as verbs
from harness import environment, lease, run
from harness.plan import Plan
from tests import toy


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with the toy study's file in it."""
    monkeypatch.chdir(toy.write(tmp_path))
    return tmp_path


@pytest.fixture
def finished(finished_study: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a study that has ended; only looked at."""
    monkeypatch.chdir(finished_study)
    return finished_study


@pytest.fixture
def copied(finished_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it that may be changed."""
    folder = Path(shutil.copytree(finished_study, tmp_path / "copy"))
    monkeypatch.chdir(folder)
    return folder


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file with its size and time of change."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize(
    "words, said",
    [
        (["missing.yaml"], ["missing.yaml"]),
        (["toy.yaml", "--set", "search.trails=3"], ["search.trails", "Did you mean search.trials?"]),
        (["toy.yaml", "--set", "seeds=none"], ["seeds"]),
        (["toy.yaml", "--only", "smal"], ["--only smal", "Did you mean small?", "small, large, search, ladder, budget, ablation"]),
        (["toy.yaml", "--within", "soon"], ["within"]),
        (["toy.yaml", "--set", "model.rungs=[500k, nonsense]"], ["nonsense"]),
    ],
)
def test_what_can_not_be_run_is_said_in_a_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: list[str]
) -> None:
    before = tree(folder)
    assert run.main([*words, "--quiet"]) == 2
    out, err = capsys.readouterr()
    assert all(part in err for part in said), err
    assert out == "" and "Traceback" not in err
    assert tree(folder) == before


def test_a_mistake_in_the_file_is_named_with_its_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy.write(folder, toy.TOY.replace("seeds: 2", "seads: 2"))
    assert run.main(["toy.yaml"]) == 2
    line = toy.TOY.splitlines().index("seeds: 2") + 1
    assert f"toy.yaml:{line}: seads" in capsys.readouterr().err


def test_json_goes_with_plan(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run.main(["toy.yaml", "--json"])
    assert ended.value.code == 2 and "--json goes with --plan" in capsys.readouterr().err


@pytest.mark.parametrize("main", [run.main, verbs.main])
def test_version(main: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert callable(main)
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out == f"harness {harness.__version__}\n"


def test_a_plan_writes_nothing_and_its_data_is_the_plan(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(folder)
    assert run.main(["toy.yaml", "--plan", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    plan = Plan.from_dict(data)
    told = data.pop("power")
    assert told["law"] == "none" and "2 sizes planned; a law needs 3" in told["reason"]
    assert json.loads(json.dumps(plan.to_dict())) == data
    assert [rung.rung for rung in plan.rungs] == ["small", "large"]
    assert all(rung.step_s > 0 and rung.runs == 7 for rung in plan.rungs)
    assert tree(folder) == before


def test_a_recorded_plan_is_shown_without_measuring_again(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(finished)
    assert run.main(["toy.yaml", "--plan"]) == 0
    out = capsys.readouterr().out
    assert "a law needs 3" in out
    assert "measuring" not in out and "nothing written. start: python -m harness.run" in out
    assert f"to run 0 of {toy.N_RUNS} ({toy.N_RUNS} done, 0 failed)" in out
    rungs = toy.results(finished)[["n_params", "non_embedding_params"]].drop_duplicates()
    assert "…" not in out and all(f"{count:,}" in out for count in rungs.to_numpy().flatten())
    assert tree(finished) == before
    assert run.main(["toy.yaml", "--plan", "--json"]) == 0
    recorded = toy.events(finished, "plan")[0]["plan"]
    shown = json.loads(capsys.readouterr().out)
    assert shown.pop("power")["runs"] == 4
    assert shown == {name: recorded[name] for name in shown}


def test_a_study_that_can_not_advise_says_why(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(finished)
    assert verbs.main(["advise", "toy", "--flops", "1e10", "--write", "next.yaml"]) == 2
    assert "toy: no advice: all runs repeat their data" in capsys.readouterr().err
    assert verbs.main(["advise", "toy", "--within", "soon"]) == 2
    assert "--within" in capsys.readouterr().err
    assert tree(finished) == before


def test_a_second_driver_is_told_who_is_at_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with lease.held(Path("mlruns/toy")):
        assert run.main(["toy.yaml", "--quiet"]) == 4
    err = capsys.readouterr().err
    assert f"study toy is being run by pid {os.getpid()}" in err and "python -m harness status toy" in err
    # The lock ends with its holder.
    with lease.held(Path("mlruns/toy")):
        pass


def test_a_folder_that_can_not_be_written_ends_before_anything_is_spent(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "mlruns").write_text("in the way")
    assert run.main(["toy.yaml", "--quiet"]) == 5
    err = capsys.readouterr().err
    assert "mlruns/toy can't be written" in err and "Nothing was run." in err


def test_a_damaged_record_is_not_written_to(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = toy.journal(copied)
    damaged = path.read_bytes().replace(b'"status":"completed"', b'"status":"Completed"', 1)
    path.write_bytes(damaged)
    assert run.main(["toy.yaml", "--quiet"]) == 6
    assert "damaged" in capsys.readouterr().err
    assert path.read_bytes() == damaged


def test_a_plan_for_another_device_is_not_run_on_this_one(finished_study: Path, tmp_path: Path) -> None:
    folder = toy.planned(tmp_path / "cuda", finished_study, device="cuda")
    ended = toy.run(folder, "--quiet", "--device", "cpu")
    assert (ended.code, ended.out) == (2, "")
    assert "the recorded plan is for cuda" in ended.err and "--replan" in ended.err


def test_without_a_terminal_an_event_is_one_line_of_pairs(finished_study: Path) -> None:
    out = (finished_study / "out.txt").read_text(encoding="utf-8")
    lines = [line for line in out.splitlines() if line.startswith("event=")]
    kinds = [line.split()[0] for line in lines]
    assert kinds.count("event=run_started") == kinds.count("event=run_ended") == toy.N_RUNS
    assert kinds.count("event=lr_chosen") == 2
    assert f"done={toy.N_RUNS}/{toy.N_RUNS}" in lines[-1]
    assert "\x1b" not in out and "…" not in out


def test_the_end_names_the_answer_the_paths_and_how_to_repeat_it(finished_study: Path) -> None:
    out = (finished_study / "out.txt").read_text(encoding="utf-8")
    for said in ("Test NLL", "mlruns/toy/results.csv", "mlruns/toy/report/report.md", "again    python -m harness.run toy.yaml --no-track"):
        assert said in out


def test_report_rebuilds_the_same_bytes(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def files() -> dict[str, bytes]:
        mine = [copied / "mlruns/toy/results.csv", *(copied / "mlruns/toy/report").rglob("*.*")]
        return {str(path): path.read_bytes() for path in mine if path.is_file()}

    before, record = files(), toy.journal(copied).read_bytes()
    assert len(before) > 5
    shutil.rmtree(copied / "mlruns/toy/report")
    (copied / "mlruns/toy/results.csv").unlink()
    assert verbs.main(["report", "toy"]) == 0
    assert files() == before
    assert toy.journal(copied).read_bytes() == record
    assert "mlruns/toy/report/report.md" in capsys.readouterr().out


def test_a_report_is_verified_against_the_record_and_nothing_is_written(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(copied)
    assert verbs.main(["report", "toy", "--verify"]) == 0
    assert "files are what the record gives, to the byte" in capsys.readouterr().out
    assert tree(copied) == before
    path = copied / "mlruns/toy/report/report.md"
    path.write_text(path.read_text(encoding="utf-8").replace("Test NLL", "Test NLl", 1), encoding="utf-8")
    assert verbs.main(["report", "toy", "--verify"]) == 6
    err = capsys.readouterr().err
    assert "report/report.md, line " in err and "python -m harness report toy" in err


def test_two_studies_are_compared_beside_the_first_and_verified(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(copied / "mlruns/toy", copied / "mlruns/other")
    assert verbs.main(["report", "toy", "other"]) == 0
    out = capsys.readouterr().out
    # A copy has the very same runs.
    assert "of the very same runs at small and large" in out and "mlruns/toy/compared-with-other/report.html" in out
    before = tree(copied)
    assert verbs.main(["report", "toy", "other", "--verify"]) == 0 and verbs.main(["report", "toy", "--verify"]) == 0
    assert tree(copied) == before
    page = copied / "mlruns/toy/compared-with-other/report.html"
    page.write_text(page.read_text(encoding="utf-8").replace("very same", "Very same", 1), encoding="utf-8")
    assert verbs.main(["report", "toy", "other", "--verify"]) == 6
    assert "report.html, line " in capsys.readouterr().err


@pytest.mark.parametrize("studies", [("toy", "toy"), ("toy", "toy", "toy"), ("toy", "tyo")])
def test_what_is_not_two_studies_is_not_compared(finished: Path, capsys: pytest.CaptureFixture[str], studies: tuple[str, ...]) -> None:
    before = tree(finished)
    assert verbs.main(["report", *studies]) == 2
    assert tree(finished) == before and capsys.readouterr().err


def test_status_tells_how_far_a_study_is(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verbs.main(["status", "toy"]) == 0
    out = capsys.readouterr().out
    assert "7/7" in out and f"completed {toy.N_RUNS}" in out


def test_status_of_a_study_that_has_only_a_plan(
    finished_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(toy.planned(tmp_path / "planned", finished_study))
    assert verbs.main(["status", "toy"]) == 0
    out = capsys.readouterr().out
    assert "0/7" in out and "no run has ended yet" in out


@pytest.mark.parametrize("verb", ["status", "report", "sync"])
def test_an_unknown_study_is_answered_with_those_there_are(finished: Path, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    assert verbs.main([verb, "tox"]) == 2
    err = capsys.readouterr().err
    assert "no study 'tox' under mlruns/" in err and "Did you mean toy?" in err and "There are: toy." in err


def test_a_study_that_was_stopped_before_its_plan_has_nothing_to_show(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = toy.journal(copied).read_bytes().splitlines(keepends=True)[0]
    toy.journal(copied).write_bytes(first)
    for verb in ("status", "report"):
        assert verbs.main([verb, "toy"]) == 2
        assert "has no plan yet" in capsys.readouterr().err


@pytest.mark.parametrize("what, name", [("archs", "decoder"), ("sources", "wire"), ("tokenizers", "char"), ("figures", "curves")])
def test_list(capsys: pytest.CaptureFixture[str], what: str, name: str) -> None:
    assert verbs.main(["list", what]) == 0
    assert name in capsys.readouterr().out.splitlines()


def test_a_run_writes_texts_by_its_key_or_name(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = toy.results(finished).query("stage == 'ladder'").iloc[0]
    said = []
    for name in (str(kept.name), str(kept.name)[:8], kept["name"]):
        assert verbs.main(["sample", name, "--n", "3", "--temperature", ".8"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] == said[2] and len(said[0].splitlines()) == 3
    for other in (
        ["--temperature", ".8", "--seed", "1"],
        ["--temperature", ".8", "--top-k", "2"],
        ["--temperature", ".8", "--top-p", ".2"],
    ):
        assert verbs.main(["sample", str(kept.name), "--n", "3", *other]) == 0
        said.append(capsys.readouterr().out)
    assert len(set(said)) == 4
    assert verbs.main(["sample", str(kept.name), "--n", "3", "--temperature", ".8", "--top-k", "1000", "--top-p", "1"]) == 0
    assert capsys.readouterr().out == said[0]


def test_a_sample_equals_the_recorded_one(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The weights on disk are those that wrote the texts in the record, with the seed of the run."""
    event = next(e for e in toy.events(finished, "samples") if e["at"] == "end" and e["temperature"] == 1.0)
    seed = next(e for e in toy.events(finished, "run_started") if e["key"] == event["key"])["spec"]["seed"]
    assert verbs.main(["sample", event["key"], "--n", "4", "--seed", str(seed)]) == 0
    assert capsys.readouterr().out.split("\n")[:-1] == event["texts"]


@pytest.mark.parametrize(
    "words, code, said",
    [
        (["nobody"], 2, "no run 'nobody' under mlruns/"),
        (["small-search-t00-lr1e-3"], 2, "kept no weights"),
        (["small-all-s0-lr1e-3", "--temperature", "0"], 2, "--temperature must be above 0"),
        (["small-all-s0-lr1e-3", "--top-k", "0"], 2, "sample: top_k 0 is below 1"),
        (["small-all-s0-lr1e-3", "--top-p", "1.5"], 2, "sample: top_p 1.5 is not above 0 and at most 1"),
    ],
)
def test_what_can_not_be_sampled(finished: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, said: str) -> None:
    assert verbs.main(["sample", *words]) == code
    assert said in capsys.readouterr().err


def test_damaged_weights_are_refused(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = next((copied / "mlruns/toy/checkpoints").glob("*/best.safetensors"))
    path.write_bytes(path.read_bytes()[:-100])
    assert verbs.main(["sample", path.parent.name]) == 6
    assert "can't be read" in capsys.readouterr().err


def test_the_command_to_go_on_names_an_interpreter_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv/bin/python"))
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    assert environment.python() == ".venv/bin/python"
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / ".venv"))
    assert environment.python() == "python"
    monkeypatch.delenv("VIRTUAL_ENV")
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")
    assert environment.python() == "python"


def test_the_plan_of_a_changed_study_does_not_count_another_plans_runs(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["toy.yaml", "--plan"]) == 0
    assert f"to run 0 of {toy.N_RUNS} ({toy.N_RUNS} done" in capsys.readouterr().out
    assert run.main(["toy.yaml", "--plan", "--set", "train.max_steps=15"]) == 0
    assert f"to run {toy.N_RUNS} of {toy.N_RUNS} (0 done" in capsys.readouterr().out


def test_the_coordinate_check_prints_both_parametrizations_and_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(folder)
    assert run.main(["toy.yaml", "--coord-check"]) == 0
    out = capsys.readouterr().out
    assert tree(folder) == before and "nothing written" in out
    lines = [line.split() for line in out.splitlines()]
    heads = [line for line in lines if line[:1] in (["standard"], ["mup"])]
    assert [head[0] for head in heads] == ["standard", "mup"] and all(width in heads[0] for width in ("8", "16", "32", "64"))
    places = [line[0] for line in lines if line and line[-1].startswith("w^")]
    assert places == 2 * ["embedding", "scores", "attention", "MLP", "logits"]
