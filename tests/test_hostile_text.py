"""Text from data stays text: in Markdown, in its tables, and in the PDF."""

import re
from pathlib import Path

import pandas as pd
import pytest
from markdown_it import MarkdownIt

from reports import markdown, pdf
from reports.blocks import Picture, Table
from tests.rendered import RUNNABLE, hostile_document, html_of, tokens_of
from tests.synthetic import HOSTILE


def test_hostile_text_stays_text_in_markdown() -> None:
    source = markdown.render(hostile_document())
    found = tokens_of(source)
    kinds = {kind for kind, _ in found}
    assert "image" not in kinds and "link_open" not in kinds and "s_open" not in kinds
    marked = {content for kind, content in found if kind in ("html_inline", "html_block")}
    assert marked == {"<br>"}
    # Nothing of GitHub's own: automatic links, mentions of people, emoji, formulas.
    outside_code = re.sub(r"(`+).*?\1", "", re.sub(r"(?s)^(`{3,}).*?^\1$", "", source, flags=re.M))
    assert not re.search(r"(?<!\\)(@\w|\$|:\w+:)|\w://|www\.", outside_code)


@pytest.mark.parametrize("text", [text for text in RUNNABLE if text.isprintable() and text])
@pytest.mark.parametrize("form", ["{}", "- {}", "# {}", "> {}", "**{}**"])
def test_escaped_text_reads_back_as_itself(text: str, form: str) -> None:
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    [inline] = [token for token in reader.parse(form.format(markdown.escape(text))) if token.type == "inline"]
    assert {child.type for child in inline.children or []} <= {"text", "text_special", "strong_open", "strong_close"}
    assert "".join(child.content for child in inline.children or []) == text.strip()


@pytest.mark.parametrize("text", [text for text in RUNNABLE if text.isprintable() and text])
def test_a_cell_of_a_table_reads_back_as_itself(text: str) -> None:
    source = markdown.block(Table(pd.DataFrame({"a": [text], "b": ["x"]}), "caption"))
    cells = [token for token in MarkdownIt("commonmark").enable("table").parse(source) if token.type == "inline"]
    assert [cell.content for cell in cells[:2]] == ["a", "b"]
    assert "".join(child.content for child in cells[2].children or []) == text.strip()
    assert cells[3].content == "x"


def test_hostile_text_stays_text_in_the_pdf(tmp_path: Path) -> None:
    document = hostile_document()
    # Were any of it evaluated, `#panic` would stop the compiler.
    assert pdf.write(document, tmp_path).read_bytes().startswith(b"%PDF")
    page = re.sub(r"\s+", " ", re.sub(r"</?(code|strong|br)[^>]*>", "", html_of(document, tmp_path)))
    for text in HOSTILE:
        assert page.count(re.sub(r"\s+", " ", text)) >= 10


def test_characters_that_do_not_print_are_shown_as_escapes() -> None:
    assert markdown.escape("a\nb\u202e") == "a\\\\nb\\\\u202e"
    assert "\\ud800" in pdf.shown("\ud800")


def test_a_picture_links_to_its_data() -> None:
    line = markdown.block(Picture("bowls", "A *title*", "See | this."))
    assert "![A \\*title\\*](figures/bowls.png)" in line and "(figures/bowls.csv)" in line and "See \\| this." in line
