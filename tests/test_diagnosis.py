"""What curves say about their runs, on curves whose story is known."""

import numpy as np
import pandas as pd
import pytest

from harness.analysis.diagnosis import Diagnosis, diagnose, diagnose_runs, entropy

STEPS = np.arange(1, 21) * 100.0
UNIGRAM = 2.9


def noisy(curve: np.ndarray, noise: float, seed: int) -> np.ndarray:
    return curve + noise * np.random.default_rng(seed).normal(size=curve.size)


def verdicts(val: np.ndarray, train: np.ndarray, noise: float, times: int = 40) -> list[Diagnosis]:
    return [diagnose(STEPS, noisy(val, noise, i), noisy(train, noise, 1000 + i), UNIGRAM) for i in range(times)]


SETTLED = 1.5 + 1.2 * np.exp(-STEPS / 150)
FALLING = 1.2 + 20 * STEPS**-0.5
OVERFIT = 1.6 + 1.0 * np.exp(-STEPS / 150) + 0.5 * np.maximum(STEPS - 900, 0) / 1000
COLLAPSED = np.where(STEPS > 1000, 2.95, SETTLED)
STUCK = 2.95 + 0.2 * np.exp(-STEPS / 150)


@pytest.mark.parametrize("noise", [0.0, 0.002, 0.01])
@pytest.mark.parametrize(
    "val,train,expected",
    [
        (SETTLED, SETTLED - 0.1, "converged"),
        (FALLING, FALLING - 0.05, "still improving"),
        (OVERFIT, 1.4 + np.exp(-STEPS / 300), "overfitting"),
        (COLLAPSED, COLLAPSED, "diverged"),
        (STUCK, STUCK, "stuck"),
    ],
)
def test_known_stories_are_told_at_every_noise(val: np.ndarray, train: np.ndarray, expected: str, noise: float) -> None:
    found = verdicts(val, train, noise)
    assert np.mean([one.verdict == expected for one in found]) >= 0.95, [one.verdict for one in found]
    assert all(one.reason.startswith(one.verdict) for one in found)


def test_overfitting_begins_where_the_curve_turns_and_the_gap_opens() -> None:
    found = diagnose(STEPS, OVERFIT, 1.4 + np.exp(-STEPS / 300), UNIGRAM)
    turn = STEPS[OVERFIT.argmin()]
    assert (found.step, found.best_step) == (turn, turn) and 800 <= turn <= 1000
    assert found.gap > found.gap_at_best + 0.3
    assert found.best_val_loss == OVERFIT.min() and found.final_val_loss == pytest.approx(OVERFIT[-3:].mean())


def test_a_collapse_names_the_last_good_step() -> None:
    assert diagnose(STEPS, COLLAPSED, COLLAPSED, UNIGRAM).step == 1000


def test_without_train_losses_a_rise_is_overfitting_and_the_gap_unknown() -> None:
    found = diagnose(STEPS, OVERFIT, unigram_entropy=UNIGRAM)
    assert found.verdict == "overfitting" and np.isnan(found.gap)


def test_without_a_known_entropy_no_run_is_stuck() -> None:
    assert diagnose(STEPS, STUCK, STUCK).verdict == "converged"


def test_a_loss_that_is_not_finite_is_where_the_run_diverged() -> None:
    val = SETTLED.copy()
    val[12:] = np.nan
    found = diagnose(STEPS, val, SETTLED, UNIGRAM)
    assert (found.verdict, found.step, found.best_step) == ("diverged", STEPS[12], STEPS[11])
    by_status = diagnose(STEPS[:3], SETTLED[:3], SETTLED[:3], UNIGRAM, "diverged", "loss was not finite at step 317")
    assert by_status.verdict == "diverged" and "317" in by_status.reason and by_status.step == 300
    assert diagnose([], [], [], UNIGRAM, "diverged", "at once").verdict == "diverged"


def test_few_evaluations_say_nothing() -> None:
    assert diagnose(STEPS[:4], FALLING[:4], FALLING[:4], UNIGRAM).verdict == "too few evaluations"


def test_what_more_training_promises_is_near_what_it_brings() -> None:
    def curve(x: np.ndarray) -> np.ndarray:
        return 1.2 + 20 * x**-0.5

    found = diagnose(STEPS, curve(STEPS), curve(STEPS), UNIGRAM)
    brought = float(curve(STEPS[-1:])[0] - curve(2 * STEPS[-1:])[0])
    assert brought < found.per_doubling < 2.5 * brought


def test_a_table_of_runs() -> None:
    evaluations = pd.concat(
        [
            pd.DataFrame({"key": key, "step": STEPS, "val_loss": val, "train_loss": train}).sample(frac=1, random_state=1)
            for key, val, train in [("a", SETTLED, SETTLED), ("b", OVERFIT, OVERFIT - STEPS / 1000), ("c", SETTLED, SETTLED)]
        ]
    )
    runs = pd.DataFrame(
        {"key": ["a", "b", "c", "d"], "status": ["completed", "completed", "diverged", "skipped"], "reason": [None, None, "gone", "x"]}
    )
    found = diagnose_runs(evaluations, runs, UNIGRAM).set_index("key")
    assert found["verdict"].to_dict() == {"a": "converged", "b": "overfitting", "c": "diverged"}
    assert found.loc["c", "reason"] == "diverged: gone"
    assert diagnose_runs(evaluations.iloc[:0], runs).empty


def test_entropy_of_counts() -> None:
    assert entropy([1, 1, 0, 2]) == pytest.approx(1.5 * np.log(2))
    assert entropy(np.ones(27)) == pytest.approx(np.log(27))
