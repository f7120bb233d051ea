"""The report on grids: profiles at equal compute, the worth of repeated data, and a held-out rung that was named beforehand or not."""

import json
from dataclasses import replace

import numpy as np
import pytest

from harness.analysis.isoflop import grid_bias
from harness.held_out import Lock
from harness.results import Results
from reports import contents, exact, markdown
from reports.fits import EQUAL_COMPUTE, Fits, fits
from reports.fits_section import held_out_sentence
from reports.limits import limits
from tests.grids import FLOPS, REPETITION, SURFACE, TOO_LITTLE, best_size, equal_compute, repeating
from tests.synthetic import LADDER, synthetic_results

ISOFLOP = equal_compute()
REPEATING = repeating((0.1, 0.25, 0.6, 1.0, 4.0, 12.0, 30.0))
EIGHT = synthetic_results(8)
ONE_FAMILY = replace(EIGHT, runs=EIGHT.runs.assign(family="solved"))


def text_of(results: Results) -> str:
    return markdown.render(contents.build(results, [], [])).replace("\\", "")


def part(text: str, heading: str) -> str:
    return text.split(f"### {heading}\n")[1].split("\n##")[0]


def rules(results: Results) -> set[str]:
    return {limit.rule for limit in limits(results)}


def with_choice(results: Results, rung: str, lock: Lock) -> Results:
    return replace(results, study={**results.study, "analysis": {"held_out": rung}}, lock=lock)


def exponents(found: Fits) -> dict[str, float]:
    """b of D* ~ C^b as each method should find it: Akima's the true one, the parabola's moved by its bias on these grids."""
    resolved = [profile.flops for profile in found.profiles["parabola"].profiles if profile.status == "resolved"]
    bias = grid_bias(found.runs, SURFACE)
    own = bias[bias["flops"].isin(resolved)]
    shift = np.polyfit(np.log(own["flops"]), np.log1p(own["bias"]), 1)[0]
    return {"akima": 0.34 / 0.62, "parabola": 0.34 / 0.62 + shift}


def test_profiles_by_both_methods_recover_the_exponents_that_the_losses_were_made_from() -> None:
    found = fits(ISOFLOP)
    assert set(found.profiles) == {"parabola", "akima"}
    for method, scaling in found.profiles.items():
        assert scaling.status == "fitted" and [p.status for p in scaling.profiles] == ["resolved"] * 3
        assert scaling.b.low < exponents(found)[method] < scaling.b.high
        for profile, flops in zip(scaling.profiles, FLOPS, strict=True):
            assert profile.n_params == pytest.approx(best_size(flops), rel=0.5)
    said = part(text_of(ISOFLOP), "Profiles at equal compute")
    assert "By parabola: N* grows as C^a" in said and "By akima: N* grows as C^a" in said and "fitted apart, their sum is" in said


def test_the_bias_of_a_parabola_on_the_studys_own_grid_is_shown() -> None:
    found = fits(ISOFLOP)
    truth = grid_bias(found.runs, SURFACE)["bias"].to_numpy()
    assert found.bias["bias"].to_numpy() == pytest.approx(truth, abs=0.05) and (np.abs(truth) > 0.02).any()
    said = part(text_of(ISOFLOP), "Profiles at equal compute")
    rows = [line.split("|") for line in said.splitlines() if line.startswith("| parabola")]
    assert [row[7].strip().replace("\N{MINUS SIGN}", "-") for row in rows] == [f"{100 * bias:.1f}" for bias in found.bias["bias"]]
    shift = np.polyfit(np.log(found.bias["flops"]), np.log1p(found.bias["bias"]), 1)[0]
    assert f"moves b by {shift:.3f}".replace("-", "\N{MINUS SIGN}") in said


def test_an_optimum_below_the_smallest_size_enters_no_law_and_is_named() -> None:
    found = fits(equal_compute((TOO_LITTLE, *FLOPS)))
    for method, scaling in found.profiles.items():
        assert [p.status for p in scaling.profiles] == ["edge"] + ["resolved"] * 3
        assert scaling.b.low < exponents(found)[method] < scaling.b.high
    said = part(text_of(equal_compute((TOO_LITTLE, *FLOPS))), "Profiles at equal compute")
    assert said.count("edge: the best run is at the smallest size") == 2


