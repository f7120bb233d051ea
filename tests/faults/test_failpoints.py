"""Dying at every place where something is written: before and after each write, sync and rename, however often it is reached.

Most studies run in a child of this process, which dies at the place; what it leaves is gone on with here. Those of the front door are
processes of their own.
"""

import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from harness import failpoints
from harness.failpoints import NAMES, VARIABLE
from harness.invocation import Prepared
from harness.record import Record
from tests import inline, toy
from tests.faults.equal import assert_as_untouched, assert_same_record, strays, weights
from tests.faults.table import Fault, Row, is_whole

# The places that only the front door comes to; repair and MLflow have tests of their own.
OF_THE_DOOR = [name for name in NAMES if name.split(".")[0] in ("lease", "results", "report", "calibration")]
OF_RUNS = [name for name in NAMES if name.split(".")[0] in ("journal", "checkpoint", "weights")]
STUDY: dict[str, Any] = {"search": {"trials": 4, "batch": 2}, "seeds": 1}


@pytest.fixture(scope="module")
def study() -> Prepared:
    return inline.prepared(**STUDY)


@pytest.fixture(scope="module")
def whole(study: Prepared, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record, Counter[str]]:
    """The untouched study, and how often it comes to each place."""
    folder, reached = tmp_path_factory.mktemp("whole"), Counter[str]()
    original = failpoints.failpoint
    with pytest.MonkeyPatch.context() as patch:
        for module in ("durable", "journal", "checkpoint"):
            patch.setattr(f"harness.{module}.failpoint", lambda name: (reached.update([name]), original(name)))
        return folder, inline.run(study, folder), reached


def die_in_child(study: Prepared, folder: Path, place: str) -> None:
    """Run the study in a fork of this process that ends with SIGKILL at a place."""
    child = os.fork()
    if child == 0:
        os.environ[VARIABLE] = place
        try:
            inline.run(study, folder)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, place


def counts(reached: int) -> list[int]:
    """All times that a place is reached, or its first and middle one."""
    return list(range(1, reached + 1)) if is_whole() else sorted({1, reached // 2 + 1})


@pytest.mark.parametrize("name", OF_RUNS)
def test_a_study_that_died_at_any_place_goes_on_as_if_it_had_not(
    study: Prepared, whole: tuple[Path, Record, Counter[str]], tmp_path: Path, name: str, fault: Fault
) -> None:
    finished, record, reached = whole
    times = counts(reached[name])
    fault(Row.FAILPOINTS, len(times))
    assert times, f"the study never comes to {name}"
    for time in times:
        folder = tmp_path / str(time)
        die_in_child(study, folder, f"{name}:{time}")
        assert_same_record(inline.run(study, folder), record)
        assert weights(folder) == weights(finished) and not strays(folder)


@pytest.mark.parametrize("name", OF_THE_DOOR if is_whole() else ["results.rename"])
def test_the_front_door_may_die_anywhere_too(finished_study: Path, tmp_path: Path, name: str, fault: Fault) -> None:
    fault(Row.FAILPOINTS)
    folder = toy.planned(tmp_path / "door", finished_study)
    died = toy.finish(toy.start(folder, "toy.yaml", "--no-track", **{VARIABLE: f"{name}:1:group"}))
    assert died.code == -signal.SIGKILL
    ended = toy.run(folder)
    assert ended.code == 0, ended.err
    assert_as_untouched(folder, finished_study)


def test_every_place_has_a_test() -> None:
    others = {"repair", "mlflow"}
    assert {name.split(".")[0] for name in NAMES} == {name.split(".")[0] for name in OF_THE_DOOR + OF_RUNS} | others
