"""Cleaning steps: what each does to real words, in which order, and that none leaves the alphabet that `letters` fixes."""

import pytest

from harness.data.clean import LETTERS, STEPS, clean, fixed_alphabet
from harness.errors import StudyError

TEXTS = [
    "U.S. Senate's 1990s vote: it's a COVID-19 first, says Müller-Meier",
    "  Café owners can\u2019t pay 5% more  ",
    "us_them \u4f60\u597d naïve Ærø ﬁre \u0130stanbul",
    "",
    "I am what I am",
]


@pytest.mark.parametrize(
    ("steps", "text", "expected"),
    [
        (["lower"], "Rain in Spain", "rain in spain"),
        (["letters"], "U.S. Senate's vote: it's a COVID-19 first", "us senates vote its a covid first"),
        (["letters"], "The 1990s, a 5th G20 of 20", "the a of"),
        (["letters"], "Café naïve plain", "plain"),
        (["fold", "letters"], "Café naïve plain", "cafe naive plain"),
        (["fold"], "ﬁre \uff37ide é", "fire Wide e"),
        (["letters"], "can\u2019t stop\u2014won't\tstop", "cant stop wont stop"),
        (["stopwords"], "The cat is on a don't mat", "cat mat"),
        (["letters", "stopwords"], "It isn't the Us-and-them that they'd want", "us want"),
        (["letters", "lemmas"], "Children say the US bought mice", "child say the us buy mouse"),
    ],
)
def test_steps_on_known_texts(steps: list[str], text: str, expected: str) -> None:
    assert clean([text], steps) == [expected]


@pytest.mark.parametrize("name", sorted(STEPS))
def test_a_step_is_settled_after_once_and_keeps_plain_text_plain(name: str) -> None:
    step = STEPS[name]
    if name != "lemmas":
        assert [step(step(text)) for text in TEXTS] == [step(text) for text in TEXTS]
    plain = clean(TEXTS, ["fold", "letters"])
    assert set("".join(map(step, plain))) <= set(LETTERS)


def test_letters_fixes_the_alphabet_whatever_follows() -> None:
    for later in STEPS:
        steps = ["letters", later]
        assert fixed_alphabet(steps) == LETTERS
        assert set("".join(clean([*TEXTS, "i went to Ørsted's"], steps))) <= set(LETTERS)
    assert fixed_alphabet(["lower", "fold"]) is None
    assert fixed_alphabet([], "xyz") == "xyz" and fixed_alphabet(["fold"], "xyz") is None


def test_order_matters_and_no_step_changes_nothing() -> None:
    assert clean(["Café"], ["letters", "fold"]) == [""]
    assert clean(TEXTS, []) == TEXTS


def test_an_unknown_step_names_the_nearest() -> None:
    with pytest.raises(StudyError, match=r"unknown step 'leters'\. Did you mean letters\?"):
        clean(TEXTS, ["leters"])
