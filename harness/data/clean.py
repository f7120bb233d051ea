"""Named cleaning steps, each a pure function from text to text, applied in the order that the study gives.

`letters` leaves words of a to z, one space apart: it lower-cases, joins apostrophes and dotted initials (it's: its; U.S.: us), lets every
other sign part words, and drops a word with a digit or a letter outside a to z (put `fold` before it to keep accented words).
No step takes a text of a to z and space out of that alphabet.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import simplemma

from harness import plugins
from harness.data._stopwords import STOPWORDS
from harness.errors import StudyError

LETTERS = "abcdefghijklmnopqrstuvwxyz "
_APOSTROPHES = re.compile("['\u2018\u2019\u02bc\u0060\u00b4]")
_INITIALS = re.compile(r"\b(?:[a-z]\.){2,}")
_WORD = re.compile(r"[^\W_]+")


def lower(text: str) -> str:
    """Lower case."""
    return text.lower()


def letters(text: str) -> str:
    """Words of a to z only, lower-cased, one space apart."""
    joined = _INITIALS.sub(lambda found: found[0].replace(".", ""), _APOSTROPHES.sub("", text.lower()))
    return " ".join(word for word in _WORD.findall(joined) if word.isascii() and word.isalpha())


def fold(text: str) -> str:
    """Accents off, ligatures and wide forms to their plain ones (NFKD without combining marks)."""
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))


def stopwords(text: str) -> str:
    """English function words left out, whatever their case; what is left stands one space apart."""
    return " ".join(word for word in text.split() if word.lower().replace("\u2019", "'") not in STOPWORDS)


def lemmas(text: str) -> str:
    """Each word by its English dictionary form (simplemma's word list), one space apart."""
    return " ".join(map(_lemma, text.split()))


STEPS: dict[str, Callable[[str], str]] = {"lower": lower, "letters": letters, "fold": fold, "stopwords": stopwords, "lemmas": lemmas}


def clean(texts: Iterable[str], steps: Sequence[str]) -> list[str]:
    """Each text after all steps, in order; a text may come out empty."""
    for name in steps:
        if name not in STEPS:
            raise StudyError(f"data.clean: unknown step {name!r}.{plugins.nearest(name, list(STEPS))} There are: {', '.join(STEPS)}.")
    cleaned = list(texts)
    for name in steps:
        cleaned = list(map(STEPS[name], cleaned))
    return cleaned


def fixed_alphabet(steps: Sequence[str], declared: str | None = None) -> str | None:
    """The alphabet that every cleaned text keeps to: a to z and space after `letters`, or what the source declares; else None."""
    if "letters" in steps:
        return LETTERS
    return declared if not steps or declared == LETTERS else None


@lru_cache(maxsize=100_000)
def _lemma(word: str) -> str:
    # The list has "us" as a form of "we"; in headlines it is the country.
    if word == "us":
        return word
    lemma = str(simplemma.lemmatize(word, lang="en"))
    # A plain word must stay plain: the list gives "I" for "i".
    plain = word.isascii() and word.isalpha() and word.islower()
    return lemma if not plain or (lemma.isascii() and lemma.isalpha() and lemma.islower()) else word
