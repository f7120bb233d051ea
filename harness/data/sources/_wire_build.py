"""The grammar of the embedded newswire: its templates, how they expand, and the words of each slot in each topic.

A latent topic is a subject (politics, weather, ...) in a region of an invented world: the subject ranks templates and words, the region
gives the names.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from harness.data.sources import _wire_words as lists
from harness.data.sources._wire_grammar import Grammar, Topic, Words
from harness.data.sources._wire_inflect import gerund, past, plural, third
from harness.data.sources._wire_names import names

SEED = 20_011
# Capitals are slots and other words themselves; | separates equally likely alternatives, one of which may be empty, and _ joins the
# words of one. Slots with the same mark agree: @ and & in number (.s or .p), ^ in gender (.f or .m).
TEMPLATES = """
ADJ| ACTOR@ VERB@ ADJ| THING
PLACE ACTOR@ VERB@ ADJ| THING
ACTOR@ in PLACE VERB@ ADJ| THING
ACTOR@ VERB@ THING after ADJ| EVENT.s
ACTOR@ VERB@ THING despite ADJ| EVENT.p
ACTOR.s SURNAME VERB.s ADJ| THING in_PLACE|
FIRST^ SURNAME VERB.s ADJ THING
FIRST^ SURNAME VERB.s HIS^ ORDINAL THING.s in_PLACE|
ACTOR@ to VERB.p ADJ| THING in_MONTH|this_week|on_DAY
NUMBER THING.p VERB.ed in PLACE
NUMBER|TENS_UNIT THING.p VERB.ed after EVENT.s in PLACE
ADJ| THING VERB.ed after EVENT.s in_PLACE|
ACTOR@ SAY@ ADJ| THING will be VERB.ed
how PLACE| ACTOR@ VERB@ ADJ| THING
why ADJ| ACTOR.p VERB.p THING
EVENT& in_PLACE| CAUSE& ADJ| THING
THING.s MEASURE@ MOVE@ NUMBER|NUMBER|TENS_UNIT percent in_MONTH|
ACTOR@ VERB@ ADJ| THING for ORDINAL time
ACTOR@ VERB@ NUMBER ADJ| THING.p
NUMBER ACTOR.p in_PLACE| VERB.p ADJ| THING
NUMBER|TENS_UNIT percent of ACTOR.p VERB.p THING
ACTOR@ who VERB.ed ADJ| THING REACT@ EVENT.s
ACTOR@ ADVERB VERB@ ADJ| THING
PLACE to VERB.p NUMBER ADJ| THING.p by MONTH
PLACE VERB.s ADJ| THING after_EVENT.s|
PEOPLE ACTOR@ VERB@ ADJ| THING
THING& GIVE& PLACE| ACTOR.p GOOD
ACTOR.p and ACTOR.p VERB.p ADJ| THING
FIRST^ SURNAME the ADJ ACTOR.s who VERB.ed HIS^ THING.s
meet FIRST^ SURNAME the ACTOR.s who VERB.ed ADJ| THING
what ADJ| EVENT& MEAN& for PLACE| ACTOR.p
ACTOR@ VERB@ THING as ADJ| EVENT& LOOM&
no ADJ THING.s for PLACE ACTOR.p
ADJ| THING.p near PLACE VERB.ed by ACTOR.s|ACTOR.p
EVENT& LEAVE& NUMBER THING.p VERB.ed in_PLACE|
FIRST^ SURNAME named PLACE| ACTOR.s of the year
FIRST^ SURNAME REACT.s HIS^ ADJ| THING.s
ACTOR@ ACCUSE@ ADJ| ACTOR.p of VERB.ing THING
VERB.ing ADJ| THING.p is JUDGE say PLACE| ACTOR.p
one in NUMBER ACTOR.p VERB.s THING
PLACE ACTOR@ DEFER@ decision on ADJ| THING
talks on ADJ| THING.p LOOM.p in PLACE
SURNAME and SURNAME VERB.p ADJ| THING in PLACE
FIRST^ SURNAME and HIS^ ACTOR.p VERB.p THING
ADJ THING VERB.ed for first time in NUMBER SPAN
ACTOR@ LOOK@ back on NUMBER|TENS_UNIT SPAN of THING.p
ADJ EVENT.s in PLACE as ACTOR@ VERB@ THING
PLACE EVENT.s ACTOR@ VERB@ THING
ACTOR.s SURNAME SAY.s HIS^ THING.s will be VERB.ed
SURNAME ADVERB VERB.s ADJ THING from PLACE
"""
VALUES = {"@": (".s", ".p"), "&": (".s", ".p"), "^": (".f", ".m")}
NOUNS = {"ACTOR": "actor", "EVENT": "event", "THING": "thing", "MEASURE": "measure"}
VERBS = {
    kind.upper(): kind for kind in ("verb", "say", "cause", "react", "loom", "move", "accuse", "defer", "give", "mean", "leave", "look")
}
PLAIN = {"ADJ": "adjective", "ADVERB": "adverb", "JUDGE": "judge", "GOOD": "good"}
SINGULAR_SHARE = 0.55
# Words that a subject borrows from the others, by kind; verbs and things stay at home, since together they must make sense.
BORROWED = {"actor": 40, "adjective": 30, "event": 15}
NAMES_OF_KIND = {
    "FIRST.f": ("woman", 70),
    "FIRST.m": ("man", 70),
    "SURNAME": ("surname", 260),
    "PLACE": ("place", 140),
    "PEOPLE": ("people", 8),
}


def _shuffled(items: Sequence[str], *seed: int) -> list[str]:
    """The items in an order of their own; raw bits, since these alone are promised to stay the same between versions of numpy."""
    bits = np.random.PCG64(np.random.SeedSequence([SEED, *seed])).random_raw(len(items))
    return [items[i] for i in np.argsort(bits, kind="stable")]


def _zipf(ordered: Sequence[str], offset: float = 5.0, form: Callable[[str], str] = str, share: float = 1.0) -> dict[str, float]:
    """Weights 1 / (rank + offset) that sum to `share`; words with the same form add up."""
    weights: dict[str, float] = {}
    for rank, word in enumerate(ordered):
        weights[form(word)] = weights.get(form(word), 0.0) + 1.0 / (rank + offset)
    total = sum(weights.values())
    return {word: share * weight / total for word, weight in weights.items()}


def _mixed(first: dict[str, float], second: dict[str, float]) -> dict[str, float]:
    return {word: first.get(word, 0.0) + second.get(word, 0.0) for word in first | second}


def expand(template: str) -> Iterator[tuple[tuple[str, ...], float]]:
    """The slot sequences that a template stands for, with their shares."""
    marks = [mark for mark in VALUES if mark in template]
    for values in itertools.product(*(VALUES[mark] for mark in marks)):
        agreed = template
        for mark, value in zip(marks, values, strict=True):
            agreed = agreed.replace(mark, value)
        choices = [token.split("|") for token in agreed.split()]
        share = 1.0 / np.prod([len(c) for c in choices]) / np.prod([len(VALUES[mark]) for mark in marks])
        for chosen in itertools.product(*choices):
            yield tuple(slot for part in chosen if part for slot in part.split("_")), float(share)


def _templates(subject: int) -> dict[tuple[str, ...], float]:
    weights: dict[tuple[str, ...], float] = {}
    for template, weight in _zipf(_shuffled(TEMPLATES.strip().split("\n"), subject, 0), offset=5.0).items():
        for slots, share in expand(template):
            weights[slots] = weights.get(slots, 0.0) + weight * share
    return weights


def _ordered_words(subject: int, subjects: Sequence[dict[str, list[str]]]) -> dict[str, list[str]]:
    """kind -> words by rank: the subject's own, then those that all share, then some borrowed from others, each part in a random order."""
    general, order = lists.parse(lists.GENERAL)[""], {}
    for i, kind in enumerate(general, 1):
        everyone = sorted({word for kinds in subjects for word in kinds[kind]})
        parts = (subjects[subject][kind], general[kind], _shuffled(everyone, subject, i, 0)[: BORROWED.get(kind, 0)])
        order[kind] = list(dict.fromkeys(word for n, part in enumerate(parts, 1) for word in _shuffled(part, subject, i, n)))
    for i, (kind, words) in enumerate(lists.parse(lists.SHARED)[""].items(), 101):
        order[kind] = _shuffled(words, subject, i)
    return order


