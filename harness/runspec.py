"""One training, fully determined, and the hash that is its identity.

The key covers what decides the result and nothing else: no path, host, time or order. Same key = same run: it is not trained twice.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

# Part of every key. Raised when the meaning of a result changes (initialisation, batching, the loss), so that old runs don't pass for new.
SCIENCE_VERSION = 1

# What a run is called and where its rate came from; two runs that differ in nothing else have the same result.
_LABELS = frozenset({"stage", "rung", "family", "lr_source", "lr_status"})
# Fields that runs didn't always have: at these values a run is what it was without them, and keeps its key.
_ADDED: Mapping[str, Any] = {"mup_base": None}


@dataclass(frozen=True)
class RunSpec:
    """A run. `steps` is the budget in optimizer steps; `evaluate_at` the steps after which the validation texts are scored.

    `data` is the fingerprint of the prepared corpus, `train_texts` the length of the prefix that is trained on. `trial` is the number
    within its search and `search` that search's digest (sampler, pruner, range, batch), since they decide where a trial is pruned.
    `lr_source` is tuned, default or predicted, and empty for a trial. `mup_base`: the widths that muP scales from (fields of the
    architecture's `Base`); None for the standard parametrization.
    """

    stage: str
    rung: str
    family: str
    arch: str
    shape: Mapping[str, Any]
    vocab_size: int
    seq_len: int
    data: str
    train_texts: int
    eval_texts: int
    steps: int
    evaluate_at: tuple[int, ...]
    patience: int | None
    batch_size: int
    lr: float
    schedule: str
    warmup_steps: int
    lr_min_fraction: float
    weight_decay: float
    beta1: float
    beta2: float
    eps: float
    dropout: float
    grad_clip: float | None
    padding: str
    precision: str
    seed: int
    trial: int | None = None
    search: str = ""
    lr_source: str = ""
    lr_status: str = ""
    mup_base: Mapping[str, int] | None = None

    @property
    def key(self) -> str:
        """Sixteen hex digits of SHA-256 over all that decides the result."""
        identity = {k: v for k, v in asdict(self).items() if k not in _LABELS and (k not in _ADDED or v != _ADDED[k])}
        return digest(identity | {"science": SCIENCE_VERSION})

    @property
    def name(self) -> str:
        """The name for people; no fact is ever read back out of it."""
        rate = f"lr{short_rate(self.lr)}"
        if self.trial is not None:
            return f"{self.rung}-search-t{self.trial:02d}-{rate}"
        budget = {"ladder": "all", "budget": f"{self.steps}steps"}.get(self.stage, f"{self.train_texts}texts")
        return f"{self.rung}-{budget}-s{self.seed}-{rate}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the record."""
        return asdict(self) | {"evaluate_at": list(self.evaluate_at), "shape": dict(self.shape)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "RunSpec":
        """The run that `to_dict` described."""
        known = {f.name for f in fields(cls)}
        values = {k: v for k, v in data.items() if k in known}
        return cls(**values | {"evaluate_at": tuple(data["evaluate_at"])})


def digest(value: Any) -> str:
    """Sixteen hex digits that depend on the value of plain data and not on the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def short_rate(lr: float) -> str:
    """A learning rate for people: 1.2e-3, 1e-3."""
    mantissa, exponent = f"{lr:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
