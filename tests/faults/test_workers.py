"""One recorded plan carried out in other ways: with 1, 2 and 4 workers, other hash seeds, two studies at a time; equal to the bit."""

from pathlib import Path

import pytest

from tests import toy
from tests.faults.equal import assert_as_untouched
from tests.faults.table import Fault, Row, is_whole

WAYS: list[tuple[int, str]] = [(1, "0"), (4, "1"), (2, "random"), (3, "4242")]


@pytest.mark.parametrize(("workers", "hash_seed"), WAYS if is_whole() else WAYS[1:2])
def test_workers_and_hash_seeds_decide_nothing(finished_study: Path, tmp_path: Path, workers: int, hash_seed: str, fault: Fault) -> None:
    fault(Row.WORKERS)
    folder = toy.planned(tmp_path / "other", finished_study, workers=workers)
    ended = toy.finish(toy.start(folder, "toy.yaml", "--no-track", PYTHONHASHSEED=hash_seed))
    assert ended.code == 0, ended.err
    assert_as_untouched(folder, finished_study)


@pytest.mark.skipif(not is_whole(), reason="one of the whole set")
def test_two_studies_at_a_time_do_not_touch_each_other(finished_study: Path, tmp_path: Path, fault: Fault) -> None:
    fault(Row.WORKERS, 2)
    folders = [toy.planned(tmp_path / name, finished_study) for name in ("one", "other")]
    processes = [toy.start(folder, "toy.yaml", "--no-track") for folder in folders]
    for process, folder in zip(processes, folders, strict=True):
        ended = toy.finish(process)
        assert ended.code == 0, ended.err
        assert_as_untouched(folder, finished_study)
