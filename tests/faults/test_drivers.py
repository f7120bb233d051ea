"""Several drivers of one study, and places where a driver can't write: one runs, the others and the hopeless end with a sentence."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness import lease
from harness.errors import LockedError, StorageError
from harness.journal import Journal, read
from tests import toy
from tests.faults.table import Fault, Row, is_whole, scaled

DRIVERS, REPETITIONS = 8, scaled(2, 18)
# The exit code of a process that can't be bound by permissions.
UNBOUND = 99
# Takes the lease at a given moment, says how that went, and holds it until its input ends.
DRIVER = """
import sys, time
from pathlib import Path
from harness import lease
from harness.errors import LockedError
time.sleep(max(0, float(sys.argv[2]) - time.time()))
try:
    with lease.held(Path(sys.argv[1])):
        print("held", flush=True)
        sys.stdin.read()
except LockedError as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
"""

# Gives up the right of root to read and write everywhere, then becomes the Python that is asked for.
BOUND = f"""
import ctypes, os, sys
DROP, OVERRIDE, SEARCH = 24, 1, 2
if os.getuid() == 0 and any(ctypes.CDLL(None).prctl(DROP, capability, 0, 0, 0) for capability in (OVERRIDE, SEARCH)):
    sys.exit({UNBOUND})
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def drivers(folder: Path, n: int) -> list[subprocess.Popen[str]]:
    """So many processes that want the lease at one moment."""
    command = [sys.executable, "-c", DRIVER, str(folder), str(time.time() + 0.1 * n)]
    environment = os.environ | {"PYTHONPATH": str(toy.ROOT)}
    return [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(n)]


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@contextmanager
def ended(processes: list[subprocess.Popen[str]]) -> Iterator[None]:
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_of_eight_at_once_one_runs_and_the_others_name_it(tmp_path: Path, fault: Fault) -> None:
    """Also where the one before was killed and left its lease behind, which names the wrong process for a moment."""
    fault(Row.DRIVERS, cases=REPETITIONS)
    for _ in range(REPETITIONS):
        processes = drivers(tmp_path / "toy", DRIVERS)
        with ended(processes):
            lines = {process.pid: said(process) for process in processes}
            (holder,) = [pid for pid, line in lines.items() if line == "held"]
            named = f"study toy is being run by pid {holder} on {socket.gethostname()} (alive "
            assert all(line.startswith(named) for pid, line in lines.items() if pid != holder), lines
            assert {process.wait() for process in processes if process.pid != holder} == {LockedError.exit_code}
        # Killed: its lease is still there.
        left = lease.holder(tmp_path / "toy")
        assert left is not None and left.pid == holder


@pytest.mark.slow
@pytest.mark.skipif(not is_whole(), reason="whole studies: set FAULTS")
@pytest.mark.parametrize("done", [False, True], ids=["planned", "ended"])
def test_of_eight_whole_drivers_one_runs_the_study_to_equal_results(finished_study: Path, tmp_path: Path, done: bool, fault: Fault) -> None:
    fault(Row.DRIVERS)
    folder = Path(shutil.copytree(finished_study, tmp_path / "toy")) if done else toy.planned(tmp_path / "toy", finished_study)
    started = [toy.start(folder, "toy.yaml", "--no-track") for _ in range(DRIVERS)]
    finished = [toy.finish(process) for process in started]
    # One that comes when all is over finds nothing to do, which is no error.
    assert {one.code for one in finished} <= {0, 4} and 0 in {one.code for one in finished}
    pids = [process.pid for process, one in zip(started, finished, strict=True) if one.code == 0]
    for one in finished:
        assert one.code == 0 or any(f"study toy is being run by pid {pid} on " in one.err for pid in pids), one.err
    assert toy.results(folder).equals(toy.results(finished_study))
    ends = [event["key"] for event in toy.events(folder, "run_ended")]
    assert len(ends) == len(set(ends)) == toy.N_RUNS


