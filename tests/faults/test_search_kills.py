"""kill -9 at random moments of a search, again and again: it suggests and finds to the digit what one does that nobody touched.

Every start is a process of its own, forked from one that has loaded everything and trained nothing; it is driver and worker in one, so
that a start costs no imports and nearly every kill hits the search at work.
`FAULTS=N` sets the number of kills (3 in the fast suite), at most 20 of them here.
"""

import multiprocessing
import random
import shutil
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
import torch

from harness import invocation
from harness.journal import Event, read
from harness.rates import prediction
from harness.record import Record
from tests import inline, stores
from tests.faults.table import Fault, Row, kills

# MLflow's own use of SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
KILLS = min(kills(3), 20)
RUNGS, TRIALS, BATCH = 3, 10, 2
# A third rung in turn, so that one search begins with the rate that the two before it predict.
STUDY: dict[str, Any] = {
    "model": {"rungs": [{"name": f"r{i}", "n_layer": 1, "d_model": 4, "n_head": 1, "d_ff": 8 * 2**i} for i in range(RUNGS)]},
    "train": {"max_steps": 24, "evaluations": 4},
    "search": {"lr": {"low": 3e-3, "high": 0.3}, "trials": TRIALS, "batch": BATCH, "sampler": "tpe", "pruner": "none", "order": "in_turn"},
    "seeds": 1,
}
LIMIT_S = 900
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.inline"])


def go_on(folder: Path) -> None:
    """Carry the study out, or go on with it, to its end."""
    torch.set_num_threads(1)
    inline.run(inline.prepared(**STUDY), folder)


def started(folder: Path) -> BaseProcess:
    """A process that goes on with the study."""
    process = FORKS.Process(target=go_on, args=(folder,))
    process.start()
    return process


def ended(process: BaseProcess) -> int | None:
    """How a process ended, once it has."""
    process.join(LIMIT_S)
    code = process.exitcode
    process.close()
    return code


def events(folder: Path) -> list[Event]:
    """What the record of a study holds so far."""
    path = folder / invocation.JOURNAL
    return list(read(path)) if path.exists() else []


def lines(folder: Path) -> int:
    """How many events that is, torn ones counted."""
    path = folder / invocation.JOURNAL
    return path.read_bytes().count(b"\n") if path.exists() else 0


def hit(folder: Path, rng: random.Random) -> bool:
    """Start the study, kill it at a random moment some events later; False if it had ended by then."""
    enough, until = lines(folder) + rng.randrange(1, 16), monotonic() + LIMIT_S
    process = started(folder)
    while lines(folder) < enough and process.is_alive():
        assert monotonic() < until
        sleep(0.001)
    sleep(rng.uniform(0, 0.02))
    process.kill()
    return ended(process) == -9


def searches(record: Record) -> dict[str, list[tuple[Any, ...]]]:
    """By rung, in the order of suggestion: what each trial tried, how it went at every evaluation, and how it ended."""
    found: dict[str, list[tuple[Any, ...]]] = {f"r{i}": [] for i in range(RUNGS)}
    for key, one in record.selected.items():
        if one["stage"] == "search":
            spec, end = one["spec"], record.ended.get(key, {})
            tried = (spec["trial"], spec["lr"], record.history(key))
            found[one["rung"]].append((*tried, end.get("status"), end.get("val_loss"), end.get("steps")))
    return found


def is_searching(folder: Path) -> bool:
    """Whether a search is still to be finished."""
    return len(Record.of(events(folder)).chosen) < RUNGS


def statuses(root: Path) -> dict[str, str]:
    """The status of every run in the store, by key."""
    held = stores.contents(root, root / "inline" / invocation.JOURNAL)
    return {key: run["info"][1] for key, run in held.items()}


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """The study's record when nobody is killed."""
    folder = tmp_path_factory.mktemp("untouched")
    assert ended(started(folder)) == 0
    return Record.of(events(folder))


def test_the_last_search_began_with_what_the_others_predict(untouched: Record) -> None:
    """Else the next test would not hold that a prediction comes out the same."""
    choices, trials = list(untouched.chosen.values()), searches(untouched)
    larger = next(rung for rung in inline.plan_of(inline.prepared(**STUDY)).kept if rung.rung == choices[-1]["rung"])
    assert [choice["lr_status"] for choice in choices[:2]] == ["resolved", "resolved"]
    assert trials[larger.rung][1][1] == prediction(larger, choices[:2])
    # Two are given, the others come from the sampler.
    assert all(len({trial[1] for trial in found}) == len(found) >= TRIALS for found in trials.values())


def test_a_search_killed_at_random_moments_suggests_and_finds_the_same(
    untouched: Record, empty_store: Path, tmp_path: Path, fault: Fault
) -> None:
    fault(Row.KILLS, KILLS)
    rng, done = random.Random(5), 0
    for number in range(KILLS):
        folder = tmp_path / f"study-{number}" / "inline"
        while done < KILLS and (not events(folder) or is_searching(folder)):
            done += hit(folder, rng) and is_searching(folder)
        shutil.copy(empty_store, folder.parent / "mlflow.db")
        stores.level(folder.parent, "inline")
        assert ended(started(folder)) == 0
        stores.level(folder.parent, "inline")
        record = Record.of(events(folder))
        # Trial for trial and digit for digit: rates, losses on the way and at the end, statuses, and the rate that was chosen.
        assert searches(record) == searches(untouched)
        assert [record.chosen[name]["lr"] for name in record.chosen] == [untouched.chosen[name]["lr"] for name in untouched.chosen]
        for name, found in searches(record).items():
            assert [trial[0] for trial in found] == list(range(TRIALS + untouched.chosen[name]["extension_trials"]))
        counted = [event for event in events(folder) if event["event"] == "run_ended"]
        assert len({event["key"] for event in counted}) == len(counted) == len(record.selected)
        left = statuses(folder.parent)
        assert set(left) >= set(record.selected) and "RUNNING" not in left.values()
        if done == KILLS:
            return
    raise AssertionError(f"only {done} of {KILLS} kills hit a search")
