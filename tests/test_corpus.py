"""From a data block to encoded splits: what is dropped, how splits nest, how a text is laid out, and what the fingerprint notices."""

import dataclasses
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from harness import plugins
from harness.data import Texts
from harness.data import corpus as corpus_module
from harness.data.corpus import Corpus, encode, entropy, prepare
from harness.data.splits import TEST, TRAIN, VALIDATION, assign, draws
from harness.data.tokenizers import char
from harness.errors import StudyError
from harness.spec import Data

WORDS = ["rain", "falls", "on", "the", "plain", "again", "and", "we", "wait"]


def sentences(n: int) -> list[str]:
    """Distinct texts of words and a number spelled in letters."""
    return [f"{WORDS[i % 9]} {WORDS[i // 9 % 9]} " + "".join(chr(97 + int(d)) for d in str(i)) for i in range(n)]


def corpus_of(path: Path, lines: list[str], /, **more: object) -> Corpus:
    """The corpus of a file with one text a line."""
    file = path / "texts.txt"
    file.write_text("\n".join(lines) + "\n")
    return prepare(Data.model_validate({"source": "file", "path": str(file), **more}))


def given(monkeypatch: pytest.MonkeyPatch, source: Texts, /, **more: object) -> Corpus:
    """The corpus of texts that a source would give."""
    real = plugins.load

    def load(package: str, name: str, what: str) -> object:
        return SimpleNamespace(load=lambda _: source) if package == corpus_module.SOURCES else real(package, name, what)

    monkeypatch.setattr(plugins, "load", load)
    return prepare(Data.model_validate({"source": "hub", "path": "x", "columns": ["text"], **more}))


def test_parts_are_disjoint_whole_and_near_their_shares(tmp_path: Path) -> None:
    texts = sentences(4000)
    corpus = corpus_of(tmp_path, texts, validation=0.1, test=0.2)
    parts = [list(part.texts) for part in (corpus.train, corpus.validation, corpus.test)]
    assert sorted(text for part in parts for text in part) == sorted(texts)
    # Five standard deviations of a binomial count.
    assert abs(len(parts[1]) - 400) < 5 * (4000 * 0.1 * 0.9) ** 0.5
    assert abs(len(parts[2]) - 800) < 5 * (4000 * 0.2 * 0.8) ** 0.5


def test_fewer_texts_are_a_prefix_of_every_split(tmp_path: Path) -> None:
    texts = sentences(2000)
    # Repeated and empty texts, so that places in the file and places among what is left differ.
    texts[100:100] = texts[:50] + [" "] * 20
    large, small = corpus_of(tmp_path, texts), corpus_of(tmp_path, texts, texts=700)
    for name in ("train", "validation", "test"):
        few = list(getattr(small, name).texts)
        assert few == list(getattr(large, name).texts)[: len(few)] and few
    in_file_order = [text for text in dict.fromkeys(texts) if text in set(large.train.texts)]
    assert list(large.train.texts) == in_file_order


def test_share_of_one_part_does_not_move_the_other() -> None:
    index = np.arange(1000)
    a, b = assign(index, 0.1, 0.1), assign(index, 0.3, 0.1)
    assert np.array_equal(a == TEST, b == TEST)
    assert set(np.flatnonzero(a == VALIDATION)) <= set(np.flatnonzero(b == VALIDATION))
    assert np.array_equal(draws(1000)[:300], draws(300))


def test_counts_are_exact() -> None:
    split = assign(np.arange(0, 300, 3), 30, 20)
    assert [int((split == part).sum()) for part in (TRAIN, VALIDATION, TEST)] == [50, 30, 20]
    mixed = assign(np.arange(1000), 50, 0.2)
    assert int((mixed == VALIDATION).sum()) == 50


def test_known_draws_do_not_change() -> None:
    # If this fails, every split, fingerprint and recorded result changes: raise the science version with it.
    assert draws(3).tolist() == pytest.approx([0.22112499232413219, 0.764313593359748, 0.5496126570242859], abs=0)


def test_what_is_dropped_is_counted(tmp_path: Path) -> None:
    lines = [*sentences(200), "12 34", "", "Rain rain a", sentences(1)[0].upper()]
    corpus = corpus_of(tmp_path, lines, clean=["lower", "letters"], texts=1000)
    dropped = {key: corpus.counts[key] for key in ("read", "empty", "duplicates", "cut", "unknown")}
    assert dropped == {"read": 204, "empty": 2, "duplicates": 2, "cut": 0, "unknown": 0}
    assert corpus.tokenizer.vocab_size == 29
    assert any("1,000 were asked for" in notice and "204" in notice for notice in corpus.notices)
    assert any("2 repeated texts" in notice for notice in corpus.notices)


OWN = Texts(["a", "b", "b", "c"], ["x", "b", "x", "y"], ["c", "z", "x"], "own", "free", "r1")


def test_own_splits_lose_what_occurs_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = given(monkeypatch, OWN, validation={"split": "v"}, test={"split": "t"})
    assert [list(part.texts) for part in (corpus.train, corpus.validation, corpus.test)] == [["a", "b", "c"], ["x", "y"], ["z", "x"]]
    assert corpus.counts == {"read": 11, "empty": 0, "duplicates": 2, "removed_validation": 1, "removed_test": 1, "cut": 0, "unknown": 4}
    assert corpus.unknown_nats == pytest.approx(np.log(3))
    assert (corpus.source, corpus.licence, corpus.revision) == ("own", "free", "r1")


