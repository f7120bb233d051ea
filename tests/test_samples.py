"""Measures of sampled texts, by hand."""

import pytest

from harness import samples
from harness.samples import TrainingText, measure, training_text
from tests import tiny

TRAINING = TrainingText.of(["the cat sat", "a dog ran home"])


def test_measures_by_hand() -> None:
    texts = ["the cat sat", "the cat flew", "the", ""]
    found = measure(texts, [True, True, False, True], TRAINING)
    assert found == {
        "distinct_1": 4 / 7,
        "distinct_2": 3 / 4,
        "distinct_3": 1.0,
        "known_words": 6 / 7,
        # "the cat " of "the cat flew"; an empty text has no share.
        "memorised": (1 + 8 / 12 + 1) / 3,
        "copied": 1 / 4,
        "mean_length": (11 + 12 + 3) / 4,
        "ended": 3 / 4,
    }


def test_fractions_of_nothing_are_none() -> None:
    found = measure(["", " "], [True, False], TRAINING)
    assert [found[name] for name in ("distinct_1", "distinct_2", "distinct_3", "known_words")] == [None] * 4
    assert (found["copied"], found["mean_length"], found["ended"], found["memorised"]) == (0, 0.5, 0.5, 1)
    assert measure([""], [True], TRAINING)["memorised"] is None


def test_substrings_are_those_of_the_first_texts_where_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "INDEXED_CHARACTERS", 14)
    texts = ["one text", "second", "third one"]
    found = measure(["third one"], [True], TrainingText.of(texts))
    assert found["copied"] == 1 and found["memorised"] == 3 / 9


def test_runs_on_the_same_texts_share_what_samples_are_compared_with() -> None:
    corpus = tiny.corpus()
    some = training_text(corpus, 10)
    assert some is training_text(corpus, 10) and some.texts == frozenset(corpus.train.texts[:10])
    assert training_text(corpus, 11) is not some


@pytest.mark.parametrize("repeats", [1, 2, 10])
def test_the_same_text_again_and_again_is_less_distinct(repeats: int) -> None:
    found = measure(["a b c d"] * repeats, [True] * repeats, TRAINING)
    assert found["distinct_1"] == found["distinct_2"] == found["distinct_3"] == 1 / repeats
    assert found["known_words"] == 1 / 4
