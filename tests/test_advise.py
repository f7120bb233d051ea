"""Advice from a study's record: held against the surface its losses were drawn from, and against the plan of what it writes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import __main__ as verbs
from harness import accounting, spec
from harness.advise import Advice, advise
from harness.advise_text import as_data, as_table, notes
from harness.advised_study import advised_study, text
from harness.affordable import Budget, Market, asked
from harness.analysis.additive import Law
from harness.analysis.learning_rate_ladder import LadderLaw
from harness.analysis.learning_rate_law import law as rate_law
from harness.errors import StudyError
from harness.plan import OVERHEAD_S, Plan
from harness.record import Record
from harness.results import Results
from tests.fakes import LENGTHS, VOCABULARY, make_costs, make_ladder, make_plan
from tests.surfaces import LARGE, RATE, RATE_EXPONENT, RUNGS, TRUTH, grid_results, grid_study

FLOPS = Budget(4e12, "FLOPs")


def market(results: Results) -> Market:
    return Market(dict(results.study), Plan.from_dict(results.plan), dict(results.data))


def ask(results: Results, budget: Budget = FLOPS, draws: int = 60, **options: Any) -> Advice:
    return advise(results, budget, LadderLaw(rate_law(results.searches), {}, "stated"), draws=draws, **options)


@pytest.fixture(scope="module")
def results() -> Results:
    return grid_results(grid_study())


@pytest.fixture(scope="module")
def advice(results: Results) -> Advice:
    return ask(results)


def test_sizes_have_the_flops_of_the_projects_own_count(results: Results) -> None:
    for rung in make_ladder(grid_study(model={"rungs": ["35k", "5M"]})):
        own = accounting.flops_per_token("decoder", rung.shape, VOCABULARY, LENGTHS)
        assert market(results).size(rung.name).flops_per_token == pytest.approx(own, rel=1e-9)
        assert market(results).size(rung.name).n_params == rung.n_params


def test_seconds_are_those_of_the_plan_at_its_rungs_and_grow_with_flops_past_them(results: Results) -> None:
    there = market(results)
    for rung in there.plan.rungs:
        per_token, beside = there.seconds([rung.flops_per_token])
        assert per_token[0] * rung.train_tokens + beside[0] == pytest.approx(rung.run_s, rel=1e-3)
    largest = there.plan.rungs[-1].flops_per_token
    (one, four), _ = there.seconds([largest, 4 * largest])
    assert four == pytest.approx(4 * one)


def test_without_noise_the_answer_is_the_best_of_all_shapes_that_can_be_built() -> None:
    exact = ask(grid_results(grid_study(), noise=0.0), draws=0)
    there = market(grid_results(grid_study(), noise=0.0))
    sizes = there.sizes()
    n = np.array([size.n_params for size in sizes], float)
    losses = TRUTH.loss(n, FLOPS.amount / np.array([size.flops_per_token for size in sizes]))
    best = exact.estimates[0]
    assert n[max(0, losses.argmin() - 2)] < best.n_params < n[losses.argmin() + 2]
    assert exact.estimates[1].n_params == pytest.approx(best.n_params, rel=1e-3)
    run = exact.training
    assert run is not None and run.n_params == pytest.approx(best.n_params, rel=0.02)
    assert run.loss <= losses.min() * (1 + 1e-5) and run.loss == pytest.approx(best.loss, rel=1e-3)
    assert run.train_flops <= FLOPS.amount and run.train_flops == pytest.approx(FLOPS.amount, rel=0.01)
    assert run.six_nd == 6 * run.n_params * run.train_tokens and run.six_nd < 0.95 * run.train_flops


def test_intervals_hold_the_truth_and_near_sizes_are_near(advice: Advice) -> None:
    best = advice.estimates[0]
    exact = ask(grid_results(grid_study(), noise=0.0), draws=0).estimates[0]
    assert best.n_low < exact.n_params < best.n_high and best.d_low < exact.train_tokens < best.d_high
    assert best.loss_low < exact.loss < best.loss_high
    assert advice.near_low < best.n_params < advice.near_high
    assert advice.noise == pytest.approx(0.004, rel=0.5)


def test_the_rate_is_that_of_the_law_over_sizes(advice: Advice, results: Results) -> None:
    run, rate = advice.training, advice.rate
    assert run is not None and rate is not None
    assert rate.lr == pytest.approx(RATE * (run.n_params / 2e4) ** -RATE_EXPONENT, rel=0.02) and rate.low < rate.lr < rate.high
    unsure = replace(results, searches=results.searches.assign(lr_status="edge"))
    nearest = ask(unsure).rate
    assert nearest is not None and nearest.lr == results.searches["lr"].iloc[2] and "200k (edge), the nearest size" in nearest.source


def test_the_next_runs_narrow_the_answer_and_cost_no_more_than_it(advice: Advice, results: Results) -> None:
    widths = [advice.half_width, *(run.half_width for run in advice.next_runs)]
    assert len(advice.next_runs) >= 1 and widths == sorted(widths, reverse=True)
    assert all(run.cost / run.runs <= FLOPS.amount for run in advice.next_runs)
    best = advice.estimates[0]
    assert advice.half_width == pytest.approx(np.log(best.n_high / best.n_low) / 2, rel=0.05)
    alpha = ask(results, narrow="alpha")
    assert 0 < alpha.half_width < 0.5 and alpha.narrow == "alpha"


def test_the_study_that_is_written_loads_and_plans_to_what_was_said(advice: Advice, results: Results, tmp_path: Path) -> None:
    study = advised_study(results, advice)
    (tmp_path / "next.yaml").write_text(text(study, advice), encoding="utf-8")
    read = spec.load(tmp_path / "next.yaml")
    assert read == study and read.seeds == 1 and read.search.trials == 0
    (rung,), run = make_plan(read, size=LARGE).rungs, advice.training
    assert run is not None and rung.n_params == run.n_params and rung.runs == 1
    assert rung.train_tokens == pytest.approx(run.train_tokens, rel=1e-6) and rung.train_flops == pytest.approx(run.train_flops, rel=1e-6)
    assert advice.rate is not None and read.search.default_lr == advice.rate.lr


def test_a_budget_of_time_gives_a_study_that_fits_it(results: Results) -> None:
    budget = Budget(600.0, "seconds")
    timed = ask(results, budget)
    run = timed.training
    assert run is not None and run.seconds + OVERHEAD_S == pytest.approx(600.0, rel=0.02)
    plan = make_plan(advised_study(results, timed), 600.0, size=LARGE, costs=_costs_like(results, run.rung))
    assert plan.cut == 0 and plan.estimated_s < 600.0
    assert timed.training is not None and all(more.cost / more.runs <= 600.0 for more in timed.next_runs)


def _costs_like(results: Results, rung: str) -> dict[str, Any]:
    """The made-up price of a further size, on the scale of the study's own rungs."""
    return {rung: make_costs(grid_study(model={"rungs": [RUNGS[0], rung]}))[rung]}


