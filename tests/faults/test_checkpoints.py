"""Damaged checkpoints: never parsed, passed over with a sentence, and the run ends as one that was never stopped, bit by bit."""

import json
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import checkpoint
from harness.checkpoint import FACTS, FORMAT, MANIFEST, TENSORS, find_checkpoint, load_checkpoint, save_checkpoint
from harness.failpoints import VARIABLE
from harness.state import snapshot, start
from tests import tiny, toy
from tests.faults.table import Fault, Row, is_whole, scaled

CASES, TRAINED = scaled(34, 500), scaled(2, 60)
OLDER, NEWER = 5, 9
CLOCKS = {"time_s", "seconds", "tokens_per_second"}
SENTENCE = re.compile(
    r"checkpoint run/\d+ is damaged \(.+\): (going on from \d+|training the run from its start); \d+ steps are done again\."
)
Damage = Callable[[Path, random.Random], None]


def any_file(folder: Path, rng: random.Random) -> Path:
    return folder / rng.choice([TENSORS, FACTS, MANIFEST])


def flip(folder: Path, rng: random.Random) -> None:
    """One to eight bits of one file."""
    path = any_file(folder, rng)
    content = bytearray(path.read_bytes())
    for place in rng.sample(range(8 * len(content)), rng.randint(1, 8)):
        content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)


def truncate(folder: Path, rng: random.Random) -> None:
    path = any_file(folder, rng)
    os.truncate(path, rng.randrange(path.stat().st_size))


def lengthen(folder: Path, rng: random.Random) -> None:
    path = any_file(folder, rng)
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.randint(1, 100)))


def zero(folder: Path, rng: random.Random) -> None:
    """The length is kept and a block of the content is not, as after a power cut."""
    path = any_file(folder, rng)
    content = path.read_bytes()
    start = rng.randrange(len(content) - 10)
    path.write_bytes(content[:start] + bytes(len(content) - start))


def empty(folder: Path, rng: random.Random) -> None:
    any_file(folder, rng).write_bytes(b"")


def missing(folder: Path, rng: random.Random) -> None:
    for path in rng.sample(sorted(folder.iterdir()), rng.randint(1, 3)):
        path.unlink()


def other_version(folder: Path, rng: random.Random) -> None:
    """From the future or the past, by its manifest, which then may have other entries."""
    said = json.loads((folder / MANIFEST).read_bytes())
    said["format"] = rng.choice([0, FORMAT + 1, 99, str(FORMAT), None, FORMAT + 0.5, [FORMAT]])
    if rng.random() < 0.5:
        del said["files"]
    (folder / MANIFEST).write_text(json.dumps(said))


def other_manifest(folder: Path, rng: random.Random) -> None:
    """A manifest that reads well and says another thing, or isn't one."""
    said = json.loads((folder / MANIFEST).read_bytes())
    lies = [said | {"step": said["step"] + 1}, said | {"files": {}}, said | {"more": 1}, [], {}, None, {"format": FORMAT, "files": 3}]
    texts = [*map(json.dumps, lies), "[" * 100_000, "{", "\0" * 300, json.dumps(said, indent=1)]
    (folder / MANIFEST).write_text(rng.choice(texts))


def folder_for_a_file(folder: Path, rng: random.Random) -> None:
    path = any_file(folder, rng)
    path.unlink()
    path.mkdir()


def file_for_the_folder(folder: Path, rng: random.Random) -> None:
    shutil.rmtree(folder)
    folder.write_bytes(rng.randbytes(rng.randrange(100)))


def unreadable(folder: Path, rng: random.Random) -> None:
    """A link that leads to itself: the system refuses to open it, whoever asks."""
    path = any_file(folder, rng)
    path.unlink()
    path.symlink_to(path.name)


