"""Designs judged before training: condition, coverage, runs to add, and the width that simulation promises."""

import numpy as np
import pytest

from harness.analysis.additive import Law, points
from harness.analysis.condition import condition_number
from harness.analysis.design import PRIOR, coverage, expected_width, extrapolation, judge
from harness.analysis.fit import fit

SIZES = np.geomspace(1e5, 2e7, 12)


def grid(sizes: np.ndarray, *ratios: float) -> tuple[np.ndarray, np.ndarray]:
    n, ratio = (a.ravel() for a in np.meshgrid(sizes, ratios, indexing="ij"))
    return n, n * ratio


def test_tokens_in_one_ratio_are_refused_with_the_runs_that_would_help() -> None:
    n, d = grid(SIZES, 20)
    design = judge(n, d)
    assert design.status == "not identified" and design.condition == pytest.approx(2e7, rel=0.05)
    assert "can't both be fitted" in design.reason and "condition 2e+07" in design.reason
    assert 1 <= len(design.add) <= 4 and set(design.add["n_params"]) <= set(n)
    more = np.concatenate([n, design.add["n_params"]]), np.concatenate([d, design.add["train_tokens"]])
    assert judge(*more).status == "identified" and design.condition_then <= 1e3
    assert condition_number(np.column_stack(more)) == pytest.approx(design.condition_then)
    assert f"{design.add['train_tokens'].iloc[0]:.3g} tokens" in design.reason


def test_crossed_budgets_are_identified() -> None:
    design = judge(*grid(SIZES, 10, 20, 40))
    assert (design.status, len(design.add)) == ("identified", 0)
    assert design.condition == pytest.approx(246.7, abs=0.05)


def test_one_size_can_not_be_mended_by_other_budgets_alone() -> None:
    design = judge([1e6], [2e7])
    assert design.status == "not identified" and design.add.empty and "other sizes" in design.reason


def test_coverage_counts_levels_and_warns() -> None:
    covered = coverage([1e6, 1.001e6, 1e7, 1e7], [1e7, 2e7, 1e8, 1.01e8])
    assert (covered.sizes, covered.crossed_sizes, covered.n_runs) == (2, 0, 4)
    assert covered.size_reach == pytest.approx(10) and covered.token_reach == pytest.approx(10.1)
    assert covered.warnings == ("0 of 2 sizes have 3 token budgets or more; exponents need 3 such sizes",)
    assert coverage(*grid(SIZES, 10, 20, 40)).warnings == ()
    assert "less than a decade" in coverage(*grid(np.geomspace(1e6, 4e6, 3), 10, 20, 40)).warnings[0]


def test_extrapolation_over_a_decade_is_named() -> None:
    n, d = grid(SIZES, 10, 20, 40)
    assert extrapolation(n, d, 1e8, 1e9) == ""
    assert extrapolation(n, d, 4e8, 1e9) == "extrapolates 20 times past the data in parameters: over a decade"
    assert "tokens" in extrapolation(n, d, 1e7, 1e3)


def test_the_simulated_width_is_the_one_that_studies_get() -> None:
    n, d = grid(np.geomspace(1e6, 1e9, 6), 5, 20, 80)
    width = expected_width(n, d, noise=0.01)
    assert width.lost == 0
    estimates = []
    for seed in range(60):
        losses = PRIOR.loss(n, d) + 0.01 * np.random.default_rng(seed).normal(size=n.size)
        estimates.append(fit(points(np.column_stack([n, d]), losses), "VPNLS", n_draws=0).law.exponents[0])
    assert width.alpha == pytest.approx(1.96 * np.std(estimates), rel=0.25)


def test_the_width_falls_with_runs_and_rises_with_noise() -> None:
    few, many = grid(np.geomspace(1e6, 1e9, 5), 5, 20, 80), grid(np.geomspace(1e6, 1e9, 20), 5, 20, 80)
    base = expected_width(*few, noise=0.01)
    assert expected_width(*many, noise=0.01).beta < 0.7 * base.beta
    assert expected_width(*few, noise=0.02).alpha == pytest.approx(2 * base.alpha, rel=0.15)
    steeper = Law(PRIOR.E, (PRIOR.factors[0] * 30, PRIOR.factors[1]), (0.55, PRIOR.exponents[1]))
    assert expected_width(*few, noise=0.01, prior=steeper).alpha != base.alpha
