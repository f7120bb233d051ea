"""A document of text that would act if it were read as markup, and what readers of Markdown and PDF make of a document."""

import html
import json
from pathlib import Path

import pandas as pd
import typst
from markdown_it import MarkdownIt

from reports import pdf
from reports.blocks import Box, Bullets, Code, Document, Heading, Paragraph, Samples, Strong, Table, Verbatim, bullets
from tests.synthetic import HOSTILE

RUNNABLE = [
    *HOSTILE,
    '#panic("ran") #eval("1+1") $x$ `#panic()` = Heading \\ #',
    "a|b || c \\| d `e|f`",
    "  indented\ttab and\nnewline \x1b[31m \u202eback",
    "1. one 2) two +1 -1 =1",
    "https://evil.example www.evil.example me@evil.example :rocket:",
    "</td></table><script>alert(1)</script> <!-- -->",
    "word" * 60,
    "",
]


def hostile_document() -> Document:
    """Every kind of block, filled with text that would act if it were read as markup."""
    frame = pd.DataFrame({"Name | *x*": RUNNABLE, "#panic()": RUNNABLE[::-1]})
    blocks = [Heading(text, level) for text in RUNNABLE for level in (1, 2)]
    runs = tuple((text, Strong(text), Code(text)) for text in RUNNABLE)
    return Document(
        RUNNABLE[0],
        RUNNABLE[1],
        (
            *blocks,
            *(Paragraph((text,)) for text in RUNNABLE),
            Bullets(runs),
            bullets(RUNNABLE),
            Table(frame, RUNNABLE[2], left=("#panic()",)),
            Box((*((text, (text,)) for text in RUNNABLE), ("many", tuple(RUNNABLE)))),
            Samples("T", tuple((text, tuple(RUNNABLE)) for text in RUNNABLE)),
            Verbatim("\n".join(RUNNABLE)),
        ),
    )


def tokens_of(source: str) -> list[tuple[str, str]]:
    """(kind, text) of all that a Markdown reader with tables, strikethrough and automatic links would make of it."""
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    found = []
    for token in reader.parse(source):
        found += [(child.type, child.content) for child in token.children or [token]]
    return found


def html_of(document: Document, folder: Path) -> str:
    """What the template shows, as HTML from the same compiler: a PDF's text can't be read without another library."""
    page = typst.compile(
        pdf.TEMPLATE.read_bytes(), root=str(folder), sys_inputs={"document": json.dumps(pdf.data(document))}, format="html",
        ignore_system_fonts=True,
    )  # fmt: skip
    assert isinstance(page, bytes)
    return html.unescape(page.decode()).replace("\u200b", "")
