"""The kinds of value that a study file holds: whole numbers, shares, durations, names; each refuses with its own sentence.

Used only by `spec`. A check runs before pydantic's own, so that a user reads "must be a whole number >= 1, not 'abc'".
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from harness import plugins

MOST = 10**15
# Far above what any study needs, and far below what would fill a machine before anything is trained.
MOST_ITEMS = 100
MOST_SEEDS = MOST_TRIALS = 1_000
MOST_EXTENSIONS = 10
MOST_EVALUATIONS = 10_000
MOST_SAMPLES = 10_000
MOST_LAYERS = 1_000
MOST_LONG = 10**6
MOST_EPOCHS = 1e9
MOST_WIRE_TEXTS = 10**7
_FACTORS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
_COUNT = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)([kmb]?)", re.IGNORECASE)
_DURATION = re.compile(r"(?=.)(?:([0-9]{1,6})h)?(?:([0-9]{1,6})m)?(?:([0-9]{1,6})s)?")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")


def shown(value: object) -> str:
    """A value as a user would recognise it in a sentence."""
    if isinstance(value, dict | list | tuple):
        return "a mapping of keys" if isinstance(value, dict) else "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 60 else text[:56] + "..." + text[0]


def parse_count(text: str) -> int:
    """'500k' -> 500000; k, M and B are thousands, millions and billions. ValueError if it is no such number."""
    found = _COUNT.fullmatch(text)
    count = round(float(found[1]) * _FACTORS[found[2].lower()]) if found else 0
    if not 1 <= count <= MOST:
        raise ValueError(f"must be a count such as 500k or 2M, not {shown(text)}")
    return count


def duration_seconds(text: str) -> float:
    """'1h30m' -> 5400.0; ValueError if it is no duration above zero."""
    found = _DURATION.fullmatch(text)
    seconds = sum(int(part or 0) * unit for part, unit in zip(found.groups(), (3600, 60, 1), strict=True)) if found else 0
    if seconds == 0:
        raise ValueError(f"must be a duration such as 90s, 15m, 2h or 1h30m, not {shown(text)}")
    return float(seconds)


def _whole(low: int, or_null: bool = False, most: int = MOST) -> BeforeValidator:
    """Whole numbers from `low` to `most`; a float without a fraction (1e6) is one, `true` is not."""

    def check(value: object) -> object:
        if value is None and or_null:
            return None
        if isinstance(value, float) and value.is_integer() and abs(value) <= MOST:
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= most:
            limit = f" and <= {most:,}" if isinstance(value, int) and value > most else ""
            raise ValueError(f"must be a whole number >= {low}{limit}{' or null' if or_null else ''}, not {shown(value)}")
        return value

    return BeforeValidator(check)


def _real(what: str, fits: Callable[[float], bool], or_null: bool = False) -> BeforeValidator:
    """Finite numbers that fit; `what` describes them."""

    def check(value: object) -> object:
        if value is None and or_null:
            return None
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or abs(value) > 1e300 or not math.isfinite(value) or not fits(value):  # type: ignore[arg-type]
            raise ValueError(f"must be {what}{' or null' if or_null else ''}, not {shown(value)}")
        return float(value)  # type: ignore[arg-type]

    return BeforeValidator(check)


def _share(or_none: bool = False) -> BeforeValidator:
    """A share of the texts (a float inside (0, 1)) or a number of texts (a whole number); null and 0 are 0: none."""

    def check(value: object) -> object:
        if value is None and or_none:
            return 0
        if isinstance(value, int | float) and not isinstance(value, bool):
            if 0 < value < 1:
                return value
            if int(not or_none) <= value <= MOST and value == int(value):
                return int(value)
        raise ValueError(f"must be a share between 0 and 1, a whole number of texts, or {{split: name}}, not {shown(value)}")

    return BeforeValidator(check, json_schema_input_type=float | None if or_none else float)


def _evaluations(value: object) -> object:
    if value != "every_epoch" and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_EVALUATIONS):
        raise ValueError(f"must be a whole number from 1 to {MOST_EVALUATIONS:,} or every_epoch, not {shown(value)}")
    return value


def _crew(value: object) -> object:
    if value != "auto" and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_TRIALS):
        raise ValueError(f"must be a whole number from 1 to {MOST_TRIALS:,} or auto, not {shown(value)}")
    return value


def _family(value: object) -> object:
    if isinstance(value, dict):
        odd = [k for k, v in value.items() if not isinstance(k, str) or not isinstance(v, str | bool | int)]
        if odd:
            raise ValueError(f"{odd[0]} must be text, a whole number, true or false, not {shown(value[odd[0]])}")
    elif not isinstance(value, str):
        raise ValueError(f"must be the name of a family or a mapping of its choices, not {shown(value)}")
    return value


def _rung_text(value: object) -> object:
    """A target or the name of a shape; 500000 means the text 500000."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not _NAME.fullmatch(text):
        raise ValueError(f"must be a target such as 500k, the name of a shape, or a mapping with a shape, not {shown(value)}")
    if _COUNT.fullmatch(text):
        parse_count(text)
    return text


