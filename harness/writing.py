"""A trained run writes texts: from its record and weights, on the CPU."""

from collections.abc import Iterator
from pathlib import Path

from harness import plugins
from harness.checkpoint import load_weights
from harness.data.corpus import prepare
from harness.errors import DamageError, StudyError
from harness.generate import sample_sets
from harness.invocation import JOURNAL
from harness.journal import read
from harness.record import Record
from harness.runspec import RunSpec
from harness.spec import Study
from harness.state import build_model
from harness.strategies import Strategy


def write_texts(root: Path, run: str, n: int, strategy: Strategy, seed: int) -> list[str]:
    """`n` texts by a run that is named by its key, the beginning of its key, or its name.

    Raises:
        StudyError: no such run, or more than one. DamageError: its weights or its data are not what they were.
    """
    study_folder, record, key = find(root, run)
    spec = RunSpec.from_dict(record.started[key]["spec"])
    weights = _weights(study_folder, key)
    if not weights.exists():
        raise StudyError(f"run {run} kept no weights (trials and runs that never improved keep none).")
    corpus = prepare(Study.model_validate(record.study).data)
    if corpus.fingerprint != spec.data:
        raise DamageError(f"the data of run {run} has changed since it was trained; its tokenizer can't be rebuilt.")
    model = build_model(spec, dropout=0.0)
    model.load_state_dict(load_weights(weights))
    drawn = sample_sets(model, n, [strategy], seed=seed, tokenizer=corpus.tokenizer, seq_len=spec.seq_len)
    return [corpus.tokenizer.decode(ids) for ids in drawn[strategy].texts]


def find(root: Path, run: str) -> tuple[Path, Record, str]:
    """The study folder, record and key of a run."""
    found, names = [], []
    for folder, record in _records(root):
        for key, event in record.started.items():
            names.append(event["name"])
            if key == run or event["name"] == run or (len(run) >= 4 and key.startswith(run)):
                found.append((folder, record, key))
    if not found:
        raise StudyError(f"no run {run!r} under {root}/.{plugins.nearest(run, names)} Keys and names stand in results.csv.")
    # A key stands for one result, wherever it was computed: the first study that kept its weights will do.
    found.sort(key=lambda one: not _weights(one[0], one[2]).exists())
    if len({key for _, _, key in found}) > 1:
        keys = ", ".join(f"{key} ({folder.name})" for folder, _, key in found)
        raise StudyError(f"{run!r} is more than one run: {keys}. Give the key.")
    return found[0]


def _weights(study_folder: Path, key: str) -> Path:
    return study_folder / "checkpoints" / key / "best.safetensors"


def _records(root: Path) -> Iterator[tuple[Path, Record]]:
    for path in sorted(root.glob(f"*/{JOURNAL}")):
        yield path.parent, Record.of(read(path))
