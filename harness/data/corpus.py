"""From a study's data block to what training sees: encoded, split texts and the account of what was dropped on the way.

A text becomes start + characters + end. One longer than seq_len - 2 is cut there, counted, and has no end.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from harness import plugins
from harness.data import Coded, Texts, Tokenizer
from harness.data.clean import clean, fixed_alphabet
from harness.data.splits import TEST, TRAIN, VALIDATION, Amount, assign
from harness.errors import StudyError
from harness.spec import Data

SOURCES, TOKENIZERS = "harness.data.sources", "harness.data.tokenizers"


@dataclass(frozen=True, eq=False)
class Encoded:
    """Texts as ids, one after another; text i is `ids[offsets[i] : offsets[i + 1]]`, start and (unless cut) end included.

    `characters` and `unknown` count, per text, what was kept after cutting, without start and end. `texts` are cleaned and not cut.
    """

    ids: np.ndarray
    offsets: np.ndarray
    characters: np.ndarray
    unknown: np.ndarray
    texts: Sequence[str]

    @property
    def n_texts(self) -> int:
        """The number of texts."""
        return len(self.texts)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Targets of each text: its tokens after start, (n_texts,)."""
        return np.diff(self.offsets) - 1

    @property
    def n_targets(self) -> int:
        """Targets in all: the training tokens of one epoch."""
        return len(self.ids) - self.n_texts

    @property
    def targets(self) -> np.ndarray:
        """Every id that is predicted, in order: all but the starts."""
        keep = np.ones(len(self.ids), dtype=bool)
        keep[self.offsets[:-1]] = False
        return self.ids[keep]

    def head(self, n: int | None) -> "Encoded":
        """The first n texts, or all where there are fewer or n is None: a budget of n texts."""
        n = self.n_texts if n is None else min(n, self.n_texts)
        stop = int(self.offsets[n])
        return Encoded(self.ids[:stop], self.offsets[: n + 1], self.characters[:n], self.unknown[:n], self.texts[:n])


@dataclass(frozen=True, eq=False)
class Corpus:
    """What a study trains and measures on; the same for each of its runs.

    `counts`: read, empty, duplicates, removed_validation, removed_test, cut, unknown (characters). `notices`: sentences for people.
    `unknown_nats`: the charge for one unknown character in bits per character: ln of how many distinct ones validation and test have.
    `fingerprint`: sha256 of all that decides what a model sees.
    """

    tokenizer: Tokenizer
    train: Encoded
    validation: Encoded
    test: Encoded
    seq_len: int
    source: str
    licence: str
    revision: str
    fingerprint: str
    unknown_nats: float
    as_drawn: bool
    counts: dict[str, int] = field(default_factory=dict)
    notices: tuple[str, ...] = ()

    @cached_property
    def unigram_entropy(self) -> float:
        """Nats per target of a model that knows only how often each id occurs in training."""
        return entropy(self.train.targets)


def prepare(data: Data) -> Corpus:
    """Read, clean, split and encode; raises StudyError where nothing is left for a split that the study asks for."""
    source = plugins.load(SOURCES, data.source, "data.source")
    trainer = plugins.load(TOKENIZERS, data.tokenizer, "data.tokenizer")
    texts: Texts = source.load(data)
    counts: Counter[str] = Counter(read=0, empty=0, duplicates=0, removed_validation=0, removed_test=0, cut=0, unknown=0)
    notices: list[str] = []
    train, validation, test = split_texts(texts, data, counts, notices)
    tokenizer: Tokenizer = trainer.train(train, alphabet=fixed_alphabet(data.clean, texts.alphabet))
    encoded = [encode(part, tokenizer, data.seq_len, counts) for part in (train, validation, test)]
    notices += _notices(counts, data.seq_len)
    return Corpus(
        tokenizer=tokenizer,
        train=encoded[0],
        validation=encoded[1],
        test=encoded[2],
        seq_len=data.seq_len,
        source=texts.source,
        licence=texts.licence,
        revision=texts.revision,
        fingerprint=fingerprint((train, validation, test), tokenizer, data.seq_len),
        unknown_nats=_unknown_nats(tokenizer, validation, test) if counts["unknown"] else 0.0,
        as_drawn=texts.as_drawn,
        counts=dict(counts),
        notices=tuple(notices),
    )


def split_texts(texts: Texts, data: Data, counts: Counter[str], notices: list[str]) -> tuple[list[str], list[str], list[str]]:
    """Cleaned training, validation and test texts; `data.texts` limits, first of all, what is read of the source's training split."""
    raw = texts.train if data.texts is None else texts.train[: data.texts]
    counts["read"] += len(raw)
    if data.texts is not None and len(raw) < data.texts:
        notices.append(f"data.texts: {data.texts:,} were asked for, {texts.source} has {len(raw):,}; all of them are used.")
    index, kept = _clean(raw, data, counts, texts.as_drawn)
    amounts = [_amount(own, asked, name) for own, asked, name in _parts(texts, data)]
    split = assign(index, *amounts)
    train = [text for text, place in zip(kept, split, strict=True) if place == TRAIN]
    # With duplicates gone, only a source's own splits can still share a text with training.
    seen = set() if texts.as_drawn else set(train)
    parts = []
    for (own, asked, name), place in zip(_parts(texts, data), (VALIDATION, TEST), strict=True):
        if own is None:
            part = [text for text, where in zip(kept, split, strict=True) if where == place]
        else:
            counts["read"] += len(own)
            part = _clean(own, data, counts, texts.as_drawn)[1]
        left = [text for text in part if text not in seen]
        counts[f"removed_{name}"] += len(part) - len(left)
        _require(left, asked, name, len(kept))
        parts.append(left)
    if not train:
        read = f"{counts['read']:,} texts of {texts.source}"
        raise StudyError(f"data: none of the {read} is left for training. Loosen data.clean or lower data.validation and data.test.")
    return train, parts[0], parts[1]


