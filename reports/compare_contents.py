"""What a comparison of two studies says, in the order in which a reader wants it: a comparison in, blocks out."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from reports import numbers
from reports.blocks import Block, Box, Document, Heading, Picture, Span, Spans, Table, Verbatim, bullets, paragraph
from reports.compare import UNRESOLVED, Comparison, Difference, Metric, Values
from reports.compare_words import answer, digits_of, law_name, ratio, scaled, signed
from reports.numbers import NOTHING, count, known, listed, plural, plus_minus, power, short
from reports.summary import Rung, measured

LONGEST = 60


def build(found: Comparison, picture: Picture | None) -> Document:
    """The whole document."""
    sections: list[tuple[str, Sequence[Block]]] = [
        ("The answer", [_answer(found), paragraph(_conventions())]),
        ("The same sizes", [*_sizes(found), *([picture] if picture else [])]),
        ("Learning rates and laws", list(_rates(found))),
        ("What differs", list(_differing(found))),
        ("What can't be compared", [bullets(_not_compared(found))]),
        ("To repeat", [Verbatim("\n".join(_commands(found)))]),
    ]
    blocks = [block for i, (title, body) in enumerate(sections, 1) for block in (Heading(f"{i} {title}"), *body)]
    a, b = _names(found)
    return Document("Two studies compared", f"A: {a}. B: {b}. Differences are B minus A.", tuple(blocks))


def _names(found: Comparison) -> tuple[str, str]:
    return str(found.a.study.get("study", "")), str(found.b.study.get("study", ""))


def _answer(found: Comparison) -> Box:
    asked = [str(results.study.get("question", "")) for results in (found.a, found.b)]
    question = (asked[0],) if asked[0] == asked[1] else tuple(f"{letter}: {text}" for letter, text in zip("AB", asked, strict=True))
    other = [difference.name for difference in found.keys if difference.name not in ("question", "hypothesis")]
    more = f" and {len(other) - 6} more" if len(other) > 6 else ""
    differs = f"{', '.join(other[:6])}{more}." if other else "Nothing in what the study files ask to be run."
    return Box(
        (
            ("Question" if len(question) == 1 else "Questions", question),
            ("Answer", tuple(answer(found))),
            ("What differs in the study files", (differs,)),
            ("Data", (f"{found.reason[:1].upper()}{found.reason[1:]}.",)),
        )
    )


def _conventions() -> str:
    return (
        "Differences of test results are between means over seeds, with 95 % Welch intervals; of rates and exponents, from the interval of "
        "each. Two are told apart where the interval leaves out no difference. Each interval stands for itself: of twenty, one leaves it "
        "out by chance."
    )


def _sizes(found: Comparison) -> Iterator[Block]:
    if not found.pairs:
        yield paragraph("There is no size of which both studies have completed runs, so that nothing stands side by side.")
        return
    for metric in found.metrics:
        caption = (
            f"{metric.title}, in {metric.unit}; ± is half the 95 % t interval over seeds, the difference is B minus A with its 95 % Welch "
            "interval."
        )
        yield Table(_metric_table(found, metric), caption, left=("Rung", "Verdict"))
    if not found.metrics:
        yield paragraph(f"Results stand side by side here and are not subtracted: {found.reason}.")
        yield Table(_apart_table(found), "Test results of each study on its own texts; not to be subtracted.", left=("Rung",))
    caption = "Size, tokens of one run and completed seeds at the chosen rate. Where tokens differ, so may results."
    yield Table(_budget_table(found), caption, left=("Rung",))


def _metric_table(found: Comparison, metric: Metric) -> pd.DataFrame:
    values = [(pair.name, pair.metrics[metric.column]) for pair in found.pairs]
    of_each = [scaled(one, metric.factor) for _, v in values for one in (v.a, v.b) if one]
    of_change = [scaled(v.change, metric.factor) for _, v in values if v.change]
    digits, fine = (numbers.column_decimals(own, metric.decimals) for own in (of_each, of_change))
    rows = []
    for name, v in values:
        each = [plus_minus(scaled(one, metric.factor), digits) if one else NOTHING for one in (v.a, v.b)]
        change = signed(scaled(v.change, metric.factor), fine) if v.change else NOTHING
        rows.append({"Rung": name, "A": each[0], "B": each[1], "Difference": change, "Verdict": _verdict(v)})
    return pd.DataFrame(rows)


def _verdict(values: Values) -> str:
    if values.why:
        return values.why
    assert values.change
    return "not told apart" if not values.separate else "B is lower" if values.change.mean < 0 else "B is higher"


def _apart_table(found: Comparison) -> pd.DataFrame:
    both = [(letter, rung) for letter, results in (("A", found.a), ("B", found.b)) for rung in measured(results)]
    nll, top1 = [rung.nll for _, rung in both], [numbers.times_hundred(rung.top1) if rung.top1 else None for _, rung in both]
    digits, share = (numbers.column_decimals([one for one in own if one], least) for own, least in ((nll, 2), (top1, 1)))
    names = {"Rung": [f"{letter}: {rung.name}" for letter, rung in both], "Parameters": [count(rung.n_params) for _, rung in both]}
    results = {"Test NLL": [plus_minus(one, digits) for one in nll], "Top-1, %": [plus_minus(one, share) for one in top1]}
    return pd.DataFrame(names | results)


def _budget_table(found: Comparison) -> pd.DataFrame:
    rows = []
    for pair in found.pairs:
        sizes = {f"Parameters, {letter}": count(rung.n_params) for letter, rung in (("A", pair.a), ("B", pair.b))}
        tokens = {"Tokens, A": short(pair.tokens_a), "Tokens, B": short(pair.tokens_b)}
        rows.append({"Rung": pair.name} | sizes | tokens | {"Seeds, A": str(pair.a.seeds), "Seeds, B": str(pair.b.seeds)})
    return pd.DataFrame(rows)


def _rates(found: Comparison) -> Iterator[Block]:
    searched = [pair for pair in found.pairs if known(pair.a.lr) and known(pair.b.lr)]
    if searched:
        rows = [
            {
                "Rung": pair.name,
                "A": _rate(pair.a),
                "B": _rate(pair.b),
                "B over A": ratio(pair.rate) if pair.rate.change else NOTHING,
                "Verdict": pair.rate.why or ("told apart" if pair.rate.separate else "not told apart"),
            }
            for pair in searched
        ]
        caption = (
            "The learning rate chosen for each size, with the verdict of its search. The ratio is that of the fitted minima, with its 95 % "
            "interval; it holds what the data do to the rate as well, where they are not the same."
        )
        yield Table(pd.DataFrame(rows), caption, left=("Rung", "A", "B", "Verdict"))
    else:
        yield paragraph("No size has a chosen learning rate in both studies.")
    if found.exponents:
        yield Table(_exponent_table(found), "Exponents of the laws that both studies have, with 95 % intervals.", left=("Law", "Verdict"))
    else:
        yield paragraph("There is no law that both studies have.")


def _rate(rung: Rung) -> str:
    return f"{power(rung.lr)} {rung.lr_status}".strip()


def _exponent_table(found: Comparison) -> pd.DataFrame:
    rows = []
    for name, values in found.exponents.items():
        digits = digits_of(values)
        each = [numbers.bracketed(one, digits) if one else NOTHING for one in (values.a, values.b)]
        change = signed(values.change, digits) if values.change else NOTHING
        verdict = values.why or ("told apart" if values.separate else "not told apart")
        rows.append({"Law": law_name(name), "A": each[0], "B": each[1], "Difference": change, "Verdict": verdict})
    return pd.DataFrame(rows)


def _differing(found: Comparison) -> Iterator[Block]:
    if found.keys:
        yield Table(_difference_table(found.keys, "Key"), "What the study files say otherwise.", left=("Key", "A", "B"))
    else:
        yield paragraph("The study files differ in nothing but the name.")
    if found.made:
        caption = "Data, budget, code, versions and machine, where they differ."
        yield Table(_difference_table(found.made, "Fact"), caption, left=("Fact", "A", "B"))
    if found.equal:
        yield paragraph(f"The same in both: {listed(list(found.equal))}.")


def _difference_table(differences: Sequence[Difference], name: str) -> pd.DataFrame:
    return pd.DataFrame([{name: one.name[:1].upper() + one.name[1:] if name == "Fact" else one.name, "A": _shown(one.a), "B": _shown(one.b)}
                         for one in differences])  # fmt: skip


def _shown(value: Any) -> str:
    """A value as a study file would have it, cut where it is long."""
    if value is None:
        return NOTHING
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        text = ", ".join(_shown(one) for one in value) or "none"
    else:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _not_compared(found: Comparison) -> list[Span | Spans]:
    said: list[Span | Spans] = []
    if found.relation == "other":
        said.append(f"NLL, top-1 accuracy, bits per character and the exponents of the loss: {found.reason}.")
    if found.relation == "texts":
        said.append(f"NLL, top-1 accuracy and the exponents of the loss: {found.reason}.")
    for letter, names in (("A", found.only_a), ("B", found.only_b)):
        if names:
            said.append(f"{listed(list(names))}: completed runs only in {letter}.")
    for pair in found.pairs:
        if not pair.same_budget:
            tokens = f"{short(pair.tokens_a)} tokens in A and {short(pair.tokens_b)} in B"
            said.append(f"{pair.name} was trained on {tokens}: its differences hold that as well.")
        if pair.a.n_params != pair.b.n_params:
            said.append(f"{pair.name} has {count(pair.a.n_params)} parameters in A and {count(pair.b.n_params)} in B.")
    single = [pair.name for pair in found.pairs if min(pair.a.seeds, pair.b.seeds) == 1]
    if single:
        said.append(f"One seed on a side, so that no interval is known: {listed(single)}.")
    unresolved = [pair.name for pair in found.pairs if pair.rate.why == UNRESOLVED]
    if unresolved:
        said.append(f"Best learning rates that the search of both did not resolve: {listed(unresolved)}.")
    return said or [f"Nothing stands against it: {plural(len(found.pairs), 'size')} with equal data and budgets, and enough seeds."]


def _commands(found: Comparison) -> list[str]:
    commands = [str(command) for results in (found.a, found.b) for command in results.invocations["command"]]
    again = f"python -m harness report {' '.join(_names(found))}"
    return [*dict.fromkeys(commands), again, f"{again} --verify"]
