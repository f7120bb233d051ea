"""The document as plain values: built once from results, rendered by `markdown.py` and `pdf.py`.

Text in a block is text, never markup: renderers escape it or hand it on as data.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Code:
    """A span shown as typed: a command, a key, a version."""

    text: str


@dataclass(frozen=True)
class Strong:
    """An emphasised span."""

    text: str


Span = str | Code | Strong
Spans = tuple[Span, ...]


@dataclass(frozen=True)
class Heading:
    """A section (level 1) or a part of one (level 2)."""

    text: str
    level: int = 1


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    spans: Spans


@dataclass(frozen=True)
class Bullets:
    """A list of short texts."""

    items: tuple[Spans, ...]


@dataclass(frozen=True)
class Table:
    """Cells as text, columns headed by the frame's names. `left`: columns of words; the others align right."""

    frame: pd.DataFrame
    caption: str
    left: tuple[str, ...] = ()


@dataclass(frozen=True)
class Picture:
    """A figure saved as `figures/<name>.svg`, `.png` and `.csv`; `alt` says what it shows to those who can't see it."""

    name: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Box:
    """The answer in short: labelled texts in a frame."""

    parts: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Samples:
    """Generated texts, verbatim: rows of a label and some texts."""

    label: str
    rows: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Verbatim:
    """Lines to be typed or copied."""

    text: str


Block = Heading | Paragraph | Bullets | Table | Picture | Box | Samples | Verbatim


@dataclass(frozen=True)
class Document:
    """A title, a line under it, and blocks in reading order."""

    title: str
    subtitle: str
    blocks: tuple[Block, ...]


def paragraph(*spans: Span) -> Paragraph:
    """A paragraph from its spans."""
    return Paragraph(spans)


def bullets(items: Sequence[Span | Spans]) -> Bullets:
    """A list from spans or tuples of spans."""
    return Bullets(tuple(item if isinstance(item, tuple) else (item,) for item in items))
