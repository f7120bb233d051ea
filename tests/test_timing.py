"""Planned against taken, as the report says it: at what, how far it could be trusted, and what prices were worth at equal work."""

from dataclasses import replace

import pytest

from harness.calibration import trust
from harness.results import Results
from reports import timing
from tests.synthetic import synthetic_results


@pytest.fixture(scope="module")
def results() -> Results:
    return synthetic_results(2)


def test_without_finished_runs_an_estimate_rests_on_a_few_steps(results: Results) -> None:
    assert timing.sentences(results) == " It was estimated at 14:10 by a few steps of every size and took 14:38 in 2 starts."


def test_an_estimate_has_the_spread_of_the_runs_behind_it(results: Results) -> None:
    told = replace(results, plan={**results.plan, "calibrated_runs": 41, "spread": 0.152})
    assert "estimated at 14:10 ± 15 % by 41 runs that had ended on this machine and took" in timing.sentences(told)
    far = replace(results, plan={**results.plan, "calibrated_runs": 41, "spread": 6.21})
    assert ", within a factor of 7.2, by 41 runs that had ended" in timing.sentences(far)
    few = replace(results, plan={**results.plan, "calibrated_runs": 1, "spread": None})
    assert "estimated at 14:10 by 1 run that had ended on this machine" in timing.sentences(few)


def test_prices_are_judged_by_the_work_that_was_done(results: Results) -> None:
    runs = results.runs.copy()
    runs["planned_s"] = runs["time_s"] / 1.25
    took = runs["time_s"].sum()
    said = timing.at_equal_work(replace(results, runs=runs))
    assert "a run took 1.25 times its price, half of them 1.25 to 1.25." in said
    assert f"priced at {timing.duration(took / 1.25)} and took {timing.duration(took)}" in said
    assert timing.at_equal_work(results) == ""


def test_captures_are_shown_where_there_were_some(results: Results) -> None:
    runs = results.runs.copy()
    runs["capturing_s"] = 0.0
    assert "captur" not in timing.sentences(results) + timing.sentences(replace(results, runs=runs))
    runs.loc[runs.index[:2], "capturing_s"] = (61.0, 14.0)
    said = " It was estimated at 14:10 by a few steps of every size and took 14:38 in 2 starts. Of its runs' time 1:15 went into capturing "
    assert timing.sentences(replace(results, runs=runs)) == said + "kernels as graphs."


def test_trust_in_words() -> None:
    assert trust(0, None) == "by a few steps of every rung (no run has ended here yet)"
    assert trust(1, None) == "(calibrated here, 1 run)"
    assert trust(41, 0.149) == "+-15 % (calibrated here, 41 runs)"
    assert trust(41, 1.5) == "within a factor of 2.5 (calibrated here, 41 runs)"
