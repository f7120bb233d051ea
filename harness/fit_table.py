"""The surface L(N, D) fitted to a table of anyone's runs: a CSV and names of its columns in, both estimates and the rows left out.

Nothing is dropped in silence: a row that can't be used is named by its line, with the reason.
"""

import csv
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from harness import plugins
from harness.analysis.design import coverage, judge
from harness.analysis.fit import Constant, Fit
from harness.analysis.surface import Columns, Surface, allocation_interval, fit_surface
from harness.errors import StudyError

FLOPS_PER_PARAM_TOKEN = 6
SHOWN = 12
WIDE = 20


@dataclass(frozen=True)
class Request:
    """What to read and how to fit it: names of columns, and either `d` (tokens) or `flops`, from which D = C / 6N follows."""

    path: Path
    n: str
    loss: str
    d: str | None = None
    flops: str | None = None
    sigma: str | None = None
    run: str | None = None
    drop_highest: int = 0
    bootstraps: int = 1000
    seed: int = 0


@dataclass(frozen=True)
class Excluded:
    """A row that is not in the fit: its line in the file (the header is line 1) and why."""

    line: int
    reason: str


@dataclass(frozen=True, eq=False)
class Fitted:
    """Both estimates, the rows they are made of (with their `line`), and those left out."""

    request: Request
    surface: Surface
    rows: pd.DataFrame
    excluded: tuple[Excluded, ...]

    @property
    def problem(self) -> str | None:
        """Why there are no numbers, if there are none."""
        fit = self.surface.log_huber
        if fit.status == "not identified":
            return f"{fit.status}: {judge(self.rows['n'], self.rows['d']).reason or fit.reason}"
        return f"{fit.status}: {fit.reason}" if fit.status == "too few" else None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the rows are too few or too close for."""
        return coverage(self.rows["n"], self.rows["d"]).warnings


def fit_table(request: Request) -> Fitted:
    """Read the table and fit it.

    Raises:
        StudyError: no such file or column, or no row can be used.
    """
    rows, excluded = read(request)
    rows, highest = _without_highest(rows, request.drop_highest)
    if rows.empty:
        raise StudyError(f"{request.path}: none of its rows can be used.{_first(excluded)}")
    columns = Columns("n", "d", "loss", "sigma" if request.sigma else None, "run" if request.run else None)
    surface = fit_surface(rows, columns, n_draws=request.bootstraps, seed=request.seed)
    return Fitted(request, surface, rows, tuple(sorted([*excluded, *highest], key=lambda row: row.line)))


def read(request: Request) -> tuple[pd.DataFrame, list[Excluded]]:
    """Rows with columns line, n, d, loss and, where asked for, sigma and run; and those that can't be used.

    Raises:
        StudyError: the file can't be read or has no such column.
    """
    wanted = {"n": request.n, "loss": request.loss, ("d" if request.d else "flops"): request.d or request.flops or ""}
    wanted |= {"sigma": request.sigma} if request.sigma else {}
    rows, excluded = [], []
    for line, cells in _cells(request, [*wanted.values(), *([request.run] if request.run else [])]):
        numbers = {name: _number(cells[column], column) for name, column in wanted.items()}
        wrong = [found for found in numbers.values() if isinstance(found, str)]
        if wrong:
            excluded.append(Excluded(line, "; ".join(wrong)))
            continue
        values: dict[str, Any] = {"line": line, **numbers, **({"run": cells[request.run]} if request.run else {})}
        if "flops" in values:
            values["d"] = values["flops"] / FLOPS_PER_PARAM_TOKEN / values["n"]
        rows.append(values)
    return pd.DataFrame(rows), excluded


def _cells(request: Request, columns: list[str]) -> Iterator[tuple[int, Mapping[str, str]]]:
    """Each row that isn't blank: the line on which it ends, and its cells by column."""
    try:
        text = request.path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise StudyError(f"{request.path}: can't be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise StudyError(f"{request.path}: is not a CSV in UTF-8 ({error}).") from error
    separator = max(",;\t", key=text.split("\n", 1)[0].count)
    # Strict: a quote that isn't closed would otherwise swallow all rows after it in silence.
    reader, before = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True), 1
    try:
        header = [name.strip() for name in next(reader, [])]
        for column in columns:
            if column not in header:
                raise StudyError(_no_column(request.path, column, header))
        for row in reader:
            before = reader.line_num
            if any(cell.strip() for cell in row):
                cells = dict(zip(header, row, strict=False))
                yield before, {column: cells.get(column, "").strip() for column in columns}
    except csv.Error as error:
        raise StudyError(f"{request.path}:{before + 1}: is not a row of a CSV, look for a quote that isn't closed ({error}).") from error


def _no_column(path: Path, column: str, header: list[str]) -> str:
    if not any(header):
        return f"{path}:1: the file has no header line with names of columns."
    return f"{path}:1: no column {column!r}.{plugins.nearest(column, header)} There are: {', '.join(header)}."


def _number(text: str, column: str) -> float | str:
    """A positive finite number, or what is wrong with it."""
    if not text:
        return f"{column} is empty"
    try:
        value = float(text)
    except ValueError:
        return f"{column} is not a number: {text[:40]!r}"
    if not math.isfinite(value):
        return f"{column} is not finite: {text}"
    return value if value > 0 else f"{column} is not above 0: {text}"