def test_at_equal_compute_there_is_no_law_in_size_alone_and_the_surface_predicts_the_held_out_rung() -> None:
    found = fits(ISOFLOP)
    assert found.refused == EQUAL_COMPUTE and found.laws.empty and found.cells.empty
    assert found.held is not None and found.held.status == "inside" and found.surface is not None
    assert found.held.n_params == max(found.runs["n_params"]) and found.held.fitted_sizes == 7
    for name, truth in (("alpha", 0.34), ("beta", 0.28)):
        assert found.surface.log_huber.constants[name].low < truth < found.surface.log_huber.constants[name].high
    text = text_of(ISOFLOP)
    assert "No law in size alone is fitted" in text and "The law of parameters and tokens has E" in text


def test_what_a_repeated_token_is_worth_is_fitted_beside_runs_that_saw_their_texts_once() -> None:
    found = fits(REPEATING)
    assert "a one-epoch law does not hold" in found.refused and found.surface is None and found.laws.empty
    again = found.repeats
    assert again is not None and again.base is not None and again.fitted is not None
    assert again.most == 30 and again.repeating == 3 * 8 * 2
    assert again.fitted.r_d.low < REPETITION.r_d < again.fitted.r_d.high
    said = part(text_of(REPEATING), "Repeated data")
    row = next(line for line in said.splitlines() if line.startswith("| R_D"))
    assert again.fitted.status in row and again.fitted.status in ("converged", "not converged", "at a bound")
    read = json.loads(exact.render(REPEATING))["fits"]["repeats"]
    assert read["fitted"]["r_d"]["value"] == again.fitted.r_d.value and len(read["keys"]) == len(again.runs)


def test_without_runs_that_saw_their_texts_once_the_worth_of_a_repeat_is_refused_with_what_to_add() -> None:
    results = repeating((2.0, 4.0, 8.0))
    again = fits(results).repeats
    assert again is not None and again.fitted is None and "without repeats" in again.why
    said = part(text_of(results), "Repeated data")
    assert "not known" in said and "To add: token budgets below one epoch" in said
    assert fits(EIGHT).repeats is None and "### Repeated data" not in text_of(EIGHT)


def test_the_study_names_the_rung_that_is_held_out() -> None:
    results = with_choice(ONE_FAMILY, "2M", Lock("2M", "2M"))
    found, said = fits(results), held_out_sentence(results)
    assert found.held is not None and found.held.fitted_sizes == 5 and found.held.n_params == LADDER["2M"]
    assert "2M;" in said and "The plan named it before it was trained." in said and "unlocked" not in rules(results)
    box = text_of(results).split("## 2 ")[0]
    assert box.index("Held out: the law of the") < box.index("Answer")
    none = with_choice(ONE_FAMILY, "none", Lock())
    assert fits(none).held is None and held_out_sentence(none) == "" and "analysis.held_out: none" in text_of(none)


@pytest.mark.parametrize("then,named", [("10M-assignment", "10M-assignment"), ("", "none")])
def test_a_held_out_rung_that_was_named_after_its_training_is_said_to_be_no_prediction(then: str, named: str) -> None:
    results = with_choice(ONE_FAMILY, "2M", Lock("2M", then))
    assert f"the plan named {named}" in held_out_sentence(results) and "no prediction made beforehand" in held_out_sentence(results)
    assert "unlocked" in rules(results)
    assert json.loads(exact.render(results))["fits"]["lock"] == {"rung": "2M", "then": then}


def test_the_fitted_limit_is_set_against_the_known_one() -> None:
    results = equal_compute()
    found = fits(results)
    assert found.surface is not None
    bounds = {"log-Huber": found.surface.log_huber.constants["E"], "VPNLS": found.surface.vpnls.constants["E"]}
    outside = [name for name, E in bounds.items() if not E.low <= found.floor <= E.high]
    (said,) = [line for line in text_of(results).splitlines() if "best possible loss on these texts is known" in line]
    assert ("inside of E's interval by both" in said) == (not outside) and all(name in said for name in outside)
    far = text_of(replace(results, data=results.data | {"floor": results.data["floor"] | {"loss": 0.3}}))
    assert "0.30" in far and "outside of E's interval by log-Huber and VPNLS" in far
