"""Each rule of divergence by itself, on losses made by hand."""

import math
from collections.abc import Iterable

import pytest

from harness.divergence import GRACE_STEPS, RISE_STEPS, DivergenceMonitor

V = 29


def first_alarm(losses: Iterable[float], norms: Iterable[float] | None = None, vocab_size: int = V) -> tuple[int, str] | None:
    """The step at which a run is called diverged, and why."""
    monitor, losses = DivergenceMonitor(vocab_size), list(losses)
    for step, (loss, norm) in enumerate(zip(losses, norms or [1.0] * len(losses), strict=True), start=1):
        reason = monitor.check(step, loss, norm)
        if reason:
            return step, reason
    return None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_or_norm_that_is_not_finite_ends_a_run_at_once(bad: float) -> None:
    assert first_alarm([2.0, 2.0, bad, 2.0]) == (3, "loss was not finite at step 3")
    assert first_alarm([2.0] * 4, [1.0, bad, 1.0, 1.0]) == (2, "gradient norm was not finite at step 2")
    assert first_alarm([bad]) is not None


def test_a_loss_above_a_uniform_guess_counts_only_after_the_grace_steps() -> None:
    above = math.log(V) + 0.2
    assert first_alarm([3.0] + [above] * (GRACE_STEPS - 1)) is None
    step, reason = first_alarm([3.0] + [above] * 2 * GRACE_STEPS) or (0, "")
    assert step == GRACE_STEPS + 1 and "uniform guess (3.37)" in reason
    assert first_alarm([math.log(V) - 0.01] * 500) is None
    assert first_alarm([3.0] + [above] * 500, vocab_size=200) is None


def test_a_run_that_starts_above_a_uniform_guess_and_falls_slowly_has_not_diverged() -> None:
    start = math.log(V) + 0.25
    assert first_alarm([start - 0.0005 * i for i in range(400)]) is None
    assert first_alarm([start + 0.005 * i for i in range(200)]) is not None


def test_one_bad_batch_is_smoothed_away() -> None:
    assert first_alarm([2.0] * 200 + [9.0] + [2.0] * 200) is None


def test_a_rise_of_a_nat_over_the_minimum_must_last() -> None:
    fallen, risen = [0.5] * 150, 1.8
    step, reason = first_alarm([*fallen, *[risen] * 200]) or (0, "")
    # Smoothing takes 14 steps to be 1 nat up: 1.3 (1 - 0.9^n) > 1.
    assert step == 150 + 14 + RISE_STEPS - 1 and f"for {RISE_STEPS} steps" in reason
    # And two more to be below again: one step short of an alarm, twice.
    almost = [risen] * (14 + RISE_STEPS - 1 - 2 - 1)
    assert first_alarm([*fallen, *almost, *[0.5] * 100, *almost, *[0.5] * 100]) is None
    assert first_alarm([*fallen, *[1.45] * 500]) is None


def test_a_rise_counts_within_the_grace_steps_as_well() -> None:
    step, _ = first_alarm([0.5] * 10 + [2.5] * 80) or (0, "")
    assert 60 < step < GRACE_STEPS


def test_a_healthy_run_is_left_alone() -> None:
    losses = [1.2 + 2.2 * math.exp(-i / 60) + 0.3 * math.sin(i * 12.9898) for i in range(2000)]
    assert first_alarm(losses) is None
