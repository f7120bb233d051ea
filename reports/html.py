"""Blocks to one HTML page that needs nothing else: figures inside, no scripts, no address that anything is fetched from.

Text is escaped wherever it stands, and the page forbids itself all that it doesn't hold, should something be missed.
"""

import base64
import re
from collections.abc import Sequence
from functools import singledispatch
from html import escape
from pathlib import Path

from harness.text import visible
from reports.blocks import Block, Box, Bullets, Code, Document, Heading, Paragraph, Picture, Samples, Span, Strong, Table, Verbatim

STYLE = Path(__file__).with_name("report.css")
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
# A number whose point can stand under another's, in two parts: 1,234 and .5 ± 0.3, or .5 [1,233.1, 1,235.9], or .5e-3.
_NUMBER = re.compile(r"([\N{MINUS SIGN}+]?\d[\d,]*)((?:\.\d+)?(?:e-?\d+)?(?: ± [\d.,]+| \[[^a-z]*\])?)")
_LONG_WORD = re.compile(r"(\S{24})(?=\S)")
# A browser would end a line after the hyphen of 1e-3.
_POWER = re.compile(r"\d[\d.]*e-\d+")
# A first column with longer cells may wrap.
LONGEST_NAME = 26


def render(document: Document, folder: Path) -> str:
    """The whole page; `folder` holds the figures that it takes in."""
    headings = [block for block in document.blocks if isinstance(block, Heading)]
    names = iter(f"s{i}" for i in range(1, len(headings) + 1))
    body = [heading(b, next(names)) if isinstance(b, Heading) else picture(b, folder) if isinstance(b, Picture) else block(b)
            for b in document.blocks]  # fmt: skip
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="color-scheme" content="light">',
            f"<title>{text(document.title)}</title>\n<style>\n{STYLE.read_text(encoding='utf-8')}</style>\n</head>\n<body>",
            f"<header>\n<h1>{text(document.title)}</h1>\n<p>{text(document.subtitle)}</p>\n</header>",
            contents(headings),
            "<main>",
            *body,
            "</main>\n</body>\n</html>\n",
        ]
    )


def text(value: str) -> str:
    """Text that stays text, on one line."""
    return escape(visible(value))


def breakable(value: str) -> str:
    """The same with places to break inside long words."""
    parts = _LONG_WORD.sub("\\1\n", visible(value)).split("\n")
    return "<wbr>".join(_POWER.sub(r'<span class="one">\g<0></span>', escape(part)) for part in parts)


def contents(headings: Sequence[Heading]) -> str:
    """The table of contents: a link to each section."""
    links = [f'<li><a href="#s{i}">{text(h.text)}</a></li>' for i, h in enumerate(headings, 1) if h.level == 1]
    return "\n".join(['<nav aria-label="Contents">\n<ul>', *links, "</ul>\n</nav>"]) if links else ""


def heading(value: Heading, name: str) -> str:
    """A heading that can be linked to."""
    return f'<h{value.level + 1} id="{name}">{text(value.text)}</h{value.level + 1}>'


def picture(value: Picture, folder: Path) -> str:
    """The figure's vector file inside the page. As an image it can do nothing, and its names can't meet another figure's."""
    data = base64.b64encode((folder / "figures" / f"{value.name}.svg").read_bytes()).decode("ascii")
    shown = f'<img src="data:image/svg+xml;base64,{data}" alt="{text(value.alt)}">'
    return f'<figure>\n<div class="scroll" tabindex="0">{shown}</div>\n<figcaption>{breakable(value.caption)}</figcaption>\n</figure>'


def spans(parts: tuple[Span, ...]) -> str:
    """Running text."""
    return "".join(_span(part) for part in parts)


def _span(part: Span) -> str:
    if isinstance(part, Code):
        return f"<code>{breakable(part.text)}</code>"
    return f"<strong>{breakable(part.text)}</strong>" if isinstance(part, Strong) else breakable(part)


