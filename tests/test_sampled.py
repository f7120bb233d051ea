"""The report's tables of sampled texts: means over seeds, a course in order, and old records that lack some measures."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from harness.results import Results
from reports import contents, exact, markdown, sampled
from reports.figures import sample_quality
from reports.summary import best, chosen
from reports.together import sample_correlations
from tests.synthetic import EVALUATIONS, STEPS, TEMPERATURES, synthetic_results

RESULTS = synthetic_results(4)
LATER = ("entropy", "memorised", "self_nll")


def old(results: Results) -> Results:
    """As a record of before these measures gives it."""
    return replace(results, samples=results.samples.assign(**dict.fromkeys(LATER)))


def test_measures_are_means_over_seeds_by_rung_and_temperature() -> None:
    found = sampled.measures(RESULTS)
    assert list(found["temperature"]) == list(TEMPERATURES) * 4 and set(found["runs"]) == {3}
    keys = chosen(RESULTS).query("rung == '230k'")["key"]
    rows = RESULTS.samples[RESULTS.samples["key"].isin(keys) & (RESULTS.samples["at"] == "end") & (RESULTS.samples["temperature"] == 0.5)]
    assert len(rows) == 3
    one = found[(found["rung"] == "230k") & (found["temperature"] == 0.5)].iloc[0]
    assert one["entropy"] == pytest.approx(rows["entropy"].mean()) and one["known_words"] == pytest.approx(rows["known_words"].mean())


def test_the_course_is_the_best_rungs_in_order_with_its_validation_nll() -> None:
    top, own = sampled.course(RESULTS)
    expected = best(RESULTS)
    assert top is not None and expected is not None and top.name == expected.name and own["key"].nunique() == 1
    assert list(own["step"]) == [STEPS * i // EVALUATIONS for i in range(1, EVALUATIONS + 1)]
    evaluations = RESULTS.evaluations[RESULTS.evaluations["key"] == own["key"].iloc[0]].set_index("step")["val_nll"]
    assert list(own["val_nll"]) == list(evaluations.loc[own["step"]])
    picked = sampled.spread_out(own, 6)
    assert len(picked) == 6 and (picked["step"].iloc[0], picked["step"].iloc[-1]) == (own["step"].iloc[0], own["step"].iloc[-1])
    assert len(sampled.spread_out(own.iloc[:1], 6)) == 1


def test_the_effect_of_temperature_is_told_in_numbers_of_this_study() -> None:
    found = sampled.measures(RESULTS).assign(entropy=lambda t: t["temperature"], memorised=np.nan)
    said = sampled.effect(found)
    assert "between T = 0.01 and T = 1" in said and "entropy from 0.01 to 1.00 nats per token" in said and "memorised" not in said
    assert sampled.effect(found[found["temperature"] == 1]) == "" and sampled.effect(pd.DataFrame()) == ""


def test_the_texts_own_nll_stands_beside_that_of_real_texts() -> None:
    found = sampled.measures(RESULTS)
    top = best(RESULTS)
    assert top is not None and top.nll is not None
    own = found[(found["rung"] == top.name) & (found["temperature"] == 1)]["self_nll"].iloc[0]
    assert f"have a self-NLL of {own:.1f}; the NLL of the test texts is {top.nll.mean:.1f}." in sampled.calibration(RESULTS, found)
    assert sampled.calibration(RESULTS, found[found["temperature"] < 1]) == ""


def test_an_old_record_is_reported_without_the_measures_that_it_lacks() -> None:
    for results, there in ((RESULTS, True), (old(RESULTS), False)):
        text = markdown.render(contents.build(results, [], []))
        assert ("| Entropy |" in text, "| Self-NLL |" in text) == (there, there)
        assert "Known words, %" in text and "exp(z" in text
        measures = set(sample_correlations(results)["measure"])
        assert measures.issuperset(LATER) == there and {"known_words", "copied"} <= measures
        read = json.loads(exact.render(results))["samples"]
        assert len(read["measures"]) == 4 * len(TEMPERATURES) and len(read["course"]) == EVALUATIONS
        assert (read["measures"][0]["entropy"] is not None) == there and "texts" not in read["course"][0]


def with_cuts(results: Results) -> Results:
    """With two further sets at the end of each run, unlike any at a temperature."""
    plain = results.samples[(results.samples["at"] == "end") & (results.samples["temperature"] == 1)]
    cut = [plain.assign(top_k=5, entropy=0.123, texts=[["cut by rank"]] * len(plain)), plain.assign(top_p=0.9, entropy=0.456)]
    return replace(results, samples=pd.concat([*cut, results.samples], ignore_index=True))


def test_cuts_are_rows_of_their_own_by_name_and_stand_in_no_temperatures_numbers() -> None:
    results = with_cuts(RESULTS)
    found, before = sampled.measures(results), sampled.measures(RESULTS)
    assert not {"top_k", "top_p"} & set(before) and len(found) == len(before) + 2 * 4
    pd.testing.assert_frame_equal(sampled.uncut(found)[list(before)].reset_index(drop=True), before)
    table = sampled.measures_table(found)
    assert list(table["T"]) == [*(f"{t:g}" for t in TEMPERATURES), "top-k 5", "top-p 0.9"] * 4
    assert list(table["Entropy"][-2:]) == ["0.12", "0.46"]
    for tell in (sampled.effect, lambda rows: sampled.calibration(results, rows)):
        assert tell(found) == tell(before) != ""
    pd.testing.assert_frame_equal(sample_correlations(results), sample_correlations(RESULTS))
    pd.testing.assert_frame_equal(sample_quality.prepare(results), sample_quality.prepare(RESULTS))


def test_the_report_shows_the_texts_of_cuts_after_those_of_temperatures_and_says_how_they_were_drawn() -> None:
    text, plain = (markdown.render(contents.build(results, [], [])) for results in (with_cuts(RESULTS), RESULTS))
    assert "Holtzman" in text and "| top-k 5 |" in text and "cut by rank" in text and "none is cut off" not in text
    assert "Holtzman" not in plain and "none is cut off by rank" in plain and "top-k 5" not in plain
    for _, ends in sampled.ends_of(with_cuts(RESULTS)):
        assert [sampled.drawn_by(row) for _, row in ends.iterrows()] == [*(f"{t:g}" for t in TEMPERATURES), "top-k 5", "top-p 0.9"]
    rows = json.loads(exact.render(with_cuts(RESULTS)))["samples"]["measures"]
    assert [(row["top_k"], row["top_p"]) for row in rows[4:7]] == [(None, None), (5, None), (None, 0.9)]
    assert "top_k" not in json.loads(exact.render(RESULTS))["samples"]["measures"][0]


def test_a_study_without_samples_says_so() -> None:
    results = replace(RESULTS, samples=RESULTS.samples.iloc[:0])
    assert "No texts were sampled." in markdown.render(contents.build(results, [], []))
    assert json.loads(exact.render(results))["samples"] == {"measures": [], "course": []}
