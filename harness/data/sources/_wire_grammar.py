"""A distribution over sentences: weighted topics, each with weighted templates and, for every slot of a template, weighted words.

A `Grammar` is the readable value; `Automaton` is the same distribution as arrays. Its latent state is a path, one (topic, template) pair;
given the path, each position draws its word independently, so a sentence's probability is a sum over paths of products over words.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

Words = Mapping[str, float]


@dataclass(frozen=True)
class Topic:
    """One latent topic. `templates`: slots in order -> weight. `words`: slot -> its words; a slot that is not there is itself the word."""

    weight: float
    templates: Mapping[tuple[str, ...], float]
    words: Mapping[str, Words]


@dataclass(frozen=True)
class Grammar:
    """Weighted topics; weights of any kind (topics, templates, words) need not sum to 1."""

    topics: tuple[Topic, ...]


@dataclass(frozen=True)
class Automaton:
    """A grammar as arrays; P paths, L positions, D distributions, V words.

    `prior_P`: probability of a path. `slot_LP`: the distribution that a position draws from, -1 after the path's end. `length_P`: its
    number of words. `words_DV`: a distribution's word probabilities (rows sum to 1). `cumulative`: its entries, accumulated in each row,
    row d lying in (d, d + 1], so that one search inverts all distribution functions.
    """

    words: tuple[str, ...]
    prior_P: np.ndarray
    length_P: np.ndarray
    slot_LP: np.ndarray
    words_DV: sparse.csr_array
    cumulative: np.ndarray

    @property
    def max_chars(self) -> int:
        """The most characters that any sentence of the distribution can have."""
        chars_V = np.array([len(word) for word in self.words])
        starts = self.words_DV.indptr[:-1]
        longest_D = np.maximum.reduceat(chars_V[self.words_DV.indices], starts)
        with_space_LP = np.where(self.slot_LP >= 0, longest_D[self.slot_LP] + 1, 0)
        return int(with_space_LP.sum(axis=0).max()) - 1


def compile_grammar(grammar: Grammar) -> Automaton:
    """Number the paths, distributions and words of a grammar, and normalise its weights."""
    lexicons: list[Words] = []
    number_of: dict[int | str, int] = {}
    paths: list[list[int]] = []
    priors: list[float] = []
    topic_total = sum(topic.weight for topic in grammar.topics)
    for topic in grammar.topics:
        template_total = sum(topic.templates.values())
        for slots, weight in topic.templates.items():
            paths.append([_number(slot, topic, number_of, lexicons) for slot in slots])
            priors.append(topic.weight / topic_total * weight / template_total)
    length_P = np.array([len(path) for path in paths])
    slot_LP = np.full((length_P.max(), len(paths)), -1, dtype=np.int32)
    for p, path in enumerate(paths):
        slot_LP[: len(path), p] = path
    words, words_DV = _matrix(lexicons)
    return Automaton(words, np.array(priors), length_P, slot_LP, words_DV, _cumulative(words_DV))


def _number(slot: str, topic: Topic, number_of: dict[int | str, int], lexicons: list[Words]) -> int:
    """The number of a slot's distribution; topics that share one word table share its number."""
    table = topic.words.get(slot)
    key: int | str = slot if table is None else id(table)
    if key not in number_of:
        number_of[key] = len(lexicons)
        lexicons.append({slot: 1.0} if table is None else table)
    return number_of[key]


def _matrix(lexicons: Sequence[Words]) -> tuple[tuple[str, ...], sparse.csr_array]:
    words = tuple(sorted({word for lexicon in lexicons for word in lexicon}))
    assert all(word and " " not in word for word in words), "a word is not empty and has no space; a name of two words takes two slots"
    column = {word: v for v, word in enumerate(words)}
    row_ptr = np.cumsum([0, *(len(lexicon) for lexicon in lexicons)])
    columns = np.array([column[word] for lexicon in lexicons for word in lexicon])
    weights = np.concatenate([np.array(list(lexicon.values())) / sum(lexicon.values()) for lexicon in lexicons])
    assert (weights > 0).all(), "weights are positive; leave a word out instead of giving it zero"
    matrix = sparse.csr_array((weights, columns, row_ptr), shape=(len(lexicons), len(words)))
    return words, matrix


def _cumulative(words_DV: sparse.csr_array) -> np.ndarray:
    rows = np.split(words_DV.data, words_DV.indptr[1:-1])
    return np.concatenate([d + np.cumsum(row) for d, row in enumerate(rows)])


def sentences(automaton: Automaton, uniform_NU: np.ndarray) -> list[str]:
    """One sentence a row of uniform numbers in [0, 1): the first chooses the path, the others one word each.

    Args:
        uniform_NU: U is at least 1 + the length of the longest template.
    """
    cumulative_P = np.cumsum(automaton.prior_P)
    path_N = np.minimum(np.searchsorted(cumulative_P, uniform_NU[:, 0], side="right"), len(cumulative_P) - 1)
    chosen_LN = np.stack([_draw(automaton, slot_P[path_N], uniform_NU[:, k + 1]) for k, slot_P in enumerate(automaton.slot_LP)])
    vocabulary = np.array(automaton.words, dtype=object)
    return [
        " ".join(words[:length])
        for words, length in zip(vocabulary[chosen_LN.T].tolist(), automaton.length_P[path_N].tolist(), strict=True)
    ]


def _draw(automaton: Automaton, slot_N: np.ndarray, uniform_N: np.ndarray) -> np.ndarray:
    """The word (by number) that each uniform number picks from its slot's distribution; past a path's end, any word."""
    slot_N = np.maximum(slot_N, 0)
    at_N = np.searchsorted(automaton.cumulative, slot_N + uniform_N, side="right")
    # Rounding of the accumulated weights must not lead into the next distribution, nor out of this one.
    at_N = np.clip(at_N, automaton.words_DV.indptr[slot_N], automaton.words_DV.indptr[slot_N + 1] - 1)
    return np.asarray(automaton.words_DV.indices[at_N])
