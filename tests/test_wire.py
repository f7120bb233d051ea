"""The embedded newswire: its texts, and its floor against brute force, against sampling, and against models that learn."""

import hashlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from harness.data import Floor
from harness.data.sources import wire
from harness.data.sources._wire_build import expand
from harness.data.sources._wire_floor import END, SPACE, SYMBOLS, Predictor
from harness.data.sources._wire_grammar import Grammar, Topic, compile_grammar, sentences
from harness.data.sources._wire_inflect import gerund, past, plural, third
from harness.errors import StudyError

# Two topics share words, one word begins another, one template begins another, and a sentence can come from several templates and topics.
TINY = Grammar(
    (
        Topic(
            weight=2.0,
            templates={("A", "B"): 3.0, ("A", "B", "A"): 1.5, ("B",): 0.7, ("A", "tax"): 0.45, ("NAME", "NAME", "B"): 0.31},
            words={
                "A": {"tax": 1.0, "ta": 0.37, "taxes": 2.1},
                "B": {"tax": 0.9, "t": 0.23},
                "NAME": {"ann": 1.0, "an": 0.61, "tax": 0.17},
            },
        ),
        Topic(
            weight=1.3,
            templates={("B", "A"): 1.0, ("A", "B"): 0.83, ("A", "in", "A"): 0.57, ("A",): 0.29},
            words={"A": {"tax": 0.41, "in": 1.0, "ann": 0.73}, "B": {"taxes": 1.0, "ta": 0.53, "an": 0.19}},
        ),
    )
)


@dataclass(frozen=True)
class Options:
    texts: int | None


def enumerate_sentences(grammar: Grammar) -> dict[str, float]:
    """Every sentence of a small grammar and its probability, by going through all choices."""
    probability: dict[str, float] = {}
    topic_total = sum(topic.weight for topic in grammar.topics)
    for topic in grammar.topics:
        template_total = sum(topic.templates.values())
        for slots, weight in topic.templates.items():
            tables = [topic.words.get(slot, {slot: 1.0}) for slot in slots]
            for words in itertools.product(*(table.items() for table in tables)):
                p = topic.weight / topic_total * weight / template_total
                for (_, word_weight), table in zip(words, tables, strict=True):
                    p *= word_weight / sum(table.values())
                text = " ".join(word for word, _ in words)
                probability[text] = probability.get(text, 0.0) + p
    return probability


def brute_next_symbols(probability: dict[str, float], text: str) -> np.ndarray:
    """The distribution of each next symbol of `text`, by summing the sentences that agree with it so far."""
    marked = {key.replace(" ", SPACE) + END: p for key, p in probability.items()}
    whole = text.replace(" ", SPACE) + END
    rows = np.zeros((len(whole), len(SYMBOLS)))
    for i, (other, p) in itertools.product(range(len(whole)), marked.items()):
        if other[:i] == whole[:i]:
            rows[i, SYMBOLS.index(other[i])] += p
    return np.asarray(rows / rows.sum(axis=1, keepdims=True))


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return list(wire.load(Options(texts=24_000)).train)


@pytest.fixture(scope="module")
def held_out(texts: list[str]) -> tuple[list[str], Floor]:
    return texts[20_000:21_000], wire.floor(texts[20_000:21_000])


def test_floor_equals_brute_force_on_every_sentence_of_a_small_grammar() -> None:
    probability = enumerate_sentences(TINY)
    assert sum(probability.values()) == pytest.approx(1.0, abs=1e-12)
    predictor = Predictor(compile_grammar(TINY))
    floor = predictor.floor(list(probability))
    np.testing.assert_allclose(floor.nll, -np.log(list(probability.values())), rtol=0, atol=1e-9)
    assert np.exp(-floor.nll).sum() == pytest.approx(1.0, abs=1e-9)
    assert floor.tokens.tolist() == [len(text) + 1 for text in probability]
    for i, text in enumerate(probability):
        expected = brute_next_symbols(probability, text)
        np.testing.assert_allclose(predictor.next_symbols(text), expected, rtol=0, atol=1e-9)
        actual = [SYMBOLS.index(symbol) for symbol in text.replace(" ", SPACE) + END]
        assert floor.top1_hits[i] == (expected.argmax(axis=1) == actual).sum(), text


