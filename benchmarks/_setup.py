"""The corpus, the rungs and the runs that benchmarks measure: the assignment's amounts of text, from a file or the embedded newswire."""

import csv
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np

from harness.data.batches import padded
from harness.data.corpus import Corpus, Encoded, prepare
from harness.runspec import RunSpec
from harness.spec import Data
from models.decoder import NAMED, Shape

RUNGS: dict[str, Shape] = {name.removesuffix("-assignment"): shape for name, shape in NAMED.items()}
# The assignment's: 4,332 texts to train on, 542 each to validate and to test.
TEXTS, HELD_OUT = 5_416, 542
SEQ_LEN = 150


def corpus(path: str | None = None, column: str | None = None) -> Corpus:
    """The texts of `path` (else of the environment's DATA), letters only so that there are 29 token values; else the embedded ones."""
    path, column = path or os.environ.get("DATA") or None, column or os.environ.get("COLUMN") or None
    sizes = {"texts": TEXTS, "validation": HELD_OUT, "test": HELD_OUT, "seq_len": SEQ_LEN}
    if path is None:
        return prepare(Data.model_validate(sizes))
    chosen = column or text_column(Path(path))
    return prepare(Data.model_validate(sizes | {"source": "file", "path": path, "column": chosen, "clean": ("lower", "letters")}))


def text_column(path: Path) -> str | None:
    """The column of a table whose first cells are the longest; None where the harness finds it by itself."""
    if path.suffix not in (".csv", ".tsv"):
        return None
    with open(path, encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        few = [row for row, _ in zip(rows, range(200), strict=False)]
        return max(rows.fieldnames or [], key=lambda name: sum(len(row[name] or "") for row in few), default=None)


def run_spec(rung: str, data: Corpus, **changes: object) -> RunSpec:
    """A run of a rung with the study's own defaults."""
    fields: dict[str, object] = {
        "stage": "ladder",
        "rung": rung,
        "family": "assignment",
        "arch": "decoder",
        "shape": asdict(RUNGS[rung]),
        "vocab_size": data.tokenizer.vocab_size,
        "seq_len": data.seq_len,
        "data": data.fingerprint,
        "train_texts": data.train.n_texts,
        "eval_texts": data.validation.n_texts,
        "steps": 1_000,
        "evaluate_at": (1_000,),
        "patience": None,
        "batch_size": 32,
        "lr": 1e-3,
        "schedule": "constant",
        "warmup_steps": 0,
        "lr_min_fraction": 0.0,
        "weight_decay": 0.01,
        "beta1": 0.9,
        "beta2": 0.999,
        "eps": 1e-8,
        "dropout": 0.1,
        "grad_clip": None,
        "padding": "ignore",
        "precision": "float32",
        "seed": 0,
    }
    return RunSpec(**fields | changes)  # type: ignore[arg-type]


def sequences(texts: Encoded, seq_len: int) -> np.ndarray:
    """Whole padded sequences (n, seq_len), as a notebook keeps them."""
    ids_BT, targets_BT = padded(texts, np.arange(texts.n_texts), seq_len)
    return np.concatenate((ids_BT[:, :1].numpy(), targets_BT.numpy()), axis=1)
