"""What a study of sizes and budgets answers first: numbers of the fit, and only where it carries them."""

import re
from dataclasses import replace

import pytest

from harness.results import Results
from reports import grid_findings
from reports.findings import findings
from reports.fits import fits
from tests.grids import FLOPS, SIZES, TOO_LITTLE, best_size, equal_compute
from tests.synthetic import LADDER, synthetic_results

WITH_EDGE = equal_compute((TOO_LITTLE, *FLOPS))


def of_sizes(results: Results, sizes: list[str]) -> Results:
    return replace(results, runs=results.runs[results.runs["rung"].isin(sizes)])


def test_the_best_size_of_each_budget_is_the_first_answer() -> None:
    first = findings(WITH_EDGE)[0]
    assert first.subject == "best size" and first.supported
    found = re.findall(r"([\d.]+)([kM]) \[([\d.]+)([kM]), ([\d.]+)([kM])\] parameters with (\S+) FLOPs", first.text)
    assert [float(one[-1]) for one in found] == list(FLOPS)
    unit = {"k": 1e3, "M": 1e6}
    inside = [p for p in fits(WITH_EDGE).profiles["parabola"].profiles if p.status == "resolved"]
    for one, profile in zip(found, inside, strict=True):
        size, low, high = (float(one[i]) * unit[one[i + 1]] for i in (0, 2, 4))
        assert (size, low, high) == pytest.approx((profile.n_params, profile.low, profile.high), rel=5e-3)
        # A parabola over so wide a grid is biased.
        assert size == pytest.approx(best_size(float(one[-1])), rel=0.15)
    assert "with 1e9 FLOPs at the smallest size tried or past it" in first.text
    slope = float(re.findall(r"grows as C\^a, a = ([\d.]+) \[", first.text)[0])
    assert slope == pytest.approx(fits(WITH_EDGE).profiles["parabola"].a.value, abs=0.006)


def test_where_every_optimum_is_past_the_sizes_the_end_is_named_and_no_size() -> None:
    # Sizes so large that each budget would be better spent on a smaller one.
    large = of_sizes(equal_compute(tuple(flops / 3e4 for flops in FLOPS)), SIZES[-5:])
    text, supported = grid_findings.best_size(large) or ("", True)
    assert not supported and text.count("FLOPs") == 1 and "at the smallest size tried or past it" in text and "C^a" not in text


def test_the_exponents_of_a_surface_are_said_only_where_it_converged() -> None:
    text, supported = grid_findings.surface(WITH_EDGE) or ("", False)
    alpha, beta = (float(x) for x in re.findall(r"= ([\d.]+) \[", text))
    constants = fits(WITH_EDGE).surface.log_huber.constants  # type: ignore[union-attr]
    assert supported and (alpha, beta) == pytest.approx((constants["alpha"].value, constants["beta"].value), abs=0.006)
    two = of_sizes(WITH_EDGE, SIZES[:2])
    refused = grid_findings.surface(two)
    assert refused is None or not refused[1]


def test_a_ladder_without_a_grid_has_neither() -> None:
    plain = synthetic_results(len(LADDER) - 1)
    assert grid_findings.best_size(plain) is None
    assert "best size" not in {finding.subject for finding in findings(plain)}
