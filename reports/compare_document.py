"""The comparison of two studies as files: documents, their figure with its data, and all numbers at full precision."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import durable
from harness.analysis.intervals import Interval
from harness.results import Results
from reports import compare_contents, compare_figure, document
from reports.blocks import Picture
from reports.compare import Comparison, Values, compare
from reports.exact import plain


def write(a: Results, b: Results, folder: Path, formats: Sequence[str] = document.FORMATS) -> list[Path]:
    """Write the comparison; the same results give the same bytes. Returns the files written, the documents first."""
    durable.make_folder(folder / "figures")
    found = compare(a, b)
    picture, files = _draw(found, folder / "figures")
    written = document.render(compare_contents.build(found, picture), folder, formats)
    written.append(folder / "numbers.json")
    text = json.dumps(plain(numbers(found)), indent=1, allow_nan=False) + "\n"
    durable.replace(written[-1], text.encode("utf-8", "backslashreplace"), "report")
    return written + files


def _draw(found: Comparison, folder: Path) -> tuple[Picture | None, list[Path]]:
    frame = compare_figure.prepare(found)
    paths = [folder / f"{compare_figure.NAME}.{ending}" for ending in ("csv", "svg", "png")]
    if frame.empty:
        # A picture of an earlier comparison must not stand beside one that has nothing to show.
        for path in paths:
            path.unlink(missing_ok=True)
        return None, []
    frame.to_csv(paths[0], index=False)
    document.save(compare_figure.draw(frame), paths[1], paths[2])
    return Picture(compare_figure.NAME, f"Two studies: {compare_figure.ALT}", compare_figure.caption(frame)), paths


def numbers(found: Comparison) -> dict[str, Any]:
    """All differences as they were computed; learning rates as their logarithms."""
    return {
        "studies": {"a": found.a.study.get("study"), "b": found.b.study.get("study")},
        "data": {"relation": found.relation, "reason": found.reason},
        "sizes": [
            {"rung": pair.name, **{name: _values(values) for name, values in pair.metrics.items()}, "log_lr": _values(pair.rate)}
            | {"train_tokens": {"a": pair.tokens_a, "b": pair.tokens_b}}
            for pair in found.pairs
        ],
        "only": {"a": found.only_a, "b": found.only_b},
        "exponents": {name: _values(values) for name, values in found.exponents.items()},
        "differs": {one.name: {"a": one.a, "b": one.b} for one in (*found.keys, *found.made)},
    }


def _values(values: Values) -> Mapping[str, Any]:
    ends: dict[str, Interval | None] = {"a": values.a, "b": values.b, "difference": values.change}
    return {**ends, "why": values.why or None}
