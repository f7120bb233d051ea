"""Files and Hub data sets as they come: each kind of file gives the same texts, and each way to fail names where and what to do."""

import json
import shutil
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from harness.data.sources import file, hub
from harness.errors import StudyError
from harness.spec import Data

ROWS = [("Rain, at last", "a"), ('He said "no"', "b"), ("", "c"), ("Grüße aus Köln", "d")]
LEFT = [left for left, _ in ROWS]
BOTH = [text for row in ROWS for text in row]


def write(folder: Path, kind: str) -> str:
    """The rows as a file of one kind."""
    path = folder / f"texts{kind}"
    frame = pd.DataFrame(ROWS, columns=["left", "right"])
    if kind == ".txt":
        path.write_bytes("\r\n".join(LEFT).encode() + b"\n")
    elif kind in (".csv", ".tsv"):
        frame.to_csv(path, sep="," if kind == ".csv" else "\t", index=False)
    elif kind == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_parquet(path)
    return str(path)


def options(path: str, **more: object) -> Data:
    return Data.model_validate({"source": "file", "path": path, **more})


@pytest.mark.parametrize("kind", [".txt", ".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_kind_of_file_gives_the_same_texts(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind)
    column = {} if kind == ".txt" else {"column": "left"}
    texts = file.load(options(path, **column))
    assert list(texts.train) == LEFT
    assert texts.validation is None and texts.test is None
    if kind != ".txt":
        assert list(file.load(options(path, columns=["left", "right"])).train) == BOTH


def test_revision_follows_the_content_and_not_the_place(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    first, second = file.load(options(write(tmp_path, ".txt"))), file.load(options(write(other, ".txt")))
    assert (first.revision, first.source) == (second.revision, second.source)
    (other / "texts.txt").write_text("Rain at last\n")
    assert file.load(options(str(other / "texts.txt"))).revision != first.revision


def test_words_that_look_like_missing_values_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("text\nNA\nnull\n007\n")
    assert list(file.load(options(str(path))).train) == ["NA", "null", "007"]


@pytest.mark.parametrize(
    ("name", "content", "more", "said"),
    [
        ("x.csv", b"titel,n\na,1\n", {"column": "title"}, r"no column 'title'\. Did you mean titel\? There are: titel, n\."),
        ("x.csv", b"a,b\n1,2\n", {}, "say which column"),
        ("x.csv", b"", {"column": "a"}, "is empty"),
        ("x.csv", b"text,n\na,1,2,3\nb,1\nc,1,2,3,4,5\n", {"column": "text"}, "can't be read as a table"),
        ("x.txt", b"\n \n", {}, "holds no text"),
        ("x.txt", b"good\nb\xe9d\n", {}, r"x\.txt:2: byte 6 \(0xe9\) is not UTF-8"),
        ("x.jsonl", b'{"text": "a"}\n{"text": \n', {"column": "text"}, r"x\.jsonl:2: not JSON"),
        ("x.jsonl", b'["a"]\n', {"column": "text"}, r"x\.jsonl:1: a line must be an object"),
        ("x.parquet", b"not parquet", {"column": "text"}, "can't be read as parquet"),
        ("x.docx", b"text", {}, "not a kind of file"),
    ],
)
def test_a_bad_file_says_where_and_what(tmp_path: Path, name: str, content: bytes, more: dict[str, str], said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StudyError, match=said):
        file.load(options(str(tmp_path / name), **more))


def test_a_missing_file_suggests_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "headlines.csv").write_text("text\na\n")
    with pytest.raises(StudyError, match=r"no file .*headline\.csv\. Did you mean headlines\.csv\?"):
        file.load(options(str(tmp_path / "headline.csv")))


@pytest.fixture
def local_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A data set as a folder of files, one for each split, with its own cache."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    folder.mkdir()
    for split, rows in {"train": ROWS, "validation": ROWS[:2], "test": ROWS[3:]}.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps({"left": a, "right": b}) + "\n" for a, b in rows))
    return str(folder)


