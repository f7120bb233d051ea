"""The figures of grids show the numbers of the fits, mark what is censored as such, and are absent where nothing is fitted."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from harness.results import Results
from reports import contents
from reports.blocks import Heading, Picture
from reports.figures import profiles, surface
from reports.fits import Fits, fits
from tests.grids import FLOPS, SIZES, TOO_LITTLE, equal_compute, repeating
from tests.synthetic import LADDER, synthetic_results


def of_sizes(results: Results, sizes: list[str]) -> Results:
    return replace(results, runs=results.runs[results.runs["rung"].isin(sizes)])


EDGE = of_sizes(equal_compute((TOO_LITTLE, *FLOPS)), SIZES[:6])
SMALLEST = LADDER[SIZES[0]]


def part(frame: pd.DataFrame, kind: str, method: str = "parabola") -> pd.DataFrame:
    return frame[(frame["kind"] == kind) & (frame["method"] == method)]


def faces(ax: Axes, size: float, marker: str) -> set[str]:
    """The fill of markers that are drawn at this size, on either axis."""
    lines = [line for line in ax.lines if line.get_marker() == marker and len(line.get_xdata()) == 1]
    return {str(line.get_markerfacecolor()) for line in lines if np.isclose(size, [*line.get_xdata(), *line.get_ydata()]).any()}


def test_the_profiles_shown_are_those_that_were_fitted() -> None:
    found, frame = fits(EDGE), profiles.prepare(EDGE)
    runs = frame[frame["kind"] == "run"]
    assert sorted(runs["loss"]) == sorted(found.runs["test_loss"]) and runs.groupby("budget").size().tolist() == [12] * 4
    for method, scaling in found.profiles.items():
        optima, law = part(frame, "optimum", method), part(frame, "law", method)
        resolved = [p for p in scaling.profiles if p.status == "resolved"]
        assert list(optima["status"]) == [p.status for p in scaling.profiles] and len(resolved) == 3
        shown = optima[optima["status"] == "resolved"][["n_params", "low", "high", "loss"]]
        assert shown.to_numpy().tolist() == [[p.n_params, p.low, p.high, p.loss] for p in resolved]
        assert (shown["low"] < shown["n_params"]).all() and (shown["n_params"] < shown["high"]).all()
        assert law["flops"].min() == pytest.approx(resolved[0].flops) and law["flops"].max() == pytest.approx(resolved[-1].flops)
        assert law["n_params"].tolist() == pytest.approx([scaling.at(flops)[0] for flops in law["flops"]])
        assert (law["low"] < law["n_params"]).all() and (law["n_params"] < law["high"]).all()
        assert set(law["a"]) == {scaling.a.value}
    assert f"a = {found.profiles['parabola'].a.value:.3f} [" in profiles.caption(frame)


def test_the_curve_shown_is_the_least_squares_parabola_of_its_runs() -> None:
    frame = profiles.prepare(EDGE)
    for budget in (1, 2, 3):
        runs, curve = (rows[rows["budget"] == budget] for rows in (frame[frame["kind"] == "run"], part(frame, "curve")))
        fitted = np.polynomial.Polynomial.fit(np.log(runs["n_params"]), runs["loss"], 2)(np.log(curve["n_params"].to_numpy()))
        assert curve["loss"].to_numpy() == pytest.approx(fitted, rel=1e-9)
        assert curve["n_params"].min() == pytest.approx(SMALLEST) and curve["n_params"].max() == pytest.approx(runs["n_params"].max())


def test_a_censored_optimum_is_hollow_at_the_end_of_its_sizes_and_has_no_curve_and_no_bar() -> None:
    frame = profiles.prepare(EDGE)
    for method in ("parabola", "akima"):
        first = part(frame, "optimum", method).iloc[0]
        assert first["status"] == "edge" and first["n_params"] == pytest.approx(SMALLEST) and first["is_below"] == 1
        assert math.isnan(first["low"]) and math.isnan(first["high"])
    curves = frame[(frame["budget"] == 0) & frame["kind"].isin(["curve", "mean"])]
    assert set(curves["kind"]) == {"mean"} and len(curves) == 6
    left, right = profiles.draw(frame).axes
    best = part(frame, "optimum")["n_params"]
    assert faces(left, SMALLEST, "o") == {"white"} and faces(right, SMALLEST, "o") == {"white"} and faces(right, SMALLEST, "s") == {"white"}
    assert "white" not in faces(left, best.iloc[1], "o") | faces(right, best.iloc[1], "o") and faces(right, best.iloc[1], "o")
    said = profiles.caption(frame)
    assert "Hollow, at 1e9 FLOPs" in said and "Dotted" in said


def test_without_any_optimum_inside_the_sizes_only_bounds_are_drawn() -> None:
    results = of_sizes(equal_compute((TOO_LITTLE, 3 * TOO_LITTLE)), SIZES[:5])
    frame = profiles.prepare(results)
    assert set(frame["kind"]) == {"run", "mean", "optimum"} and set(part(frame, "optimum")["status"]) == {"edge"}
    left, right = profiles.draw(frame).axes
    assert faces(left, SMALLEST, "o") == {"white"} and len(right.texts) == 4
    assert "No budget has its best size inside" in profiles.caption(frame)


def test_one_budget_has_a_profile_and_no_law() -> None:
    results = equal_compute(FLOPS[:1])
    frame = profiles.prepare(results)
    assert frame["budgets"].unique().tolist() == [1] and part(frame, "optimum")["status"].tolist() == ["resolved"]
    assert frame[frame["kind"] == "law"].empty and surface.prepare(results).empty
    assert "1 budget of compute" in profiles.caption(frame) and "No law of it is fitted" in profiles.caption(frame)
    assert len(profiles.draw(frame).axes) == 2


def test_there_are_no_profiles_of_three_sizes_of_repeated_texts_or_of_token_budgets() -> None:
    three, others = of_sizes(equal_compute(), SIZES[:3]), synthetic_results(4, budgets=(0.5,))
    assert {p.status for p in fits(three).profiles["parabola"].profiles} == {"too few"}
    assert profiles.prepare(three).empty and profiles.prepare(others).empty and profiles.prepare(repeating((2.0, 4.0))).empty


def test_an_open_interval_is_drawn_to_the_end_of_the_axis() -> None:
    frame = profiles.prepare(EDGE)
    second = (frame["kind"] == "optimum") & (frame["budget"] == 1)
    frame = frame.assign(low=frame["low"].mask(second, 0.0), high=frame["high"].mask(second, math.inf))
    left, right = profiles.draw(frame).axes
    bars = [tuple(line.get_ydata()) for line in right.lines if len(line.get_xdata()) == 2]
    assert bars.count(right.get_ylim()) == 2
    assert left.get_xlim() in [tuple(line.get_xdata()) for line in left.lines]


def test_the_surface_shown_is_the_one_that_was_fitted() -> None:
    found, frame = fits(EDGE), surface.prepare(EDGE)
    assert found.surface is not None and found.held is not None
    fitted = found.surface.log_huber
    runs, lines, held = (frame[frame["kind"] == kind] for kind in ("run", "line", "held out"))
    E = fitted.constants["E"]
    assert sorted(runs["loss"]) == sorted(found.runs["test_loss"])
    for rows in (runs, lines):
        assert rows["predicted"].tolist() == pytest.approx(fitted.law.loss(rows["n_params"], rows["train_tokens"]).tolist())
    assert runs["excess"].tolist() == pytest.approx((runs["loss"] - E.value).tolist())
    assert lines["excess"].tolist() == pytest.approx((lines["predicted"] - E.value).tolist())
    assert (frame["E"].iloc[0], frame["E_low"].iloc[0], frame["E_high"].iloc[0]) == (E.value, E.low, E.high)
    row = held.iloc[0]
    told = (found.held.observed, found.held.predicted, found.held.low, found.held.high)
    assert len(held) == 1 and row["rung"] == SIZES[5] and (row["loss"], row["predicted"], row["low"], row["high"]) == told
    said = surface.caption(frame)
    assert ("inside" if found.held.status == "inside" else "outside of") in said.split("Cross")[1]
    dashed = [line for line in surface.draw(frame).axes[0].lines if line.get_linestyle() == "--"]
    assert [line.get_ydata()[0] for line in dashed] == pytest.approx([found.floor - E.value])


def test_floors_far_below_the_runs_leave_the_panel_to_them_and_are_given_in_words() -> None:
    frame = surface.prepare(EDGE)
    far = frame.assign(E=-50.0, E_low=-60.0, E_high=-40.0, excess=frame["excess"] + frame["E"] + 50, floor=-45.0)
    left = surface.draw(far).axes[0]
    low, high = left.get_ylim()
    assert high - low < 1.2 * np.ptp(frame["excess"].dropna()) and "too far below the runs to be drawn" in surface.caption(far)
    assert "not known on these texts" in surface.caption(frame.assign(floor=math.nan))
    assert "it carries no claim" in surface.caption(frame.assign(status="not converged"))
    wide = frame.assign(E_low=-90.0)
    low, high = surface.draw(wide).axes[0].get_ylim()
    assert high - low < 4 * np.ptp(frame["excess"].dropna())


def with_fits(monkeypatch: pytest.MonkeyPatch, found: Fits) -> pd.DataFrame:
    with monkeypatch.context() as patched:
        patched.setattr(surface, "fits", lambda _: found)
        return surface.prepare(EDGE)


def test_the_estimate_shown_is_one_that_converged_and_there_is_none_without_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    found = fits(EDGE)
    assert found.surface is not None
    poor = replace(found.surface.log_huber, status="not converged")
    frame = with_fits(monkeypatch, replace(found, surface=replace(found.surface, log_huber=poor)))
    assert set(frame["estimator"]) == {"VPNLS"} and frame["E"].iloc[0] == found.surface.vpnls.constants["E"].value
    none = replace(found.surface.vpnls, status="too few", theta=np.empty(0))
    frame = with_fits(monkeypatch, replace(found, surface=replace(found.surface, log_huber=poor, vpnls=none)))
    assert set(frame["estimator"]) == {"log-Huber"} and set(frame["status"]) == {"not converged"}
    neither = replace(found.surface, log_huber=replace(poor, theta=np.empty(0)), vpnls=none)
    assert with_fits(monkeypatch, replace(found, surface=neither)).empty
    assert with_fits(monkeypatch, replace(found, held=None)).query("kind == 'held out'").empty


def test_both_stand_beside_the_numbers_that_they_show() -> None:
    pictures = [Picture(name, f"The picture of {name}.", "See.") for name in ("profiles", "scaling", "surface")]
    blocks = contents.build(EDGE, pictures, []).blocks
    titles = {}
    for block in blocks:
        if isinstance(block, Heading):
            title = block.text
        elif isinstance(block, Picture):
            titles[block.name] = title
    assert titles == {"profiles": "Profiles at equal compute", "surface": "Size and data together", "scaling": "4 Figures"}
