"""Runs that fail: tried again, in smaller parts where memory is short, given up, taken up again when asked."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness import step as one_step
from harness.evaluate import packed_logits
from harness.record import Record
from harness.tries import TRIES
from models._layers import Packed
from tests import inline, tiny


def failing(monkeypatch: pytest.MonkeyPatch, most_tokens: int, error: BaseException) -> None:
    """Training on more tokens at once than this raises."""

    def forward(model: nn.Module, batch: Packed) -> Tensor:
        if len(batch.ids_N) > most_tokens:
            raise error
        return packed_logits(model, batch)

    monkeypatch.setattr(one_step, "packed_logits", forward)


def statuses(record: Record) -> Counter[str]:
    return Counter(record.status_counts())


def test_out_of_memory_the_micro_batches_are_halved_until_they_fit_and_the_batch_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = inline.prepared(train={"dropout": 0.3})
    whole = inline.run(study, tmp_path / "whole")
    failing(monkeypatch, 150, torch.OutOfMemoryError("out of memory"))
    watch = inline.Watch()
    parts = inline.run(study, tmp_path / "parts", watch)
    assert statuses(parts) == statuses(whole) and set(statuses(parts)) <= {"completed", "pruned"}
    first = next(iter(parts.selected))
    assert parts.started[first]["micro_batches"] == 4
    assert [text.rsplit("each", 1)[1] for text in watch.said] == [" batch in 2 parts", " batch in 4 parts"]
    for key in parts.selected.keys() & whole.selected.keys():
        for (step, loss), (other_step, other_loss) in zip(parts.history(key), whole.history(key), strict=True):
            assert step == other_step and loss == pytest.approx(other_loss, rel=1e-6)
    # A later start knows what fits without trying.
    calls: list[int] = []
    study = inline.prepared(train={"dropout": 0.3}, seeds=3)
    inline.run(study, tmp_path / "parts", inline.Watch(lambda event: calls.append(event["n"]) if event.get("status") == "failed" else None))
    assert not calls


def test_what_does_not_fit_as_single_texts_has_failed_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, 1, MemoryError("no room"))
    record = inline.run(inline.prepared(search=None, seeds=1), tmp_path)
    (key,) = record.selected
    assert record.ended[key]["status"] == "failed" and record.ended[key]["reason"] == "MemoryError: no room" and record.ended[key]["final"]
    assert record.started[key]["micro_batches"] == 8


def test_a_failed_run_stays_failed_until_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, started = inline.prepared(search=None), Counter[str]()

    def count(event: dict[str, Any]) -> None:
        started.update([event["key"]] if event["event"] == "run_started" else [])

    with monkeypatch.context() as broken:
        failing(broken, 1, ValueError("a bug"))
        assert statuses(inline.run(study, tmp_path, inline.Watch(count))) == {"failed": 2}
    assert set(started.values()) == {TRIES}
    started.clear()
    assert statuses(inline.run(study, tmp_path, inline.Watch(count))) == {"failed": 2} and not started
    assert statuses(inline.run(study, tmp_path, inline.Watch(count), retry=True)) == {"completed": 2}
    assert set(started.values()) == {1}


def test_fail_fast_starts_nothing_after_the_first_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, 1, ValueError("a bug"))
    record = inline.run(inline.prepared(search=None, seeds=3), tmp_path, fail_fast=True)
    assert len(record.selected) == 3 and len(record.started) == 1


@pytest.mark.parametrize("padding", ["ignore", "learn"])
@pytest.mark.parametrize("parts", [2, 3, 5, 16, 99])
def test_a_batch_in_parts_is_the_same_batch(padding: str, parts: int) -> None:
    one, _ = tiny.run(tiny.spec(padding=padding, dropout=0.5))
    other, _ = tiny.run(tiny.spec(padding=padding, dropout=0.5), micro_batches=parts)
    assert one.metrics.keys() == other.metrics.keys()
    for name, value in one.metrics.items():
        assert other.metrics[name] == pytest.approx(value, rel=1e-5), name
