"""Ctrl-C and SIGTERM at random moments: checkpoints, the command that goes on, the exit code, within ten seconds; twice: at once."""

import os
import random
import signal
from pathlib import Path
from time import monotonic, sleep

import pytest

from tests import toy
from tests.faults.equal import assert_as_untouched
from tests.faults.table import Fault, Row, is_whole, scaled

LIMIT_S = 10.0
A_STUDY = 10
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
# Twenty each: Ctrl-C, SIGTERM, and twice (ten of either).
KINDS = [(signal.SIGINT, False, 0), (signal.SIGINT, False, 1), (signal.SIGTERM, False, 2), (signal.SIGTERM, False, 3)]
KINDS += [(signal.SIGINT, True, 4), (signal.SIGTERM, True, 5)]


def stopped(folder: Path, number: signal.Signals, twice: bool, rng: random.Random) -> bool:
    """Start the study and stop it; whether it was still running then."""
    process = toy.start_and_wait(folder, rng)
    # A terminal sends to the whole group, another program to the driver.
    send = os.killpg if rng.random() < 0.5 else os.kill
    was_running = process.poll() is None
    if was_running:
        send(process.pid, number)
    at = monotonic()
    if twice and was_running:
        sleep(rng.uniform(0.0, 0.3))
        if process.poll() is None:
            send(process.pid, number)
    ended = toy.finish(process)
    if ended.code == 0:
        # It was past its last run when the signal came, or before.
        return False
    assert ended.code == CODES[number], ended.err
    assert monotonic() - at < LIMIT_S
    if not twice:
        assert ended.err in ("", "stopped; what the record holds is kept\n")
        assert ended.err or "what has ended is kept. go on: python -m harness.run toy.yaml --no-track" in ended.out
    return True


@pytest.mark.parametrize(("number", "twice", "seed"), KINDS if is_whole() else [KINDS[2], KINDS[4]])
def test_a_study_that_was_stopped_again_and_again_ends_as_if_it_had_not(
    finished_study: Path, tmp_path: Path, number: signal.Signals, twice: bool, seed: int, fault: Fault
) -> None:
    rng = random.Random(seed)
    folder = toy.planned(tmp_path / "stopped", finished_study)
    stops = 0
    for _ in range(scaled(1, A_STUDY)):
        stops += stopped(folder, number, twice, rng)
    fault(Row.SIGNALS, stops)
    ended = toy.run(folder)
    assert ended.code == 0, ended.err
    assert_as_untouched(folder, finished_study)
