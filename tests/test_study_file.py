"""Reading a study file: what YAML means here, what is refused, where errors point, and that nothing but StudyError ever comes out."""

import math
import os
import random
import string
import time
from pathlib import Path
from typing import Any

import pytest

from harness import _yaml, study_file
from harness.errors import StudyError
from harness.spec import Study, load

SCALING = Path(__file__).parents[1] / "studies" / "scaling.yaml"
MINIMAL = "study: s\nquestion: Why?\nmodel: {rungs: [20k]}\n"


def refusal(tmp_path: Path, text: str | bytes, *overrides: str) -> str:
    """The error for a file with this content, with its path shortened to `s.yaml`."""
    path = tmp_path / "s.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(StudyError) as caught:
        load(path, overrides)
    return str(caught.value).replace(str(path), "s.yaml")


SURPRISES: list[tuple[str, Any]] = [
    ("1e-3", 0.001), ("3e-4", 0.0003), ("1E5", 100000.0), ("1.", 1.0), (".5", 0.5), ("-1.5e+3", -1500.0), ("+7", 7), ("007", 7),
    ("0o17", 15), ("0x1F", 31), ("no", "no"), ("on", "on"), ("Yes", "Yes"), ("y", "y"), ("off", "off"), ("1:30", "1:30"),
    ("1_000", "1_000"), ("0b11", "0b11"), ("1e", "1e"), ("2026-11-22", "2026-11-22"), ("true", True), ("True", True),
    ("tRue", "tRue"), ("FALSE", False), ("null", None), ("~", None), ("", None), ("nULL", "nULL"), (".inf", math.inf),
    ("-.INF", -math.inf), (".nan", math.nan), ("inf", "inf"), ("nan", "nan"), ("'1e-3'", "1e-3"), ('"true"', "true"), ("'~'", "~"),
    ("<<", "<<"), ("=", "="), ("20k", "20k"), ("1.2.3", "1.2.3"), ("[a, 1, no]", ["a", 1, "no"]), ("{on: 1}", {"on": 1}),
    ("|\n  12", "12"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), SURPRISES, ids=[text for text, _ in SURPRISES])
def test_the_core_schema_of_yaml_1_2(text: str, value: Any) -> None:
    read = _yaml.parse(f"key: {text}").data["key"]
    assert type(read) is type(value)
    assert read == value or (isinstance(value, float) and math.isnan(value) and math.isnan(read))


def test_unknown_keys_are_named_with_line_and_the_nearest_key(tmp_path: Path) -> None:
    text = SCALING.read_text(encoding="utf-8").replace("  trials: 12", "  trails: 12")
    line = text.splitlines().index(next(row for row in text.splitlines() if "trails" in row)) + 1
    assert refusal(tmp_path, text) == f"s.yaml:{line}: search.trails: unknown key. Did you mean search.trials? Nothing was run."


def test_a_key_at_the_wrong_level_is_shown_its_place(tmp_path: Path) -> None:
    assert "s.yaml:4: trials: unknown key. Did you mean search.trials?" in refusal(tmp_path, MINIMAL + "trials: 3\n")
    assert "s.yaml:4: train.lr: unknown key. Did you mean search.lr?" in refusal(tmp_path, MINIMAL + "train: {lr: 1e-3}\n")
    assert "s.yaml:5: data.warmup_fraction: unknown key. Did you mean train.warmup_fraction?" in refusal(
        tmp_path, MINIMAL + "data:\n  warmup_fraction: 0\n"
    )


def test_several_mistakes_come_in_the_order_of_the_file_and_overrides_last(tmp_path: Path) -> None:
    shape = "{name: a, n_layer: 0,\n       d_model: 1, n_head: 1, d_ff: x}"
    text = f"seeds: no\nquestion: q\nmodel:\n  rungs:\n    - 20k\n    - {shape}\nsearch: 3\n"
    assert refusal(tmp_path, text, "data.texts=-1").splitlines() == [
        "s.yaml:1: study: this key is required. Nothing was run.",
        "s.yaml:1: seeds: must be a whole number >= 1, not 'no'. Nothing was run.",
        "s.yaml:6: model.rungs.1.n_layer: must be a whole number >= 1, not 0. Nothing was run.",
        "s.yaml:7: model.rungs.1.d_ff: must be a whole number >= 1, not 'x'. Nothing was run.",
        "s.yaml:8: search: must be a mapping of keys, not 3. Nothing was run.",
        "--set data.texts=-1: data.texts: must be a whole number >= 1 or null, not -1. Nothing was run.",
    ]


