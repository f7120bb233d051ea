"""How much of a text occurs in other texts: texts enter and are indexed once, lengths of longest common substrings leave.

The index is a suffix array (Manber and Myers 1993) over characters packed into words, so that numpy does both the sorting and the
bisection. A substring never reaches over the end of a text. Shapes: C characters with a separator after each text, Q places asked for.
"""

from collections.abc import Sequence

import numpy as np

SEPARATOR = 0


class Substrings:
    """An index of all substrings of some texts; about 30 bytes a character."""

    def __init__(self, texts: Sequence[str]) -> None:
        points, lengths = _points(texts), np.array([len(text) for text in texts], dtype=np.int64)
        self._alphabet = np.unique(points)
        # Stands for a character that no indexed text has, and for the end of a text that is asked about.
        self._absent = len(self._alphabet) + 1
        self._bits = self._absent.bit_length()
        self._width = 64 // self._bits
        codes_C = _separated(np.searchsorted(self._alphabet, points) + 1, lengths, SEPARATOR)
        self._words_C = self._packed(codes_C, SEPARATOR)
        self._order_C = _suffix_order(self._words_C, self._width, int(lengths.max(initial=0)))

    def longest(self, texts: Sequence[str]) -> np.ndarray:
        """For each text, the characters of its longest substring that occurs within one of the indexed texts, (n_texts,)."""
        lengths = np.array([len(text) for text in texts], dtype=np.int64)
        codes_Q = _separated(self._coded(_points(texts)), lengths, self._absent)
        found = np.zeros(len(texts), dtype=np.int64)
        np.maximum.at(found, np.repeat(np.arange(len(texts)), lengths + 1), self._matched(codes_Q))
        return found

    def _coded(self, points: np.ndarray) -> np.ndarray:
        if not len(self._alphabet):
            return np.full(len(points), self._absent)
        place = np.searchsorted(self._alphabet, points).clip(max=len(self._alphabet) - 1)
        return np.where(self._alphabet[place] == points, place + 1, self._absent)

    def _packed(self, codes: np.ndarray, beyond: int) -> np.ndarray:
        """At each place the codes from there on, as many as a word holds, most significant first: words sort as the text does."""
        padded = np.concatenate((codes, np.full(self._width - 1, beyond))).astype(np.uint64)
        words = np.zeros(len(codes), dtype=np.uint64)
        for i in range(self._width):
            words = (words << np.uint64(self._bits)) | padded[i : i + len(codes)]
        return words

    def _matched(self, codes_Q: np.ndarray) -> np.ndarray:
        """At each place, how many characters from there on occur together in an indexed text."""
        words_Q = self._packed(codes_Q, self._absent)
        matched_Q = np.zeros(len(codes_Q), dtype=np.int64)
        places, depth = np.arange(len(codes_Q)), 0
        low, high = np.zeros(len(codes_Q), dtype=np.int64), np.full(len(codes_Q), len(self._order_C))
        # Suffixes from low to high share the first `depth` characters with the text at a place; none goes on past a separator.
        while places.size:
            word = words_Q[places + depth]
            left, right = (self._bisect(word, low, high, depth, after) for after in (False, True))
            whole = left < right
            for beside in (left - 1, left):
                near = ~whole & (low <= beside) & (beside < high)
                shared = depth + self._shared(word[near], self._words_C[self._order_C[beside[near]] + depth])
                matched_Q[places[near]] = np.maximum(matched_Q[places[near]], shared)
            places, low, high, depth = places[whole], left[whole], right[whole], depth + self._width
            matched_Q[places] = depth
        return matched_Q

    def _bisect(self, word: np.ndarray, low: np.ndarray, high: np.ndarray, depth: int, after: bool) -> np.ndarray:
        """Where each word belongs among the suffixes between its bounds, after or before those that are equal at this depth."""
        low, high = low.copy(), high.copy()
        while (open_ := np.flatnonzero(low < high)).size:
            middle = (low[open_] + high[open_]) // 2
            there = self._words_C[self._order_C[middle] + depth]
            right_of = there <= word[open_] if after else there < word[open_]
            low[open_[right_of]] = middle[right_of] + 1
            high[open_[~right_of]] = middle[~right_of]
        return low

    def _shared(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """How many of their first characters two words share."""
        last = np.arange(self._width, dtype=np.uint64) * np.uint64(self._bits)
        return np.asarray((((a ^ b)[:, None] >> last) == 0).sum(axis=1))


def _points(texts: Sequence[str]) -> np.ndarray:
    """Unicode code points of texts, one after another."""
    return np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype="<u4")


def _separated(codes: np.ndarray, lengths: np.ndarray, separator: int) -> np.ndarray:
    """Codes with a separator after each text."""
    spread = np.full(len(codes) + len(lengths), separator, dtype=np.int64)
    spread[np.arange(len(codes)) + np.repeat(np.arange(len(lengths)), lengths)] = codes
    return spread


def _suffix_order(words: np.ndarray, width: int, longest: int) -> np.ndarray:
    """Places in the order of what follows them, as far as `longest` characters: sorted by words, then by ranks twice as far off."""
    n = len(words)
    order = np.argsort(words, kind="stable")
    place, rank = np.arange(n), np.empty(n, dtype=np.int64)
    # uint64 has no number below 0: the first word differs from its own complement.
    first = np.flatnonzero(np.diff(words[order], prepend=~words[order][:1]))
    rank[order] = np.repeat(first, np.diff(first, append=n))
    depth = width
    while depth < longest:
        # Only what is still tied is sorted again: a rank is the first place that its group may take.
        size = np.bincount(rank, minlength=n)
        tied = place[size[rank[order]] > 1]
        if not tied.size:
            break
        members = order[tied]
        beyond = members + depth
        following = np.where(beyond < n, rank[np.minimum(beyond, n - 1)] + 1, 0)
        key = rank[members] * (n + 1) + following
        by_key = np.argsort(key, kind="stable")
        order[tied] = members[by_key]
        is_first = np.diff(key[by_key], prepend=-1) != 0
        rank[order[tied]] = np.maximum.accumulate(np.where(is_first, tied, 0))
        depth *= 2
    return order
