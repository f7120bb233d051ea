"""What a run needs beside its spec: corpus, folders, and whom to tell. None of it decides the result."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.checkpoint import Checkpoint
from harness.data import Floor
from harness.data.corpus import Corpus
from harness.state import State

Emit = Callable[[str, dict[str, Any]], None]
# (step, val_loss) of every evaluation so far -> whether to stop the trial.
Prune = Callable[[Sequence[tuple[int, float]]], bool]
CHECKPOINT_EVERY_S = 30.0


class StopRun(Exception):
    """A run was asked to stop: it keeps a checkpoint and ends as interrupted."""


@dataclass(frozen=True)
class Context:
    """What a run needs beside its spec, and that doesn't decide its result.

    `pulse` is called often, and raises StopRun where the run is to stop. `folder`: where the best weights go (None keeps none, as for
    trials). `checkpoints`: where checkpoints go (None: none), every so many seconds, and every so many steps where given. `resume`: the
    checkpoint to go on from. `micro_batches`: parts in which a batch goes through the model, one after the other. `samples`:
    the study's block, or None for no sampling. `floor`: the best possible scores on the test texts, where known.
    """

    corpus: Corpus
    emit: Emit
    progress: Callable[[int, int, float | None], None] = lambda step, tokens, tokens_per_second: None
    pulse: Callable[[], None] = lambda: None
    prune: Prune | None = None
    device: str = "cpu"
    folder: Path | None = None
    checkpoints: Path | None = None
    checkpoint_every_s: float = CHECKPOINT_EVERY_S
    checkpoint_every_steps: int | None = None
    resume: Checkpoint | None = None
    micro_batches: int = 1
    samples: Mapping[str, Any] | None = None
    floor: Floor | None = None


def emit(state: State, context: Context, event: str, fields: dict[str, Any]) -> None:
    """Send an event with its number within the run, so that a resumed run's events can be told from those it repeats."""
    context.emit(event, fields | {"index": state.events})
    state.events += 1
