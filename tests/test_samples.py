"""Measures of sampled texts, by hand."""

import pytest

from harness.samples import TrainingText, measure

TRAINING = TrainingText.of(["the cat sat", "a dog ran home"])


def test_measures_by_hand() -> None:
    texts = ["the cat sat", "the cat flew", "the", ""]
    found = measure(texts, [True, True, False, True], TRAINING)
    assert found == {
        "distinct_1": 4 / 7,
        "distinct_2": 3 / 4,
        "distinct_3": 1.0,
        "known_words": 6 / 7,
        "copied": 1 / 4,
        "mean_length": (11 + 12 + 3) / 4,
        "ended": 3 / 4,
    }


def test_fractions_of_nothing_are_none() -> None:
    found = measure(["", " "], [True, False], TRAINING)
    assert [found[name] for name in ("distinct_1", "distinct_2", "distinct_3", "known_words")] == [None] * 4
    assert (found["copied"], found["mean_length"], found["ended"]) == (0, 0.5, 0.5)


@pytest.mark.parametrize("repeats", [1, 2, 10])
def test_the_same_text_again_and_again_is_less_distinct(repeats: int) -> None:
    found = measure(["a b c d"] * repeats, [True] * repeats, TRAINING)
    assert found["distinct_1"] == found["distinct_2"] == found["distinct_3"] == 1 / repeats
    assert found["known_words"] == 1 / 4
