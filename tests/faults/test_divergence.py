"""Numbers that are not finite, rates that are too high, memory that is too small: outcomes with a reason, and the study goes on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness import evaluate as evaluating
from harness import memory
from harness import step as one_step
from harness.evaluate import packed_logits
from harness.journal import read
from harness.record import Record
from harness.results import from_record
from harness.workers import Pool, Task, _Worker
from models._layers import Packed
from reports import document
from tests import inline
from tests.faults.equal import assert_same_record
from tests.faults.table import Fault, Row

WILD = {"search": {"lr": {"low": 1e5, "high": 1e6}, "default_lr": 1e5, "trials": 4, "batch": 2}, "seeds": 2}


def spoiled(monkeypatch: pytest.MonkeyPatch, module: Any, spoil: Callable[[Tensor], Tensor], calls: int) -> None:
    """After so many calls the logits are spoiled."""
    seen: list[int] = []

    def forward(model: nn.Module, batch: Packed) -> Tensor:
        seen.append(1)
        logits = packed_logits(model, batch)
        return spoil(logits) if len(seen) > calls else logits

    monkeypatch.setattr(module, "packed_logits", forward)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda x: x * torch.nan, "loss was not finite"),
        (lambda x: x + torch.inf, "loss was not finite"),
        # The loss is as it was, but nothing can be learned from its gradient.
        (lambda x: torch.where(x > -1e9, x, x / 0), "gradient norm was not finite"),
        (lambda x: (x * 1e30) * 1e30, "not finite"),
    ],
    ids=["nan", "infinity", "gradient", "overflow"],
)
def test_a_number_that_is_not_finite_ends_the_run_with_its_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Tensor], Tensor], said: str, fault: Fault
) -> None:
    fault(Row.DIVERGENCE)
    study = inline.prepared(search=None, seeds=1)
    spoiled(monkeypatch, one_step, spoil, calls=3)
    record = inline.run(study, tmp_path)
    (key,) = record.selected
    assert (record.ended[key]["status"], record.ended[key]["steps"]) == ("diverged", 3)
    assert said in record.ended[key]["reason"] and "step 4" in record.ended[key]["reason"]
    # The evaluation before it stands, and its weights are scored.
    assert record.history(key) and record.ended[key]["test_nll"] is not None


def test_a_validation_loss_that_is_not_finite_ends_the_run_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault) -> None:
    fault(Row.DIVERGENCE)
    spoiled(monkeypatch, evaluating, lambda x: x * torch.nan, calls=0)
    record = inline.run(inline.prepared(search=None, seeds=1), tmp_path)
    (key,) = record.selected
    assert record.ended[key]["status"] == "diverged" and "validation loss was not finite at step 3" in record.ended[key]["reason"]
    assert record.evaluations[key][0]["val_loss"] is None


def test_where_all_trials_diverge_the_default_is_all_there_is_and_the_report_says_so(tmp_path: Path, fault: Fault) -> None:
    fault(Row.DIVERGENCE)
    record = inline.run(inline.prepared(**WILD), tmp_path)
    assert set(record.status_counts()) == {"diverged"}
    assert record.chosen["tiny"]["lr_status"] == "unresolved" and record.chosen["tiny"]["lr"] == 1e5
    document.write(from_record(record), tmp_path / "report", ("md",))
    assert "diverged" in (tmp_path / "report/report.md").read_text(encoding="utf-8")


def test_a_study_of_diverged_runs_is_finished_and_trains_nothing_again(tmp_path: Path, fault: Fault) -> None:
    fault(Row.DIVERGENCE)
    study = inline.prepared(**WILD)
    first = inline.run(study, tmp_path)
    lines = len(list(read(tmp_path / "journal.jsonl")))
    assert_same_record(inline.run(study, tmp_path), first)
    assert len(list(read(tmp_path / "journal.jsonl"))) == lines


class Dead:
    """A worker's process that the system has ended."""

    exitcode = -9

    def join(self) -> None:
        pass


def buried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kills: int) -> str:
    """What a pool says of a worker that was ended by signal 9 while the system has ended so many processes for want of memory."""
    study = inline.prepared(search=None, seeds=1)
    counts = iter([0, *[kills] * 9])
    monkeypatch.setattr(memory, "kills", lambda: next(counts))
    pool = Pool(1, inline.setting(study, tmp_path))
    monkeypatch.setattr(memory, "kills", lambda: kills)
    pool._out_of_memory = 0
    worker = _Worker(Dead(), None, Task("train", ()))  # type: ignore[arg-type]
    pool._workers.append(worker)
    (message,) = pool._bury(worker)
    return message.cause


def test_a_process_that_the_system_ended_for_memory_is_told_from_one_that_a_person_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    fault(Row.DIVERGENCE, 2)
    assert buried(monkeypatch, tmp_path, kills=1) == "memory"
    assert buried(monkeypatch, tmp_path, kills=0) == ""


@pytest.mark.parametrize("error", [MemoryError("no room"), torch.OutOfMemoryError("no room")], ids=["host", "device"])
def test_out_of_memory_is_tried_with_half_the_micro_batch_from_where_the_run_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, fault: Fault
) -> None:
    fault(Row.DIVERGENCE)
    study = inline.prepared(search=None, seeds=1)
    whole = inline.run(study, tmp_path / "whole")
    seen: list[int] = []

    def forward(model: nn.Module, batch: Packed) -> Tensor:
        seen.append(batch.batch_size)
        if len(seen) > 4 and batch.batch_size == 8:
            raise error
        return packed_logits(model, batch)

    monkeypatch.setattr(one_step, "packed_logits", forward)
    record: Record = inline.run(study, tmp_path / "short")
    (key,) = record.selected
    assert record.ended[key]["status"] == "completed" and seen == [8] * 5 + [4] * 4
    for (step, loss), (other, expected) in zip(record.history(key), whole.history(key), strict=True):
        assert step == other and loss == pytest.approx(expected, rel=1e-6)
