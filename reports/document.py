"""Results to a folder with the report in every format asked for, its figures and their data, and all numbers at full precision."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from matplotlib import rc_context
from matplotlib.figure import Figure

from harness import durable, plugins
from harness.errors import StudyError
from harness.results import Results
from reports import contents, exact, html, markdown, pdf, style
from reports.blocks import Document, Picture

FORMATS = ("md", "pdf", "html")
FIGURES = "reports.figures"


def write(results: Results, folder: Path, formats: Sequence[str], times: bool = True) -> list[Path]:
    """Write the report; the same results give the same bytes.

    Args:
        formats: any of `FORMATS`; the figures are always written.
        times: include measured times and the machine, which differ between two runs of one plan.

    Returns:
        The files written, the documents first.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        near = plugins.nearest(unknown[0], list(FORMATS))
        raise StudyError(f"report.formats: {unknown[0]!r} is not a format.{near} There are: {', '.join(FORMATS)}.")
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    pictures, absent, files = _draw_all(results, folder / "figures")
    written = render(contents.build(results, pictures, absent, times), folder, formats)
    written.append(folder / "numbers.json")
    durable.replace(written[-1], exact.render(results), "report")
    return written + files


def render(document: Document, folder: Path, formats: Sequence[str]) -> list[Path]:
    """The document in each format, beside its figures."""
    written = []
    if "md" in formats:
        written.append(folder / "report.md")
        durable.replace(written[-1], markdown.render(document).encode(), "report")
    if "pdf" in formats:
        written.append(pdf.write(document, folder))
    if "html" in formats:
        written.append(folder / "report.html")
        durable.replace(written[-1], html.render(document, folder).encode(), "report")
    return written


def figures() -> list[tuple[str, ModuleType]]:
    """All figures found, in the order of the report."""
    found = [(name, plugins.load(FIGURES, name, "figure")) for name in plugins.names(FIGURES)]
    return sorted(found, key=lambda item: (item[1].PLACE, item[0]))


def _draw_all(results: Results, folder: Path) -> tuple[list[Picture], list[str], list[Path]]:
    pictures, absent, files = [], [], []
    for name, module in figures():
        frame = module.prepare(results)
        paths = [folder / f"{name}.{ending}" for ending in ("csv", "svg", "png")]
        if frame.empty:
            # A picture of an earlier report must not stand beside one that has nothing to show.
            for path in paths:
                path.unlink(missing_ok=True)
            absent.append(f"{module.TITLE}: left out. {module.ABSENT}")
            continue
        frame.to_csv(paths[0], index=False)
        save(module.draw(frame), paths[1], paths[2])
        pictures.append(Picture(name, f"{module.TITLE}: {module.ALT}", module.caption(frame)))
        files += paths
    return pictures, absent, files


def save(figure: Figure, svg: Path, png: Path) -> None:
    """A figure in both formats, without date or version, so that bytes repeat."""
    with rc_context(style.RC):
        figure.savefig(svg, metadata={"Date": None, "Creator": None})
        figure.savefig(png, dpi=style.DPI, metadata={"Software": None})
