"""The ends that a study is given from outside: a first signal and a second, and the death of the driver of a worker that is busy."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from time import sleep
from types import SimpleNamespace

import pytest

from harness import workers
from harness.errors import INTERRUPTED, TERMINATED
from harness.signals import stopping_on_signals

LIMIT_S = 20
UNASKED, SWALLOWED = 91, 92


def asked_twice(first: int, second: int) -> int:
    """The exit code of a process that is sent two signals while its study runs."""
    child = os.fork()
    if child == 0:
        asked: list[bool] = []
        try:
            with stopping_on_signals(SimpleNamespace(stop=lambda: asked.append(True))):  # type: ignore[arg-type]
                os.kill(os.getpid(), first)
                if len(asked) == 1:
                    os.kill(os.getpid(), second)
                    sleep(0.01)
        finally:
            os._exit(SWALLOWED if asked else UNASKED)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize(("first", "code"), [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, TERMINATED)])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_the_study_to_stop_and_the_second_ends_it_with_the_code_of_the_first(
    first: int, second: int, code: int
) -> None:
    assert asked_twice(first, second) == code


def busy() -> None:
    """A worker in the middle of something long: it looks at no pipe."""
    workers._end_with_driver()
    print(os.getpid(), flush=True)
    sleep(2 * LIMIT_S)


DRIVER = """
import multiprocessing
from tests.test_stopping import busy
worker = multiprocessing.get_context("spawn").Process(target=busy)
worker.start()
worker.join()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a worker ends at its next message")
def test_a_worker_ends_with_its_driver_whatever_it_is_doing() -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    driver = subprocess.Popen([sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, text=True, env=environment)
    assert driver.stdout is not None
    worker = int(driver.stdout.readline())
    driver.kill()
    try:
        # The worker has the other end of the pipe as well: it is read to its end when both are gone.
        driver.communicate(timeout=LIMIT_S)
        alive = False
    except subprocess.TimeoutExpired:
        os.kill(worker, signal.SIGKILL)
        driver.communicate()
        alive = True
    assert not alive