def _subject_words(order: dict[str, list[str]]) -> dict[str, Words]:
    """The words of each slot that depends on the subject."""
    words: dict[str, Words] = {slot: _zipf(order[kind]) for slot, kind in PLAIN.items()}
    for slot, kind in NOUNS.items():
        words[slot + ".s"], words[slot + ".p"] = _zipf(order[kind]), _zipf(order[kind], form=plural)
    for slot, kind in VERBS.items():
        for ending, form in ((".s", third), (".p", str), (".ed", past), (".ing", gerund)):
            words[slot + ending] = _zipf(order[kind], form=form)
    things = order["thing"]
    words["THING"] = _mixed(_zipf(things, share=SINGULAR_SHARE), _zipf(things, form=plural, share=1 - SINGULAR_SHARE))
    return words


def _region_words(region: int, kinds: dict[str, list[str]]) -> dict[str, Words]:
    return {
        slot: _zipf(_shuffled(kinds[kind], 1000 + region, i)[:count], offset=10.0)
        for i, (slot, (kind, count)) in enumerate(NAMES_OF_KIND.items())
    }


def wire_grammar() -> Grammar:
    """The distribution of the embedded newswire."""
    closed: dict[str, Words] = {kind.upper(): _zipf(words) for kind, words in lists.parse(lists.CLOSED)[""].items()}
    closed |= {"HIS.f": {"her": 1.0}, "HIS.m": {"his": 1.0}}
    subjects = lists.parse(lists.TOPICS)
    regions = {name: _region_words(i, kinds) for i, (name, kinds) in enumerate(names().items())}
    topics = []
    for i, weight in enumerate(_zipf(list(subjects), offset=8.0).values()):
        templates, words = _templates(i), _subject_words(_ordered_words(i, list(subjects.values())))
        for region, share in _zipf(_shuffled(list(regions), 3000, i), offset=1.5).items():
            topics.append(Topic(weight * share, templates, closed | words | regions[region]))
    return Grammar(tuple(topics))
