"""Every figure found: a frame, a picture from that frame alone, and no text that is cut off or lies on other text."""

import io
import math
from dataclasses import replace
from functools import cache
from itertools import combinations, pairwise
from types import ModuleType
from unittest.mock import patch

import pandas as pd
import pytest
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from harness import plugins
from harness.results import Results
from reports import style
from reports.document import FIGURES
from reports.rates import ceiling, rates
from tests.grids import FLOPS, SIZES, TOO_LITTLE, equal_compute
from tests.synthetic import in_both, synthetic_results

NAMES = plugins.names(FIGURES)
EQUAL_COMPUTE = equal_compute((TOO_LITTLE, *FLOPS))
STUDIES = {
    "two rungs": synthetic_results(2),
    "eight rungs": synthetic_results(8),
    "one seed, no floor": synthetic_results(4, seeds=1, floor=False),
    "a grid of budgets": synthetic_results(8, budgets=(0.5, 0.25), batches=(16, 64, 256)),
    "both parametrizations": in_both(synthetic_results(4)),
    # Three optima and one past the smallest of the sizes; few sizes, so that each in turn is soon predicted from smaller ones.
    "equal compute": replace(EQUAL_COMPUTE, runs=EQUAL_COMPUTE.runs[EQUAL_COMPUTE.runs["rung"].isin(SIZES[:6])]),
}
SMALLEST_PT = 8
# The studies that alone have something for a figure: budgets, batch sizes and both parametrizations must be asked for.
ONLY = {
    "critical_batch": {"a grid of budgets"},
    "token_budgets": {"a grid of budgets", "equal compute"},
    "parametrizations": {"both parametrizations"},
    "profiles": {"equal compute"},
    "surface": {"a grid of budgets", "equal compute"},
}
# A law needs three sizes, and one budget of tokens; the records at equal compute hold neither curves, samples, defaults nor ablations.
EMPTY = {
    ("specification", "two rungs"),
    *((name, "equal compute") for name in ("specification", "curves", "sample_quality", "default_regret", "data_budgets")),
    *((name, study) for name, those in ONLY.items() for study in STUDIES if study not in those),
}
# A study that has something for a figure.
FULL = {name: "a grid of budgets" for name in NAMES} | {"parametrizations": "both parametrizations", "profiles": "equal compute"}


def texts(figure: Figure) -> list[tuple[str, Bbox]]:
    """Every text that is really drawn, with its extent in pixels: labels of ticks outside of an axis exist, but are not."""
    canvas, drawn = FigureCanvasAgg(figure), []
    draw = Text.draw

    def record(artist: Text, renderer: RendererBase) -> None:
        drawn.append(artist)
        draw(artist, renderer)

    canvas.draw()
    with patch.object(Text, "draw", record):
        canvas.draw()
    # An annotation's own extent includes its arrow, which may well cross a text.
    shown = [artist for artist in drawn if artist.get_visible() and artist.get_text().strip()]
    return [(artist.get_text(), Text.get_window_extent(artist, canvas.get_renderer())) for artist in shown]


