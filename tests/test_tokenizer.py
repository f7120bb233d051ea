"""Character ids: the assignment's 29 values, round trips, and what an alphabet does with a character that it doesn't have."""

import json

import numpy as np
import pytest

from harness import plugins
from harness.data import Tokenizer
from harness.data.clean import LETTERS
from harness.data.tokenizers import char
from harness.errors import StudyError

TEXTS = ["b a", "Zé\n", "", "𝄞 clef"]


@pytest.fixture(params=plugins.names("harness.data.tokenizers"))
def trained(request: pytest.FixtureRequest) -> tuple[object, Tokenizer]:
    """Every tokenizer found, trained on the same texts."""
    module = plugins.load("harness.data.tokenizers", request.param, "tokenizer")
    return module, module.train(TEXTS, alphabet=None)


def test_contract(trained: tuple[object, Tokenizer]) -> None:
    module, tokenizer = trained
    again = module.from_json(tokenizer.to_json())  # type: ignore[attr-defined]
    coded = tokenizer.encode_many(TEXTS)
    assert tokenizer.end == 0
    assert coded.lengths.tolist() == [len(tokenizer.encode(text)) for text in TEXTS]
    assert np.array_equal(coded.ids, np.concatenate([tokenizer.encode(text) for text in TEXTS]))
    assert coded.widths.sum() == sum(map(len, TEXTS))
    assert coded.ids.max() < tokenizer.vocab_size
    assert not set(coded.ids.tolist()) & {tokenizer.end, tokenizer.start}
    assert [tokenizer.decode(tokenizer.encode(text)) for text in TEXTS] == TEXTS
    assert again.to_json() == tokenizer.to_json() and np.array_equal(again.encode(TEXTS[1]), tokenizer.encode(TEXTS[1]))


def test_fixed_alphabet_has_the_assignment_s_29_values() -> None:
    tokenizer = char.train([], alphabet=LETTERS)
    assert tokenizer.vocab_size == 29 and tokenizer.unk is None
    assert tokenizer.encode("az ").tolist() == [1, 26, 27]
    assert tokenizer.start == 28
    with pytest.raises(StudyError, match="'é' is not in the fixed alphabet"):
        tokenizer.encode("café")


def test_trained_alphabet_is_that_of_the_texts_whatever_their_order() -> None:
    tokenizer = char.train(["b a", "cab"])
    assert tokenizer == char.train(["cab", "b a"])
    assert (tokenizer.characters, tokenizer.start, tokenizer.unk, tokenizer.vocab_size) == ("abc ", 5, 6, 7)


@pytest.mark.parametrize("foreign", ["\x00", "B", "~", "é", "\U0010ffff", "\ud800"])
def test_an_unseen_character_is_one_unk_wherever_it_stands_in_unicode(foreign: str) -> None:
    tokenizer = char.train(["b a"])
    assert tokenizer.encode(f"a{foreign}b").tolist() == [1, tokenizer.unk, 2]
    assert tokenizer.decode([1, tokenizer.unk or 0, 2]) == "a\ufffdb"


def test_decode_stops_at_the_end_and_skips_start() -> None:
    tokenizer = char.train(["abc"])
    assert tokenizer.decode([tokenizer.start, 1, 2, 0, 3, 0]) == "ab"


def test_json_is_plain() -> None:
    assert json.loads(char.train(["ab"]).to_json()) == {"tokenizer": "char", "characters": "ab", "fixed": False}