def _duration(value: object) -> object:
    if isinstance(value, str):
        duration_seconds(value)
    elif value is not None:
        raise ValueError(f"must be a duration such as 90s, 15m, 2h or 1h30m, or null, not {shown(value)}")
    return value


def _safe_name(value: object) -> object:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError(f"must be a name of at most 64 letters, digits, _ - and . (the first no - or .), not {shown(value)}")
    return value


def _study_name(value: object) -> object:
    """A safe name that MLflow's own files under mlruns/ don't have."""
    if str(_safe_name(value)).lower() in ("artifacts", "mlflow.db"):
        raise ValueError(f"{value} is taken under mlruns/; give the study another name")
    return value


def unique(what: str, name: Callable[[Any], str] = str) -> AfterValidator:
    """No two of the values have the same name; capitals don't tell them apart, as in many file systems."""

    def check(values: Iterable[Any]) -> Iterable[Any]:
        twice = [key for key, n in Counter(name(value).lower() for value in values).items() if n > 1]
        if twice:
            raise ValueError(f"the {what} {twice[0]} is given twice")
        return values

    return AfterValidator(check)


SOME = Field(max_length=MOST_ITEMS)


def plugin(package: str, what: str) -> AfterValidator:
    """The name of a plug-in: a file of that name in the package."""

    def check(value: str) -> str:
        found = plugins.names(package)
        if value not in found:
            raise ValueError(f"unknown {what} {shown(value)}.{plugins.nearest(value, found)} There are: {', '.join(found)}.")
        return value

    return AfterValidator(check)


def kind_of(value: object) -> str:
    """Which of two kinds a value means to be, for unions with a mapping among their kinds."""
    return "(mapping)" if isinstance(value, dict) or hasattr(value, "model_fields_set") else "(plain)"


Count = Annotated[int, Field(ge=1), _whole(1)]
CountOrNone = Annotated[Annotated[int, Field(ge=1)] | None, _whole(1, or_null=True)]
CountOrZero = Annotated[int, Field(ge=0), _whole(0)]
SeqLen = Annotated[int, Field(ge=3, le=MOST_LONG), _whole(3, most=MOST_LONG)]
BatchSize = Annotated[int, Field(ge=1, le=MOST_LONG), _whole(1, most=MOST_LONG)]
Layers = Annotated[int, Field(ge=1, le=MOST_LAYERS), _whole(1, most=MOST_LAYERS)]
Seeds = Annotated[int, Field(ge=1, le=MOST_SEEDS), _whole(1, most=MOST_SEEDS)]
Trials = Annotated[int, Field(ge=0, le=MOST_TRIALS), _whole(0, most=MOST_TRIALS)]
Extensions = Annotated[int, Field(ge=0, le=MOST_EXTENSIONS), _whole(0, most=MOST_EXTENSIONS)]
TrialBatch = Annotated[int, Field(ge=1, le=MOST_TRIALS), _whole(1, most=MOST_TRIALS)]
SampleCount = Annotated[int, Field(ge=0, le=MOST_SAMPLES), _whole(0, most=MOST_SAMPLES)]
EpochsOrNone = Annotated[
    Annotated[float, Field(gt=0, le=MOST_EPOCHS)] | None, _real("a number > 0 and <= 1e9", lambda x: 0 < x <= MOST_EPOCHS, or_null=True)
]
Positive = Annotated[float, Field(gt=0), _real("a number > 0", lambda x: x > 0)]
PositiveOrNone = Annotated[Annotated[float, Field(gt=0)] | None, _real("a number > 0", lambda x: x > 0, or_null=True)]
NumberOrNone = Annotated[float | None, _real("a number", lambda x: True, or_null=True)]
ZeroOrMore = Annotated[float, Field(ge=0), _real("a number >= 0", lambda x: x >= 0)]
Mass = Annotated[float, Field(gt=0, le=1), _real("a number > 0 and <= 1", lambda x: 0 < x <= 1)]
Fraction = Annotated[float, Field(ge=0, le=1), _real("a number from 0 to 1", lambda x: 0 <= x <= 1)]
Momentum = Annotated[float, Field(ge=0, lt=1), _real("a number >= 0 and < 1", lambda x: 0 <= x < 1)]
Warmup = Annotated[float, Field(ge=0, le=0.1), _real("a number from 0 to 0.1 (at most a tenth of the steps)", lambda x: 0 <= x <= 0.1)]
Share = Annotated[int | float, _share()]
ShareOrNone = Annotated[int | float, _share(or_none=True)]
Evaluations = Annotated[int | Literal["every_epoch"], BeforeValidator(_evaluations)]
Crew = Annotated[int | Literal["auto"], BeforeValidator(_crew)]
Family = Annotated[str | dict[str, str | bool | int], BeforeValidator(_family)]
RungText = Annotated[str, BeforeValidator(_rung_text, json_schema_input_type=str | int)]
RungTextOrNone = Annotated[
    str | None, BeforeValidator(lambda value: None if value is None else _rung_text(value), json_schema_input_type=str | int | None)
]
Duration = Annotated[str | None, BeforeValidator(_duration)]
SafeName = Annotated[str, BeforeValidator(_safe_name)]
StudyName = Annotated[str, BeforeValidator(_study_name)]