def test_a_known_distribution_stays_as_it_was_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Texts(["ab", "a", "ab", "b"] * 50, None, None, "drawn", "free", "1", alphabet="ab", as_drawn=True)
    corpus = given(monkeypatch, drawn, texts=200)
    assert sum(part.n_texts for part in (corpus.train, corpus.validation, corpus.test)) == 200
    assert set(corpus.validation.texts) & set(corpus.train.texts)
    assert corpus.tokenizer.vocab_size == 4 and corpus.tokenizer.unk is None


def test_alphabet_comes_from_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Texts(["ab", "ba"], ["abé"], ["éü", "ü a"], "own", "free", "1")
    corpus = given(monkeypatch, source, validation={"split": "v"}, test={"split": "t"})
    assert corpus.tokenizer.vocab_size == 5
    assert corpus.validation.unknown.tolist() == [1] and corpus.test.unknown.tolist() == [2, 2]
    assert corpus.unknown_nats == pytest.approx(np.log(3))


def test_layout_of_short_full_and_cut_texts() -> None:
    tokenizer, counts = char.train(["abcdefgh"]), Counter[str]()
    encoded = encode(["ab", "", "abcdef", "abcdefg?"], tokenizer, 8, counts)
    start = tokenizer.start
    rows = [encoded.ids[a:b].tolist() for a, b in zip(encoded.offsets, encoded.offsets[1:], strict=False)]
    assert rows == [[start, 1, 2, 0], [start, 0], [start, 1, 2, 3, 4, 5, 6, 0], [start, 1, 2, 3, 4, 5, 6]]
    assert encoded.lengths.tolist() == [3, 1, 7, 6] and encoded.n_targets == 17
    assert encoded.characters.tolist() == [2, 0, 6, 6]
    # The unknown character of the last text lies beyond the cut.
    assert counts == Counter(cut=1, unknown=0)
    assert encoded.targets.tolist() == [1, 2, 0, 0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4, 5, 6]
    assert encoded.ids.dtype == np.uint8


def test_large_alphabets_keep_their_ids() -> None:
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))
    tokenizer = char.train([text])
    encoded = encode([text], tokenizer, 400, Counter())
    assert encoded.ids.max() == tokenizer.start == 301
    assert tokenizer.decode(encoded.ids) == text


def test_head_is_the_encoding_of_the_first_texts() -> None:
    texts, tokenizer = sentences(20), char.train(sentences(20))
    few, whole = encode(texts[:7], tokenizer, 12, Counter()), encode(texts, tokenizer, 12, Counter())
    for field in dataclasses.fields(few):
        assert list(getattr(whole.head(7), field.name)) == list(getattr(few, field.name))
    assert whole.head(99).n_texts == whole.head(None).n_texts == 20 and whole.head(0).n_targets == 0


def test_entropy_of_known_frequencies(tmp_path: Path) -> None:
    assert entropy(np.array([0, 1, 2, 3] * 5)) == pytest.approx(np.log(4))
    corpus = corpus_of(tmp_path, sentences(300))
    text = "".join(corpus.train.texts)
    total = len(text) + corpus.train.n_texts
    shares = np.array([*Counter(text).values(), corpus.train.n_texts]) / total
    assert corpus.unigram_entropy == pytest.approx(-(shares * np.log(shares)).sum())


def test_fingerprint_follows_what_decides_training(tmp_path: Path) -> None:
    texts = sentences(100)
    base = corpus_of(tmp_path, texts).fingerprint
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert corpus_of(elsewhere, texts, eval_texts=7).fingerprint == base
    changed = [
        corpus_of(tmp_path, texts, seq_len=100),
        corpus_of(tmp_path, texts, validation=0.2),
        corpus_of(tmp_path, texts[::-1]),
        corpus_of(tmp_path, [*texts[:-1], "another"]),
        corpus_of(tmp_path, texts, clean=["letters"]),
    ]
    assert len({base, *(corpus.fingerprint for corpus in changed)}) == 6


def test_a_line_break_inside_a_text_is_not_two_texts() -> None:
    tokenizer = char.train(["ab"])
    assert corpus_module.fingerprint([["a", "b"]], tokenizer, 9) != corpus_module.fingerprint([["ab"]], tokenizer, 9)
    assert corpus_module.fingerprint([["a"], ["b"]], tokenizer, 9) != corpus_module.fingerprint([["a", "b"]], tokenizer, 9)


def test_no_test_split_is_an_empty_one(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, sentences(100), test=None)
    assert corpus.test.n_texts == 0 and corpus.test.n_targets == 0


@pytest.mark.parametrize(
    ("texts", "more", "said"),
    [
        (["1", "2"], {"clean": ["letters"]}, "no text is left|left for training"),
        (["a", "b"], {"validation": 0.001}, r"data\.validation: no text is left for it of 2"),
        (sentences(50), {"validation": 40, "test": 40}, "left for training"),
    ],
)
def test_nothing_left_is_an_error_that_says_so(tmp_path: Path, texts: list[str], more: dict[str, object], said: str) -> None:
    with pytest.raises(StudyError, match=said):
        corpus_of(tmp_path, texts, **more)


def test_every_source_of_known_distribution_keeps_it() -> None:
    known = [name for name in plugins.names(corpus_module.SOURCES) if hasattr(plugins.load(corpus_module.SOURCES, name, "source"), "floor")]
    for name in known:
        corpus = prepare(Data.model_validate({"source": name, "texts": 3000}))
        assert corpus.as_drawn and corpus.tokenizer.unk is None
        assert sum(part.n_texts for part in (corpus.train, corpus.validation, corpus.test)) == corpus.counts["read"] == 3000
        assert corpus.counts["cut"] == corpus.counts["unknown"] == 0
    assert "wire" in known
