"""One MLflow run as it should be, before any store knows of it, and under which names the record's fields stand in it. No MLflow here.

Statuses are MLflow's, which knows four: what a run came to stands in the tag `status`.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

RUNNING, FINISHED, FAILED, KILLED = "RUNNING", "FINISHED", "FAILED", "KILLED"
# A pruned run did what was asked of it; one that diverged has no result.
OF_STATUS = {"completed": FINISHED, "pruned": FINISHED, "diverged": FAILED, "failed": FAILED, "interrupted": KILLED}
OF_EXIT_CODE = {0: FINISHED, 130: KILLED, 143: KILLED}
MAX_TEXT = 5000
MAX_POINTS = 1000

SPEC_PARAMS = (
    "rung", "stage", "family", "arch", "vocab_size", "seq_len", "train_texts", "batch_size", "steps", "lr", "lr_source", "lr_status",
    "schedule", "warmup_steps", "weight_decay", "beta1", "beta2", "dropout", "grad_clip", "padding", "precision", "seed", "trial",
)  # fmt: skip
RUNG_PARAMS = ("n_params", "non_embedding_params")
SEARCH_PARAMS = ("rung", "stage", "family", "arch", "vocab_size", "seq_len", "train_texts", "batch_size", "steps", "schedule")
EVALUATION_METRICS = {
    "val/loss": "val_loss", "val/nll": "val_nll", "val/top1": "val_top1", "val/bits_per_char": "val_bits_per_char",
    "val/nll_padded": "val_nll_padded", "val/top1_padded": "val_top1_padded", "progress/epoch": "epoch", "progress/flops": "flops",
}  # fmt: skip
END_METRICS = {
    "test/loss": "test_loss", "test/nll": "test_nll", "test/top1": "test_top1", "test/bits_per_char": "test_bits_per_char",
    "test/nll_padded": "nll_padded", "test/top1_padded": "top1_padded", "test/floor_gap": "floor_gap",
    "perf/tokens_per_second": "tokens_per_second", "progress/epoch": "epochs", "progress/flops": "train_flops",
}  # fmt: skip
POINT_METRICS = {"train/loss": "train_loss", "optim/lr": "lr", "optim/grad_norm": "grad_norm"}
SAMPLE_MEASURES = (
    "distinct_1", "distinct_2", "distinct_3", "known_words", "copied", "mean_length", "ended", "entropy", "memorised", "self_nll",
)  # fmt: skip


@dataclass
class Tracked:
    """One MLflow run as it should be. `id`: the run's key, a search's digest, or `study`; `began`: the line of the event that began it.

    `metrics`: by (key, MLflow step), a value and its Unix time. `tables`: by file name. `points`: all training points, for the file.
    """

    id: str
    parent: str | None
    name: str
    began: int
    start_time: float
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[tuple[str, int], tuple[float, float]] = field(default_factory=dict)
    tables: dict[str, "Table"] = field(default_factory=dict)
    points: dict[str, list[Any]] = field(default_factory=dict)
    spec: Mapping[str, Any] = field(default_factory=dict)
    outcome: Mapping[str, Any] = field(default_factory=dict)
    status: str = RUNNING
    end_time: float | None = None
    last_time: float = 0.0

    def measure(self, event: Mapping[str, Any], names: Mapping[str, str], step: int, time: float) -> None:
        """Take in the fields of an event that are finite numbers; what is known of a step stays."""
        for metric, name in names.items():
            value = event.get(name)
            if value is not None and math.isfinite(value):
                self.metrics.setdefault((metric, step), (float(value), time))

    def tag(self, tags: Mapping[str, Any]) -> None:
        """Set or change tags."""
        self.tags |= {name: text_of(value) for name, value in tags.items()}

    def end(self, status: str, time: float) -> None:
        """The run is over until further notice."""
        self.status, self.end_time = status, time

    @property
    def is_training(self) -> bool:
        """A run of the study itself, not a group of runs."""
        return bool(self.spec)


@dataclass(frozen=True)
class Table:
    """A table as MLflow's pages show it."""

    columns: tuple[str, ...]
    rows: list[list[Any]] = field(default_factory=list)

    def to_json(self) -> str:
        """Pandas' split form; ASCII, since a model's text may hold what UTF-8 can't."""
        return json.dumps({"columns": self.columns, "data": self.rows})


def text_of(value: Any) -> str:
    """A value as MLflow stores params and tags."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text[:MAX_TEXT]