@singledispatch
def block(value: Block) -> str:
    """One block that needs no place in the page and no file."""
    raise TypeError(f"no HTML for {type(value).__name__}")


@block.register
def _(value: Paragraph) -> str:
    return f"<p>{spans(value.spans)}</p>"


@block.register
def _(value: Bullets) -> str:
    return "\n".join(["<ul>", *(f"<li>{spans(item)}</li>" for item in value.items), "</ul>"])


@block.register
def _(value: Table) -> str:
    heads = [str(name) for name in value.frame.columns]
    kinds = ["words" if name in value.left else "numbers" for name in heads]
    columns = [_column([str(cell) for cell in value.frame.iloc[:, i]], kind == "numbers") for i, kind in enumerate(kinds)]
    if heads and max(map(len, value.frame.iloc[:, 0].astype(str)), default=0) <= LONGEST_NAME:
        kinds[0] += " one"
    head = "".join(f'<th scope="col" class="{kind}">{_head(name)}</th>' for name, kind in zip(heads, kinds, strict=True))
    rows = ["".join(f'<td class="{kind}">{cell}</td>' for cell, kind in zip(row, kinds, strict=True)) for row in zip(*columns, strict=True)]
    return _table(f"<tr>{head}</tr>", [f"<tr>{row}</tr>" for row in rows], value.caption)


def _head(name: str) -> str:
    """The head of a column, which may wrap, but not inside of a word."""
    return " ".join(f'<span class="one">{text(word)}</span>' if "-" in word else text(word) for word in name.split(" "))


def _table(head: str, rows: Sequence[str], caption: str = "") -> str:
    """A table that scrolls by itself where the page is narrower; it can be reached by keyboard then."""
    told = f"<figcaption>{breakable(caption)}</figcaption>\n" if caption else ""
    lines = ["<table>", f"<thead>{head}</thead>", "<tbody>", *rows, "</tbody>", "</table>"]
    return "\n".join([f'<figure class="table">\n{told}<div class="scroll" tabindex="0">', *lines, "</div>\n</figure>"])


def _column(cells: Sequence[str], numbers: bool) -> list[str]:
    """The cells of a column; numbers with their points under each other."""
    found = [_NUMBER.fullmatch(cell) if numbers else None for cell in cells]
    widths = {len(one.group(2)) for one in found if one}
    others = any(cell[:1].isdigit() for cell, one in zip(cells, found, strict=True) if not one)
    if len(widths) < 2 or others:
        return [breakable(cell) for cell in cells]
    # The part from the point on is as wide everywhere as the longest. A digit is 1ch, and no character of a number is wider.
    opening = f'<span class="rest" style="min-width:{max(widths)}ch">'
    return [
        f"{text(one.group(1))}{opening}{text(one.group(2))}</span>" if one else text(cell) for cell, one in zip(cells, found, strict=True)
    ]


@block.register
def _(value: Box) -> str:
    parts = []
    for label, texts in value.parts:
        listed = "".join(f"<li>{breakable(one)}</li>" for one in texts)
        parts.append(f"<dt>{text(label)}</dt>\n<dd>{breakable(texts[0]) if len(texts) == 1 else f'<ul>{listed}</ul>'}</dd>")
    return "\n".join(['<dl class="box">', *parts, "</dl>"])


@block.register
def _(value: Samples) -> str:
    head = f'<tr><th scope="col" class="numbers">{text(value.label)}</th><th scope="col" class="words">Texts</th></tr>'
    cells = [(text(label), "<br>".join(f"<code>{breakable(one)}</code>" for one in texts)) for label, texts in value.rows]
    return _table(head, [f'<tr><td class="numbers">{label}</td><td class="words">{texts}</td></tr>' for label, texts in cells])


@block.register
def _(value: Verbatim) -> str:
    return "<pre>" + "\n".join(text(line) for line in value.text.split("\n")) + "</pre>"