def test_data_are_never_seen_twice() -> None:
    poor = grid_results(grid_study())
    poor = replace(poor, data=dict(poor.data) | {"n_train": 25_000})
    unique = 25_000 * LARGE.mean_tokens
    limited = ask(poor)
    best, run = limited.estimates[0], limited.training
    free = ask(grid_results(grid_study()))
    assert best.limited and run is not None and run.train_tokens <= unique and run.epochs <= 1
    assert best.n_params > free.estimates[0].n_params and best.loss > free.estimates[0].loss
    assert any("data would repeat" in said and "data.texts" in said for said in limited.warnings) and limited.narrow == "loss"


@pytest.mark.parametrize(
    ("changes", "budget", "why"),
    [
        ({"budgets": {}, "train": {"epochs": 0.1}}, FLOPS, "alpha and beta can't both be fitted"),
        ({}, Budget(1e18, "FLOPs"), "times past the runs in"),
        ({}, Budget(1e5, "FLOPs"), "not enough for a single step"),
        ({}, Budget(20.0, "seconds"), "not enough for a single step"),
    ],
)
def test_what_can_not_be_answered_is_refused_with_a_reason(changes: dict[str, Any], budget: Budget, why: str) -> None:
    refused = ask(grid_results(grid_study(**changes)), budget, draws=10)
    assert refused.status == "refused" and why in refused.reason and refused.training is None
    if "fitted" in why:
        assert refused.next_runs and refused.next_runs[0].cost > 0 and refused.next_runs[0].rung in "\n".join(notes(refused))
    with pytest.raises(StudyError, match="nothing to write"):
        advised_study(grid_results(grid_study()), refused)


