"""Study files of every kind: each is answered by a valid study with a plan, or by exit code 2 and a sentence; never a traceback.

Seeded, so that a case that fails can be had again. `FAULTS` carries out all of it: 20,000 files.
"""

import itertools
import json
import random
import string
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import _yaml, invocation, ladder, run, spec, workers
from harness.errors import StudyError
from harness.plan import Machine, make
from harness.pricing import Cost, DataSize
from harness.spec import Study
from harness.stages import Group, RateChoice, Stages
from tests import toy
from tests.faults import studies
from tests.faults.table import Fault, Row, scaled

# CPU seconds of one file, reading and planning: no aim, but the bound of what a file may do to a machine.
MOST_S = 1.0
LENGTHS = tuple(range(20, 80))
SIZE = DataSize(25_600, 3_200, 3_200, 512, 29, 49.5, "0" * 16, LENGTHS)
MACHINE = Machine("cpu", 2, 1, "float32")
A_PART = 500
TYPOS = 200


def plan_of(study: Study) -> None:
    """What a start does with a valid study before anything is spent: shapes, price, the first runs."""
    rungs = ladder.resolve(study.model, SIZE.vocab_size, study.data.seq_len)
    free = {rung.name: Cost(0.0, 0.0) for rung in rungs}
    plan = make(study, rungs, SIZE, free, MACHINE, None)
    stages = Stages(study, plan, SIZE)
    dear = {rung.name: Cost(1e-3, 1e-3) for rung in rungs}
    make(study, rungs, SIZE, dear, MACHINE, study.within.seconds("cpu"))
    in_turn = study.search.trials and (study.search.order == "in_turn" or study.search.transfer == "predict")
    for i, rung in enumerate(plan.kept[:2]):
        first = next(iter(stages.rung(rung)), None)
        # Where rungs are searched in turn, the lane of the first is that of all.
        assert first is None if in_turn and i else isinstance(first, Group | RateChoice)


def answer(path: Path, overrides: list[str]) -> str:
    """`valid` or `refused`; whatever else comes out is raised."""
    try:
        study = spec.load(path, overrides)
    except StudyError as error:
        said = str(error)
        assert "Input should" not in said and said.strip()
        assert all(line.isprintable() and len(line) < 1000 for line in said.splitlines()), repr(said)
        assert all(line.startswith((str(path), "--set ", "... and ")) for line in said.splitlines()), said
        return "refused"
    assert Study.model_validate(study.model_dump(mode="json")) == study
    try:
        plan_of(study)
    except StudyError as error:
        assert all(line.isprintable() for line in str(error).splitlines()), repr(error)
        return "without a plan"
    return "valid"


def hold(path: Path, n: int, make_case: Callable[[int], tuple[bytes, list[str]]], fault: Fault) -> Counter[str]:
    """Answer `n` files; say which ones were not answered as they should be."""
    wrong: list[str] = []
    answers: Counter[str] = Counter()
    for i in range(n):
        text, overrides = make_case(i)
        path.write_bytes(text)
        start = time.process_time()
        try:
            answers[answer(path, overrides)] += 1
        except Exception as error:
            wrong.append(f"case {i}: {type(error).__name__}: {str(error)[:300]}\n{text[:600]!r} {overrides}")
        else:
            if (took := time.process_time() - start) > MOST_S:
                wrong.append(f"case {i}: {took:.1f} s\n{text[:600]!r} {overrides}")
    fault(Row.STUDY_FILES, n, n - len(wrong))
    assert not wrong, f"{len(wrong)} of {n}:\n" + "\n".join(wrong[:10])
    return answers


def parts(small: int, whole: int) -> list[tuple[int, int]]:
    """(seed, cases) of each test: pieces that can be carried out side by side."""
    n = scaled(small, whole)
    return [(seed, min(A_PART, n - first)) for seed, first in enumerate(range(0, n, A_PART))]


@pytest.mark.parametrize(("seed", "n"), parts(100, 9_000))
def test_documents_that_follow_the_schema_or_nearly_do(tmp_path: Path, seed: int, n: int, fault: Fault) -> None:
    rng = random.Random(seed)

    def document(i: int) -> tuple[bytes, list[str]]:
        share = (0.0, 0.02, 0.1, 0.4)[i % 4]
        return studies.written(rng, studies.spoiled(rng, studies.valid(rng), share)).encode("utf-8", "surrogatepass"), []

    answers = hold(tmp_path / "s.yaml", n, document, fault)
    # Both happen, or the generator no longer says anything.
    assert answers["refused"] > n / 4 and answers["valid"] > n / 50 and answers["without a plan"] > n / 50, answers


