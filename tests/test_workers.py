"""Workers are started so that what a person sends to the whole process group does not reach them."""

import signal
import subprocess
import sys
from pathlib import Path

from tests import toy

# The mask of the first worker, which is also the start of the process that watches over shared memory.
FIRST_WORKER = """
from pathlib import Path
from types import SimpleNamespace
from harness.workers import Pool

worker = Pool(1, SimpleNamespace(threads=1, device="cpu"))._start()
status = Path(f"/proc/{worker.process.pid}/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("SigBlk")))
worker.process.kill()
"""


def test_ctrl_c_can_not_reach_a_worker_that_is_still_being_loaded(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FIRST_WORKER], cwd=toy.ROOT, capture_output=True, text=True, timeout=toy.LIMIT_S)
    assert done.returncode == 0, done.stderr
    blocked = int(done.stdout, 16)
    assert all(blocked >> (number - 1) & 1 for number in (signal.SIGINT, signal.SIGTERM)), done.stdout
