"""Runs and crews whose steps are made as on a GPU, on a CPU: ahead, without captures."""

from collections.abc import Sequence
from typing import Any

import pytest

from harness import ahead, calibrate, crew_sizes, stepping, together
from harness import train as training
from harness.ahead import Ahead
from harness.stepping import Deferred


def made_ahead(monkeypatch: pytest.MonkeyPatch, unread: int) -> None:
    """As on a GPU: steps made ahead, of which at most so many are unread."""
    for name in ("FIRST_UNREAD", "MOST_UNREAD"):
        monkeypatch.setattr(stepping, name, unread)
    monkeypatch.setattr(stepping, "UNREAD_S", 1e9)
    monkeypatch.setattr(ahead, "_idle", {})

    def stepper_of(runs: Sequence[Any], device: str = "cpu") -> Deferred:
        return Deferred(runs, Ahead([run.spec for run in runs], [run.state for run in runs], runs[0].context))

    for module in (together, crew_sizes):
        monkeypatch.setattr(module, "stepper_of", stepper_of)
    for module in (training, calibrate):
        monkeypatch.setattr(module, "stepper_of", lambda run: stepper_of([run]))
