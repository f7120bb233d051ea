"""Two studies side by side: differences that were put in come out, and what can't be subtracted isn't."""

import io
import json
import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from harness.results import Results
from reports import compare_contents, compare_document, compare_figure, compare_words, markdown
from reports.compare import Comparison, compare, relation
from reports.numbers import MINUS
from reports.verify import verify_comparison
from tests.synthetic import HOSTILE, synthetic_results
from tests.test_contract_figures import picture, texts

A = synthetic_results(4)


def other(results: Results, facts: Mapping[str, Any] | None = None, **asked: Any) -> Results:
    """The same study under another name, with keys of its own, other facts of its data and other things asked of it."""
    study = {**results.study, "study": "second"} | {
        key: {**results.study[key], **value} if isinstance(value, dict) else value for key, value in asked.items()
    }
    runs = results.runs.assign(key=results.runs["key"].map(lambda key: f"{key}b" if key else key))
    return replace(results, study=study, data={**results.data, **(facts or {})}, runs=runs)


def moved(results: Results, rung: str, column: str, by: float) -> Results:
    return replace(results, runs=results.runs.assign(**{column: results.runs[column] + by * (results.runs["rung"] == rung)}))


def chosen(results: Results, rung: str, column: str) -> np.ndarray:
    runs = results.runs[(results.runs["rung"] == rung) & (results.runs["stage"] == "ladder") & (results.runs["lr_source"] == "tuned")]
    return runs[column].to_numpy(float)


B = moved(other(synthetic_results(4, seed=1), train={"schedule": "cosine"}, seeds=5), "40k", "test_nll", 5.0)
FOUND = compare(A, B)


def shown(found: Comparison) -> str:
    return markdown.render(compare_contents.build(found, None))


def test_differences_are_those_of_welch_s_test() -> None:
    assert [pair.name for pair in FOUND.pairs] == ["20k", "40k", "87k-assignment", "230k"]
    for pair in FOUND.pairs:
        for column in ("test_nll", "test_top1"):
            theirs = stats.ttest_ind(chosen(B, pair.name, column), chosen(A, pair.name, column), equal_var=False)
            change = pair.metrics[column].change
            assert change is not None
            assert (change.low, change.high) == pytest.approx(tuple(theirs.confidence_interval()), rel=1e-9)


def test_what_was_moved_is_told_apart_and_said() -> None:
    told = {pair.name for pair in FOUND.pairs if pair.metrics["test_nll"].separate}
    assert "40k" in told
    text = " ".join(compare_words.answer(FOUND))
    assert "higher in B at 40k (+4" in text and "train.schedule" in shown(FOUND)
    back = " ".join(compare_words.answer(compare(B, A)))
    assert f"lower in B at 40k ({MINUS}4" in back


def test_studies_that_are_equal_differ_in_nothing() -> None:
    found = compare(A, other(A))
    assert found.keys == () and found.made == () and found.relation == "same"
    assert not any(values.separate for pair in found.pairs for values in pair.metrics.values())
    assert found.exponents and {values.why for values in found.exponents.values()} == {"the same in both"}
    assert all(values.change is None for pair in found.pairs for values in [pair.rate])
    assert "differ in nothing but the name" in shown(found)


def test_the_same_runs_have_no_difference_to_speak_of() -> None:
    study = {**A.study, "study": "second"}
    same = compare(A, replace(A, study=study))
    assert {pair.metrics["test_nll"].why for pair in same.pairs} == {"the same runs"}
    assert "of the very same runs at 20k, 40k" in " ".join(compare_words.answer(same))
    one_new = B.runs.assign(key=B.runs["key"].where(B.runs["seed"] != 0, A.runs["key"]))
    partly = compare(A, replace(B, runs=one_new)).pairs[0].metrics["test_nll"]
    assert partly.why == "some runs are the same" and partly.change is not None and math.isnan(partly.change.low) and not partly.separate


def test_other_texts_are_said_and_not_subtracted() -> None:
    found = compare(A, other(B, {"fingerprint": "00", "revision": "2"}, data={"path": "other.csv"}))
    assert found.relation == "other" and found.metrics == ()
    assert all(values.change is None for pair in found.pairs for values in pair.metrics.values())
    alphas = [values for name, values in found.exponents.items() if name.startswith("alpha")]
    assert alphas and all(values.change is None and values.a and values.b for values in alphas)
    text = shown(found)
    assert "No test result is subtracted: the test texts are not the same (differing: data.path)" in text
    assert "| A: 20k |" in text and "| B: 20k |" in text
    assert set(compare_figure.prepare(found)["panel"]) == {"lr"}


def test_other_tokens_of_the_same_texts_leave_bits_per_character() -> None:
    found = compare(A, other(B, {"fingerprint": "00"}, data={"seq_len": 200}))
    assert found.relation == "texts" and [metric.column for metric in found.metrics] == ["test_bits_per_char"]
    assert all(pair.metrics["test_nll"].change is None for pair in found.pairs)
    change = found.pairs[0].metrics["test_bits_per_char"].change
    assert change is not None and change.low < change.mean < change.high
    assert "the tokens are not (data.seq\\_len)" in shown(found)


