"""Characters as tokens: texts enter, character ids leave, without start and end, which the corpus adds.

Ids: 0 is the end and the padding, then the alphabet with the space last, then start, then `unk` where the alphabet was read from texts.
A fixed alphabet has no `unk`: a to z and space give the assignment's 29 values.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from harness.data import Coded
from harness.errors import StudyError

END = 0


@dataclass(frozen=True)
class Tokenizer:
    """`characters`: the alphabet in the order of its ids, which begin at 1. `fixed`: no other character can occur."""

    characters: str
    fixed: bool

    def __post_init__(self) -> None:
        assert len(set(self.characters)) == len(self.characters), "a character stands twice in the alphabet"

    @property
    def end(self) -> int:
        """The id that ends a text and pads a batch."""
        return END

    @property
    def start(self) -> int:
        """The id that opens every text."""
        return len(self.characters) + 1

    @property
    def unk(self) -> int | None:
        """The id of a character that training never saw; None with a fixed alphabet."""
        return None if self.fixed else self.start + 1

    @property
    def vocab_size(self) -> int:
        """Alphabet, end, start and, unless the alphabet is fixed, unk."""
        return len(self.characters) + (2 if self.fixed else 3)

    @cached_property
    def _table(self) -> np.ndarray:
        """The id of each code point up to the alphabet's last, and of all beyond it in the last place. -1: no id."""
        codes = _code_points(self.characters)
        table = np.full(int(codes.max(initial=0)) + 2, -1 if self.unk is None else self.unk, dtype=np.int32)
        table[codes] = np.arange(1, len(codes) + 1)
        return table

    def encode(self, text: str) -> np.ndarray:
        """Character ids of one text, without start and end."""
        codes = _code_points(text)
        ids: np.ndarray = self._table[np.minimum(codes, len(self._table) - 1)]
        if self.fixed and (ids < 0).any():
            foreign = text[int(np.argmax(ids < 0))]
            raise StudyError(f"the character {foreign!r} is not in the fixed alphabet {self.characters!r}. Clean the text first.")
        return ids

    def encode_many(self, texts: Sequence[str]) -> Coded:
        """All texts at once; each token stands for one character."""
        ids = self.encode("".join(texts))
        lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
        return Coded(ids, lengths, np.ones(len(ids), dtype=np.int32))

    def decode(self, ids: Iterable[int]) -> str:
        """The text up to the first end; start is left out and unk shows as the replacement character."""
        out = []
        for i in map(int, ids):
            if i == END:
                break
            if i != self.start:
                out.append(self.characters[i - 1] if i < self.start else "\ufffd")
        return "".join(out)

    def to_json(self) -> str:
        """Everything that `from_json` needs, on one line; equal tokenizers give equal text."""
        return json.dumps({"tokenizer": "char", "characters": self.characters, "fixed": self.fixed}, sort_keys=True)


def from_json(text: str) -> Tokenizer:
    """The tokenizer that `to_json` wrote."""
    stored = json.loads(text)
    return Tokenizer(stored["characters"], stored["fixed"])


def train(texts: Iterable[str], *, alphabet: str | None = None) -> Tokenizer:
    """The tokenizer of the training texts, or of a fixed `alphabet`, when texts are not looked at."""
    found: set[str] = set(alphabet or "")
    if alphabet is None:
        found.update(*texts)
    ordered = sorted(found, key=lambda c: (c == " ", c))
    return Tokenizer("".join(ordered), fixed=alphabet is not None)


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
