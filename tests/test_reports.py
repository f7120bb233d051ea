"""The report: what it says follows the numbers, hostile text stays text, and the same results give the same bytes."""

import html
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typst
from markdown_it import MarkdownIt

from harness.analysis.intervals import Interval
from harness.errors import StudyError
from harness.results import Results
from reports import contents, markdown, numbers, pdf, tables
from reports.blocks import Box, Bullets, Code, Document, Heading, Paragraph, Picture, Samples, Strong, Table, Verbatim, bullets
from reports.document import figures, write
from reports.findings import Finding, findings
from reports.limits import limits
from reports.summary import best, rungs, runs_planned
from tests.synthetic import HOSTILE, LADDER, synthetic_results

RUNNABLE = [
    *HOSTILE,
    '#panic("ran") #eval("1+1") $x$ `#panic()` = Heading \\ #',
    "a|b || c \\| d `e|f`",
    "  indented\ttab and\nnewline \x1b[31m \u202eback",
    "1. one 2) two +1 -1 =1",
    "https://evil.example www.evil.example me@evil.example :rocket:",
    "</td></table><script>alert(1)</script> <!-- -->",
    "word" * 60,
    "",
]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Path]:
    results, folder = synthetic_results(4, padded=True), tmp_path_factory.mktemp("report")
    write(results, folder, ["md", "pdf"])
    return results, folder


def change(results: Results, rows: pd.Series, **cells: object) -> Results:
    """The same results with some cells of some runs replaced."""
    runs = results.runs.copy()
    for column, value in cells.items():
        runs.loc[rows, column] = value
    return replace(results, runs=runs)


def said(results: Results, subject: str) -> Finding:
    return next(finding for finding in findings(results) if finding.subject == subject)


def rules(results: Results) -> set[str]:
    return {limit.rule for limit in limits(results)}


def hostile_document() -> Document:
    """Every kind of block, filled with text that would act if it were read as markup."""
    frame = pd.DataFrame({"Name | *x*": RUNNABLE, "#panic()": RUNNABLE[::-1]})
    blocks = [Heading(text, level) for text in RUNNABLE for level in (1, 2)]
    runs = tuple((text, Strong(text), Code(text)) for text in RUNNABLE)
    return Document(
        RUNNABLE[0],
        RUNNABLE[1],
        (
            *blocks,
            *(Paragraph((text,)) for text in RUNNABLE),
            Bullets(runs),
            bullets(RUNNABLE),
            Table(frame, RUNNABLE[2], left=("#panic()",)),
            Box((*((text, (text,)) for text in RUNNABLE), ("many", tuple(RUNNABLE)))),
            Samples("T", tuple((text, tuple(RUNNABLE)) for text in RUNNABLE)),
            Verbatim("\n".join(RUNNABLE)),
        ),
    )


def tokens_of(source: str) -> list[tuple[str, str]]:
    """(kind, text) of all that a Markdown reader with tables, strikethrough and automatic links would make of it."""
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    found = []
    for token in reader.parse(source):
        found += [(child.type, child.content) for child in token.children or [token]]
    return found


def html_of(document: Document, folder: Path) -> str:
    """What the template shows, as HTML from the same compiler: a PDF's text can't be read without another library."""
    page = typst.compile(
        pdf.TEMPLATE.read_bytes(), root=str(folder), sys_inputs={"document": json.dumps(pdf.data(document))}, format="html",
        ignore_system_fonts=True,
    )  # fmt: skip
    assert isinstance(page, bytes)
    return html.unescape(page.decode()).replace("\u200b", "")


def test_the_files_are_all_there(written: tuple[Results, Path]) -> None:
    results, folder = written
    assert (folder / "report.pdf").read_bytes().startswith(b"%PDF")
    text = (folder / "report.md").read_text()
    pictures = re.findall(r"\]\((figures/[^)]+)\)", text)
    assert all(len(alt) > 40 for alt in re.findall(r"!\[([^]]*)\]", text))
    # A study of one parametrization, without a grid of budgets or batch sizes to choose from, has nothing to draw of these, and all else.
    empty = {name for name, module in figures() if module.prepare(results).empty}
    assert empty == {"critical_batch", "parametrizations", "token_budgets"}
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


def test_hostile_text_stays_text_in_markdown() -> None:
    source = markdown.render(hostile_document())
    found = tokens_of(source)
    kinds = {kind for kind, _ in found}
    assert "image" not in kinds and "link_open" not in kinds and "s_open" not in kinds
    marked = {content for kind, content in found if kind in ("html_inline", "html_block")}
    assert marked == {"<br>"}
    # Nothing of GitHub's own: automatic links, mentions of people, emoji, formulas.
    outside_code = re.sub(r"(`+).*?\1", "", re.sub(r"(?s)^(`{3,}).*?^\1$", "", source, flags=re.M))
    assert not re.search(r"(?<!\\)(@\w|\$|:\w+:)|\w://|www\.", outside_code)


