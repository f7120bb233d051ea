"""kill -9 at random moments, again and again until the study is done: it ends exactly as one that was never touched.

`FAULTS=N` sets the number of kills (3 in the fast suite; `make faults` takes 200, spread over several studies).
"""

import os
import random
import signal
from collections import Counter
from pathlib import Path
from time import sleep

import pandas as pd
import pytest

from harness.record import Record
from tests import toy
from tests.faults.table import Fault, Row, kills

KILLS = kills(3)
KILLS_A_STUDY = 10
# Checkpoints so close that nearly every kill finds one.
OFTEN = ("--set", "checkpoints.every_s=0.01")


def weights(folder: Path) -> dict[str, bytes]:
    """The best weights of every run, by its key."""
    return {path.parent.name: path.read_bytes() for path in (folder / "mlruns/toy/checkpoints").glob("*/best.safetensors")}


def kill_until(folder: Path, kills: int, rng: random.Random) -> None:
    """Start and kill the study so often, each time later than the last survivor needed to begin; driver alone, or with its workers."""
    for _ in range(kills):
        before = len(toy.events(folder))
        process = toy.start(folder, "toy.yaml", "--no-track", *OFTEN)
        while len(toy.events(folder)) <= before + 1 and process.poll() is None:
            sleep(0.01)
        sleep(rng.uniform(0, 1.5))
        if process.poll() is None:
            if rng.random() < 0.5:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
        process.communicate()


@pytest.mark.parametrize("seed", range(max(1, KILLS // KILLS_A_STUDY)))
def test_killed_at_random_moments_it_ends_as_if_nothing_had_happened(finished_study: Path, tmp_path: Path, seed: int, fault: Fault) -> None:
    fault(Row.KILLS, min(KILLS, KILLS_A_STUDY))
    folder = toy.planned(tmp_path / "killed", finished_study)
    kill_until(folder, min(KILLS, KILLS_A_STUDY), random.Random(seed))
    ended = toy.run(folder, *OFTEN)
    assert ended.code == 0, ended.err
    pd.testing.assert_frame_equal(toy.results(folder), toy.results(finished_study), check_exact=True)
    assert weights(folder) == weights(finished_study)
    record, whole = Record.of(toy.events(folder)), Record.of(toy.events(finished_study))
    assert list(record.chosen) and {k: v["lr"] for k, v in record.chosen.items()} == {k: v["lr"] for k, v in whole.chosen.items()}
    told = [[(e["step"], e["val_loss"], e["best"]) for e in r.evaluations[key]] for r in (record, whole) for key in sorted(whole.selected)]
    assert told[: len(told) // 2] == told[len(told) // 2 :]
    final = Counter(e["key"] for e in toy.events(folder, "run_ended") if e["status"] != "interrupted")
    assert set(final.values()) == {1} and len(final) == toy.N_RUNS
    stray = [p for p in (folder / "mlruns").rglob("*") if p.name.endswith(".part") or p.name.startswith("step-") or p.name == "lease.json"]
    assert not stray
