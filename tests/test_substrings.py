"""Longest common substrings against a search of all of them."""

import random
from collections.abc import Sequence
from itertools import pairwise

import pytest

from harness.substrings import Substrings

ALPHABETS = ["ab", "abc ", "a\u00e9\u6f22\U0001f600\ud800 ", "abcdefghijklmnopqrstuvwxyz ", "a"]


def searched(text: str, texts: Sequence[str]) -> int:
    """Every substring is looked for in every text."""
    spans = ((i, j) for i in range(len(text)) for j in range(i + 1, len(text) + 1))
    return max((j - i for i, j in spans if any(text[i:j] in other for other in texts)), default=0)


@pytest.mark.parametrize("alphabet", ALPHABETS)
def test_a_search_of_all_substrings_finds_the_same(alphabet: str) -> None:
    rng = random.Random(len(alphabet))
    for _ in range(40):
        texts = ["".join(rng.choices(alphabet, k=rng.choice([0, 1, 3, 20, 80]))) for _ in range(rng.choice([0, 1, 2, 8]))]
        asked = ["".join(rng.choices(alphabet + "z", k=rng.choice([0, 1, 5, 40]))) for _ in range(4)]
        # Parts of the texts, whole ones, and what would be found only across the end of one.
        asked += [*texts[:2], "".join(texts), *(text[len(text) // 3 :] + other[:9] for text, other in pairwise(texts))]
        assert Substrings(texts).longest(asked).tolist() == [searched(text, texts) for text in asked]


def test_a_substring_ends_where_a_text_ends() -> None:
    index = Substrings(["abc", "def", "", "def"])
    assert index.longest(["abcdef", "cd", "defdef", ""]).tolist() == [3, 1, 3, 0]


def test_matches_far_longer_than_a_word_and_repeats_of_one_text_are_measured_whole() -> None:
    long = "".join(random.Random(0).choices("ab", k=5_000))
    index = Substrings([long, "a" * 700, long, "b" + "a" * 300])
    assert index.longest([long, long[1_234:4_321], "a" * 900, "a" * 200 + "c" + "a" * 600]).tolist() == [5_000, 3_087, 700, 600]


def test_no_texts_hold_nothing() -> None:
    assert Substrings([]).longest(["a", ""]).tolist() == [0, 0]
    assert Substrings([""]).longest(["a", ""]).tolist() == [0, 0]
    assert Substrings(["a"]).longest([]).tolist() == []
