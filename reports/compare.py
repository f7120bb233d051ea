"""Two studies side by side, as numbers: two results in, one frozen value out, which says of each number whether it may be subtracted.

What is measured on texts is comparable only where the texts are the same, and what is counted in tokens only where the tokens are. Every
difference is B minus A.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from harness.analysis.intervals import Interval, difference, welch
from harness.preflight import flat
from harness.results import Results
from reports.fits import fits
from reports.numbers import known, listed
from reports.rates import rates
from reports.summary import Rung, completed, interval, measured

Relation = Literal["same", "texts", "other"]
# Budgets within this factor are one budget: seeds shuffle texts differently.
SAME_TOKENS = 1.05
UNRESOLVED = "not resolved in both"
# Keys of a study that decide its tokens, but not which texts it has.
OF_TOKENS = frozenset({"tokenizer", "seq_len", "eval_texts"})


@dataclass(frozen=True)
class Metric:
    """A column of the runs as it is shown: values times `factor`, with `decimals` where no interval decides."""

    column: str
    title: str
    unit: str
    factor: float
    decimals: int


NLL = Metric("test_nll", "Test NLL", "nats per text", 1, 2)
TOP1 = Metric("test_top1", "Top-1", "%", 100, 1)
BITS = Metric("test_bits_per_char", "Bits per character", "bits per character", 1, 3)
COMPARED: Mapping[Relation, tuple[Metric, ...]] = {"same": (NLL, TOP1), "texts": (BITS,), "other": ()}


# Where tokens are the same, bits per character are the NLL in another unit.
SUBTRACTED: Mapping[Relation, tuple[Metric, ...]] = {**COMPARED, "same": (NLL, TOP1, BITS)}


@dataclass(frozen=True)
class Values:
    """One quantity in both studies, None where a study has none; `change` is None, or without bounds, for the reason in `why`."""

    a: Interval | None
    b: Interval | None
    change: Interval | None
    why: str = ""

    @property
    def separate(self) -> bool:
        """Whether the difference has an interval, and it leaves zero out."""
        return self.change is not None and known(self.change.low) and (self.change.low > 0 or self.change.high < 0)


@dataclass(frozen=True)
class Pair:
    """A size of which both studies have completed runs. `rate`: logarithms of the fitted best rates, where the search resolved them."""

    name: str
    a: Rung
    b: Rung
    metrics: Mapping[str, Values]
    rate: Values
    tokens_a: float
    tokens_b: float

    @property
    def same_budget(self) -> bool:
        """Whether both were trained on as many tokens, as far as that is known."""
        most, least = max(self.tokens_a, self.tokens_b), min(self.tokens_a, self.tokens_b)
        return not known(most) or not known(least) or most <= SAME_TOKENS * least


@dataclass(frozen=True)
class Difference:
    """A fact of which the studies have different ones, as plain values."""

    name: str
    a: Any
    b: Any


@dataclass(frozen=True, eq=False)
class Comparison:
    """All of it. `relation`: whether tokens, texts or nothing of the data are the same; `reason` says it in words.

    `only_a`, `only_b`: sizes with completed runs in one study alone. `exponents`: by name, of the laws that both studies have.
    `keys`: what differs in the study files; `made`: in data, code and versions; `equal`: names of the facts of the latter kind that are
    the same.
    """

    a: Results
    b: Results
    relation: Relation
    reason: str
    pairs: tuple[Pair, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    exponents: Mapping[str, Values]
    keys: tuple[Difference, ...]
    made: tuple[Difference, ...]
    equal: tuple[str, ...]

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What is shown beside each other and subtracted, in the order of interest."""
        found = COMPARED[self.relation]
        return tuple(m for m in found if any(pair.metrics[m.column].a and pair.metrics[m.column].b for pair in self.pairs))


def compare(a: Results, b: Results) -> Comparison:
    """All that two studies allow to be compared."""
    ours, theirs = ({rung.name: rung for rung in measured(results)} for results in (a, b))
    kind, reason = relation(a, b)
    made = {name: (_facts(a).get(name), _facts(b).get(name)) for name in {**_facts(a), **_facts(b)}}
    return Comparison(
        a=a,
        b=b,
        relation=kind,
        reason=reason,
        pairs=tuple(_pair(ours[name], theirs[name], a, b, kind) for name in ours if name in theirs),
        only_a=tuple(name for name in ours if name not in theirs),
        only_b=tuple(name for name in theirs if name not in ours),
        exponents=_exponents(a, b, kind),
        keys=_keys(a.study, b.study),
        made=tuple(Difference(name, *values) for name, values in made.items() if values[0] != values[1]),
        equal=tuple(name for name, values in made.items() if values[0] == values[1]),
    )


def relation(a: Results, b: Results) -> tuple[Relation, str]:
    """What of the data is the same, and how that is known."""
    if a.data.get("fingerprint") and a.data.get("fingerprint") == b.data.get("fingerprint"):
        return "same", "texts, splits, tokenizer and sequence length are the same (equal fingerprints)"
    asked = [dict(results.study.get("data") or {}) for results in (a, b)]
    differing = [key for key in sorted({*asked[0], *asked[1]}) if asked[0].get(key) != asked[1].get(key)]
    facts = ("source", "revision", "n_train", "n_validation", "n_test")
    moved = [name for name in facts if a.data.get(name) != b.data.get(name)]
    if moved or not differing or set(differing) - OF_TOKENS:
        what = [f"data.{key}" for key in differing if key not in OF_TOKENS] or ["the texts themselves"]
        return "other", f"the test texts are not the same (differing: {listed(what)})"
    if any((results.data.get("counts") or {}).get("cut") for results in (a, b)):
        return "other", "the texts are the same, but are cut at the sequence length, so that other parts of them are scored"
    tokens = listed([f"data.{key}" for key in differing])
    return "texts", f"the texts are the same and the tokens are not ({tokens}): only bits per character have one unit"