@pytest.fixture(params=STUDIES)
def study(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@cache
def frames(study: str) -> dict[str, pd.DataFrame]:
    """What each figure shows of a study; all at once, since some share what takes long to fit."""
    return {name: plugins.load(FIGURES, name, "figure").prepare(STUDIES[study]) for name in NAMES}


def drawn(name: str, study: str) -> tuple[ModuleType, pd.DataFrame]:
    """A figure's module and frame; the test ends here where the study has nothing for it."""
    module = plugins.load(FIGURES, name, "figure")
    frame = frames(study)[name]
    assert frame.empty == ((name, study) in EMPTY)
    if frame.empty:
        pytest.skip("this study has nothing to show there")
    return module, frame


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_holds_its_contract(name: str, study: str) -> None:
    module, frame = drawn(name, study)
    assert isinstance(frame, pd.DataFrame) and len(frame)
    assert module.TITLE and module.ALT.endswith(".") and module.ABSENT.endswith(".") and module.caption(frame).endswith(".")
    before = frame.copy(deep=True)
    figure = module.draw(frame)
    assert isinstance(figure, Figure)
    pd.testing.assert_frame_equal(frame, before)
    assert figure.get_figwidth() * 2.54 <= style.WIDTH_CM + 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_no_text_is_cut_or_covered(name: str, study: str) -> None:
    module, frame = drawn(name, study)
    figure = module.draw(frame)
    found = texts(figure)
    assert len(found) > 5
    canvas = figure.bbox
    for text, box in found:
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= canvas.x1 + 1 and box.y1 <= canvas.y1 + 1, f"{text!r} is cut off: {box}"
    for (a, box_a), (b, box_b) in combinations(found, 2):
        both = Bbox.intersection(box_a, box_b)
        covered = both is not None and both.width > 1 and both.height > 1
        assert not covered, f"{a!r} lies on {b!r}"
    assert all(text.get_fontsize() >= SMALLEST_PT for text in figure.findobj(Text) if isinstance(text, Text))


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_is_drawn_from_what_its_csv_holds(name: str) -> None:
    module, frame = drawn(name, FULL[name])
    again = pd.read_csv(io.StringIO(frame.to_csv(index=False)))
    assert picture(module.draw(frame)) == picture(module.draw(again))


@pytest.mark.parametrize("name", NAMES)
def test_no_name_of_a_column_is_shown(name: str) -> None:
    module = plugins.load(FIGURES, name, "figure")
    figure = module.draw(frames(FULL[name])[name])
    assert not [text for text, _ in texts(figure) if "_" in text]


@pytest.mark.parametrize("name", NAMES)
def test_a_study_without_runs_gives_an_empty_frame(name: str) -> None:
    results = STUDIES["two rungs"]
    none = {field: getattr(results, field).iloc[:0] for field in ("runs", "evaluations", "samples", "searches", "invocations")}
    assert plugins.load(FIGURES, name, "figure").prepare(replace(results, **none)).empty


def with_floor(nll: float, top1: float) -> Results:
    results = STUDIES["eight rungs"]
    return replace(results, data={**results.data, "floor": {"nll": nll, "top1": top1}})


@pytest.mark.parametrize("name", ["curves", "scaling", "data_budgets"])
def test_a_far_floor_is_said_in_words_and_leaves_the_panel_to_the_data(name: str) -> None:
    module = plugins.load(FIGURES, name, "figure")
    drawn = {}
    # No real floor is so far off; these data vary over most of what is possible.
    studies = {"near": STUDIES["eight rungs"], "far": with_floor(-150.0, 2.0), "none": with_floor(math.nan, math.nan)}
    for label, results in studies.items():
        frame = module.prepare(results)
        figure = module.draw(frame)
        drawn[label] = figure.axes[0].get_ylim(), {text for text, _ in texts(figure)}, module.caption(frame)
    assert {"best possible \N{MINUS SIGN}150.0 ↓", "best possible 200.0 % ↑"} <= drawn["far"][1]
    assert "best possible" in drawn["near"][1] and "best possible" not in drawn["far"][1]
    assert "Dashed" in drawn["near"][2] and "in words" in drawn["far"][2] and "best possible" not in drawn["none"][2]
    # All that the words take is a strip.
    heights = {label: high - low for label, ((low, high), _, _) in drawn.items()}
    assert heights["far"] <= 1.15 * heights["none"]


def test_shares_start_at_zero_and_have_a_height_where_all_are_zero() -> None:
    module = plugins.load(FIGURES, "sample_quality", "figure")
    results = STUDIES["two rungs"]
    figure = module.draw(module.prepare(replace(results, samples=results.samples.assign(memorised=0.0))))
    shares = [ax for ax in figure.axes if "%" in ax.get_ylabel()]
    assert len(figure.axes) == 6 and len(shares) == 3
    assert [ax.get_ylim()[0] for ax in shares] == [0, 0, 0] and shares[2].get_ylim()[1] == 1
    assert [tick.get_text() for tick in figure.axes[5].get_xticklabels()] == ["0.01", "0.1", "0.5", "0.8", "1"]


def test_a_record_from_before_a_measure_existed_is_drawn_without_it() -> None:
    module = plugins.load(FIGURES, "sample_quality", "figure")
    results = STUDIES["two rungs"]
    old = module.prepare(replace(results, samples=results.samples.assign(entropy=None, memorised=None, self_nll=None)))
    assert set(old["measure"]) == {"distinct_2", "known_words", "copied", "mean_length"} and "copied" in module.caption(old)
    figure = module.draw(old)
    assert [ax.get_xlabel() for ax in figure.axes] == ["", "", "temperature", "temperature"]


def test_a_default_past_the_panel_is_a_triangle_with_an_entry_in_the_legend() -> None:
    module = plugins.load(FIGURES, "scaling", "figure")
    results = STUDIES["eight rungs"]
    worse = (results.runs["lr_source"] == "default") & (results.runs["rung"] == "20k")
    frame = module.prepare(replace(results, runs=results.runs.assign(test_nll=results.runs["test_nll"] + 500.0 * worse)))
    assert list(module.outside(frame)["rung"]) == ["20k"] and "outside of the panel" in module.caption(frame)
    assert "at 1e-3, outside of the panel" in {text for text, _ in texts(module.draw(frame))}
    assert module.outside(module.prepare(results)).empty


def test_a_collapsed_trial_is_drawn_as_a_cliff_and_not_as_a_point_of_the_bowl() -> None:
    results, module = STUDIES["two rungs"], plugins.load(FIGURES, "bowls", "figure")
    searched = results.runs[(results.runs["stage"] == "search") & (results.runs["rung"] == "20k") & (results.runs["status"] == "completed")]
    fallen = searched["lr"].idxmax()
    runs = results.runs.assign(val_loss=results.runs["val_loss"].where(results.runs.index != fallen, ceiling(results)))
    frame = module.prepare(replace(results, runs=runs))
    row = frame[(frame["rung"] == "20k") & (frame["lr"] == searched["lr"].max())].iloc[0]
    assert (
        row["status"] == "collapsed"
        and (frame["status"] == "collapsed").sum() == 1 + (module.prepare(results)["status"] == "collapsed").sum()
    )
    assert frame["top"].iloc[0] < ceiling(results) and "collapsed" in module.caption(frame)
    drawn = [line for ax in module.draw(frame).axes for line in ax.lines if row["lr"] in list(line.get_xdata())]
    assert {line.get_marker() for line in drawn} == {"x"}


def test_a_rung_that_was_left_out_takes_no_colour() -> None:
    places = style.places(STUDIES["two rungs"])
    assert list(places["rung"]) == ["20k", "40k"] and set(places["places"]) == {2}


def test_a_rung_keeps_its_colour_and_marker_in_every_figure() -> None:
    looks: dict[str, set[tuple[str, str]]] = {}
    for frame in frames("a grid of budgets").values():
        for rung, _, color, marker in style.each_rung(frame) if "place" in frame else ():
            looks.setdefault(rung, set()).add((color, marker))
    assert len(looks) == 8 and all(len(look) == 1 for look in looks.values())
    assert len(set.union(*looks.values())) == 8


def test_colours_get_lighter_with_size_so_that_they_survive_a_grey_print() -> None:
    shades = [int(style.color(i, 8)[1:3], 16) * 0.299 + int(style.color(i, 8)[3:5], 16) * 0.587 for i in range(8)]
    assert shades == sorted(shades)


@pytest.mark.parametrize(("low", "high"), [(2e4, 4.1e4), (1e3, 1e7), (1e-5, 3e-2), (1e11, 3e14), (9.5e4, 1.1e5)])
def test_a_log_axis_has_a_few_round_labels(low: float, high: float) -> None:
    ticks = style.log_ticks(low, high, 6)
    assert 1 <= len(ticks) <= 6 and all(low <= t <= high for t in ticks)


def test_labels_are_spread_apart_in_order() -> None:
    moved = style.spread([0.1, 0.11, 0.12, 0.9], 0.1)
    assert moved == sorted(moved) and all(b - a >= 0.1 - 1e-9 for a, b in pairwise(moved))
    assert moved[3] == 0.9


def picture(figure: Figure) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=40, metadata={"Software": None})
    return data.getvalue()


