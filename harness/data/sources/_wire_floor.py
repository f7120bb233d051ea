"""The best possible character model of a grammar's sentences: its exact predictions, and what they score on given texts.

A forward pass over words keeps the weight of every path (topic, template) that could have written the text so far; the characters of a word
are sums over all words that go on from there. A space and the end of the text are symbols like letters.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import sparse

from harness.data import Floor
from harness.data.sources._wire_grammar import Automaton
from harness.errors import StudyError

# The order in which ties are decided: that of the character tokenizer's ids. A space is written as the sign after z.
END, SPACE = "\n", "{"
SYMBOLS = END + "abcdefghijklmnopqrstuvwxyz" + SPACE


@dataclass(frozen=True)
class Trie:
    """All words with what may follow them, as a tree whose edges are sorted by (prefix, symbol), so that siblings are neighbours.

    `edge`: prefix with its symbol -> number of the edge. `siblings`: prefix -> first and last-plus-one of the edges that leave it.
    `symbol`: edge -> its column in `SYMBOLS`.
    """

    edge: dict[str, int]
    siblings: dict[str, tuple[int, int]]
    symbol: np.ndarray


@dataclass(frozen=True)
class Belief:
    """What a prefix of whole words tells: the paths that may have written it, and their weights (they sum to 1)."""

    paths: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Step:
    """One word of a text, as a token (with what ends it), and the cells that it may come from, with their weights."""

    token: str
    cells: np.ndarray
    weights: np.ndarray


def build_trie(tokens: Sequence[str]) -> Trie:
    """The trie of `tokens`."""
    keys = sorted({(token[:i], token[i]) for token in tokens for i in range(len(token))})
    bounds = [0, *(i for i, (a, b) in enumerate(pairwise(keys), 1) if a[0] != b[0]), len(keys)]
    return Trie(
        edge={prefix + symbol: i for i, (prefix, symbol) in enumerate(keys)},
        siblings={keys[low][0]: (low, high) for low, high in pairwise(bounds)},
        symbol=np.array([SYMBOLS.index(symbol) for _, symbol in keys]),
    )


def as_tokens(text: str) -> list[str]:
    """The words of a text, each with what ends it."""
    words = text.split(" ")
    return [word + SPACE for word in words[:-1]] + [words[-1] + END]


class Predictor:
    """The exact next-symbol distributions of an automaton.

    A cell is one of its distributions, and whether the word drawn is the last of its text (C = 2 D cells; the second half are the last
    words). `cell_LP`: the cell of each path's word; `token_TC`: the probability of each token in a cell; `edge_EC`: that of
    all tokens below an edge of the trie.
    """

    def __init__(self, automaton: Automaton) -> None:
        n_slots = automaton.words_DV.shape[0]
        last_LP = np.arange(len(automaton.slot_LP))[:, None] == automaton.length_P - 1
        self.cell_LP = automaton.slot_LP + n_slots * last_LP
        self.n_cells = 2 * n_slots
        tokens = [word + mark for mark in (SPACE, END) for word in automaton.words]
        self.number = {token: t for t, token in enumerate(tokens)}
        self.token_TC = sparse.csr_array(sparse.block_diag([automaton.words_DV, automaton.words_DV], format="csr").T)
        self.trie = build_trie(tokens)
        edges = [self.trie.edge[token[: i + 1]] for token in tokens for i in range(len(token))]
        below = np.repeat(np.arange(len(tokens)), [len(token) for token in tokens])
        below_ET = sparse.csr_array((np.ones(len(edges)), (edges, below)), shape=(len(self.trie.edge), len(tokens)))
        self.edge_EC = sparse.csr_array(below_ET @ self.token_TC)
        self._start = Belief(np.arange(len(automaton.prior_P)), automaton.prior_P)
        self._start_step = self._step("", 0, self._start)
        # Every text begins with all paths, the one costly step of the pass, and few words begin a text.
        self._after_first: dict[str, tuple[Belief, float]] = {}

    def read(self, text: str) -> tuple[float, list[Step]]:
        """Nats of the text, end included, and its steps.

        Raises:
            StudyError: the text can't have come from this distribution.
        """
        belief, nats, steps = self._start, 0.0, []
        for position, token in enumerate(as_tokens(text)):
            if position == 0:
                steps.append(Step(token, self._start_step.cells, self._start_step.weights))
                belief, probability = self._first(token)
            else:
                steps.append(self._step(token, position, belief))
                belief, probability = self._advance(token, position, belief)
            if not probability:
                raise StudyError(f"{text!r} is no text of wire (at word {position + 1}), so it has no floor. Leave data.clean empty.")
            nats -= float(np.log(probability))
        return nats, steps

    def _step(self, token: str, position: int, belief: Belief) -> Step:
        weight_C = np.bincount(self.cell_LP[position, belief.paths], weights=belief.weights, minlength=self.n_cells)
        cells = np.flatnonzero(weight_C)
        return Step(token, cells, weight_C[cells])

    def _first(self, token: str) -> tuple[Belief, float]:
        if token not in self._after_first:
            self._after_first[token] = self._advance(token, 0, self._start)
        return self._after_first[token]

    def _advance(self, token: str, position: int, belief: Belief) -> tuple[Belief, float]:
        """What is believed after one more word, and the probability that it had."""
        likelihood_C = np.zeros(self.n_cells)
        if token in self.number:
            low, high = self.token_TC.indptr[self.number[token] : self.number[token] + 2]
            likelihood_C[self.token_TC.indices[low:high]] = self.token_TC.data[low:high]
        joint = belief.weights * likelihood_C[self.cell_LP[position, belief.paths]]
        alive = np.flatnonzero(joint)
        probability = float(joint[alive].sum())
        return Belief(belief.paths[alive], joint[alive] / (probability or 1.0)), probability

    def masses(self, token: str, state_SC: sparse.csr_array) -> Iterator[tuple[int, int, np.ndarray]]:
        """For each symbol of `token`: its first sibling edge, its own edge, and the siblings' probabilities in S states, (n, S)."""
        spans = [self.trie.siblings[token[:i]] for i in range(len(token))]
        mass_ES = (self.edge_EC[np.concatenate([np.arange(*span) for span in spans])] @ state_SC.T).toarray()
        at = 0
        for i, (low, high) in enumerate(spans):
            yield low, self.trie.edge[token[: i + 1]], mass_ES[at : at + high - low]
            at += high - low

    def floor(self, texts: Sequence[str]) -> Floor:
        """Exact nats and right predictions of each text."""
        nll, hits, uses = np.zeros(len(texts)), np.zeros(len(texts)), defaultdict(list)
        for i, text in enumerate(texts):
            nll[i], steps = self.read(text)
            for step in steps:
                uses[step.token].append((i, step))
        for token, where in uses.items():
            texts_S = np.array([i for i, _ in where])
            right_S = np.zeros(len(where))
            for first, edge, mass_ES in self.masses(token, self._states([step for _, step in where])):
                right_S += mass_ES.argmax(axis=0) == edge - first
            np.add.at(hits, texts_S, right_S)
        return Floor(nll=nll, top1_hits=hits, tokens=np.array([len(text) + 1 for text in texts]))

    def next_symbols(self, text: str) -> np.ndarray:
        """The distribution of every symbol of `text` and of its end, given what stands before; columns as in `SYMBOLS`."""
        rows = []
        for step in self.read(text)[1]:
            for i, (_, _, mass_ES) in enumerate(self.masses(step.token, self._states([step]))):
                row = np.zeros(len(SYMBOLS))
                row[self.trie.symbol[slice(*self.trie.siblings[step.token[:i]])]] = mass_ES[:, 0]
                rows.append(row / row.sum())
        return np.array(rows)

    def _states(self, steps: Sequence[Step]) -> sparse.csr_array:
        """The steps' cell weights as the rows of a matrix."""
        row_ptr = np.cumsum([0, *(len(step.cells) for step in steps)])
        weights, cells = np.concatenate([step.weights for step in steps]), np.concatenate([step.cells for step in steps])
        return sparse.csr_array((weights, cells, row_ptr), shape=(len(steps), self.n_cells))