@pytest.mark.parametrize("text", [text for text in RUNNABLE if text.isprintable() and text])
@pytest.mark.parametrize("form", ["{}", "- {}", "# {}", "> {}", "**{}**"])
def test_escaped_text_reads_back_as_itself(text: str, form: str) -> None:
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    [inline] = [token for token in reader.parse(form.format(markdown.escape(text))) if token.type == "inline"]
    assert {child.type for child in inline.children or []} <= {"text", "text_special", "strong_open", "strong_close"}
    assert "".join(child.content for child in inline.children or []) == text.strip()


@pytest.mark.parametrize("text", [text for text in RUNNABLE if text.isprintable() and text])
def test_a_cell_of_a_table_reads_back_as_itself(text: str) -> None:
    source = markdown.block(Table(pd.DataFrame({"a": [text], "b": ["x"]}), "caption"))
    cells = [token for token in MarkdownIt("commonmark").enable("table").parse(source) if token.type == "inline"]
    assert [cell.content for cell in cells[:2]] == ["a", "b"]
    assert "".join(child.content for child in cells[2].children or []) == text.strip()
    assert cells[3].content == "x"


def test_hostile_text_stays_text_in_the_pdf(tmp_path: Path) -> None:
    document = hostile_document()
    # Were any of it evaluated, `#panic` would stop the compiler.
    assert pdf.write(document, tmp_path).read_bytes().startswith(b"%PDF")
    page = re.sub(r"\s+", " ", re.sub(r"</?(code|strong|br)[^>]*>", "", html_of(document, tmp_path)))
    for text in HOSTILE:
        assert page.count(re.sub(r"\s+", " ", text)) >= 10


def test_characters_that_do_not_print_are_shown_as_escapes() -> None:
    assert markdown.escape("a\nb\u202e") == "a\\\\nb\\\\u202e"
    assert "\\ud800" in pdf.shown("\ud800")


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


def test_a_longer_training_is_asked_for_once() -> None:
    results = synthetic_results(4)
    wanted = [limit.remedy for limit in limits(results)]
    assert "the full token budget (16 times as long)" in wanted and "longer training" not in wanted
    uncut = replace(results, plan={**results.plan, "cut": 0})
    assert "longer training" in [limit.remedy for limit in limits(uncut)]


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


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e-3, "1e-3"), (1.2e-3, "1.2e-3"), (3.14e11, "3.1e11"), (9.96e-4, "1e-3"), (0.0, "0"), (1.0, "1e0"), (math.nan, "\N{EN DASH}")],
)
def test_powers(value: float, text: str) -> None:
    assert numbers.power(value) == text


@pytest.mark.parametrize(("value", "text"), [(87_289, "87.3k"), (999_999, "1M"), (1_232_000, "1.23M"), (812, "812"), (3.1e9, "3.1B")])
def test_short_counts(value: float, text: str) -> None:
    assert numbers.short(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(190, "3:10"), (59.6, "1:00"), (3_730, "1:02:10"), (0, "0:00"), (35_999, "9:59:59"), (750_831, "209 h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert numbers.duration(seconds) == text


@pytest.mark.parametrize(("half", "decimals"), [(0.34, 1), (0.12, 2), (0.029, 3), (3.4, 0), (1.2, 1), (40.0, 0), (math.nan, 2), (0.0, 2)])
def test_the_interval_decides_the_digits(half: float, decimals: int) -> None:
    assert numbers.decimals_of(half, 2) == decimals


def test_signs_and_intervals_as_text() -> None:
    assert numbers.fixed(-0.004, 2) == "0.00"
    assert numbers.fixed(-0.98, 2) == "\N{MINUS SIGN}0.98"
    assert numbers.bracketed(Interval(96.31, 95.97, 96.65, 3), 2) == "96.31 [95.97, 96.65]"
    assert numbers.plus_minus(Interval(96.31, np.nan, np.nan, 1), 2) == "96.31"
    assert not numbers.known(True) and numbers.known(np.int64(3)) and not numbers.known(None)


def test_a_picture_links_to_its_data() -> None:
    line = markdown.block(Picture("bowls", "A *title*", "See | this."))
    assert "![A \\*title\\*](figures/bowls.png)" in line and "(figures/bowls.csv)" in line and "See \\| this." in line


def test_the_published_table_is_there_even_where_no_run_was_evaluated_often_enough_for_a_correlation(tmp_path: Path) -> None:
    results = synthetic_results(4, padded=True)
    once = replace(results, runs=results.runs.assign(pearson_nll_top1=float("nan")), evaluations=results.evaluations.groupby("key").tail(1))
    write(once, tmp_path, ["md"])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "NLL published" in text and "evaluated often enough" in text


def test_the_law_of_the_best_rate_is_said_with_its_interval_and_its_check() -> None:
    text = said(synthetic_results(8), "best rate").text
    p, low, high = (float(x) for x in re.findall(r"p = (\S+) \[(\S+), ([^]]+)\]", text)[0])
    # The synthetic optima fall with a known power of the size.
    sizes = synthetic_results(8).searches.dropna(subset=["fitted_lr"])
    true = -np.polyfit(np.log(sizes["n_params"]), np.log(sizes["lr"]), 1)[0]
    assert low < p < high and abs(p - true) < 0.15 and "The smaller rungs alone predict" in text
    assert "p = " not in said(synthetic_results(2), "best rate").text


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