def of_another_step(folder: Path, rng: random.Random) -> None:
    """Whole files, but not of this step."""
    other = folder.with_name("step-000000007")
    state = start(tiny.spec(seed=1), "cpu")
    state.step = 7
    save_checkpoint(other.parent / "elsewhere", snapshot(state))
    names = [TENSORS, FACTS, MANIFEST] if rng.random() < 0.5 else [rng.choice([TENSORS, FACTS, MANIFEST])]
    for name in names:
        shutil.copy(other.parent / "elsewhere" / other.name / name, folder / name)
    shutil.rmtree(other.parent / "elsewhere")


def nothing_that_matters(folder: Path, rng: random.Random) -> None:
    """Files that nobody asked for."""
    (folder / "notes.txt").write_bytes(rng.randbytes(20))
    for name in ("step-1", "step-last", "step-000000011.part", f"{folder.name}.part", f"{folder.name}-copy"):
        (folder.parent / name).mkdir(exist_ok=True)
    (folder.parent / "step-000000012.part" / "x").parent.mkdir(exist_ok=True)


HARMFUL: list[Damage] = [
    *[flip] * 4,
    *[truncate] * 3,
    *[lengthen, zero, empty, missing, other_version, other_manifest, folder_for_a_file, file_for_the_folder, unreadable, of_another_step],
]


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage is played by changing files: making them durable would only take the disk's time, hundreds of times."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, object], tiny.Events, bytes]:
    """How the run ends that is never stopped: its outcome, its events, its weights."""
    folder = tmp_path_factory.mktemp("whole")
    outcome, events = tiny.run(tiny.spec(), folder=folder)
    return comparable(outcome), events, (folder / "best.safetensors").read_bytes()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int | None, tiny.Events]]:
    """A run with checkpoints of two steps, and what its record holds up to each (None: nothing)."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    known: dict[int | None, tiny.Events] = {None: []}
    saved = None
    for step in (OLDER, NEWER):
        _, events = tiny.run(tiny.spec(), folder=folder, checkpoints=folder, resume=saved, **tiny.stopping_after(step))
        events = [*known[saved.step if saved else None], *events]
        saved, damaged = find_checkpoint(folder)
        assert saved is not None and saved.step == step and not damaged
        known[step] = events[: saved.facts["events"]]
    return folder, known


def comparable(outcome: object) -> dict[str, object]:
    return {name: value for name, value in vars(outcome).items() if name not in CLOCKS}


def damaged_case(case: int, folder: Path) -> tuple[int | None, list[int]]:
    """Damage a run's checkpoints in the way of this case; the step that is left to go on from, and the steps of the damaged ones met."""
    rng = random.Random(case)
    newer, older = folder / f"step-{NEWER:09d}", folder / f"step-{OLDER:09d}"
    kind = HARMFUL[case % len(HARMFUL)]
    where = rng.choices(["newer", "both", "older", "none"], [70, 20, 5, 5])[0]
    if where in ("newer", "both"):
        kind(newer, rng)
    if where in ("older", "both"):
        rng.choice(HARMFUL)(older, rng)
    if where == "none":
        nothing_that_matters(newer, rng)
    return {"newer": (OLDER, [NEWER]), "both": (None, [NEWER, OLDER]), "older": (NEWER, []), "none": (NEWER, [])}[where]


