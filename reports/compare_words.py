"""The answer of a comparison in sentences, and how differences are written: a comparison in, text out."""

import math
from collections.abc import Iterator, Sequence

from harness.analysis.intervals import Interval
from reports import numbers
from reports.compare import Comparison, Metric, Pair, Values
from reports.numbers import ALPHA, known, listed

E_IN_WORDS = {"free": "E free", "0": "E fixed at 0", "floor": "E fixed at the best possible"}


def answer(found: Comparison) -> Iterator[str]:
    """The answer in sentences, what was measured first."""
    if not found.pairs:
        yield "There is no size of which both studies have completed runs."
        return
    if not found.metrics:
        yield f"No test result is subtracted: {found.reason}." if found.relation == "other" else "No size has test results in both."
    for metric in found.metrics[:2]:
        yield _metric_in_words(found, metric)
    resolved = [pair for pair in found.pairs if pair.rate.change]
    if resolved:
        yield _rates_in_words(resolved)
    for name, values in found.exponents.items():
        if values.change and (name == "p" or values.separate):
            yield _exponent_in_words(name, values)


def _metric_in_words(found: Comparison, metric: Metric) -> str:
    pairs = [(pair, pair.metrics[metric.column]) for pair in found.pairs]
    parts = []
    for word, sign in (("lower", -1), ("higher", 1)):
        moved = [(pair, v.change) for pair, v in pairs if v.change and v.separate and math.copysign(1, v.change.mean) == sign]
        if moved:
            parts.append(f"{word} in B at " + listed([f"{pair.name} ({_change(change, metric)})" for pair, change in moved]))
    level = [pair.name for pair, v in pairs if v.change and known(v.change.low) and not v.separate]
    if level:
        parts.append(f"not told apart at {listed(level)}")
    for why, words in (
        ("one seed", "on single seeds, so without an interval, at"),
        ("some runs are the same", "without an interval, since some runs are in both, at"),
    ):
        own = [f"{pair.name} ({_change(v.change, metric)})" for pair, v in pairs if v.change and v.why == why]
        if own:
            parts.append(f"{words} {listed(own)}")
    same = [pair.name for pair, v in pairs if v.why == "the same runs"]
    if same:
        parts.append(f"of the very same runs at {listed(same)}")
    return f"{metric.title}, {metric.unit}: {'; '.join(parts)}."


def _change(change: Interval, metric: Metric) -> str:
    shown = scaled(change, metric.factor)
    return signed(shown, numbers.column_decimals([shown], metric.decimals))


def _rates_in_words(pairs: Sequence[Pair]) -> str:
    moved = [pair for pair in pairs if pair.rate.separate]
    level = [pair.name for pair in pairs if not pair.rate.separate]
    said = [f"{ratio(pair.rate)} times that of A at {pair.name}" for pair in moved]
    parts = [f"that of B is {listed(said)}"] if said else []
    return f"Best learning rate: {'; '.join([*parts, *([f'not told apart at {listed(level)}'] if level else [])])}."


def _exponent_in_words(name: str, values: Values) -> str:
    verdict = "told apart" if values.separate else "not told apart"
    assert values.a and values.b and values.change
    each = " and ".join(numbers.bracketed(one, digits_of(values)) for one in (values.a, values.b))
    return f"{law_name(name)}: {each}, a difference of {signed(values.change, digits_of(values))}, {verdict}."


def scaled(one: Interval, factor: float) -> Interval:
    """An interval in another unit, such as per cent."""
    return Interval(one.mean * factor, one.low * factor, one.high * factor, one.n)


def signed(change: Interval, decimals: int) -> str:
    """A difference with its sign and bounds: +0.31 [0.10, 0.52]."""
    return ("+" if change.mean > 0 and float(f"{change.mean:.{decimals}f}") else "") + numbers.bracketed(change, decimals)


def ratio(rate: Values) -> str:
    """A difference of logarithms as a ratio with its bounds."""
    assert rate.change
    middle, low, high = (math.exp(value) for value in (rate.change.mean, rate.change.low, rate.change.high))
    return numbers.bracketed(Interval(middle, low, high, 1), 2)


def law_name(name: str) -> str:
    """An exponent's name in words."""
    if name == "p":
        return "Fall of the best rate with size, p in N^-p"
    return f"Exponent {ALPHA} of the loss, {E_IN_WORDS[name.removeprefix('alpha, ')]}"


def digits_of(values: Values) -> int:
    """Decimals for both of two exponents."""
    return numbers.column_decimals([one for one in (values.a, values.b) if one], 2)
