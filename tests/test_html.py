"""The report as one page: it needs nothing from elsewhere, hostile text stays text, and points stand under each other."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from reports import html
from reports.blocks import Document, Heading, Picture, Table
from reports.document import write
from reports.numbers import MINUS, NOTHING
from tests.rendered import RUNNABLE, hostile_document
from tests.synthetic import HOSTILE, synthetic_results

VOID = {"meta", "img", "br", "wbr"}
ALLOWED = (
    VOID
    | {"html", "head", "title", "style", "body", "header", "main", "nav", "h1", "h2", "h3", "p", "ul", "li", "a", "figure"}
    | {*("figcaption", "div", "table", "thead", "tbody", "tr", "th", "td", "span", "strong", "code", "dl", "dt", "dd", "pre")}
)
# What a page may ask of a browser by an attribute.
ATTRIBUTES = {"lang", "charset", "http-equiv", "content", "name", "id", "href", "src", "alt", "class", "style", "scope", "tabindex"} | {
    "aria-label"
}


class Page(HTMLParser):
    """The elements of a page, the text of each kind, and whether all that is opened is closed in order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.text.append(data)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    write(synthetic_results(2), folder, ["md", "html"])
    return folder


def test_the_page_holds_its_figures_and_asks_for_nothing(written: Path) -> None:
    source = (written / "report.html").read_text(encoding="utf-8")
    page = Page(source)
    assert {tag for tag, _ in page.elements} <= ALLOWED
    assert {name for _, attributes in page.elements for name in attributes} <= ATTRIBUTES
    images = [attributes["src"] or "" for tag, attributes in page.elements if tag == "img"]
    drawn = [base64.b64decode(src.removeprefix("data:image/svg+xml;base64,")) for src in images]
    assert sorted(drawn) == sorted(path.read_bytes() for path in (written / "figures").glob("*.svg"))
    # The style sheet is the only other place from which a browser would fetch.
    assert "url(" not in source and "@import" not in source


def test_the_table_of_contents_leads_to_every_section(written: Path) -> None:
    page = Page((written / "report.html").read_text(encoding="utf-8"))
    sections = re.findall(r"^## (.+)$", (written / "report.md").read_text(encoding="utf-8"), re.MULTILINE)
    targets = [(attributes["href"] or "").removeprefix("#") for tag, attributes in page.elements if tag == "a"]
    ids = [attributes["id"] for tag, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids)) and set(targets) <= set(ids)
    assert len(targets) == len(sections) == 9


def test_hostile_text_stays_text() -> None:
    document = hostile_document()
    page = Page(html.render(document, Path()))
    assert {tag for tag, _ in page.elements} <= ALLOWED
    assert {name for _, attributes in page.elements for name in attributes} <= ATTRIBUTES
    links = [attributes["href"] or "" for tag, attributes in page.elements if tag == "a"]
    assert len(links) == len(RUNNABLE) and all(re.fullmatch(r"#s\d+", link) for link in links)
    shown = "".join(page.text)
    assert all(shown.count(text) >= 10 for text in HOSTILE) and shown.count("<script>alert(1)</script>") >= 20
    # A line break or a control character would be more than text.
    assert "\x1b" not in shown and "\u202e" not in shown


def test_hostile_text_in_a_figure_s_words_stays_there(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "x.svg").write_text("<svg/>")
    words = '"><script>alert(1)</script>'
    page = Page(html.render(Document("t", "s", (Picture("x", words, words),)), tmp_path))
    [image] = [attributes for tag, attributes in page.elements if tag == "img"]
    assert image["alt"] == words and "script" not in {tag for tag, _ in page.elements}


def rows_of(*cells: str) -> list[str]:
    source = html.block(Table(pd.DataFrame({"x": list(cells)}), "A table."))
    return re.findall(r"<td[^>]*>(.*?)</td>", source)


def test_points_stand_under_each_other() -> None:
    rows = rows_of("91.92 ± 0.17", f"{MINUS}3.1", "1,234", "1.5e-3", "diverged", NOTHING)
    rests = [re.findall(r'style="min-width:(\d+)ch">(.*)</span>', row) for row in rows]
    assert rests == [[("10", ".92 ± 0.17")], [("10", ".1")], [("10", "")], [("10", ".5e-3")], [], []]


@pytest.mark.parametrize("cells", [("3:10", "1:02:10"), ("20.4k", "1M"), ("91.2", "88.3"), ("3 seeds", "12.5")])
def test_what_has_no_point_to_align_is_left_as_it_is(cells: tuple[str, ...]) -> None:
    assert rows_of(*cells) == list(cells)


def test_equal_headings_are_different_places() -> None:
    page = Page(html.render(Document("t", "s", (Heading("Same"), Heading("Same"))), Path()))
    assert [a.get("href") for tag, a in page.elements if tag == "a"] == ["#s1", "#s2"]