def test_a_tie_goes_to_the_first_symbol() -> None:
    grammar = Grammar((Topic(1.0, {("A",): 1.0, ("A", "A"): 1.0}, {"A": {"a": 1.0, "b": 1.0}}),))
    floor = Predictor(compile_grammar(grammar)).floor(["a", "b", "b b"])
    # Ties: a before b, and the end before a space. The end of "b b" is certain.
    assert floor.top1_hits.tolist() == [2.0, 1.0, 1.0]


def test_sampling_follows_the_distribution_that_the_floor_assumes() -> None:
    probability = enumerate_sentences(TINY)
    automaton, n = compile_grammar(TINY), 40_000
    drawn = sentences(automaton, np.random.default_rng(3).random((n, 4)))
    assert set(drawn) <= set(probability)
    p = np.array(list(probability.values()))
    counts = np.array([drawn.count(text) for text in probability])
    assert np.abs((counts - n * p) / np.sqrt(n * p * (1 - p))).max() < 4.5


def test_marked_slots_agree_and_shares_sum_to_one() -> None:
    expanded = dict(expand("ACTOR@ VERB@ ADJ| THING in_PLACE|"))
    assert set(expanded) == {
        (f"ACTOR.{n}", f"VERB.{n}", *adjective, "THING", *place)
        for n in "sp"
        for adjective in ((), ("ADJ",))
        for place in ((), ("in", "PLACE"))
    }
    assert sum(expanded.values()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("form", "word", "expected"),
    [
        (plural, "policy", "policies"),
        (plural, "spokesman", "spokesmen"),
        (plural, "potato", "potatoes"),
        (third, "veto", "vetoes"),
        (third, "deny", "denies"),
        (past, "plan", "planned"),
        (past, "deny", "denied"),
        (past, "uphold", "upheld"),
        (gerund, "dye", "dyeing"),
        (gerund, "guarantee", "guaranteeing"),
        (gerund, "trim", "trimming"),
        (gerund, "bake", "baking"),
    ],
)
def test_inflection(form: Callable[[str], str], word: str, expected: str) -> None:
    assert form(word) == expected


def test_the_longest_sentence_is_known() -> None:
    assert compile_grammar(TINY).max_chars == max(len(text) for text in enumerate_sentences(TINY))
    assert wire.automaton().max_chars <= 148


def test_texts_keep_to_the_alphabet_and_lengths(texts: list[str]) -> None:
    assert set("".join(texts)) == set("abcdefghijklmnopqrstuvwxyz ")
    assert all(text == " ".join(text.split()) for text in texts)
    lengths = np.array([len(text) for text in texts])
    assert lengths.max() <= wire.automaton().max_chars
    assert 40 <= lengths.mean() <= 50
    assert len(set(texts)) / len(texts) > 0.999


@pytest.mark.parametrize("count", [1, 999, 1_000, 1_001, 3_500])
def test_a_smaller_budget_is_a_prefix_of_a_larger_one(texts: list[str], count: int) -> None:
    loaded = wire.load(Options(texts=count))
    assert list(loaded.train) == texts[:count]
    assert (loaded.validation, loaded.test, loaded.source, loaded.licence) == (None, None, "wire", "MIT")


def test_the_corpus_is_the_one_of_its_revision(texts: list[str]) -> None:
    # Where this changes on purpose, wire.REVISION changes with it: results on another corpus can't be compared.
    digest = hashlib.sha256("\n".join(texts[:1_000]).encode()).hexdigest()
    assert (wire.REVISION, digest) == ("wire-1", "893e940041f2287d46136e9cd500dbabe8400af581b754eb3b2cd5cd2d0fada5")


def test_a_text_from_elsewhere_has_no_floor(texts: list[str]) -> None:
    with pytest.raises(StudyError, match="zzz"):
        wire.floor([texts[0], "zzz"])
    with pytest.raises(StudyError):
        wire.floor([texts[0] + " " + texts[1]])