def test_the_lease_of_another_machine_counts_until_three_beats_are_missed(tmp_path: Path, fault: Fault) -> None:
    fault(Row.DRIVERS, cases=2)
    for silent_s, code in ((lease.HEARTBEAT_S, 4), (lease.HEARTBEAT_S * lease.MISSED + 1, 0)):
        (tmp_path / lease.LEASE).write_text(json.dumps({"pid": 7, "host": "elsewhere", "beat": time.time() - silent_s}))
        (process,) = drivers(tmp_path, 1)
        with ended([process]):
            line = said(process)
            assert line.startswith("study ") and "run by pid 7 on elsewhere (alive 1" in line if code else line == "held"
            process.communicate("")
            assert process.returncode == code


PAUSED = """
import sys
from pathlib import Path
from harness import lease
from harness.errors import LockedError
from harness.journal import Journal
lease.HEARTBEAT_S = 0.2
with lease.held(Path(sys.argv[1])) as own:
    journal = Journal(Path(sys.argv[1]) / "journal.jsonl", own.check)
    journal.append("plan")
    print("held", flush=True)
    sys.stdin.readline()
    try:
        journal.append("plan")
    except LockedError as error:
        print(error, flush=True)
        sys.exit(error.exit_code)
"""


@pytest.mark.parametrize("theirs", ["running", "come and gone"])
def test_a_driver_that_slept_while_another_machine_took_over_writes_no_more(tmp_path: Path, theirs: str, fault: Fault) -> None:
    fault(Row.DRIVERS)
    environment = os.environ | {"PYTHONPATH": str(toy.ROOT)}
    command = [sys.executable, "-c", PAUSED, str(tmp_path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    with ended([process]):
        assert said(process) == "held" and process.stdin is not None
        process.send_signal(signal.SIGSTOP)
        before = (tmp_path / "journal.jsonl").read_bytes()
        time.sleep(0.2 * lease.MISSED + 0.1)
        if theirs == "running":
            (tmp_path / lease.LEASE).write_text(json.dumps({"pid": 7, "host": "elsewhere", "beat": time.time()}))
        else:
            (tmp_path / lease.LEASE).unlink()
        process.stdin.write("go on\n")
        process.stdin.flush()
        process.send_signal(signal.SIGCONT)
        who = "pid 7 on elsewhere" if theirs == "running" else "another process"
        assert f"was taken over by {who} while this one was paused or cut off, so this one stops" in said(process)
        assert process.wait() == LockedError.exit_code
    assert (tmp_path / "journal.jsonl").read_bytes() == before
    now = lease.holder(tmp_path)
    assert now == (None if theirs != "running" else now) and (now is None or now.pid == 7)


def test_the_heart_does_not_beat_over_the_lease_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault) -> None:
    fault(Row.DRIVERS)
    monkeypatch.setattr(lease, "HEARTBEAT_S", 0.02)
    theirs = json.dumps({"pid": 7, "host": "elsewhere", "beat": time.time()})
    with lease.held(tmp_path) as own:
        own.check()
        # Not in the middle of a beat, which would put its own lease over this one once more.
        while not own.lost.is_set():
            (tmp_path / lease.LEASE).write_text(theirs)
            own.lost.wait(0.1)
        with pytest.raises(LockedError, match="taken over by pid 7 on elsewhere"):
            own.check()
    assert (tmp_path / lease.LEASE).read_text() == theirs


def test_a_folder_that_is_deleted_while_the_study_runs_ends_it(tmp_path: Path, fault: Fault) -> None:
    fault(Row.DRIVERS)
    folder = tmp_path / "mlruns" / "toy"
    with lease.held(folder) as own:
        journal = Journal(folder / "journal.jsonl", own.check)
        journal.append("plan")
        shutil.rmtree(tmp_path / "mlruns")
        with pytest.raises(StorageError, match=r"toy/journal\.jsonl was removed while the study ran"):
            journal.append("plan")
        journal.close()
    assert list(tmp_path.iterdir()) == []


def run_bound(folder: Path, *words: str) -> toy.Finished:
    """The command as one whom permission bits bind, or a skip where that can't be."""
    command = [sys.executable, "-c", BOUND, "-m", "harness.run", *words]
    environment = os.environ | {"PYTHONPATH": str(toy.ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=toy.LIMIT_S)
    if done.returncode == UNBOUND:
        pytest.skip("this user can write everywhere, and may not give that up")
    return toy.Finished(done.returncode, done.stdout, done.stderr)


def tree(folder: Path) -> dict[str, int]:
    """Every file, with its time of change."""
    return {str(path): path.lstat().st_mtime_ns for path in sorted(folder.rglob("*")) if not path.is_dir()}


@pytest.mark.slow
@pytest.mark.skipif(not is_whole(), reason="whole commands: set FAULTS")
@pytest.mark.parametrize("place", ["working folder", "mlruns", "study's folder", "record", "a file in the way", "a dead link"])
def test_where_it_can_not_write_a_driver_says_so_and_writes_nothing(finished_study: Path, tmp_path: Path, place: str, fault: Fault) -> None:
    fault(Row.DRIVERS)
    folder, named = tmp_path / "toy", "mlruns/toy"
    toy.write(folder)
    if place == "a file in the way":
        (folder / "mlruns").write_text("in the way")
    elif place == "a dead link":
        (folder / "mlruns").symlink_to(tmp_path / "nowhere" / "mlruns")
    elif place != "working folder":
        shutil.copytree(finished_study / "mlruns", folder / "mlruns")
    if place == "mlruns":
        shutil.rmtree(folder / named)
    if place == "record":
        named += "/journal.jsonl"
    shut = {"working folder": folder, "mlruns": folder / "mlruns", "study's folder": folder / named, "record": folder / named}.get(place)
    if shut:
        shut.chmod(0o555)
    before = tree(folder)
    done = run_bound(folder, "toy.yaml", "--quiet", "--no-track")
    if shut:
        shut.chmod(0o755)
    assert done.code == 5, (done.out, done.err)
    assert named in done.err and "Traceback" not in done.err and len(done.err.splitlines()) == 1
    assert tree(folder) == before


@pytest.mark.slow
@pytest.mark.skipif(not is_whole(), reason="whole commands: set FAULTS")
def test_without_a_home_and_a_place_for_temporary_files_a_study_runs_all_the_same(
    finished_study: Path, tmp_path: Path, fault: Fault
) -> None:
    fault(Row.DRIVERS)
    folder = Path(shutil.copytree(finished_study, tmp_path / "toy"))
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")}
    environment |= {"PYTHONPATH": str(toy.ROOT), "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path / "missing")}
    command = [sys.executable, "-m", "harness.run", "toy.yaml", "--no-track"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=toy.LIMIT_S)
    assert done.returncode == 0, done.stderr
    assert toy.results(folder).equals(toy.results(finished_study)) and list(read(toy.journal(folder)))


@pytest.mark.slow
@pytest.mark.skipif(not is_whole(), reason="whole commands: set FAULTS")
def test_a_driver_whose_mlruns_is_deleted_ends_with_a_sentence(finished_study: Path, tmp_path: Path, fault: Fault) -> None:
    fault(Row.DRIVERS)
    folder = toy.planned(tmp_path / "toy", finished_study)
    process = toy.start(folder, "toy.yaml", "--no-track", "--quiet")
    toy.wait_for(folder, lambda events: len(events) > 10)
    # Moved first: it can't come back. While it is being deleted the study still renames what it has open.
    (folder / "mlruns").rename(tmp_path / "deleted")
    shutil.rmtree(tmp_path / "deleted", ignore_errors=True)
    ended = toy.finish(process)
    assert ended.code == StorageError.exit_code, ended.err
    assert "mlruns/toy/journal.jsonl was removed while the study ran" in ended.err and "Traceback" not in ended.err
    assert not toy.journal(folder).exists()
