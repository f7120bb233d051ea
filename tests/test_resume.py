"""A run that goes on from a checkpoint is the run that never stopped, bit by bit; a checkpoint that isn't whole is passed over."""

import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.checkpoint import Checkpoint, load_checkpoint, load_weights, remove_checkpoints, save_checkpoint
from harness.context import StopRun
from harness.failpoints import VARIABLE
from harness.record import Record
from harness.state import State, restore, snapshot, start
from harness.train import Outcome
from harness.workers import make_deterministic
from tests import tiny

SAMPLES = {"temperatures": [0.5, 1.0], "texts": 2, "at_best": 2}
CLOCKS = {"time_s", "seconds", "tokens_per_second"}


def whole(folder: Path, **changes: Any) -> tuple[Outcome, tiny.Events]:
    return tiny.run(tiny.spec(**changes), folder=folder, samples=SAMPLES)


def in_parts(folder: Path, stops: list[int], device: str = "cpu", **changes: Any) -> tuple[Outcome, tiny.Events]:
    """The same run, stopped at these pulses, each counted from the stop before, and put back from disk; what its record would hold."""
    kept: tiny.Events = []
    saved: Checkpoint | None = None
    for stop in [*stops, None]:
        pulse = Pulse(stop)
        context: dict[str, Any] = {"folder": folder, "checkpoints": folder, "samples": SAMPLES, "resume": saved, "pulse": pulse}
        context["device"] = device
        outcome, events = tiny.run(tiny.spec(**changes), **context)
        kept += events
        if stop is not None:
            assert outcome.status == "interrupted" and pulse.count == stop
            saved, damaged = load_checkpoint(folder)
            assert saved is not None and saved.step == outcome.steps and not damaged
            kept = [event for event in kept if event[1]["index"] < saved.facts["events"]]
    return outcome, kept


class Pulse:
    """Stops a run when it is asked for the n-th time, whatever the run is doing then; None never does."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop, self.count = stop, 0

    def __call__(self) -> None:
        self.count += 1
        if self.count == self.stop:
            raise StopRun


def same(one: Outcome, other: Outcome) -> bool:
    a, b = (({k: v for k, v in vars(outcome).items() if k not in CLOCKS}) for outcome in (one, other))
    return a == b


@pytest.mark.parametrize("place", range(24))
def test_a_run_stopped_in_whatever_it_does_ends_as_if_it_had_not(tmp_path: Path, place: int) -> None:
    """Between steps, in the middle of an evaluation, of sampling and of the last scores."""
    pulse = Pulse()
    outcome, events = tiny.run(tiny.spec(), folder=tmp_path / "whole", samples=SAMPLES, pulse=pulse)
    # The first 12 are between the first steps; the others are spread over all that the run does.
    stop = place + 2 if place < 12 else 14 + (place - 12) * (pulse.count - 14) // 11
    resumed, pieces = in_parts(tmp_path / "parts", [stop])
    assert same(outcome, resumed) and events == pieces
    one, other = (load_weights(tmp_path / name / "best.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_stopped_many_times_with_warm_up_clipping_and_patience_is_the_same(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"warmup_steps": 3, "schedule": "cosine", "grad_clip": 0.5, "patience": 1, "evaluate_at": tuple(range(1, 13))}
    outcome, events = whole(tmp_path / "whole", **changes)
    resumed, pieces = in_parts(tmp_path / "parts", [3, 4, 200, 30], **changes)
    assert same(outcome, resumed) and events == pieces


def test_padding_counted_resumes_too(tmp_path: Path) -> None:
    outcome, events = whole(tmp_path / "whole", padding="learn")
    resumed, pieces = in_parts(tmp_path / "parts", [6], padding="learn")
    assert same(outcome, resumed) and events == pieces


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.filterwarnings("ignore:.*deterministic")
def test_on_a_gpu_a_resumed_run_has_equal_bits_too(tmp_path: Path) -> None:
    make_deterministic()
    try:
        outcome, events = tiny.run(tiny.spec(), folder=tmp_path / "whole", samples=SAMPLES, device="cuda")
        resumed, pieces = in_parts(tmp_path / "parts", [6, 200], device="cuda")
    finally:
        torch.use_deterministic_algorithms(False)
    assert same(outcome, resumed) and events == pieces


def test_everything_that_moves_is_kept_and_put_back(tmp_path: Path) -> None:
    """Every field of a state is in its checkpoint, and comes back from there with a value that it doesn't have at the start."""
    spec = tiny.spec()
    tiny.run(spec, folder=tmp_path, checkpoints=tmp_path, **tiny.stopping_after(9))
    saved, _ = load_checkpoint(tmp_path)
    assert saved is not None
    moved = {"stale": 3, "timed_tokens": 7, "timed_s": 1.5, "since_evaluation": 2, "ended": ["completed", ""]}
    moved["monitor"] = {"ceiling": 9.0, "smoothed": 3.0, "minimum": 2.5, "risen_steps": 4}
    saved = replace(saved, facts=saved.facts | moved)
    fresh, again = snapshot(start(spec, "cpu")), snapshot(restore(spec, "cpu", saved))
    assert json.loads(json.dumps(again.facts)) == saved.facts
    assert {field.name for field in fields(State)} - saved.facts.keys() == {"model", "optimizer", "best_weights"}
    assert not [name for name, value in saved.facts.items() if value == fresh.facts[name]]
    assert again.tensors.keys() == saved.tensors.keys() > fresh.tensors.keys()
    assert all(torch.equal(again.tensors[name], saved.tensors[name]) for name in saved.tensors)
    assert all(f"{group}.{name}" in saved.tensors for group in ("model", "best") for name in start(spec, "cpu").model.state_dict())


