"""What the report claims and the limits that it states follow the numbers."""

import re
from dataclasses import replace

import numpy as np

from harness.analysis.learning_rate_ladder import LadderLaw
from harness.analysis.learning_rate_law import Law
from harness.results import Results
from reports import batch_sizes, contents, tables
from reports.findings import Finding, findings
from reports.limits import limits
from reports.numbers import short
from reports.rates import law_in_words
from reports.summary import rungs
from tests.synthetic import change, synthetic_results


def said(results: Results, subject: str) -> Finding:
    return next(finding for finding in findings(results) if finding.subject == subject)


def rules(results: Results) -> set[str]:
    return {limit.rule for limit in limits(results)}


def test_size_is_claimed_only_where_intervals_separate() -> None:
    results = synthetic_results(4)
    assert said(results, "size").supported and "falls with size" in said(results, "size").text
    noise = results.runs["seed"].map({0: -9.0, 1: 0.0, 2: 9.0}).fillna(0) * (results.runs["stage"] == "ladder")
    noisy = replace(results, runs=results.runs.assign(test_nll=results.runs["test_nll"] + noise))
    assert not said(noisy, "size").supported and "can't be told apart" in said(noisy, "size").text
    flipped = replace(results, runs=results.runs.assign(test_nll=200 - results.runs["test_nll"]))
    assert "rises with size" in said(flipped, "size").text


def test_a_step_of_the_ladder_that_is_not_told_apart_is_named() -> None:
    results = synthetic_results(4)
    assert "Every step of the ladder separates" in said(results, "size").text
    ladder = results.runs["stage"] == "ladder"
    lower = results.runs[ladder & (results.runs["rung"] == "20k")]["test_nll"].iloc[:3].to_numpy()
    same = change(results, ladder & (results.runs["rung"] == "40k") & (results.runs["lr_source"] == "tuned"), test_nll=lower + 0.01)
    assert "Not told apart: 20k and 40k" in said(same, "size").text
    assert "not at 40k" in said(same, "size").text


def test_one_seed_carries_no_claim() -> None:
    results = synthetic_results(4, seeds=1)
    assert not said(results, "size").supported
    assert "one seed" in said(results, "size").text
    assert "seeds" in rules(results) and "seeds" not in rules(synthetic_results(4))
    assert "±" not in " ".join(tables.rung_table(results)["Test NLL"])


def test_the_cost_of_the_default_rate_follows_the_numbers() -> None:
    results = synthetic_results(4)
    text = said(results, "default rate").text
    assert "diverged at 230k" in text and "at 20k" in text
    default = (results.runs["lr_source"] == "default") & (results.runs["rung"] == "20k")
    tuned = rungs(results)[0].nll
    assert tuned is not None
    moved = {cost: said(change(results, default, test_nll=tuned.mean + cost), "default rate").text for cost in (0.0, 12.0, -3.0)}
    assert "no difference beyond the spread" in moved[0.0]
    assert "higher than at the chosen rate by 12.0 nats per text at 20k" in moved[12.0]
    assert "lower than at the chosen rate by 3.0 nats per text at 20k" in moved[-3.0]


def test_a_trend_of_the_best_rate_needs_two_separate_resolved_optima() -> None:
    results = synthetic_results(8)
    assert "falls with size" in said(results, "best rate").text
    # The censored rungs do not count, whatever their rates are.
    assert "20k" not in said(results, "best rate").text.split("from")[1].split("to")[0].split("at")[1]
    rising = results.searches.assign(lr=1 / results.searches["lr"], fitted_low=1 / results.searches["fitted_high"])
    rising = rising.assign(fitted_high=1 / results.searches["fitted_low"])
    assert "rises with size" in said(replace(results, searches=rising), "best rate").text
    wide = results.searches.assign(fitted_low=1e-6, fitted_high=1.0)
    assert not said(replace(results, searches=wide), "best rate").supported
    edge = results.searches.assign(lr_status="edge")
    assert "no search resolved" in said(replace(results, searches=edge), "best rate").text


def test_beating_the_floor_is_the_first_thing_said() -> None:
    results = synthetic_results(4)
    assert findings(results)[0].subject == "size"
    leaking = change(results, results.runs["rung"] == "230k", floor_gap=-2.0)
    assert findings(leaking)[0].subject == "leak"
    within_error = change(results, results.runs["rung"] == "230k", floor_gap=-0.2)
    assert findings(within_error)[0].subject != "leak"