@pytest.mark.parametrize(
    ("data", "asked"),
    [
        ({"revision": "2"}, {"seq_len": 200}),
        ({"n_test": 3_000}, {"seq_len": 200}),
        ({}, {"seq_len": 200, "texts": 16_000}),
        ({"counts": {"cut": 3}}, {"seq_len": 200}),
        ({}, {}),
    ],
)
def test_texts_count_as_the_same_only_where_all_says_so(data: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    kind, reason = relation(A, other(A, {"fingerprint": "00", **data}, data=dict(asked)))
    assert kind == "other" and reason


def test_one_seed_has_a_difference_and_no_verdict() -> None:
    found = compare(A, other(synthetic_results(4, seed=1, seeds=1)))
    values = found.pairs[0].metrics["test_nll"]
    assert values.why == "one seed" and values.change is not None and math.isnan(values.change.low) and not values.separate
    assert "on single seeds, so without an interval, at 20k" in " ".join(compare_words.answer(found))


def test_sizes_of_one_study_alone_and_other_budgets_are_named() -> None:
    more = replace(B, runs=B.runs.assign(train_tokens=B.runs["train_tokens"] * (1 + (B.runs["rung"] == "20k"))))
    found = compare(synthetic_results(2), more)
    assert found.only_b == ("87k-assignment", "230k") and found.only_a == ()
    text = shown(found)
    assert "87k-assignment and 230k: completed runs only in B" in text
    assert "20k was trained on 1.23M tokens in A and 2.46M in B" in text and "40k was trained" not in text
    apart = compare(replace(A, runs=A.runs.iloc[:0]), B)
    assert apart.pairs == () and "no size of which both studies have completed runs" in shown(apart)


def test_a_rate_that_was_moved_is_told_apart_by_its_ratio() -> None:
    scaled = {name: B.searches[name] * (4.0 * (B.searches["rung"] == "230k") + (B.searches["rung"] != "230k"))
              for name in ("lr", "fitted_lr", "fitted_low", "fitted_high")}  # fmt: skip
    found = compare(A, replace(B, searches=B.searches.assign(**scaled)))
    rates = {pair.name: pair.rate for pair in found.pairs}
    moved_rate = rates["230k"].change
    assert moved_rate is not None and math.exp(moved_rate.mean) == pytest.approx(4) and rates["230k"].separate
    # Each side is 1.4 times below and 1.5 times above its fitted rate.
    assert math.exp(moved_rate.low) == pytest.approx(4 / math.exp(math.hypot(math.log(1.4), math.log(1.5))))
    assert not rates["40k"].separate and rates["20k"].change is None
    assert "Best learning rate: that of B is 4.00 [" in " ".join(compare_words.answer(found))


def test_the_documents_repeat_to_the_byte_and_are_verified(tmp_path: Path) -> None:
    folder = tmp_path / "first" / "compared-with-second"
    files = compare_document.write(A, B, folder)
    assert {path.name for path in files} >= {"report.md", "report.pdf", "report.html", "numbers.json", "studies.csv"}
    assert verify_comparison(A, B, folder).mismatches == ()
    exact = json.loads((folder / "numbers.json").read_text())
    change = FOUND.pairs[0].metrics["test_nll"].change
    assert change is not None and exact["sizes"][0]["test_nll"]["difference"]["low"] == change.low
    page = folder / "report.html"
    page.write_text(page.read_text().replace("B is higher", "B is lower", 1))
    [said] = verify_comparison(A, B, folder).mismatches
    assert said.startswith("report.html, line ")
    changed = verify_comparison(A, moved(B, "20k", "test_nll", 0.5), folder).mismatches
    assert {"report.md", "report.pdf", "numbers.json", "figures/studies.svg"} <= {re.split("[,:]", one)[0] for one in changed}
    shutil.rmtree(folder / "figures")
    assert "figures/studies.csv is missing" in verify_comparison(A, B, folder).mismatches


STUDIES = {
    "the same data": FOUND,
    "other texts": compare(A, other(B, {"fingerprint": "00", "revision": "2"})),
    "other tokens": compare(A, other(B, {"fingerprint": "00"}, data={"seq_len": 200})),
    "one size": compare(synthetic_results(1), other(synthetic_results(1, seed=1))),
}


@pytest.mark.parametrize("name", STUDIES)
def test_the_figure_cuts_nothing_and_needs_its_csv_alone(name: str) -> None:
    frame = compare_figure.prepare(STUDIES[name])
    figure = compare_figure.draw(frame)
    found = texts(figure)
    for i, (text, box) in enumerate(found):
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1, text
        # The minus of a difference aside, an underscore would be a column's name.
        assert "_" not in text
        overlaps = [b for b, other_box in found[:i] if box.overlaps(other_box) and box.x1 - other_box.x0 > 1 and other_box.x1 - box.x0 > 1]
        assert not [b for b in overlaps if b != text], (text, overlaps)
    again = pd.read_csv(io.StringIO(frame.to_csv(index=False)))
    assert picture(figure) == picture(compare_figure.draw(again))
    assert compare_figure.caption(frame).endswith(".")


def test_hostile_text_of_a_study_stays_text() -> None:
    hostile = other(B, {"source": HOSTILE[2]}, train={"schedule": HOSTILE[2]})
    text = shown(compare(A, replace(hostile, study={**hostile.study, "question": HOSTILE[2]})))
    assert "<script>" not in text.replace("\\<script", "")
