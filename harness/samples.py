"""What sampled texts are like: variety, known words, memorised text, length."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import accumulate

from harness.data.corpus import Corpus
from harness.substrings import Substrings

# Bounds the memory of an index to some 120 MB and its making to seconds; 32,000 headlines have 1.5 million.
INDEXED_CHARACTERS = 4_000_000


@dataclass(frozen=True)
class TrainingText:
    """What a sample is compared with: the words, the whole texts and the substrings of the texts that a run was trained on.

    Substrings are those of the first texts, as many as have INDEXED_CHARACTERS in all.
    """

    words: frozenset[str]
    texts: frozenset[str]
    substrings: Substrings

    @classmethod
    def of(cls, texts: Sequence[str]) -> "TrainingText":
        """Collect words (split at white space) and texts, and index substrings."""
        n_indexed = sum(end <= INDEXED_CHARACTERS for end in accumulate(map(len, texts)))
        words = frozenset(word for text in texts for word in text.split())
        return cls(words, frozenset(texts), Substrings(texts[:n_indexed]))


@lru_cache(maxsize=4)
def training_text(corpus: Corpus, n_texts: int) -> TrainingText:
    """The first `n_texts` training texts of a corpus; made once a process, since all runs on these texts share it."""
    return TrainingText.of(corpus.train.texts[:n_texts])


@dataclass(frozen=True)
class SampleMeasures:
    """Measures of a set of sampled texts; fractions are None where there is nothing to count.

    `distinct_n`: distinct word n-grams over all word n-grams of the set (Li et al. 2016, distinct-n). `known_words`: share of words
    that occur in the training texts. `memorised`: share of a sample's characters that lie in its longest substring which occurs within
    some training text (longest common substring over length), mean over the samples that have characters; texts that a model never saw
    share substrings too, so it is never near 0. `copied`: share of samples that are a training text as a whole. `mean_length`:
    characters. `ended`: share that ended by themselves before seq_len.
    """

    distinct_1: float | None
    distinct_2: float | None
    distinct_3: float | None
    known_words: float | None
    memorised: float | None
    copied: float
    mean_length: float
    ended: float


def measure(texts: Sequence[str], ended: Sequence[bool], training: TrainingText) -> dict[str, float | None]:
    """Measure a set of at least one text, as plain data."""
    assert texts and len(texts) == len(ended)
    words = [text.split() for text in texts]
    flat = [word for text in words for word in text]
    return asdict(
        SampleMeasures(
            distinct_1=_distinct(words, 1),
            distinct_2=_distinct(words, 2),
            distinct_3=_distinct(words, 3),
            known_words=sum(word in training.words for word in flat) / len(flat) if flat else None,
            memorised=_memorised(texts, training.substrings),
            copied=sum(text in training.texts for text in texts) / len(texts),
            mean_length=sum(map(len, texts)) / len(texts),
            ended=sum(ended) / len(texts),
        )
    )


def _memorised(texts: Sequence[str], substrings: Substrings) -> float | None:
    some = [text for text in texts if text]
    longest = substrings.longest(some)
    return sum(int(n) / len(text) for n, text in zip(longest, some, strict=True)) / len(some) if some else None


def _distinct(words: Sequence[Sequence[str]], n: int) -> float | None:
    grams = [tuple(text[i : i + n]) for text in words for i in range(len(text) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None
