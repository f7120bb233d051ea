"""What sampled texts are like: variety, known words, memorised texts, length."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class TrainingText:
    """What a sample is compared with: the words and the whole texts that a run was trained on."""

    words: frozenset[str]
    texts: frozenset[str]

    @classmethod
    def of(cls, texts: Sequence[str]) -> "TrainingText":
        """Collect words (split at white space) and texts."""
        return cls(frozenset(word for text in texts for word in text.split()), frozenset(texts))


@dataclass(frozen=True)
class SampleMeasures:
    """Measures of a set of sampled texts; fractions are None where there is nothing to count.

    `distinct_n`: distinct word n-grams over all word n-grams of the set (Li et al. 2016, distinct-n). `known_words`: share of words
    that occur in the training texts. `copied`: share of samples that are a training text as a whole. `mean_length`: characters.
    `ended`: share that ended by themselves before seq_len.
    """

    distinct_1: float | None
    distinct_2: float | None
    distinct_3: float | None
    known_words: float | None
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
            copied=sum(text in training.texts for text in texts) / len(texts),
            mean_length=sum(map(len, texts)) / len(texts),
            ended=sum(ended) / len(texts),
        )
    )


def _distinct(words: Sequence[Sequence[str]], n: int) -> float | None:
    grams = [tuple(text[i : i + n]) for text in words for i in range(len(text) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None