def test_bowls_of_both_parametrizations_share_axes_and_say_how_far_the_best_rate_moves() -> None:
    module, results = plugins.load(FIGURES, "parametrizations", "figure"), STUDIES["both parametrizations"]
    stays = results.searches["lr"].where(results.searches["parametrization"] == "standard", 2e-3)
    frame = module.prepare(replace(results, searches=results.searches.assign(lr=stays)))
    standard, mup = (frame[frame["parametrization"] == name] for name in ("standard", "mup"))
    assert len(standard) == len(mup) > 0 and list(standard["place"]) == list(mup["place"])
    left, right = module.draw(frame).axes
    assert left.get_ylim() == right.get_ylim() and left.get_xlim() == right.get_xlim()
    said = module.caption(frame)
    assert "In muP the best rate stays" in said and "In the standard one the best rate falls by a factor of" in said


def test_the_law_of_the_rates_is_over_one_parametrization() -> None:
    alone, both = rates(STUDIES["eight rungs"]), rates(in_both(STUDIES["eight rungs"]))
    assert both.law.status == "fitted" and both.law.n_rungs == alone.law.n_rungs
    # Twice the runs make the noise over seeds better known, which moves the draws of the optima a little and nothing else.
    assert both.law.p == pytest.approx(alone.law.p, abs=5e-4)
    assert len(both.optima) == 2 * len(alone.optima)