@pytest.mark.parametrize(("seed", "n"), parts(80, 7_000))
def test_shipped_studies_with_bytes_changed(tmp_path: Path, seed: int, n: int, fault: Fault) -> None:
    rng = random.Random(1_000 + seed)
    raws = [path.read_bytes() for path in studies.SHIPPED]
    answers = hold(tmp_path / "s.yaml", n, lambda i: (studies.mutated(rng, raws[i % len(raws)]), []), fault)
    assert answers["refused"] > n / 10 and answers["valid"] > n / 20, answers


@pytest.mark.parametrize(("seed", "n"), parts(60, 2_000))
def test_random_overrides(tmp_path: Path, seed: int, n: int, fault: Fault) -> None:
    rng = random.Random(2_000 + seed)
    keys = [".".join(map(str, path)) for path in studies.paths()]
    raw = studies.SHIPPED[-1].read_bytes()

    def override() -> str:
        key = rng.choice(keys)
        key = rng.choice((key, key, key, key[:-1], f"{key}.x", f"{key}.0", key.upper(), str(studies.odd(rng))))
        value = rng.choice((studies.scalar(rng, studies.odd(rng)), rng.choice(studies.PLAIN), rng.choice(studies.WORDS)))
        return rng.choice((f"{key}={value}", f"{key}={value}", f"{key}={value}", f"{key} {value}", f"{key}=={value}"))

    hold(tmp_path / "s.yaml", n, lambda _: (raw, [override() for _ in range(rng.randint(1, 3))]), fault)


@pytest.mark.parametrize(("seed", "n"), parts(80, 1_900))
def test_structure_that_is_expensive_or_surprising(tmp_path: Path, seed: int, n: int, fault: Fault) -> None:
    rng = random.Random(3_000 + seed)
    answers = hold(tmp_path / "s.yaml", n, lambda _: (studies.hard(rng), []), fault)
    assert answers["refused"] > n / 2, answers