def test_repeated_data_and_another_form_are_refused() -> None:
    results = grid_results(grid_study())
    again = replace(results, runs=results.runs.assign(unique_tokens=1e5))
    assert "all runs repeat their data" in ask(again, draws=0).reason
    unique = np.where(results.runs["rung"] == "20k", 1e5, 1e9)
    some = ask(replace(results, runs=results.runs.assign(unique_tokens=unique)), draws=10)
    assert some.runs == 18 and "6 runs that repeat their data are left out: the law is of data seen once" in some.warnings
    rising = results.runs["test_loss"] * (results.runs["n_params"] / 1e5) ** 0.1
    assert "the surface is not converged" in ask(replace(results, runs=results.runs.assign(test_loss=rising)), draws=0).reason


def test_far_answers_are_given_with_a_warning(results: Results) -> None:
    far = ask(results, Budget(3e15, "FLOPs"))
    assert far.status == "advised" and any("over a factor of 10" in said for said in far.warnings)
    assert any("how it moves with tokens was not measured" in said for said in far.warnings)


def test_a_size_that_the_runs_hardly_show_is_called_that() -> None:
    flat = ask(grid_results(grid_study(), law=Law(1.0, (1e-3 * TRUTH.factors[0], TRUTH.factors[1]), TRUTH.exponents)))
    assert flat.status == "advised" and any("hardly say what it is" in said for said in flat.warnings)


def test_people_and_programs_are_told_the_same(advice: Advice) -> None:
    data, said = as_data(advice), "\n".join(notes(advice))
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    run = advice.training
    assert run is not None and data["training"]["train_tokens"] == run.train_tokens
    assert (
        f"{run.n_params:,} parameters" in said
        and "6ND says" in said
        and "what would narrow the best size most for its cost (now +-" in said
    )
    table = as_table(advice)
    assert list(table.columns) == ["best", "log-Huber", "VPNLS"] and " to " in table["log-Huber"].iloc[2]
    assert as_data(ask(grid_results(grid_study()), Budget(1e5, "FLOPs"), draws=0))["near_low"] is None


def test_a_budget_must_be_one() -> None:
    assert asked(1e16, None) == Budget(1e16, "FLOPs") and asked(None, "2h") == Budget(7200.0, "seconds")
    for flops, within in ((0.0, None), (float("nan"), None), (None, "soon")):
        with pytest.raises(StudyError):
            asked(flops, within)


def test_the_verb_prints_writes_and_refuses(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(verbs, "load", lambda study: (tmp_path / study, Record()))
    # No trials are on record, so that the rate is the study's default.
    monkeypatch.setattr(verbs, "from_record", lambda record: replace(results, searches=results.searches.iloc[:0]))
    path = tmp_path / "next.yaml"
    assert verbs.main(["advise", "s", "--flops", "4e12", "--write", str(path)]) == 0
    out = capsys.readouterr().out
    assert "parameters" in out and f"written to {path}" in out and spec.load(path).study == "s-advised"
    assert verbs.main(["advise", "s", "--flops", "4e12", "--write", str(path)]) == 2
    assert "there is such a file already" in capsys.readouterr().err
    assert verbs.main(["advise", "s", "--flops", "1e5", "--json"]) == 2
    told = capsys.readouterr()
    assert json.loads(told.out)["status"] == "refused" and "no advice" in told.err