def test_whatever_is_damaged_the_newest_whole_one_is_found_and_the_run_ends_the_same(
    stopped: tuple[Path, dict[int | None, tiny.Events]],
    whole: tuple[dict[str, object], tiny.Events, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
) -> None:
    pristine, known = stopped
    good = {path.read_bytes() for path in pristine.glob("step-*/*") if path.name != MANIFEST}
    parsed: list[bytes] = []
    load, loads = checkpoint.load, json.loads
    fault(Row.CHECKPOINTS, cases=CASES)
    for case in range(CASES):
        folder = tmp_path / str(case) / "run"
        shutil.copytree(pristine, folder)
        left, met = damaged_case(case, folder)
        with monkeypatch.context() as spied:
            spied.setattr(checkpoint, "load", lambda content: (parsed.append(content), load(content))[1])
            spied.setattr(json, "loads", lambda content: (parsed.append(content) if len(content) > 400 else None, loads(content))[1])
            saved, sentences = load_checkpoint(folder)
        manifests = {path.read_bytes()[:4096] for path in folder.glob(f"step-*/{MANIFEST}") if path.is_file()}
        assert (saved.step if saved else None) == left, (case, sentences)
        assert set(parsed) <= good | manifests, case
        parsed.clear()
        assert len(sentences) == len(met) and all(map(SENTENCE.fullmatch, sentences)), (case, sentences)
        for step, sentence in zip(met, sentences, strict=True):
            assert sentence.startswith(f"checkpoint run/{step} is damaged") and f"; {step - (left or 0)} steps are done again." in sentence
        if case % (CASES // TRAINED) == 0:
            outcome, events = tiny.run(tiny.spec(), folder=folder, checkpoints=folder, resume=saved)
            ending = comparable(outcome), [*known[left], *events], (folder / "best.safetensors").read_bytes()
            assert ending == whole, case
        shutil.rmtree(folder.parent)


@pytest.mark.parametrize(
    "cut, said",
    [
        (lambda size: 0, r"checkpoint run/9 is damaged \(0 of \d+ kB\): going on from 5; 4 steps are done again\."),
        (lambda size: size // 20, r"checkpoint run/9 is damaged \(\d\.\d of \d+ kB\): going on from 5; 4 steps are done again\."),
        (lambda size: size - 1, r"checkpoint run/9 is damaged \([\d,]+ of [\d,]+ bytes\): going on from 5; 4 steps are done again\."),
    ],
)
def test_what_is_said_of_a_file_that_was_cut(
    stopped: tuple[Path, dict[int | None, tiny.Events]], tmp_path: Path, cut: Callable[[int], int], said: str
) -> None:
    folder = Path(shutil.copytree(stopped[0], tmp_path / "run"))
    path = folder / f"step-{NEWER:09d}" / TENSORS
    os.truncate(path, cut(path.stat().st_size))
    (sentence,) = load_checkpoint(folder)[1]
    assert re.fullmatch(said, sentence), sentence


def test_a_run_that_went_back_behind_a_damaged_one_lets_go_of_it_and_keeps_its_last_two(
    stopped: tuple[Path, dict[int | None, tiny.Events]], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(stopped[0], tmp_path / "run"))
    (folder / f"step-{NEWER:09d}" / FACTS).write_bytes(b"")
    state = start(tiny.spec(), "cpu")
    for state.step in (OLDER + 1, OLDER + 2):
        save_checkpoint(folder, snapshot(state))
        assert load_checkpoint(folder)[1] == []
    assert sorted(path.name for path in folder.glob("step-*")) == [f"step-{OLDER + 1:09d}", f"step-{OLDER + 2:09d}"]


@pytest.mark.slow
@pytest.mark.skipif(not is_whole(), reason="a whole study: set FAULTS")
@pytest.mark.parametrize("damage", [truncate, other_version])
def test_a_study_goes_on_from_the_older_one_and_says_so(
    finished_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Damage, fault: Fault
) -> None:
    fault(Row.CHECKPOINTS)
    folder = toy.planned(tmp_path / "damaged", finished_study)
    often = ("--set", "checkpoints.every_s=0.001")
    with monkeypatch.context() as killed:
        # Each worker counts for itself: one that has saved eight times has two that are whole.
        killed.setenv(VARIABLE, "checkpoint.prune:8:group")
        toy.run(folder, *often)
    # The kill may have come while another worker was writing one.
    found = [sorted(run.glob("step-?????????")) for run in (folder / "mlruns/toy/checkpoints").iterdir()]
    newest = next(steps[-1] for steps in found if len(steps) >= 2)
    damage(newest, random.Random(0))
    ended = toy.run(folder, *often)
    assert ended.code == 0, ended.err
    said = f"/{int(newest.name.removeprefix('step-'))} is damaged ("
    assert said in ended.out + ended.err or f"{newest.name} is damaged" in ended.out + ended.err
    assert toy.results(folder).equals(toy.results(finished_study))