def test_a_value_on_its_own_line_is_pointed_at_there_and_a_list_at_its_key(tmp_path: Path) -> None:
    assert "s.yaml:5: seeds: must be" in refusal(tmp_path, MINIMAL + "seeds:\n  none\n")
    twice = "model:\n  rungs:\n  - 20k\n  - 20k\nstudy: s\nquestion: q\n"
    assert "s.yaml:2: model.rungs: the rung 20k is given twice" in refusal(tmp_path, twice)


def test_a_missing_key_is_pointed_at_in_its_block(tmp_path: Path) -> None:
    message = refusal(tmp_path, "study: s\nquestion: q\nmodel:\n  arch: decoder\n")
    assert message == "s.yaml:3: model.rungs: this key is required. Nothing was run."


def test_at_most_ten_mistakes_are_listed(tmp_path: Path) -> None:
    lines = refusal(tmp_path, MINIMAL + "".join(f"zzzz{i}: 1\n" for i in range(25))).splitlines()
    assert len(lines) == 11 and lines[-1] == "... and 15 more."
    assert "unknown key. There are: study, question, hypothesis," in lines[0]


def test_a_mistyped_required_key_is_one_mistake(tmp_path: Path) -> None:
    message = refusal(tmp_path, MINIMAL.replace("question", "qestion"))
    assert message == "s.yaml:2: qestion: unknown key. Did you mean question? Nothing was run."


def one_letter_edits(word: str, rng: random.Random) -> list[str]:
    """A dropped, a doubled, a wrong and (where it changes the word) a swapped letter, at random places."""
    i, letter = rng.randrange(len(word)), rng.choice(string.ascii_lowercase)
    j = rng.randrange(len(word) - 1)
    swapped = word[:j] + word[j + 1] + word[j] + word[j + 2 :]
    edits = [word[:i] + word[i + 1 :], word[:i] + word[i] + word[i:], word[:i] + letter + word[i + 1 :], swapped]
    return [edit for edit in edits if edit != word]


def test_a_wrong_letter_in_any_key_suggests_that_key() -> None:
    rng = random.Random(0)
    paths = list(study_file.key_paths(Study))
    right = total = 0
    for path in paths:
        beside = {known[-1] for known in paths if known[:-1] == path[:-1]}
        for _ in range(5):
            for edit in one_letter_edits(str(path[-1]), rng):
                if edit in beside:
                    continue
                total += 1
                right += study_file.nearest_key((*path[:-1], edit), Study) == ".".join(map(str, path))
    assert total > 1000
    assert right / total >= 0.95, right / total


def test_overrides_replace_add_and_index(tmp_path: Path) -> None:
    study = load(SCALING, ["search.lr.low=1e-4", "model.rungs.1=50k", "within=null", "train={epochs: 2}", "question=a = b"])
    assert study.search.lr.low == 1e-4 and study.search.lr.high == 3e-2 and study.search.trials == 12
    assert study.model.rungs[:2] == ("20k", "50k")
    assert study.within.seconds("cpu") is None
    assert study.train.epochs == 2 and study.train.patience == 10
    assert study.question == "a = b"
    assert load(SCALING, ["seeds=1", "seeds=2"]).seeds == 2
    assert load(SCALING, ["budgets=null", "budgets.train_flops=[1e12]"]).budgets.train_flops == (1e12,)


