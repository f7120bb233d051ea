"""Secrets are left out of whatever people read or the record keeps, and only secrets are."""

import shlex
import sys
import time
from pathlib import Path
from unittest.mock import patch

import pytest

from harness import environment, errors, run, terminal
from harness.console import Console
from harness.execute import Executor
from harness.journal import Journal, read
from harness.preflight import changes
from harness.record import Record
from harness.spec import ModelSpec, Study
from harness.text import censored, presentable, without_secrets
from harness.workers import Pool
from tests import toy

SECRET = "hunter2-S3cr3t"
WITH_SECRETS = [
    f"postgresql://me:{SECRET}@db.example:5432/x",
    f"https://me:p@{SECRET}@mlflow.example/api",
    f"http://me:p/{SECRET}@proxy.example:3128",
    f"https://{SECRET}@github.example/x.git",
    f"proxy me:{SECRET}@proxy.example:8080 refused",
    f"https://h.example/x?token={SECRET}&b=1",
    f"https://h.example/x?a=1&access_token={SECRET}",
    f"https://bucket.example/x.csv?X-Amz-Signature={SECRET}&X-Amz-Credential={SECRET}",
    f"https://h.example/x?key={SECRET}#top",
    f"--set data.path='https://u:{SECRET}@h.example/x.csv'",
    f"HF_TOKEN={SECRET} python -m harness.run s.yaml",
    f"password={SECRET}; rest",
    f"api_key='{SECRET} with blanks'",
    f"MLFLOW_TRACKING_PASSWORD={SECRET}",
    f"Authorization: Bearer {SECRET}",
    f"Authorization: Basic {SECRET}",
    f"curl -H 'authorization: token {SECRET}'",
]
SHAPES = [
    "hf_" + "aB3" * 11, "ghp_" + "x1" * 18, "github_pat_" + "A1_" * 10, "glpat-" + "a1b2" * 5, "sk-proj-" + "a1" * 12, "AKIA" + "A1B2" * 4,
    "xoxb-1234567890-abc", "dapi" + "0a" * 16, "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0x.c2lnbmF0dXJl",
]  # fmt: skip
HARMLESS = [
    "python -m harness.run studies/scaling.yaml --set train.tokens=1e6 --set data.tokenizer=char --only 20k",
    "http://127.0.0.1:5000/#/experiments/1 sqlite:////home/me/mlruns/mlflow.db https://h.example:8080/a/b?c=1",
    "train_tokens=5 unique_tokens=7 tokens_per_param=2 max_tokens=1 key=0123456789abcdef",
    "20k-search-t00-lr1e-3 task-force-of-the-council-of-ministers 1:30 a: b",
    "git@github.com:x/y.git me@example.com file data.csv, sha256:0123456789abcdef",
    "/home/me/my@folder/data.csv",
]


@pytest.mark.parametrize("text", WITH_SECRETS)
def test_secrets_are_left_out(text: str) -> None:
    assert SECRET not in without_secrets(text) and "***" in without_secrets(text)


@pytest.mark.parametrize("token", SHAPES)
def test_tokens_are_known_by_their_shape(token: str) -> None:
    for text in (token, f"error for {token}: denied", f"data.revision={token}", f"'{token}'"):
        assert token not in without_secrets(text)


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_secret_stays(text: str) -> None:
    assert without_secrets(text) == text


def test_hosts_and_paths_stay_beside_a_secret() -> None:
    assert without_secrets(WITH_SECRETS[0]) == "postgresql://***@db.example:5432/x"
    assert without_secrets(WITH_SECRETS[5]) == "https://h.example/x?token=***&b=1"


@pytest.mark.parametrize("name", ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "WANDB_API_KEY", "my_secret"])
def test_what_the_environment_calls_a_secret_is_one_anywhere(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "plain-looking words")
    assert without_secrets("server said: plain-looking words!") == "server said: ***!"
    monkeypatch.setenv(name, "short")
    assert without_secrets("short") == "short"


@pytest.mark.parametrize("unit", ["://", "a:", "a_", "://a:b", "token=", "Bearer ", "eyJaaaaaaaa.", "a@", "?key=", "x"])
def test_no_text_takes_long(unit: str) -> None:
    start = time.process_time()
    without_secrets(unit * (200_000 // len(unit)))
    assert time.process_time() - start < 10


def test_plain_data_is_censored_to_its_depth() -> None:
    value = {"a": [WITH_SECRETS[0], {"b": (WITH_SECRETS[5], 1, None)}], "c": 2.5}
    assert SECRET not in str(censored(value)) and censored(value)["c"] == 2.5 and censored(value)["a"][1]["b"][1:] == [1, None]


@pytest.mark.parametrize("text", [WITH_SECRETS[0], WITH_SECRETS[5], WITH_SECRETS[10]])
def test_no_secret_reaches_the_console(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.say(text)
    console.warn(text)
    print(errors.StudyError(text))
    out, err = capsys.readouterr()
    assert SECRET not in out + err and out.count("***") == 2 and err.count("***") == 1


def test_no_secret_of_the_command_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [
        "run",
        "s.yaml",
        "--set",
        f"data.path=https://u:{SECRET}@h.example/x?token={SECRET}",
        "--set",
        f"data.name=password={SECRET} x",
    ]
    monkeypatch.setattr(sys, "argv", words)
    assert SECRET not in environment.command() and shlex.split(environment.command())[-1].startswith("data.name=")


def test_no_secret_reaches_the_record(tmp_path: Path) -> None:
    """Whatever kind of event holds it; what a model wrote stays as it was."""
    journal = Journal(tmp_path / "journal.jsonl")
    with patch.object(Pool, "__init__", return_value=None):
        executor = Executor(journal, Record(), Pool.__new__(Pool), Console(quiet=True), tmp_path, "a", None)
    study = Study(study="s", question=WITH_SECRETS[0], model=ModelSpec(rungs=("20k",)))
    executor.note("plan", study=study.model_dump(mode="json"), plan={"rungs": []}, data={"source": f"file {WITH_SECRETS[5]}"})
    executor.note("invocation", id="a", command=WITH_SECRETS[9], started="now")
    executor.note("run_ended", key="k", status="failed", reason=WITH_SECRETS[14], traceback=[WITH_SECRETS[3]])
    journal.close()
    assert SECRET not in (tmp_path / "journal.jsonl").read_text(encoding="utf-8")
    assert len(list(read(tmp_path / "journal.jsonl"))) == 3
    # What was left out does not look like a change.
    assert changes(executor.record, study, "") == []


def test_a_bug_shows_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(toy.write(tmp_path))
    monkeypatch.setattr(terminal, "plan_table", None)
    with patch("harness.spec.load", side_effect=RuntimeError(WITH_SECRETS[1])):
        assert run.main(["toy.yaml"]) == errors.BUG
    err = capsys.readouterr().err
    assert "Traceback" in err and SECRET not in err


def test_lines_stay_lines_and_nothing_acts_on_a_terminal() -> None:
    assert presentable("a\x1b[31m\n\u202eb\r\n") == "a\\x1b[31m\n\\u202eb\\r\n"
