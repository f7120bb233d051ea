"""The report: its tables follow the numbers, and the same results give the same bytes."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import StudyError
from harness.results import Results
from reports import contents, markdown, numbers, tables
from reports.blocks import Heading
from reports.document import figures, write
from reports.findings import findings
from reports.limits import limits
from reports.summary import best, rungs, runs_planned
from tests.rendered import html_of
from tests.synthetic import LADDER, change, synthetic_results


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Path]:
    results, folder = synthetic_results(4, padded=True), tmp_path_factory.mktemp("report")
    write(results, folder, ["md", "pdf"])
    return results, folder


def test_the_files_are_all_there(written: tuple[Results, Path]) -> None:
    results, folder = written
    assert (folder / "report.pdf").read_bytes().startswith(b"%PDF")
    text = (folder / "report.md").read_text()
    pictures = re.findall(r"\]\((figures/[^)]+)\)", text)
    assert all(len(alt) > 40 for alt in re.findall(r"!\[([^]]*)\]", text))
    # A study of one parametrization, without a grid of budgets or batch sizes to choose from, has nothing to draw of these, and all else.
    empty = {name for name, module in figures() if module.prepare(results).empty}
    assert empty == {"critical_batch", "parametrizations", "profiles", "surface", "token_budgets"}
    assert len(pictures) == 3 * (len(figures()) - len(empty))
    assert all((folder / path).stat().st_size > 100 for path in pictures)
    assert len(list((folder / "figures").iterdir())) == len(pictures)


def test_both_formats_mention_every_rung_and_every_section(written: tuple[Results, Path]) -> None:
    results, folder = written
    document = contents.build(results, [], [])
    shown_in = {"md": (folder / "report.md").read_text(), "pdf": html_of(document, folder)}
    for text in shown_in.values():
        for rung in rungs(results):
            assert rung.name in text
            assert f"{rung.n_params:,}" in text
        titles = [block.text for block in document.blocks if isinstance(block, Heading) and block.level == 1]
        assert len(titles) == 9 and all(title in text for title in titles)
        assert "needs 40 h (within: 15m)" in text
        assert "diverged" in text


def test_no_column_name_is_shown_to_people(written: tuple[Results, Path]) -> None:
    results, folder = written
    text = (folder / "report.md").read_text()
    text = re.sub(r"\]\(figures/[^)]+\)|`[^`]+`", "", text)
    # Samples and commands may hold anything; column names have an underscore or are one of these.
    columns = [name for name in [*results.runs.columns, *results.searches.columns, *results.samples.columns] if "_" in name]
    assert [name for name in columns if re.search(rf"\b{re.escape(name)}\b", text.replace("\\_", "_"))] == []


def test_the_same_results_give_the_same_bytes(written: tuple[Results, Path], tmp_path: Path) -> None:
    _, folder = written
    write(synthetic_results(4, padded=True), tmp_path, ["md", "pdf"])
    first = {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    again = {path.relative_to(tmp_path): path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    assert first.keys() == again.keys()
    assert [str(path) for path in first if first[path] != again[path]] == []


def test_without_times_only_what_the_plan_decides_is_shown(tmp_path: Path) -> None:
    results = synthetic_results(2)
    slower = change(results, results.runs["status"] == "completed", time_s=999.0)
    slower = replace(
        slower,
        invocations=results.invocations.assign(seconds=9e9, started="2030", host="elsewhere"),
        plan={**results.plan, "machine": "other", "created": "2031", "estimated_s": 5.0},
    )
    assert contents.build(results, [], [], times=True) != contents.build(slower, [], [], times=True)
    a, b = (markdown.render(contents.build(r, [], [], times=False)) for r in (results, slower))
    assert a == b


def test_an_unknown_format_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"pdff.*Did you mean pdf"):
        write(synthetic_results(2), tmp_path, ["pdff"])
    assert not list(tmp_path.iterdir())


def test_every_run_that_did_not_complete_is_in_the_ledger_with_its_reason() -> None:
    results = synthetic_results(4)
    table = tables.ended_table(results)
    runs = results.runs[(results.runs["stage"] != "search") & (results.runs["status"] != "completed")]
    assert sorted(table["Reason"]) == sorted(runs["reason"])
    waiting = results.runs["stage"] == "ladder"
    unfinished = replace(results, runs=results.runs.assign(status=results.runs["status"].mask(waiting), reason="not run yet"))
    assert {"not run", *runs["status"]} >= set(tables.ended_table(unfinished)["Outcome"]) >= {"not run"}
    trials = tables.trial_table(results)
    for status in ("completed", "pruned", "diverged", "failed"):
        counted = ((results.runs["stage"] == "search") & (results.runs["status"] == status)).sum()
        assert trials[status.capitalize()].astype(int).sum() == counted


def test_the_plan_counts_the_runs_of_kept_rungs_and_the_ablations_once() -> None:
    results = synthetic_results(4)
    done = int((results.runs["status"] != "skipped").sum())
    assert runs_planned(results) == done
    assert f"The study planned {done} runs" in markdown.render(contents.build(results, [], []))
    # The left-out rung has runs in the plan as well, but they are not counted.
    kept = [{**rung, "skipped": None} for rung in results.plan["rungs"]]
    assert runs_planned(replace(results, plan={**results.plan, "rungs": kept})) == done + 12 + 3 + 1
    table = tables.plan_table(results).set_index("Rung")["Runs ended"]
    assert table["230k"] == "16 of 16" and table["87k-assignment"] == "15 of 15" and table["557k-assignment"] == numbers.NOTHING
    assert table["230k, 1,000 texts"] == "3 of 3" and table["230k, 4,000 texts"] == "3 of 3"


def test_ablations_that_have_not_been_chosen_yet_are_still_planned() -> None:
    results = synthetic_results(4)
    before = replace(results, runs=results.runs[results.runs["stage"] != "ablation"])
    assert runs_planned(before) == runs_planned(results)
    assert tables.plan_table(before).set_index("Rung").loc["best rung, fewer texts", "Runs ended"] == "0 of 6"


def test_a_verdict_says_its_status_once(written: tuple[Results, Path]) -> None:
    text = (written[1] / "report.md").read_text()
    assert "- 87k-assignment: the optimum is flat: losses differ by less than their noise.\n" in text
    assert "- 20k: the optimum lies at the end of what was tried: best trial 0.03.\n" in text


def test_it_is_said_which_texts_are_scored() -> None:
    results = synthetic_results(2)
    assert "over the first 512 validation texts; test scores are over all test texts" in markdown.render(contents.build(results, [], []))
    whole = replace(results, data={**results.data, "eval_texts": 9_999})
    assert "over all validation texts" in markdown.render(contents.build(whole, [], []))


def test_runs_of_one_seed_on_several_budgets_have_names_of_their_own() -> None:
    names = tables.key_table(synthetic_results(2, budgets=(0.5, 0.25)))["Run"]
    assert names.is_unique and "20k, 616k tokens, seed 0, rate 4.9e-3" in set(names)


def test_the_rung_table_holds_the_means_of_completed_seeds_only() -> None:
    results = synthetic_results(4)
    spoiled = (results.runs["rung"] == "40k") & (results.runs["stage"] == "ladder") & (results.runs["seed"] == 2)
    table = tables.rung_table(change(results, spoiled, status="diverged", test_nll=1e9)).set_index("Rung")
    kept = results.runs[(results.runs["rung"] == "40k") & (results.runs["lr_source"] == "tuned") & (results.runs["seed"] < 2)]
    kept = kept[kept["stage"] == "ladder"]
    assert float(table.loc["40k", "Test NLL"].split(" ±")[0]) == pytest.approx(kept["test_nll"].mean(), abs=0.05)
    assert table.loc["40k", "Outcome"] == "2 seeds, 1 diverged"
    assert table.loc["557k-assignment", "Outcome"] == "skipped"
    assert table.loc["87k-assignment", "NLL at 1e-3"] == "(chosen)"
    assert table.loc["230k", "NLL at 1e-3"] == "diverged"
    assert list(table.index) == list(LADDER)[:5]
    assert {"Time", "Planned"} <= set(table.columns) and "Time" not in tables.rung_table(results, times=False)


def unsearched(results: Results) -> Results:
    """The same study without its search: all its runs at the rate that it gives."""
    runs = results.runs[(results.runs["stage"] != "search") & (results.runs["lr_source"] != "default")]
    given = {"lr": 1e-3, "lr_source": "default", "lr_status": None}
    study = results.study | {"search": results.study["search"] | {"trials": 0}}
    return replace(results, runs=runs.assign(**given), searches=results.searches.iloc[:0], study=study)


def test_a_study_without_a_search_has_all_but_what_a_search_gives(tmp_path: Path) -> None:
    searched = synthetic_results(4)
    results = unsearched(searched)
    table, usual = tables.rung_table(results), tables.rung_table(searched)
    assert list(table["Test NLL"]) == list(usual["Test NLL"]) and list(table["Outcome"]) == list(usual["Outcome"])
    assert list(table["Rate"][:4]) == ["1e-3"] * 4 and not {"Best rate", "NLL at 1e-3"} & set(table.columns)
    assert [finding.text for finding in findings(results) if finding.subject == "size"] == [
        finding.text for finding in findings(searched) if finding.subject == "size"
    ]
    first = limits(results)[0]
    assert first.rule == "search" and "trained at 1e-3" in first.text and "search" not in {limit.rule for limit in limits(searched)}
    write(results, tmp_path, ["md"])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "columns at the default rate" not in text and {"scaling.png", "curves.png"} <= {
        path.name for path in (tmp_path / "figures").iterdir()
    }


def test_the_published_table_needs_metrics_that_count_padding() -> None:
    assert tables.published_table(synthetic_results(4)).empty
    table = tables.published_table(synthetic_results(4, padded=True))
    assert list(table["Rung"]) == ["87k-assignment"] and list(table["NLL published"]) == ["98.32"]


def test_the_best_rung_is_chosen_on_validation_texts() -> None:
    results = synthetic_results(4)
    chosen = best(results)
    assert chosen is not None and chosen.name == "230k"
    ladder = (results.runs["stage"] == "ladder") & (results.runs["rung"] == "20k")
    other = best(change(results, ladder, val_nll=1.0, test_nll=1e6))
    assert other is not None and other.name == "20k"


def test_a_study_without_runs_still_has_a_report(tmp_path: Path) -> None:
    results = synthetic_results(2)
    none = {field: getattr(results, field).iloc[:0] for field in ("runs", "evaluations", "samples", "searches", "invocations")}
    write(replace(results, **none), tmp_path, ["md", "pdf"])
    text = (tmp_path / "report.md").read_text()
    assert "there is no answer" in text and "No learning rate was searched" in text
    assert not list((tmp_path / "figures").iterdir())


def test_the_published_table_is_there_even_where_no_run_was_evaluated_often_enough_for_a_correlation(tmp_path: Path) -> None:
    results = synthetic_results(4, padded=True)
    once = replace(results, runs=results.runs.assign(pearson_nll_top1=float("nan")), evaluations=results.evaluations.groupby("key").tail(1))
    write(once, tmp_path, ["md"])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "NLL published" in text and "evaluated often enough" in text


def test_other_searched_keys_are_named_with_their_values_and_importances() -> None:
    results = synthetic_results(2)
    lines = contents.searched_keys(results)
    assert lines == []
    values = [{"train.weight_decay": 0.12}, {"train.weight_decay": 0.034}]
    importances = [{"lr": 0.75, "train.weight_decay": 0.25}, {}]
    named = replace(results, searches=results.searches.assign(values=values, importances=importances))
    assert contents.searched_keys(named) == [
        "20k: the best trial has train.weight_decay 0.12. What made trials good or bad: lr 75 %, train.weight_decay 25 % (PED-ANOVA).",
        "40k: the best trial has train.weight_decay 0.034.",
    ]
