"""What a plan says of its own power: refused where the report will refuse, else the width that studies of this kind get."""

from typing import Any

import numpy as np
import pytest

from harness.analysis.design import expected_width
from harness.plan import Plan
from harness.power import ASSUMED, NOISE, Power, Prior, known_prior, notes, power
from tests.fakes import MACHINE, make_plan
from tests.surfaces import LARGE, TRUTH, grid_results, grid_study


def planned(**changes: Any) -> Plan:
    return make_plan(grid_study(**changes), size=LARGE)


def said(found: Power) -> str:
    return "\n".join(notes(found, MACHINE.workers))


def test_a_grid_has_the_width_that_simulated_studies_get() -> None:
    plan, prior = planned(), Prior(TRUTH, 0.004, "known")
    found = power(plan, 2, prior)
    assert (found.law, found.runs, found.sizes, found.crossed_sizes) == ("L(N, D)", 24, 4, 4)
    rows = [(r.n_params, r.train_tokens * s / r.steps) for r in plan.rungs for s in (r.steps, *r.budget_steps)] * 2
    n, d = np.array(rows, float).T
    other = expected_width(n, d, 0.004 * float(TRUTH.loss(n, d).mean()), TRUTH, seed=5)
    assert found.alpha == pytest.approx(other.alpha, rel=0.3) and found.beta == pytest.approx(other.beta, rel=0.3)
    assert power(plan, 2, Prior(TRUTH, 0.008, "")).alpha == pytest.approx(2 * found.alpha, rel=0.2)
    assert power(plan, 8, prior).alpha == pytest.approx(found.alpha / 2, rel=0.2)


def test_the_runs_to_add_narrow_alpha_and_have_a_price() -> None:
    plan = planned()
    found = power(plan, 2)
    assert found.alpha is not None and found.alpha_then is not None and found.prior == ASSUMED.source
    assert 1 <= len(found.add) <= 4 and found.alpha_then < 0.95 * found.alpha
    unique = LARGE.n_train * LARGE.mean_tokens
    assert all(0 < run.seconds < plan.estimated_s and run.train_tokens <= unique for run in found.add)
    assert f"+-{found.alpha:.2g}" in said(found) and f"+-{found.alpha_then:.2g}" in said(found)
    assert found.add[0].rung in said(found) and "a seed noise of 0.5 % assumed" in said(found)


def test_a_run_to_add_costs_what_the_plan_says_of_such_runs() -> None:
    for run in power(planned(), 2).add:
        alike = planned(budgets={"train_tokens": [int(run.train_tokens) + 1]})
        rung = next(one for one in alike.rungs if one.rung == run.rung)
        assert rung.run_s is not None and run.runs % 2 == 0 and rung.train_tokens == pytest.approx(run.train_tokens, rel=0.01)
        assert run.runs * rung.run_s == pytest.approx(run.seconds, rel=0.01)


def test_one_budget_a_size_gives_a_law_in_size_and_the_runs_that_would_give_more() -> None:
    found = power(planned(budgets={}, train={"epochs": 0.1}), 3)
    assert found.law == "L(N)" and found.alpha is not None and found.beta is None
    assert "alpha and beta can't both be fitted" in found.reason and "add" not in found.reason
    assert found.add and found.alpha_then is not None and found.beta_then is not None
    assert "L(N, D) with alpha to" in said(found)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"model": {"rungs": ["20k", "60k"]}}, "2 sizes planned; a law needs 3"),
        ({"budgets": {}, "train": {"epochs": 4}}, "runs see their data up to 4 times"),
    ],
)
def test_where_the_report_will_fit_nothing_the_plan_says_so(changes: dict[str, Any], why: str) -> None:
    found = power(planned(**changes), 2)
    assert found.law == "none" and found.reason.startswith(why) and found.alpha is None and not found.add
    assert f"! {why}" in said(found)


def test_a_study_with_runs_is_judged_by_its_own_surface_and_noise() -> None:
    results = grid_results(grid_study(seeds=3))
    prior = known_prior(results)
    assert prior.noise == pytest.approx(0.004, rel=0.35)
    assert prior.law is not None and prior.law.exponents == pytest.approx(TRUTH.exponents, abs=0.1)
    assert "as in the runs so far" in prior.source
    assert known_prior(grid_results(grid_study(seeds=1))) == ASSUMED and ASSUMED.noise == NOISE
