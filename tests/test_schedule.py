"""The learning rate of every step, and the steps at which a run is evaluated."""

import math
from itertools import pairwise

import pytest

from harness.schedule import evaluation_steps, lr_at

SHAPES = ["constant", "cosine", "linear"]


@pytest.mark.parametrize("schedule", SHAPES)
@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (2, 0), (10, 1), (100, 10), (101, 10), (1000, 0)])
@pytest.mark.parametrize("fraction", [0.0, 0.1, 1.0])
def test_ends_and_monotony(schedule: str, steps: int, warmup: int, fraction: float) -> None:
    rates = [lr_at(step, steps, 3e-3, schedule, warmup, fraction) for step in range(1, steps + 1)]
    end = 3e-3 if schedule == "constant" else 3e-3 * fraction
    assert rates[-1] == pytest.approx(end, abs=1e-18)
    assert all(0 <= rate <= 3e-3 * (1 + 1e-12) for rate in rates)
    if warmup:
        assert rates[:warmup] == pytest.approx([3e-3 * i / warmup for i in range(1, warmup + 1)])
    assert all(b <= a * (1 + 1e-12) for a, b in pairwise(rates[max(0, warmup - 1) :]))


def test_middles_by_hand() -> None:
    assert lr_at(50, 100, 1.0, "cosine") == pytest.approx(0.5)
    assert lr_at(25, 100, 1.0, "cosine") == pytest.approx(0.5 * (1 + math.sqrt(0.5)))
    assert lr_at(25, 100, 1.0, "linear") == pytest.approx(0.75)
    assert lr_at(55, 100, 1.0, "linear", warmup_steps=10, min_fraction=0.2) == pytest.approx(0.2 + 0.8 * 0.5)


@pytest.mark.parametrize("evaluations", [1, 2, 3, 7, 20, 1000])
@pytest.mark.parametrize("steps", [1, 2, 19, 20, 21, 60, 997])
def test_evaluations_are_equally_spaced_and_the_last_is_at_the_end(steps: int, evaluations: int) -> None:
    chosen = evaluation_steps(steps, evaluations, 10)
    assert len(chosen) == len(set(chosen)) == min(evaluations, steps)
    assert chosen[-1] == steps and chosen[0] >= 1
    gaps = [b - a for a, b in pairwise((0, *chosen))]
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize(
    ("steps", "epoch", "expected"), [(30, 10, (10, 20, 30)), (35, 10, (10, 20, 30, 35)), (7, 10, (7,)), (3, 1, (1, 2, 3)), (10, 10, (10,))]
)
def test_evaluations_of_every_epoch(steps: int, epoch: int, expected: tuple[int, ...]) -> None:
    assert evaluation_steps(steps, "every_epoch", epoch) == expected