def test_the_record_forgets_what_comes_again() -> None:
    events: list[dict[str, Any]] = [
        {"event": "run_started", "key": "k"},
        {"event": "points", "key": "k", "index": 0},
        {"event": "evaluation", "key": "k", "index": 1, "step": 4, "val_loss": 3.0},
        {"event": "evaluation", "key": "k", "index": 2, "step": 8, "val_loss": 2.0},
        {"event": "run_resumed", "key": "k", "events": 2, "step": 6},
        {"event": "evaluation", "key": "k", "index": 2, "step": 8, "val_loss": 2.0},
    ]
    record = Record.of({"n": n, "time": 0.0} | event for n, event in enumerate(events))
    assert record.history("k") == ((4, 3.0), (8, 2.0)) and record.events["k"] == 3


def saved_steps(folder: Path, steps: int) -> None:
    state = start(tiny.spec(), "cpu")
    for step in range(1, steps + 1):
        state.step = step
        save_checkpoint(folder, snapshot(state))


def test_the_last_two_are_kept_and_an_ended_run_leaves_only_its_best_weights(tmp_path: Path) -> None:
    saved_steps(tmp_path, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000003", "step-000000004"]
    (tmp_path / "best.safetensors").write_bytes(b"weights")
    (tmp_path / "step-000000005.part").mkdir()
    remove_checkpoints(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["best.safetensors"]


def test_damage_of_any_kind_falls_back_to_the_one_before(tmp_path: Path) -> None:
    """Bit flips, truncations, empty and missing files, another format: never taken, never an exception."""
    saved_steps(tmp_path, 2)
    rng, newest = random.Random(0), tmp_path / "step-000000002"
    pristine = {path.name: path.read_bytes() for path in newest.iterdir()}
    for case in range(120):
        name = rng.choice(sorted(pristine))
        content = pristine[name]
        kind = case % 4
        if kind == 0:
            place = rng.randrange(len(content))
            (newest / name).write_bytes(content[:place] + bytes([content[place] ^ (1 << rng.randrange(8))]) + content[place + 1 :])
        elif kind == 1:
            (newest / name).write_bytes(content[: rng.randrange(len(content))])
        elif kind == 2:
            (newest / name).unlink()
        else:
            manifest = json.loads(pristine["manifest.json"]) | {"format": rng.choice([0, 1, "2", None])}
            (newest / "manifest.json").write_text(json.dumps(manifest))
        saved, damaged = load_checkpoint(tmp_path)
        # A flip inside the manifest's own text may leave its meaning alone (white space); then the newest is whole.
        assert saved is not None and ((saved.step == 1 and len(damaged) == 1) or (name == "manifest.json" and kind == 0))
        for other, whole_content in pristine.items():
            (newest / other).write_bytes(whole_content)
    saved, damaged = load_checkpoint(tmp_path)
    assert saved is not None and saved.step == 2 and not damaged


def test_a_checkpoint_whose_events_never_reached_the_record_is_not_used(tmp_path: Path) -> None:
    saved_steps(tmp_path, 2)
    saved, damaged = load_checkpoint(tmp_path, lambda checkpoint: checkpoint.step < 2)
    assert saved is not None and saved.step == 1 and not damaged


SAVE = """
import sys
from pathlib import Path
from tests.test_resume import saved_steps
saved_steps(Path(sys.argv[1]), 4)
"""


@pytest.mark.parametrize("name", ["checkpoint.write", "checkpoint.sync", "checkpoint.rename", "checkpoint.prune"])
def test_killed_anywhere_while_saving_a_whole_checkpoint_is_left(tmp_path: Path, name: str) -> None:
    # The third save is cut: each save writes and syncs three files.
    count = 8 if name in ("checkpoint.write", "checkpoint.sync") else 3
    environment = os.environ | {VARIABLE: f"{name}:{count}"}
    ended = subprocess.run([sys.executable, "-c", SAVE, str(tmp_path)], env=environment, capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL
    saved, damaged = load_checkpoint(tmp_path)
    assert saved is not None and saved.step == (3 if name == "checkpoint.prune" else 2) and not damaged
    saved_steps(tmp_path, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000003", "step-000000004"]