def encode(texts: Sequence[str], tokenizer: Tokenizer, seq_len: int, counts: Counter[str]) -> Encoded:
    """Start + tokens + end for each text, cut to seq_len - 2 tokens; adds `cut` and `unknown` to the counts."""
    coded: Coded = tokenizer.encode_many(texts)
    kept = np.minimum(coded.lengths, seq_len - 2)
    whole = coded.lengths == kept
    offsets = np.concatenate(([0], np.cumsum(1 + kept + whole)))
    ids = np.full(int(offsets[-1]), tokenizer.end, dtype=np.min_scalar_type(max(tokenizer.vocab_size - 1, 1)))
    ids[offsets[:-1]] = tokenizer.start
    row = np.repeat(np.arange(len(texts)), kept)
    place = np.arange(len(row)) - (np.cumsum(kept) - kept)[row]
    taken = (np.cumsum(coded.lengths) - coded.lengths)[row] + place
    ids[offsets[row] + 1 + place] = coded.ids[taken]
    characters = np.bincount(row, weights=coded.widths[taken], minlength=len(texts)).astype(np.int64)
    is_unknown = np.zeros(len(row), dtype=bool) if tokenizer.unk is None else coded.ids[taken] == tokenizer.unk
    unknown = np.bincount(row[is_unknown], minlength=len(texts)).astype(np.int64)
    counts["cut"] += int((~whole).sum())
    counts["unknown"] += int(unknown.sum())
    return Encoded(ids, offsets.astype(np.int64), characters, unknown, list(texts))


def entropy(ids: np.ndarray) -> float:
    """Of the distribution of the ids, in nats."""
    p = np.bincount(ids) / len(ids)
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


def fingerprint(parts: Sequence[Sequence[str]], tokenizer: Tokenizer, seq_len: int) -> str:
    """sha256 over the texts of each split, in order, the tokenizer and seq_len."""
    digest = hashlib.sha256(f"{tokenizer.to_json()}\n{seq_len}\n".encode())
    for part in parts:
        # The lengths first: otherwise a text that holds a line break could stand for two.
        digest.update(np.array([len(part), *map(len, part)], dtype="<i8").tobytes())
        digest.update("".join(part).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _clean(raw: Sequence[str], data: Data, counts: Counter[str], as_drawn: bool) -> tuple[np.ndarray, list[str]]:
    """Source indices and texts of what is left after cleaning, without empty ones and, unless as drawn, repeated ones."""
    cleaned = [(i, text) for i, text in enumerate(clean(raw, data.clean)) if text.strip()]
    counts["empty"] += len(raw) - len(cleaned)
    kept = cleaned
    if not as_drawn:
        # Reversed, so that the first place of a repeated text is the one that stays.
        first = {text: i for i, text in reversed(cleaned)}
        kept = [(i, text) for i, text in cleaned if first[text] == i]
        counts["duplicates"] += len(cleaned) - len(kept)
    return np.array([i for i, _ in kept], dtype=np.int64), [text for _, text in kept]


def _parts(texts: Texts, data: Data) -> tuple[tuple[Sequence[str] | None, object, str], ...]:
    return (texts.validation, data.validation, "validation"), (texts.test, data.test, "test")


def _amount(own: Sequence[str] | None, asked: object, name: str) -> Amount:
    """How much of the training split a part takes: nothing where the source has its own."""
    if own is not None or asked is None:
        return 0
    if isinstance(asked, (int, float)):
        return asked
    raise StudyError(f"data.{name}: this source has no splits of its own. Give a share such as 0.1, or a number of texts.")


def _require(left: Sequence[str], asked: object, name: str, n_texts: int) -> None:
    if left or not asked:
        return
    raise StudyError(f"data.{name}: no text is left for it of {n_texts:,} (asked: {asked}). Raise data.{name} or give more texts.")


def _unknown_nats(tokenizer: Tokenizer, *parts: Sequence[str]) -> float:
    characters = sorted(set().union(*(set(text) for part in parts for text in part)))
    unseen = int(np.count_nonzero(tokenizer.encode("".join(characters)) == tokenizer.unk))
    return math.log(max(unseen, 1))


def _notices(counts: Counter[str], seq_len: int) -> list[str]:
    said = {
        "empty": "texts that were empty after cleaning, left out",
        "duplicates": "repeated texts, only the first of each kept",
        "removed_validation": "validation texts that occur in training, left out",
        "removed_test": "test texts that occur in training, left out",
        "cut": f"texts longer than {seq_len - 2} tokens, cut there and without an end",
        "unknown": "characters of validation and test never seen in training, each read as unk",
    }
    return [f"data: {counts[key]:,} {what}." for key, what in said.items() if counts[key]]