def test_overrides_mend_what_is_wrong_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(MINIMAL + "seeds: none\n")
    assert load(path, ["seeds=1"]).seeds == 1


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("search.trails=3", "--set search.trails=3: search.trails: unknown key. Did you mean search.trials? Nothing was run."),
        ("seeds", "--set seeds: write it as key.path=value, such as train.epochs=10. Nothing was run."),
        ("=3", "write it as key.path=value"),
        ("a..b=3", "write it as key.path=value"),
        ("a" * 300 + "=[", f": {'a' * 57}...: "),
        ("\ud800=3", "--set \\ud800=3: write it as key.path=value"),
        (".".join("a" * 30) + "=3", "write it as key.path=value"),
        ("seeds.x=3", "--set seeds.x=3: seeds is 3, which has no keys to set."),
        ("model.rungs.9=1k", "model.rungs is a list: name one of its items by a number from 0 to 7, not '9'."),
        ("model.rungs.-1=1k", "from 0 to 7, not '-1'"),
        ("model.rungs.first=1k", "from 0 to 7, not 'first'"),
        ("seeds=[1", "--set seeds=[1: seeds: not valid YAML:"),
        ("seeds=!!python/object:os.system x", "a tag ("),
        ("search.lr.low=1", "--set search.lr.low=1: search.lr.low: must be below high (0.03), not 1."),
        ("data.source=file", "data.path: source file needs a file (data.path)."),
    ],
)
def test_overrides_that_are_wrong(tmp_path: Path, override: str, what: str) -> None:
    with pytest.raises(StudyError) as caught:
        load(SCALING, [override])
    assert what in str(caught.value) and str(caught.value).endswith("Nothing was run.")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (b"", "s.yaml:1: the file is empty."),
        (b"# only a comment\n", "s.yaml:1: the file is empty."),
        (b"- a\n- b\n", "s.yaml:1: the file must be a mapping of keys, not a list."),
        (b"just text", "s.yaml:1: the file must be a mapping of keys, not 'just text'."),
        (b"study: s\nquestion: \xff\xfe\n", "s.yaml:2: the file isn't UTF-8 text (byte 0xff). Save it as UTF-8."),
        (b"study: s\nx: \x00\n", "s.yaml:2: not valid YAML: the character U+0000 is not allowed."),
        (b"study: s\nseeds: 1\nstudy: t\n", "s.yaml:3: the key 'study' is given twice, on lines 1 and 3."),
        (b"study: s\nmodel: {arch: a, arch: b}\n", "s.yaml:2: the key 'arch' is given twice, on lines 2 and 2."),
        (b"study: s\n\tseeds: 1\n", "s.yaml:2: not valid YAML:"),
        (b"study: [a\nseeds: 1\n", "not valid YAML:"),
        (b"study: a\n---\nstudy: b\n", "not valid YAML: expected a single document"),
        (b"study: *missing\n", "s.yaml:1: not valid YAML: found undefined alias"),
        (b"study: !!python/object/apply:os.system [echo]\n", "s.yaml:1: a tag ('tag:yaml.org,2002:python/object/apply...') is not allowed"),
        (b"study: !mine x\n", "a tag ('!mine') is not allowed"),
        (b"study: !!str x\n", "a tag ("),
        (b"? [a, b]\n: c\n", "s.yaml:1: a key must be text, not a list or a mapping."),
        (b"a: &a [*a]\n", "more than 20 levels of nesting"),
        (b"study: s\nx: " + b"[" * 30 + b"]" * 30, "s.yaml:2: more than 20 levels of nesting."),
        (b"x: " + b"[" * 100_000, "more than 20 levels of nesting."),
        (b"x: &a 1\ny: [" + b"*a, " * 51 + b"]\n", "more than 50 aliases."),
        (b"x: [" + b"1, " * 10_001 + b"]\n", "more than 10,000 values."),
        (b"x: " + b"9" * 5_000 + b"\n", "a number of more than 40 digits."),
        (b'x: "\\ud800"\n', "half a character"),
        (b'x: "\\U00110000"\n', "not valid YAML:"),
        (b"%YAML " + b"9" * 5_000 + b".1\n---\na: b\n", "not valid YAML:"),
    ],
)
def test_files_that_are_no_study_get_one_line(tmp_path: Path, text: bytes, what: str) -> None:
    message = refusal(tmp_path, text)
    assert what in message and message.startswith("s.yaml")
    assert message.endswith("Nothing was run.") and "\n" not in message


