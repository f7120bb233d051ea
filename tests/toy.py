"""A whole study that is run in seconds, in processes of its own."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pandas as pd

from harness.journal import Event, encode, plain, read

ROOT = Path(__file__).parents[1]
# Checkpoints are so close that a study that is killed finds one.
TOY = """
study: toy
question: Does the engine do the whole job?
data: {texts: 400, eval_texts: 32, seq_len: 32}
model:
  rungs:
    - {name: small, n_layer: 1, d_model: 8, n_head: 2, d_ff: 16}
    - {name: large, n_layer: 2, d_model: 12, n_head: 2, d_ff: 24}
train: {max_steps: 16, epochs: null, min_steps: 5, evaluations: 4}
search: {lr: {low: 1e-3, high: 3e-1}, trials: 4, batch: 2}
seeds: 2
ablations: {train_texts: [100]}
samples: {temperatures: [0.5, 1.0], texts: 4, at_best: 2}
checkpoints: {every_s: 0.01}
within: null
report: {formats: [md]}
"""
N_RUNS = 16
# What two equal runs may differ in.
TIMES = ["time_s", "tokens_per_second", "planned_s"]
LIMIT_S = 240


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    code: int
    out: str
    err: str


def write(folder: Path, text: str = TOY) -> Path:
    """The study file in a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "toy.yaml").write_text(text, encoding="utf-8")
    return folder


def start(folder: Path, *words: str, module: str = "harness.run", **environment: str) -> subprocess.Popen[str]:
    """A command in a process group of its own, as a shell would start it, with these variables beside the usual ones."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment
    command = [sys.executable, "-m", module, *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def start_and_wait(folder: Path, rng: random.Random, *words: str) -> subprocess.Popen[str]:
    """Start the study and return at a random moment of its work, once it has told some events; it may have ended by then."""
    before = _lines(folder)
    process = start(folder, "toy.yaml", "--no-track", *words)
    enough = before + rng.randrange(2, 24)
    until = monotonic() + LIMIT_S
    while _lines(folder) < enough and process.poll() is None:
        assert monotonic() < until
        sleep(0.005)
    sleep(rng.uniform(0, 0.1))
    return process


def _lines(folder: Path) -> int:
    return journal(folder).read_bytes().count(b"\n")


def finish(process: subprocess.Popen[str]) -> Finished:
    """Wait for its end."""
    try:
        out, err = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return Finished(process.returncode, out, err)


def run(folder: Path, *words: str) -> Finished:
    """Run the study to its end."""
    return finish(start(folder, "toy.yaml", "--no-track", *words))


def journal(folder: Path) -> Path:
    """The study's record."""
    return folder / "mlruns" / "toy" / "journal.jsonl"


def events(folder: Path, *kinds: str) -> list[Event]:
    """The record's events, of these kinds or all."""
    return [event for event in read(journal(folder)) if not kinds or event["event"] in kinds]


def wait_for(folder: Path, met: Callable[[list[Event]], bool]) -> None:
    """Until the record of a running study is so far."""
    until = monotonic() + LIMIT_S
    while not met(events(folder)):
        assert monotonic() < until
        sleep(0.01)


def planned(folder: Path, like: Path, **changes: Any) -> Path:
    """A study that has a plan, that of `like` with `changes`, and nothing else: it starts without being measured."""
    write(folder)
    first = next(event for event in events(like, "plan"))
    journal(folder).parent.mkdir(parents=True)
    journal(folder).write_bytes(encode(plain(first | {"n": 0, "plan": first["plan"] | changes})))
    return folder


def results(folder: Path) -> pd.DataFrame:
    """results.csv without what two equal runs may differ in, a row a run."""
    return pd.read_csv(folder / "mlruns" / "toy" / "results.csv").set_index("key").sort_index().drop(columns=TIMES)