def test_a_stuck_run_is_named() -> None:
    results = synthetic_results(4)
    assert "stuck" not in {f.subject for f in findings(results)}
    one = (results.runs["rung"] == "40k") & (results.runs["stage"] == "ladder") & (results.runs["seed"] == 1)
    assert "40k" in said(change(results, one, val_loss=3.0), "stuck").text


def test_limits_appear_and_go_with_their_cause() -> None:
    results = synthetic_results(4)
    assert {"edge", "unresolved", "skipped", "cut", "budget", "families", "one data set", "floor", "default rate"} <= rules(results)
    resolved = replace(results, searches=results.searches.assign(lr_status="resolved"))
    assert not {"edge", "unresolved"} & rules(resolved)
    assert "cut" not in rules(replace(results, plan={**results.plan, "cut": 0}))
    assert "sizes" in rules(synthetic_results(2)) and "sizes" not in rules(results)
    early = replace(results, runs=results.runs.assign(best_step=results.runs["steps"] // 2))
    assert "budget" not in rules(early)


def test_a_longer_training_is_asked_for_once() -> None:
    results = synthetic_results(4)
    wanted = [limit.remedy for limit in limits(results)]
    assert "the full token budget (16 times as long)" in wanted and "longer training" not in wanted
    uncut = replace(results, plan={**results.plan, "cut": 0})
    assert "longer training" in [limit.remedy for limit in limits(uncut)]


def test_each_parametrization_is_followed_by_itself_and_rates_come_first() -> None:
    results = synthetic_results(4)
    plan = results.plan | {
        "rungs": [r | {"mup_base": {"d_model": 8}} if r["rung"] in ("40k", "230k") else r for r in results.plan["rungs"]]
    }
    kinds = results.searches["rung"].map({"40k": "mup", "230k": "mup"}).fillna("standard")
    both = replace(results, plan=plan, searches=results.searches.assign(parametrization=kinds))
    found = [finding for finding in findings(both) if finding.subject in ("size", "best rate")]
    assert [finding.subject for finding in found] == ["best rate", "best rate", "size", "size"]
    standard, mup = found[2:]
    assert "Test NLL of the standard parametrization falls with size" in standard.text
    assert " at 20k to " in standard.text and standard.text.index("87k-assignment") and "40k" not in standard.text
    assert "Test NLL under muP falls with size" in mup.text and " at 40k to " in mup.text and " at 230k" in mup.text
    assert "of the standard parametrization" in found[0].text and "under muP" in found[1].text and " at 40k" in found[1].text
    assert "of 2 sizes in two parametrizations" in contents.build(both, [], []).subtitle


def test_the_law_of_the_best_rate_is_said_with_its_interval_and_its_check() -> None:
    text = said(synthetic_results(8), "best rate").text
    p, low, high = (float(x) for x in re.findall(r"p = (\S+) \[(\S+), ([^]]+)\]", text)[0])
    # The synthetic optima fall with a known power of the size.
    sizes = synthetic_results(8).searches.dropna(subset=["fitted_lr"])
    true = -np.polyfit(np.log(sizes["n_params"]), np.log(sizes["lr"]), 1)[0]
    assert low < p < high and abs(p - true) < 0.15 and "The smaller rungs alone predict" in text
    assert "p = " not in said(synthetic_results(2), "best rate").text
    law = LadderLaw(Law("fitted", "", 1.0, 0.5, 0.4, 0.6, 3, 0.0, 0.95, None), {}, "measured")
    assert "through 3 rungs has" in law_in_words(law, 3) and "through the 3 of them whose optimum is resolved" in law_in_words(law, 4)


def test_a_study_of_batch_sizes_answers_with_the_critical_one() -> None:
    results = synthetic_results(8, batches=(16, 64, 256))
    first = findings(results)[0]
    assert first.subject == "critical batch" and first.supported and first.text.startswith("Critical batch")
    hardest = {rung: law for rung, law in batch_sizes.laws(batch_sizes.reached(results)) if law.status == "resolved"}
    assert len(hardest) >= 6
    for rung, law in hardest.items():
        assert f"{rung}, to {law.loss:.3f} nats a token: {short(law.batch)} tokens ({short(law.low)} to {short(law.high)})" in first.text
    assert "critical batch" not in {finding.subject for finding in findings(synthetic_results(8))}