def _pair(a: Rung, b: Rung, in_a: Results, in_b: Results, kind: Relation) -> Pair:
    ours, theirs = completed(a.own), completed(b.own)
    found = {m.column: _values(ours, theirs, m.column, m in SUBTRACTED[kind]) for m in (NLL, TOP1, BITS)}
    tokens = [float(own["train_tokens"].mean()) if len(own) else math.nan for own in (ours, theirs)]
    return Pair(a.name, a, b, found, _independent(_log_rate(in_a, a.name), _log_rate(in_b, b.name)), *tokens)


def _values(a: pd.DataFrame, b: pd.DataFrame, column: str, comparable: bool) -> Values:
    """A metric over the completed seeds of one size."""
    ours, theirs = interval(a, column), interval(b, column)
    if ours is None or theirs is None:
        return Values(ours, theirs, None, "no completed run")
    if not comparable:
        return Values(ours, theirs, None, "other texts or tokens")
    change = welch(a[column].dropna(), b[column].dropna())
    shared = set(a["key"]) & set(b["key"])
    if shared and set(a["key"]) == set(b["key"]):
        return Values(ours, theirs, None, "the same runs")
    if shared:
        # The interval is of independent runs.
        return Values(ours, theirs, Interval(change.mean, math.nan, math.nan, change.n), "some runs are the same")
    return Values(ours, theirs, change, "" if known(change.low) else "one seed")


def _independent(a: Interval | None, b: Interval | None) -> Values:
    """Two estimates that share nothing, with intervals of their own; equal to the last bit, they are of the same runs."""
    if a is None or b is None:
        return Values(a, b, None, UNRESOLVED)
    return Values(a, b, None, "the same in both") if a == b else Values(a, b, difference(a, b))


def _log_rate(results: Results, rung: str) -> Interval | None:
    own = results.searches[(results.searches["rung"] == rung) & (results.searches["lr_status"] == "resolved")]
    if own.empty or not all(known(own[name].iloc[0]) for name in ("fitted_lr", "fitted_low", "fitted_high")):
        return None
    middle, low, high = (math.log(own[name].iloc[0]) for name in ("fitted_lr", "fitted_low", "fitted_high"))
    return Interval(middle, low, high, 1)


def _exponents(a: Results, b: Results, kind: Relation) -> dict[str, Values]:
    """Of the laws that both have; that of the loss is subtracted only where a loss is of the same tokens."""
    found: dict[str, Values] = {}
    laws = [rates(results).law for results in (a, b)]
    if all(law.status == "fitted" for law in laws):
        found["p"] = _independent(*(Interval(law.p, law.p_low, law.p_high, 1) for law in laws))
    ours, theirs = (fits(results).laws for results in (a, b))
    for name in ("free", "0", "floor"):
        one, other = _alpha(ours, name), _alpha(theirs, name)
        if one and other:
            of_tokens = Values(one, other, None, "losses of other tokens")
            found[f"alpha, {name}"] = _independent(one, other) if kind == "same" else of_tokens
    return found


def _alpha(laws: pd.DataFrame, irreducible: str) -> Interval | None:
    """The exponent of a law of the loss that converged and has an interval."""
    own = laws[(laws["irreducible"] == irreducible) & (laws["status"] == "converged")] if len(laws) else laws
    if own.empty or not known(own["alpha_low"].iloc[0]):
        return None
    value, low, high = (float(own[name].iloc[0]) for name in ("alpha", "alpha_low", "alpha_high"))
    return Interval(value, low, high, 1)


def _keys(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[Difference, ...]:
    """What differs in the study files, by key."""
    ours, theirs = flat(a), flat(b)
    keys = [key for key in {**ours, **theirs} if key != "study" and ours.get(key) != theirs.get(key)]
    return tuple(Difference(key, ours.get(key), theirs.get(key)) for key in keys)


def _facts(results: Results) -> dict[str, Any]:
    """What a study was made from and with, as far as it decides what its numbers mean."""
    data, plan = results.data, results.plan
    git = plan.get("git") or {}
    texts = {name.replace("_", " "): data.get(name) for name in ("source", "revision", "licence")}
    texts |= {
        "fingerprint of the data": str(data.get("fingerprint") or "")[:12] or None,
        "training texts": data.get("n_train"),
        "test texts": data.get("n_test"),
        "values of a token": data.get("vocab_size"),
        "sequence length": data.get("seq_len"),
    }
    commit = str(git.get("commit") or "")[:12]
    made = {"commit": f"{commit}{', changed' if git.get('dirty') else ''}" if commit else None}
    made |= {name: plan.get(name) for name in ("device", "precision", "threads", "machine")}
    cut = plan.get("cut")
    budget = {"share of the token budget": None if cut is None else 2 ** (-cut / 2)}
    return texts | budget | made | {f"{name} version": version for name, version in (plan.get("versions") or {}).items()}
