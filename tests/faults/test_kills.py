"""kill -9 at random moments, again and again until the study is done: it ends exactly as one that was never touched.

`FAULTS=N` sets the number of kills (3 in the fast suite; `make faults` takes 200, spread over several studies).
"""

import os
import random
import signal
from pathlib import Path

import pytest

from tests import toy
from tests.faults.equal import assert_as_untouched, repeated_steps
from tests.faults.table import Fault, Row, kills

KILLS = kills(3)
KILLS_A_STUDY = 10
STEPS_BETWEEN_EVALUATIONS = 4


def kill_until(folder: Path, kills: int, rng: random.Random) -> None:
    """Start and kill the study so often, at random moments of its work; the driver alone, or with its workers."""
    for _ in range(kills):
        process = toy.start_and_wait(folder, rng)
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
    ended = toy.run(folder)
    assert ended.code == 0, ended.err
    assert_as_untouched(folder, finished_study)
    # Every step is a checkpoint here. One counts only if the record has all that the run told before it, at most an evaluation's worth.
    assert repeated_steps(toy.events(folder)) <= STEPS_BETWEEN_EVALUATIONS
