"""Blocks to PDF with typst: the template reads them as JSON, so that no text of the data is ever read as markup."""

import json
import re
from functools import singledispatch
from pathlib import Path
from typing import Any

import typst

from harness import durable
from harness.text import visible
from reports.blocks import Block, Box, Bullets, Code, Document, Heading, Paragraph, Picture, Samples, Span, Strong, Table, Verbatim

TEMPLATE = Path(__file__).with_name("report.typ")
# Longer words get places to break, or they would run over the margin.
_LONG_WORD = re.compile(r"(\S{24})(?=\S)")


def write(document: Document, folder: Path) -> Path:
    """Typeset the document beside its figures (`folder/figures`), the same bytes for the same document."""
    path = folder / "report.pdf"
    # No fonts of the machine, no date: the bytes depend on the document alone.
    inputs = {"document": json.dumps(data(document))}
    pdf = typst.compile(TEMPLATE.read_bytes(), root=str(folder), sys_inputs=inputs, ignore_system_fonts=True)  # type: ignore[type-var]
    assert isinstance(pdf, bytes)
    durable.replace(path, pdf, "report")
    return path


def data(document: Document) -> dict[str, Any]:
    """What the template reads."""
    return {"title": shown(document.title), "subtitle": shown(document.subtitle), "blocks": [block(b) for b in document.blocks]}


def shown(text: str) -> str:
    """The text on one line, with places to break inside long words."""
    return _LONG_WORD.sub("\\1\u200b", visible(text))


def first_width(cells: list[str]) -> float | None:
    """Width, in ems, that a table's first column keeps while the others wrap; None where its longest cell must wrap as well.

    A rung's name would otherwise be broken at its hyphen. The widths of the classes of characters are generous for the font.
    """
    longest = max(sum(0.7 if c.isupper() else 0.36 if c in " -.,:()" else 0.52 for c in cell) for cell in cells) + 0.7
    return round(longest, 2) if longest < 16 else None


def spans(parts: tuple[Span, ...]) -> list[dict[str, str]]:
    """Running text as styled pieces."""
    styles = {Code: "code", Strong: "strong"}
    return [{"text": shown(p if isinstance(p, str) else p.text), "style": styles.get(type(p), "plain")} for p in parts]


@singledispatch
def block(value: Block) -> dict[str, Any]:
    """One block."""
    raise TypeError(f"no PDF for {type(value).__name__}")


@block.register
def _(value: Heading) -> dict[str, Any]:
    return {"kind": "heading", "level": value.level, "text": shown(value.text)}


@block.register
def _(value: Paragraph) -> dict[str, Any]:
    return {"kind": "paragraph", "spans": spans(value.spans)}


@block.register
def _(value: Bullets) -> dict[str, Any]:
    return {"kind": "bullets", "items": [spans(item) for item in value.items]}


@block.register
def _(value: Table) -> dict[str, Any]:
    heads = [str(name) for name in value.frame.columns]
    cells = [[shown(str(cell)) for cell in row] for row in value.frame.itertuples(index=False)]
    align = ["left" if name in value.left else "right" for name in heads]
    head = [shown(name) for name in heads]
    first = first_width([heads[0], *(str(cell) for cell in value.frame.iloc[:, 0])]) if heads else None
    return {"kind": "table", "head": head, "align": align, "rows": cells, "caption": shown(value.caption), "first": first}


@block.register
def _(value: Picture) -> dict[str, Any]:
    return {"kind": "picture", "path": f"/figures/{value.name}.svg", "alt": shown(value.alt), "caption": shown(value.caption)}


@block.register
def _(value: Box) -> dict[str, Any]:
    return {"kind": "box", "parts": [{"label": shown(label), "texts": [shown(t) for t in texts]} for label, texts in value.parts]}


@block.register
def _(value: Samples) -> dict[str, Any]:
    rows = [{"label": shown(label), "texts": [shown(t) for t in texts]} for label, texts in value.rows]
    return {"kind": "samples", "label": shown(value.label), "rows": rows}


@block.register
def _(value: Verbatim) -> dict[str, Any]:
    return {"kind": "verbatim", "lines": [shown(line) for line in value.text.split("\n")]}
