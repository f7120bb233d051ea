"""An MLflow server that fails in every way, behind a proxy: training never notices, and afterwards the store holds what it should.

A small part needs one server and no training; with `FAULTS` set real studies run through each of the six kinds.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep, time
from typing import Any

import pandas as pd
import pytest

from harness import tracking
from harness.journal import encode, read
from harness.tracking import Projection
from harness.tracking_live import CLOSE_S, WARN_EVERY_S
from harness.tracking_store import StoreError
from tests import stores, toy
from tests.faults.proxy import CUT_REQUEST, CUT_RESPONSE, ERROR, HANG, PASS, Proxy, proxied, running_server
from tests.faults.table import Fault, Row, is_whole

PASSWORD = "s3cret-w0rd"
# MLflow's own use of SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
whole_only = pytest.mark.skipif(not is_whole(), reason="runs studies; FAULTS is not set")
FATES = (CUT_RESPONSE, CUT_REQUEST, ERROR, HANG)
STRIDES = (5, 9, 14, 22, 31, 45) if is_whole() else (30,)


@pytest.fixture(scope="module")
def server(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """The port of an MLflow server, and the folder of its store."""
    root = tmp_path_factory.mktemp("server")
    shutil.copy(empty_store, root / "mlflow.db")
    with running_server(root) as port:
        yield port, root


@pytest.fixture
def proxy(server: tuple[int, Path]) -> Iterator[Proxy]:
    """A way to the server."""
    with proxied(server[0]) as made:
        yield made


def with_password(proxy: Proxy) -> str:
    """The address as a user gives it."""
    return proxy.uri.replace("http://", f"http://someone:{PASSWORD}@")


def held(server: tuple[int, Path], folder: Path) -> dict[str, Any]:
    """What the server's store holds of a study's record."""
    return stores.contents(server[1], folder / "journal.jsonl", server[1] / "served")


def as_another(journal: Path) -> None:
    """Make a copied record one of its own, which a store that has the other knows nothing of."""
    events = list(read(journal))
    journal.write_bytes(b"".join(map(encode, [events[0] | {"time": round(time(), 3)}, *events[1:]])))


@pytest.fixture
def study(finished_study: Path, tmp_path: Path) -> Path:
    """A copy of a finished study."""
    shutil.copytree(finished_study / "mlruns" / "toy", tmp_path / "toy")
    as_another(tmp_path / "toy" / "journal.jsonl")
    return tmp_path / "toy"


def level(projection: Projection, folder: Path) -> None:
    """What `harness sync` does."""
    projection.sync()
    projection.finish(folder / "report")


def cut_off_at(proxy: Proxy, is_it: Callable[[int, str], bool], fate: str) -> None:
    """Let everything pass but what `is_it` says, by number and first line."""
    proxy.decide(lambda n, line: fate if is_it(n, line) else PASS)


def test_a_server_that_fails_at_request_after_request_holds_everything_in_the_end(
    server: tuple[int, Path], proxy: Proxy, study: Path, empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    """Cut in a request or in its answer, error 500, silence: by turns, at later and later requests of each attempt."""
    fault(Row.SERVER, cases=len(STRIDES) * len(FATES) + 3)
    # So that an attempt that is cut keeps something.
    monkeypatch.setattr(tracking, "LINES_A_BATCH", 40)
    projection = Projection(study / "journal.jsonl", tmp_path, with_password(proxy))
    proxy.refuse()
    with pytest.raises(StoreError, match=r"http://\*\*\*@127.0.0.1.*Connection refused"):
        projection.sync()
    proxy.come_back()
    for stride in STRIDES:
        for fate in FATES:
            monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1" if fate == HANG else "120")
            cut_off_at(proxy, lambda n, line, stride=stride: n > stride, fate)  # type: ignore[misc]
            with pytest.raises(StoreError) as raised:
                level(projection, study)
                projection.rebuild()
            assert PASSWORD not in str(raised.value) and raised.value.__suppress_context__
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")
    cut_off_at(proxy, lambda n, line: "PUT" in line and "best.safetensors" in line, CUT_REQUEST)
    with pytest.raises(StoreError):
        projection.rebuild()
    proxy.decide(PASS)
    (study / "report" / "stale.txt").write_text("of an earlier report")
    level(projection, study)
    (study / "report" / "stale.txt").unlink()
    cut_off_at(proxy, lambda n, line: line.startswith("DELETE"), ERROR)
    with pytest.raises(StoreError):
        level(projection, study)
    proxy.decide(PASS)
    level(projection, study)
    assert stores.difference(held(server, study), stores.at_once(study, tmp_path / "once", empty_store)) == []
    assert any(b"authorization: basic" in head.lower() for head in proxy.heads), "the server is not given the password"


LIVE = """
import sys
from pathlib import Path
from harness.tracking_live import Live
live = Live(Path(sys.argv[1]), Path(sys.argv[2]), lambda text: print(text, flush=True), every_s=0.01)
sys.stdin.readline()
print(live.close(timeout=1.0), flush=True)
"""


def test_a_call_that_never_returns_holds_up_neither_the_end_of_a_study_nor_of_its_process(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    fault(Row.SERVER)
    with proxied() as silent:
        silent.decide(HANG)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", with_password(silent))
        # Longer than this test may take.
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3600")
        command = [sys.executable, "-c", LIVE, str(study / "journal.jsonl"), str(tmp_path)]
        with subprocess.Popen(command, cwd=toy.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            until = monotonic() + toy.LIMIT_S
            while not silent.requests:
                assert monotonic() < until and process.poll() is None
                sleep(0.05)
            out, _ = process.communicate("\n", timeout=toy.LIMIT_S)
    assert out.splitlines() == ["MLflow does not hold all of toy yet. Bring it level: python -m harness sync toy", "False"]


def flicker(n: int, line: str) -> str:
    """Cut every ninth request, in itself or in its answer."""
    return PASS if n % 9 else CUT_RESPONSE if n % 2 else CUT_REQUEST


@dataclass(frozen=True)
class Kind:
    """How a server fails: from the start on, and from the middle of the study on."""

    name: str
    at_first: Callable[[Proxy], None] = lambda proxy: None
    half_way: Callable[[Proxy], None] = lambda proxy: None


NEVER_BACK = "never comes back"
KINDS = (
    Kind("refuses", at_first=Proxy.refuse),
    Kind("hangs", half_way=lambda proxy: proxy.decide(HANG)),
    Kind("500s", at_first=lambda proxy: proxy.decide(ERROR)),
    Kind("dies half-way", at_first=lambda proxy: proxy.decide(flicker)),
    Kind("comes back", at_first=Proxy.refuse, half_way=Proxy.come_back),
    Kind(NEVER_BACK, half_way=Proxy.refuse),
)


def half_way(folder: Path) -> None:
    """Until half of the runs have ended."""
    toy.wait_for(folder, lambda events: sum(event["event"] == "run_ended" for event in events) >= toy.N_RUNS // 2)


@whole_only
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_study_ends_as_it_would_have_and_a_later_sync_brings_the_store_level(
    kind: Kind,
    server: tuple[int, Path],
    proxy: Proxy,
    finished_study: Path,
    empty_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
) -> None:
    fault(Row.SERVER)
    folder = toy.planned(tmp_path / "tracked", finished_study)
    as_another(toy.journal(folder))
    shutil.copy(empty_store, folder / "mlruns" / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", with_password(proxy))
    started = monotonic()
    kind.at_first(proxy)
    process = toy.start(folder, "toy.yaml")
    half_way(folder)
    kind.half_way(proxy)
    ended = toy.finish(process)
    assert ended.code == 0, ended.err
    assert time() - toy.events(folder)[-1]["time"] < CLOSE_S, "the end of the study waited for the server"
    pd.testing.assert_frame_equal(toy.results(folder), toy.results(finished_study), check_exact=True)
    warned = [line for line in ended.err.splitlines() if "can't be written" in line]
    rest = [line for line in ended.err.splitlines() if line not in warned]
    assert len(warned) <= 1 + (monotonic() - started) // WARN_EVERY_S
    assert set(rest) <= {"warning: MLflow does not hold all of toy yet. Bring it level: python -m harness sync toy"}
    local = kind.name == NEVER_BACK
    if local:
        monkeypatch.delenv("MLFLOW_TRACKING_URI")
    else:
        proxy.decide(PASS)
        proxy.come_back()
    synced = toy.finish(toy.start(folder, "sync", "toy", module="harness"))
    assert (synced.code, synced.err) == (0, "")
    study = folder / "mlruns" / "toy"
    there = stores.contents(folder / "mlruns", study / "journal.jsonl") if local else held(server, study)
    assert stores.difference(there, stores.at_once(study, tmp_path / "once", empty_store)) == []
    assert "RUNNING" not in {run["info"][1] for run in there.values()}
    told = (ended.out + ended.err + synced.out + synced.err).encode()
    written = b"".join(path.read_bytes() for root in (folder, server[1]) for path in root.rglob("*") if path.is_file())
    assert PASSWORD.encode() not in told + written