def test_floor_does_not_depend_on_what_else_is_scored(texts: list[str]) -> None:
    together, alone = wire.floor(texts[:20]), [wire.floor([text]) for text in texts[:20]]
    np.testing.assert_allclose(together.nll, [f.nll[0] for f in alone], rtol=1e-12)
    np.testing.assert_array_equal(together.top1_hits, [f.top1_hits[0] for f in alone])


def test_predictions_are_calibrated_on_the_corpus(texts: list[str]) -> None:
    """On texts drawn from the distribution, nats and hits are as often as the predictions themselves expect."""
    sample, predictor = texts[21_000:21_200], wire.predictor()
    floor = wire.floor(sample)
    expected_nats, expected_hits = np.zeros(len(sample)), np.zeros(len(sample))
    for i, text in enumerate(sample):
        p = predictor.next_symbols(text)
        actual = [SYMBOLS.index(symbol) for symbol in text.replace(" ", SPACE) + END]
        assert floor.nll[i] == pytest.approx(-np.log(p[np.arange(len(actual)), actual]).sum(), abs=1e-9)
        expected_nats[i] = -np.sum(p * np.log(np.where(p > 0, p, 1.0)))
        expected_hits[i] = p.max(axis=1).sum()
    for difference in (floor.nll - expected_nats, floor.top1_hits - expected_hits):
        assert abs(difference.mean()) < 4 * standard_error(difference)


def test_the_floor_of_two_blocks_agrees(texts: list[str], held_out: tuple[list[str], Floor]) -> None:
    one, other = held_out[1].nll, wire.floor(texts[22_000:23_000]).nll
    assert abs(one.mean() - other.mean()) < 4 * np.hypot(standard_error(one), standard_error(other))


@pytest.mark.parametrize("order", [1, 5])
def test_no_character_model_beats_the_floor(texts: list[str], held_out: tuple[list[str], Floor], order: int) -> None:
    sample, floor = held_out
    excess = ngram_nll(texts[:20_000], sample, order) - floor.nll
    # Far above, not only not below: a floor that such a model could come near would leave nothing for a larger one to learn.
    assert excess.mean() > 20 * standard_error(excess)
    assert excess.mean() > 0.25 * floor.nll.mean()


def standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def ngram_nll(train: list[str], test: list[str], order: int) -> np.ndarray:
    """Nats per test text, end included, of a character n-gram model interpolated over orders 0 to `order` (Witten and Bell, 1991)."""
    train_codes, _ = windows(train, order)
    test_codes, text_of = windows(test, order)
    base = len(SYMBOLS)
    p = np.full(len(test_codes), 1.0 / base)
    for n in range(1, order + 1):
        grams, counts = np.unique(train_codes % base**n, return_counts=True)
        contexts, first = np.unique(grams // base, return_index=True)
        kinds, totals = np.diff(np.append(first, len(grams))), np.add.reduceat(counts, first)
        count = lookup(grams, counts, test_codes % base**n)
        context = test_codes % base**n // base
        kind, total = lookup(contexts, kinds, context), lookup(contexts, totals, context)
        p = np.where(total > 0, (count + kind * p) / np.maximum(total + kind, 1), p)
    return np.bincount(text_of, weights=-np.log(p), minlength=len(test))


def windows(texts: list[str], order: int) -> tuple[np.ndarray, np.ndarray]:
    """For each symbol, ends included: the number that its last `order` symbols write in base 28, and the text that it is in."""
    padding = END * (order - 1)
    stream = "".join(padding + text.replace(" ", SPACE) + END for text in texts)
    digits = np.searchsorted(np.frombuffer(SYMBOLS.encode(), np.uint8), np.frombuffer(stream.encode(), np.uint8)).astype(np.int64)
    codes = sum(digits[order - 1 - back : len(digits) - back] * len(SYMBOLS) ** back for back in range(order))
    lengths = np.array([len(text) + 1 for text in texts])
    starts = np.concatenate([[0], np.cumsum(lengths + order - 1)[:-1]])
    inside = np.concatenate([start + np.arange(length) for start, length in zip(starts, lengths, strict=True)])
    return np.asarray(codes)[inside], np.repeat(np.arange(len(texts)), lengths)


def lookup(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The values of the wanted keys, 0 for those that are not there."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)