LARGE: dict[str, Callable[[int], bytes]] = {
    "directives": lambda n: b"%X\n" * (n // 3),
    "folded": lambda n: b"a: >\n" + b" x\n" * (n // 3),
    "items": lambda n: b"a: [" + b"1," * (n // 2) + b"]",
    "comments": lambda n: b"# x\n" * (n // 4),
    "breaks": lambda n: b"\n" * n,
    "blanks": lambda n: studies.MINIMAL.encode() + b" " * n,
    "one scalar": lambda n: b"a: " + b"x" * n,
    "words": lambda n: b"a: " + b"x " * (n // 2),
    "escapes": lambda n: b'a: "' + b"\\x41" * (n // 4) + b'"',
    "quoted breaks": lambda n: b"a: '" + b"\n " * (n // 2) + b"'",
    "keys": lambda n: b"".join(b"k%d: 1\n" % i for i in range(n // 10)),
    "opened": lambda n: b"[" * n,
    "dashes": lambda n: b"- " * (n // 2),
    "colons": lambda n: b": " * (n // 2),
    "anchors": lambda n: b"&a " * (n // 3),
    "tags": lambda n: b"!" * n,
    "tabs": lambda n: b"a:\n" + b"\t" * n,
    "one key": lambda n: b"k" * n + b": 1",
    "wide": lambda n: ("a: " + "\U0001f600" * (n // 4)).encode(),
    "documents": lambda n: b"---\n" * (n // 4),
    "no text": lambda n: random.Random(0).randbytes(n),
    "zeros": lambda n: bytes(n),
}


@pytest.mark.parametrize("kind", list(LARGE)[: scaled(3, len(LARGE))])
def test_large_files(tmp_path: Path, kind: str, fault: Fault) -> None:
    # As large as is read at all, one byte more, and 50 MB.
    most = _yaml.MAX_BYTES
    sizes = (most, most + 1, scaled(2_000_000, 50_000_000))
    hold(tmp_path / "s.yaml", len(sizes), lambda i: (LARGE[kind](sizes[i])[: sizes[i]], []), fault)


@pytest.mark.parametrize(("seed", "n"), parts(20, 1_000))
def test_the_front_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], seed: int, n: int, fault: Fault
) -> None:
    """What a user sees, up to where the data would be read."""
    rng = random.Random(4_000 + seed)
    monkeypatch.chdir(tmp_path)
    raws = [path.read_bytes() for path in studies.SHIPPED]
    reached = []

    def stop(study: Study) -> None:
        reached.append(study)
        raise StudyError("as far as this test goes. Nothing was run.")

    monkeypatch.setattr(invocation, "prepare", stop)
    makers = itertools.cycle((
        lambda: studies.mutated(rng, rng.choice(raws)),
        lambda: studies.written(rng, studies.spoiled(rng, studies.valid(rng), 0.1)).encode("utf-8", "surrogatepass"),
        lambda: studies.hard(rng),
    ))  # fmt: skip
    fault(Row.STUDY_FILES, n)
    for _ in range(n):
        Path("s.yaml").write_bytes(next(makers)())
        words = [] if rng.random() < 0.7 else ["--set", rng.choice(("seeds=1", "x=1", f"study={rng.choice(studies.PLAIN)}", "seeds"))]
        assert run.main(["s.yaml", "--quiet", *words]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.strip() and "Traceback" not in err
        assert err.endswith("\n") and all(line.isprintable() for line in err.splitlines())
    assert 0 < len(reached) < n
    assert [path.name for path in tmp_path.iterdir()] == ["s.yaml"]


ABSURD = {
    "wide": ("model.rungs=[{name: a, n_layer: 1, d_model: 1e15, n_head: 1, d_ff: 1}]", 2),
    "deep": ("model.rungs=[{name: a, n_layer: 1e9, d_model: 1, n_head: 1, d_ff: 1}]", 2),
    "many heads": ("model.rungs=[{name: a, n_layer: 1, d_model: 8, n_head: 1e12, d_ff: 1}]", 2),
    "a target": ("model.rungs=[999999B]", 2),
    "a target of the other family": ("model={rungs: [150B], family: modern}", 2),
    "long texts": ("data.seq_len=1e15", 2),
    "texts": ("data.texts=1e15", 2),
    "runs": ("seeds=1e15", 2),
    "evaluations": ("train={epochs: null, max_steps: 1e15, evaluations: every_epoch}", 2),
    "more than this machine holds": ("model.rungs=[{name: a, n_layer: 10, d_model: 20000, n_head: 20, d_head: 1000, d_ff: 160000}]", 5),
}


@pytest.mark.parametrize("what", ABSURD)
def test_what_no_machine_can_hold_is_refused_before_memory_is_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], what: str, fault: Fault
) -> None:
    fault(Row.STUDY_FILES)
    monkeypatch.chdir(toy.write(tmp_path))
    # Nobody builds a model.
    monkeypatch.setattr(workers.Pool, "submit", None)
    override, code = ABSURD[what]
    assert run.main(["toy.yaml", "--quiet", "--no-track", "--set", override]) == code
    err = capsys.readouterr().err
    assert "Nothing was run." in err and "Traceback" not in err
    assert not toy.journal(tmp_path).exists() or not toy.events(tmp_path)


def one_letter_off(word: str, kind: str, rng: random.Random) -> str:
    """The word with a letter more, less, another, or two in each other's place."""
    i, a_letter = rng.randrange(len(word)), rng.choice(string.ascii_lowercase)
    if kind == "insertion":
        return word[:i] + a_letter + word[i:]
    if kind == "deletion":
        return word[:i] + word[i + 1 :]
    if kind == "substitution":
        return word[:i] + a_letter + word[i + 1 :]
    i = rng.randrange(len(word) - 1)
    return word[:i] + word[i + 1] + word[i] + word[i + 2 :]


def with_key(path: tuple[str | int, ...], key: str) -> dict[str, Any]:
    """A study in which the last key of the path is spelled so, whatever its value."""
    value: Any = {key: 1}
    for step in reversed(path[:-1]):
        value = [value] if isinstance(step, int) else {step: value}
    return yaml.safe_load(studies.MINIMAL) | value


def test_typos_of_keys(tmp_path: Path, fault: Fault) -> None:
    """Every key, by turns with a letter more, less, another, or two swapped."""
    rng = random.Random(5_000)
    keys = studies.paths()
    kinds = ("insertion", "deletion", "substitution", "swap")
    path = tmp_path / "s.yaml"
    wrong, n = [], 0
    for i in itertools.count():
        if n == TYPOS:
            break
        key = keys[i % len(keys)]
        typo = one_letter_off(str(key[-1]), kinds[(i + i // len(keys)) % len(kinds)], rng)
        if not typo or typo in {str(known[-1]) for known in keys if known[:-1] == key[:-1]}:
            continue
        n += 1
        path.write_text(json.dumps(with_key(key, typo)), encoding="utf-8")
        with pytest.raises(StudyError) as caught:
            spec.load(path)
        if f"unknown key. Did you mean {'.'.join(map(str, key))}?" not in str(caught.value):
            wrong.append((".".join(map(str, key)), typo, str(caught.value)))
    fault(Row.TYPOS, n, n - len(wrong))
    assert len(wrong) <= 0.05 * n, wrong