def _without_highest(rows: pd.DataFrame, k: int) -> tuple[pd.DataFrame, list[Excluded]]:
    """Rows without the k of highest loss, ties in the order of the file."""
    if not k or rows.empty:
        return rows, []
    highest = rows.sort_values(["loss", "line"], ascending=[False, True]).head(k)
    why = f"one of the {k} highest losses" if k > 1 else "the highest loss"
    dropped = [Excluded(int(line), f"{why}: {loss:.6g}") for line, loss in zip(highest["line"], highest["loss"], strict=True)]
    return rows.drop(highest.index), dropped


def _first(excluded: list[Excluded]) -> str:
    return f" Line {excluded[0].line}: {excluded[0].reason}." if excluded else ""


def as_data(fitted: Fitted) -> dict[str, Any]:
    """Everything at full precision, ready for JSON (null where there is no number): log-Huber's constants first, VPNLS beside them."""
    surface, request = fitted.surface, fitted.request
    columns = {name: getattr(request, name) for name in ("n", "d", "flops", "loss", "sigma", "run")}
    return _estimate(surface.log_huber) | {
        "vpnls": _estimate(surface.vpnls),
        "outside_each_others_interval": list(surface.gap),
        "warnings": list(fitted.warnings),
        "excluded": [asdict(row) for row in fitted.excluded],
        "file": str(request.path),
        "columns": {name: column for name, column in columns.items() if column is not None},
        "seed": request.seed,
    }


def _estimate(fit: Fit) -> dict[str, Any]:
    order = ("alpha", "beta", "A", "B", "E")
    a, a_low, a_high = allocation_interval(fit)
    return {name: _plain(fit.constants[name].value) for name in order} | {
        "objective": _plain(fit.objective),
        "estimator": fit.estimator,
        "status": fit.status,
        "reason": fit.reason,
        "intervals": {name: [_plain(fit.constants[name].low), _plain(fit.constants[name].high)] for name in order},
        "level": fit.level,
        "bootstraps": fit.draws,
        "unsettled_bootstraps": fit.failed_draws,
        "a": _plain(a),
        "a_interval": [_plain(a_low), _plain(a_high)],
        "condition": _plain(fit.condition),
        "n": fit.n,
        "runs": fit.n_runs,
    }


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def as_table(fitted: Fitted) -> pd.DataFrame:
    """The constants for people: a row each, the two estimators as columns, rounded as their intervals allow."""
    names = ("alpha", "beta", "A", "B", "E")
    fits = (fitted.surface.log_huber, fitted.surface.vpnls)
    rows = [{"constant": name, **{fit.estimator: shown(fit.constants[name]) for fit in fits}} for name in names]
    rows.append({"constant": "a, in N* ~ C^a", **{fit.estimator: shown(Constant(*allocation_interval(fit))) for fit in fits}})
    rows.append({"constant": "status", **{fit.estimator: fit.status for fit in fits}})
    return pd.DataFrame(rows)


def shown(constant: Constant) -> str:
    """`0.348 (0.315 to 0.373)`: two digits of the interval's half width; three of the value where there is no interval.

    Where the interval spans more than a factor of WIDE, each number has two digits of its own.
    """
    value, low, high = constant.value, constant.low, constant.high
    if not math.isfinite(value):
        return "-"
    if not (math.isfinite(low) and math.isfinite(high) and high > low):
        return f"{value:.3g}"
    if low >= 0 and high > WIDE * low:
        return f"{_two_digits(value)} ({_two_digits(low)} to {_two_digits(high)})"
    decimals = 1 - math.floor(math.log10((high - low) / 2))
    if decimals < 0:
        value, low, high = (round(x, decimals) for x in (value, low, high))
    places = max(decimals, 0)
    return f"{value:,.{places}f} ({low:,.{places}f} to {high:,.{places}f})"


def _two_digits(value: float) -> str:
    rounded = float(f"{value:.1e}")
    if 10 <= rounded < 1e6:
        return f"{rounded:,.0f}"
    mantissa, _, exponent = f"{rounded:.2g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def notes(fitted: Fitted) -> list[str]:
    """The lines under the table: what the fit rests on, what speaks against it, and every row left out."""
    surface = fitted.surface
    fit = surface.log_huber
    lines = []
    if fit.is_usable:
        interval = f"{100 * fit.level:g} % percentile intervals over {fit.draws} bootstraps of runs" if fit.draws else "no intervals"
        lines.append(f"{interval}; condition number {fit.condition:.3g}")
        lines += [f"{one.estimator}: {one.reason}" for one in (fit, surface.vpnls)]
    if surface.gap:
        lines.append(
            f"the two estimates of {', '.join(surface.gap)} lie outside each other's interval: the form or the noise is not as assumed"
        )
    lines += fitted.warnings
    if fitted.excluded:
        lines.append(f"left out, {len(fitted.excluded)} rows:")
        lines += [f"  line {row.line}: {row.reason}" for row in fitted.excluded[:SHOWN]]
        more = len(fitted.excluded) - SHOWN
        lines += [f"  and {more} more; --json names them all"] if more > 0 else []
    return lines
