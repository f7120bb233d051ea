"""The contract of a data source, and what training sees of a text.

A source is one file in `harness/data/sources/` with `load(options: Data) -> Texts` (and, where the distribution is known,
`floor(texts) -> Floor`). A tokenizer is one file in `harness/data/tokenizers/` with `train(texts, *, alphabet) -> Tokenizer` and
`from_json(text) -> Tokenizer`; the class that they give follows the `Tokenizer` protocol.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Texts:
    """What a source gives: raw texts in a fixed order. `validation` and `test` are None where the source has no such split.

    The order is the order of the data budgets: a smaller budget is a prefix of a larger one. `alphabet` is stated where every text is made
    of these characters only and always will be (then there is no unknown character). `as_drawn` marks texts whose distribution is known and
    must stay as it is: duplicates are kept, in and across the splits.
    """

    train: Sequence[str]
    validation: Sequence[str] | None
    test: Sequence[str] | None
    source: str
    licence: str
    revision: str
    alphabet: str | None = None
    as_drawn: bool = False


@dataclass(frozen=True)
class Floor:
    """The best that any model can do on some texts, by the distribution that they were drawn from.

    `nll`: nats per text, shape (n,), the end of the text included. `top1_hits`: how many symbols of each of these very texts, shape (n,),
    the most likely symbol of the true distribution gets right (ties go to the first), so that a model's own hits compare with it.
    `tokens`: predicted tokens per text (characters and end), shape (n,).
    """

    nll: np.ndarray
    top1_hits: np.ndarray
    tokens: np.ndarray


@dataclass(frozen=True)
class Coded:
    """Texts as tokens, one after another: `ids` and `widths` (characters that a token stands for), both (tokens,); `lengths` (texts,)."""

    ids: np.ndarray
    lengths: np.ndarray
    widths: np.ndarray


class Tokenizer(Protocol):
    """Text to ids and back. Id 0 is the end of a text and the padding; neither start nor end is part of what `encode` gives."""

    @property
    def vocab_size(self) -> int:
        """The number of ids, special ones included."""
        ...

    @property
    def end(self) -> int:
        """The id that ends a text; always 0."""
        ...

    @property
    def start(self) -> int:
        """The id that opens every text."""
        ...

    @property
    def unk(self) -> int | None:
        """The id of what training never saw, or None where nothing is unknown."""
        ...

    def encode(self, text: str) -> np.ndarray:
        """The ids of one text."""
        ...

    def encode_many(self, texts: Sequence[str]) -> Coded:
        """The ids of many texts."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """The text up to the first end id; a start id is skipped."""
        ...

    def to_json(self) -> str:
        """What the plug-in's `from_json` reads."""
        ...