def test_a_billion_laughs_is_refused_at_once(tmp_path: Path) -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 5)}]" for i in range(1, 10)]
    start = time.monotonic()
    assert "more than 10,000 values" in refusal(tmp_path, "\n".join(levels))
    assert time.monotonic() - start < 2


def test_aliases_and_byte_order_marks_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + b"study: &name s\nquestion: *name\nmodel: {rungs: [20k]}\r\n")
    assert load(path).question == "s"


def test_what_is_not_a_file_or_too_large(tmp_path: Path) -> None:
    big = tmp_path / "big.yaml"
    big.write_bytes(b"#" * 200_001)
    os.mkfifo(tmp_path / "pipe.yaml")
    for path, what in [
        (big, "larger than 200,000 bytes"),
        (tmp_path, "is not a file."),
        (tmp_path / "pipe.yaml", "is not a file."),
        (tmp_path / "none.yaml", "there is no such file. There are: big.yaml, pipe.yaml."),
        (tmp_path / ("x" * 5000), ""),
        (tmp_path / "nul\0.yaml", ""),
        (Path("/dev/zero"), "is not a file."),
    ]:
        with pytest.raises(StudyError) as caught:
            load(path)
        assert what in str(caught.value) and "\n" not in str(caught.value)


TOKENS = [
    b"\n", b" ", b"{", b"}", b"[", b"]", b": ", b"- ", b"&a ", b"*a", b"!!x ", b"null", b"true", b"-1", b".nan", b"1e999", b"'", b'"',
    b"\\", b"|\n", b"%", b"\xff", b"\xc3", b"\t", b"?", b"#", b"@", b"`", b",", b"<<", b"\xe2\x80\xa8", b"0x",
    b"99999999999999999999999999999999999999999999999999",
]  # fmt: skip


def mutated(raw: bytes, rng: random.Random) -> bytes:
    """A few random changes: bytes, tokens of YAML, lines moved, pieces cut."""
    for _ in range(rng.randint(1, 4)):
        i, j = sorted((rng.randrange(len(raw) + 1), rng.randrange(len(raw) + 1)))
        kind = rng.randrange(4)
        if kind == 0:
            raw = raw[:i] + bytes([rng.randrange(256)]) + raw[i + 1 :]
        elif kind == 1:
            raw = raw[:i] + rng.choice(TOKENS) + raw[i + rng.randint(0, 3) :]
        elif kind == 2:
            raw = raw[:i] + raw[min(j, i + 30) :]
        else:
            lines = raw.splitlines(keepends=True)
            rng.shuffle(lines)
            raw = b"".join(lines)
        raw = raw or b"\n"
    return raw


def test_only_study_errors_come_out_of_damaged_files(tmp_path: Path) -> None:
    rng = random.Random(1)
    raw = SCALING.read_bytes()
    path = tmp_path / "s.yaml"
    outcomes = {"read": 0, "refused": 0}
    for _ in range(800):
        path.write_bytes(mutated(raw, rng))
        try:
            load(path)
            outcomes["read"] += 1
        except StudyError as error:
            outcomes["refused"] += 1
            assert str(error).encode() and all(line.startswith((str(path), "...")) for line in str(error).splitlines()), error
    assert min(outcomes.values()) > 20, outcomes


VALUES = [
    "", "null", "true", "-1", "0", "1e999", ".nan", "x", "[]", "{}", "[[]]", "[null]", "{a: 1}", "{split: 1}", "[{}]", "[true, 1.5]",
    "'\\0'", "[{name: a}]", "9" * 39,
]  # fmt: skip


def test_any_value_under_any_key_is_read_or_refused_with_the_key(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(MINIMAL)
    for known in study_file.key_paths(Study):
        for value in VALUES:
            override = f"{'.'.join(map(str, known))}={value}"
            try:
                study = load(path, [override])
            except StudyError as error:
                assert str(error).endswith("Nothing was run.") and "Input should" not in str(error), error
            else:
                assert Study.model_validate(study.model_dump(mode="json")) == study, override
