"""One driver a study: another is refused by name, and nobody has to unlock what a dead one left."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import lease
from harness.errors import LockedError, PreflightError

HOLD = """
import sys, time
from pathlib import Path
from harness import lease
with lease.held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    """Another process that holds the lease."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_second_driver_is_refused_and_a_killed_one_is_taken_over_at_once(tmp_path: Path) -> None:
    process = hold(tmp_path)
    try:
        with pytest.raises(LockedError, match=rf"run by pid {process.pid} on .* \(alive \d s ago\)"), lease.held(tmp_path):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        left = lease.holder(tmp_path)
        assert left is not None and left.pid == process.pid
        with lease.held(tmp_path):
            now = lease.holder(tmp_path)
            assert now is not None and now.pid == os.getpid()
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    assert lease.holder(tmp_path) is None


@pytest.mark.parametrize(("silent_s", "refused"), [(1.0, True), (lease.HEARTBEAT_S * lease.MISSED + 1, False)])
def test_another_machines_lease_counts_until_three_beats_are_missed(tmp_path: Path, silent_s: float, refused: bool) -> None:
    (tmp_path / lease.LEASE).write_text(json.dumps({"pid": 7, "host": "elsewhere", "beat": time.time() - silent_s}))
    if refused:
        with pytest.raises(LockedError, match="pid 7 on elsewhere"), lease.held(tmp_path):
            pass
    else:
        with lease.held(tmp_path):
            now = lease.holder(tmp_path)
            assert now is not None and now.pid == os.getpid()


def test_the_heartbeat_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_S", 0.02)
    with lease.held(tmp_path):
        first = lease.holder(tmp_path)
        time.sleep(0.3)
        later = lease.holder(tmp_path)
    assert first is not None and later is not None and later.beat > first.beat


def test_no_sign_of_life_is_written_over_the_lease_of_another(tmp_path: Path) -> None:
    theirs = json.dumps({"pid": 7, "host": "elsewhere", "beat": time.time()})
    with lease.held(tmp_path) as own:
        (tmp_path / lease.LEASE).write_text(theirs)
        own.renew()
        assert own.lost.is_set()
    assert (tmp_path / lease.LEASE).read_text() == theirs


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"pid": 1}', b"\xff\xfe"])
def test_a_lease_that_can_not_be_read_holds_nobody_up(tmp_path: Path, content: bytes) -> None:
    (tmp_path / lease.LEASE).write_bytes(content)
    with lease.held(tmp_path):
        assert lease.holder(tmp_path) is not None


def test_a_place_that_can_not_be_written_is_said_before_anything_is_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PreflightError, match="can't be written"), lease.held(tmp_path / "file"):
        pass