def hub_options(path: str, **more: object) -> Data:
    return Data.model_validate({"source": "hub", "path": path, "columns": ["left"], **more})


def test_hub_reads_a_source_s_own_splits(local_set: str) -> None:
    texts = hub.load(hub_options(local_set, columns=["left", "right"], validation={"split": "validation"}, test={"split": "test"}))
    assert list(texts.train) == BOTH
    assert list(texts.validation or []) == BOTH[:4] and list(texts.test or []) == BOTH[6:]
    shared = hub.load(hub_options(local_set, test={"split": "test"}))
    assert shared.validation is None and shared.test == [LEFT[3]]


def test_hub_finds_a_configuration_that_is_a_folder(tmp_path: Path) -> None:
    """The layout of the Hub's Parquet conversions: configuration/split/0000.parquet."""
    pytest.importorskip("datasets")
    for name in ("en_simple", "ru_simple"):
        for split, n in (("train", 3), ("test", 2)):
            (tmp_path / name / split).mkdir(parents=True)
            frame = pd.DataFrame({"left": [f"{name} {split} {i}" for i in range(n)]})
            frame.to_parquet(tmp_path / name / split / "0000.parquet")
    texts = hub.load(hub_options(str(tmp_path), name="en_simple", test={"split": "test"}))
    assert list(texts.train) == [f"en_simple train {i}" for i in range(3)]
    assert texts.test is not None and list(texts.test) == ["en_simple test 0", "en_simple test 1"]


def test_hub_names_what_is_missing(local_set: str) -> None:
    with pytest.raises(StudyError, match=r"no split 'valid'\. Did you mean validation\? There are: "):
        hub.load(hub_options(local_set, validation={"split": "valid"}))
    with pytest.raises(StudyError, match=r"no column 'lft'\. Did you mean left\? There are: left, right\."):
        hub.load(hub_options(local_set, columns=["lft"]))


def test_hub_offline_and_not_cached_is_one_quick_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    # Nothing listens on port 9 of this machine: the same as a network that is down, wherever the test runs.
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(StudyError) as caught:
        hub.load(hub_options("IlyaGusev/headline_cause", name="en_simple"))
    assert str(caught.value) == (
        "data.source hub: IlyaGusev/headline_cause is not cached and the network is down. Fetch it once online, or use "
        "--set data.source=file --set data.path=FILE, or the embedded corpus: data.source=wire."
    )
    assert time.monotonic() - began < 10
    assert not datasets.config.HF_HUB_OFFLINE, "offline mode must not outlive the call"


def test_hub_offline_takes_the_cache_at_the_revision_asked_for(local_set: str, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    cache, commit = Path(datasets.config.HF_DATASETS_CACHE), "0123456789abcdef" * 2 + "01234567"
    datasets.load_dataset(local_set)
    # The cache as an online start would have left it for owner/set at that commit.
    (prepared,) = (path for path in cache.glob("set/default/0.0.0/*") if path.is_dir())
    shutil.copytree(prepared, cache / "owner___set" / "default" / "0.0.0" / commit)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    texts = hub.load(hub_options("owner/set", revision=commit, validation={"split": "validation"}))
    assert (list(texts.train), texts.validation, texts.revision) == (LEFT, LEFT[:2], commit)
    assert hub.load(hub_options("owner/set")).revision == commit
    with pytest.raises(StudyError, match=f"holds owner/set at revision {commit}, not at the {'f' * 40}"):
        hub.load(hub_options("owner/set", revision="f" * 40))


def test_hub_never_runs_code_of_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "scripted"
    folder.mkdir()
    (folder / "scripted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    with pytest.raises(StudyError, match=r"can't be loaded|remote code is never run"):
        hub.load(hub_options(str(folder)))
    assert not (tmp_path / "ran").exists()


def test_hub_without_the_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(StudyError, match=r"pip install -e \.\[hub\]"):
        hub.load(hub_options("a/b"))
