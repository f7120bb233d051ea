"""Numbers as people read them: counts, rates, times, and means whose interval decides how many digits they get."""

import math

import numpy as np

from harness.analysis.intervals import Interval

NOTHING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
ALPHA, BETA = "\N{GREEK SMALL LETTER ALPHA}", "\N{GREEK SMALL LETTER BETA}"
NAN = float("nan")
# Digits after the point where no interval says how many are meant: nats a text, and per cent.
NLL_DECIMALS = 2
PERCENT_DECIMALS = 1


def known(value: object) -> bool:
    """Whether a cell of a table holds a finite number."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool) and math.isfinite(value)


def count(value: float) -> str:
    """87,289"""
    return f"{round(value):,}" if known(value) else NOTHING


def short(value: float) -> str:
    """A count in at most three digits: 87k, 1.2M, 560k."""
    if not known(value):
        return NOTHING
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        # Half a unit of the third digit below the size still rounds up to it.
        if value >= size * 0.9995:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def power(value: float, digits: int = 2) -> str:
    """A number as 1.2e-3, without a leading zero in the exponent or a trailing one in the mantissa."""
    if not known(value):
        return NOTHING
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{int(exponent)}"


def duration(seconds: float) -> str:
    """3:10, 1:02:10 from an hour up, 209 h from ten hours up."""
    if not known(seconds):
        return NOTHING
    if seconds >= 36_000:
        return f"{round(seconds / 3600):,} h"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def fixed(value: float, decimals: int) -> str:
    """A number with a fixed count of decimals and a true minus sign."""
    if not known(value):
        return NOTHING
    # A value that rounds to zero has no sign.
    text = f"{value + 0.0:.{decimals}f}"
    text = text.removeprefix("-") if not text.strip("-0.") else text
    return text.replace("-", MINUS)


def correlation(r: float) -> str:
    """-0.981 with a true minus; three decimals near one, where two would hide the difference from it."""
    return fixed(r, 3 if known(r) and abs(r) > 0.95 else 2)


def decimals_of(half_width: float, default: int) -> int:
    """Decimals that show a half width with one digit, or two where the first is 1 or 2."""
    if not known(half_width) or half_width <= 0:
        return default
    exponent = math.floor(math.log10(half_width))
    return max(0, min(4, -exponent + (1 if half_width / 10**exponent < 3 else 0)))


def column_decimals(intervals: list[Interval], default: int) -> int:
    """One count of decimals for a column, so that points align: the median of what its intervals ask for."""
    asked = sorted(decimals_of(i.half_width, default) for i in intervals if known(i.half_width))
    return asked[len(asked) // 2] if asked else default


def plus_minus(interval: Interval | None, decimals: int) -> str:
    """96.31 ± 0.34, or the mean alone where one value has no interval."""
    if interval is None:
        return NOTHING
    mean = fixed(interval.mean, decimals)
    return f"{mean} ± {fixed(interval.half_width, decimals)}" if known(interval.half_width) else mean


def bracketed(interval: Interval, decimals: int) -> str:
    """96.31 [95.97, 96.65], or the mean alone where one value has no interval."""
    mean = fixed(interval.mean, decimals)
    if not known(interval.half_width):
        return mean
    return f"{mean} [{fixed(interval.low, decimals)}, {fixed(interval.high, decimals)}]"


def bounded(value: float, low: float, high: float, decimals: int) -> str:
    """0.21 [0.18, 0.24], or the value alone where its bounds are not known."""
    bounds = f" [{fixed(low, decimals)}, {fixed(high, decimals)}]" if known(low) and known(high) else ""
    return fixed(value, decimals) + bounds


def sentence(text: str) -> str:
    """A reason as a sentence of its own."""
    return f"{text[:1].upper()}{text[1:]}."


def times_hundred(interval: Interval) -> Interval:
    """A fraction's interval in per cent."""
    return Interval(interval.mean * 100, interval.low * 100, interval.high * 100, interval.n)


def plural(n: int, word: str) -> str:
    """1 seed, 3 seeds, 2 searches."""
    ending = "" if n == 1 else "es" if word.endswith("ch") else "s"
    return f"{n:,} {word}{ending}"


def listed(words: list[str]) -> str:
    """a, b and c."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""
