"""Blocks to Markdown (CommonMark with GitHub's tables). Whatever the data hold stays text."""

import re
from functools import singledispatch

from harness.text import escape, visible
from reports.blocks import Block, Box, Bullets, Code, Document, Heading, Paragraph, Picture, Samples, Span, Strong, Table, Verbatim


def render(document: Document) -> str:
    """The whole document; ends with a newline."""
    head = f"# {escape(document.title)}\n\n{escape(document.subtitle)}"
    return "\n\n".join([head, *(block(b) for b in document.blocks)]) + "\n"


def code(text: str, in_table: bool = False) -> str:
    """A code span whose fence is longer than any run of backticks inside."""
    shown = visible(text)
    fence = "`" * (max((len(run) for run in re.findall("`+", shown)), default=0) + 1)
    pad = " " if "`" in shown else ""
    return f"{fence}{pad}{shown.replace('|', chr(92) + '|') if in_table else shown}{pad}{fence}"


def spans(parts: tuple[Span, ...]) -> str:
    """Running text; only its first span stands at the start of a line."""
    return "".join(_span(part) for part in parts)


def _span(part: Span) -> str:
    if isinstance(part, Code):
        return code(part.text)
    return f"**{escape(part.text)}**" if isinstance(part, Strong) else escape(part)


@singledispatch
def block(value: Block) -> str:
    """One block."""
    raise TypeError(f"no Markdown for {type(value).__name__}")


@block.register
def _(value: Heading) -> str:
    return f"{'#' * (value.level + 1)} {escape(value.text)}"


@block.register
def _(value: Paragraph) -> str:
    return spans(value.spans)


@block.register
def _(value: Bullets) -> str:
    return "\n".join(f"- {spans(item)}" for item in value.items)


@block.register
def _(value: Table) -> str:
    heads = [str(name) for name in value.frame.columns]
    rule = [":---" if name in value.left else "---:" for name in heads]
    rows = [[escape(str(cell)) for cell in row] for row in value.frame.itertuples(index=False)]
    lines = [" | ".join(row) for row in ([escape(name) for name in heads], rule, *rows)]
    return "\n".join(f"| {line} |" for line in lines) + f"\n\n*{escape(value.caption)}*"


@block.register
def _(value: Picture) -> str:
    links = f"[data](figures/{value.name}.csv), [vector](figures/{value.name}.svg)"
    return f"![{escape(value.alt)}](figures/{value.name}.png)\n\n*{escape(value.caption)}* ({links})"


@block.register
def _(value: Box) -> str:
    lines = []
    for label, texts in value.parts:
        if len(texts) == 1:
            lines.append(f"> **{escape(label)}** {escape(texts[0])}")
        else:
            lines.append("\n".join([f"> **{escape(label)}**", ">", *(f"> - {escape(text)}" for text in texts)]))
    return "\n>\n".join(lines)


@block.register
def _(value: Samples) -> str:
    rows = [f"| {escape(label)} | {'<br>'.join(escape(text) for text in texts)} |" for label, texts in value.rows]
    return "\n".join([f"| {escape(value.label)} | Texts |", "| ---: | :--- |", *rows])


@block.register
def _(value: Verbatim) -> str:
    lines = [visible(line) for line in value.text.split("\n")]
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", value.text)), 3)
    return "\n".join([fence + "text", *lines, fence])
