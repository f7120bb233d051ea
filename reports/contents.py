"""What the report says, in the order in which a reader wants it: results in, blocks out."""

from collections.abc import Mapping, Sequence
from typing import Any

from harness.results import Results
from reports import fits_section, numbers, samples_section, tables, timing, together_section
from reports.blocks import Block, Box, Bullets, Code, Document, Heading, Picture, Spans, Table, Verbatim, bullets, paragraph
from reports.findings import findings
from reports.limits import limits
from reports.numbers import count, duration, listed, plural, power, short
from reports.summary import best, floor, measured, rungs, runs_planned, searches
from reports.training import training_table

# The figures that stand beside the numbers which they show.
IN_FITS = ("specification", "surface", "profiles")
COUNTED = {
    "read": "texts read", "empty": "empty, dropped", "duplicates": "duplicates, dropped",
    "removed_validation": "validation texts that training holds, removed", "removed_test": "test texts that training holds, removed",
    "cut": "texts cut to the sequence length", "unknown": "characters that training never saw",
}  # fmt: skip


def build(results: Results, pictures: list[Picture], absent: list[str], times: bool = True) -> Document:
    """The whole document. `absent`: a sentence for each figure that has nothing to show."""
    beside = {picture.name: picture for picture in pictures if picture.name in IN_FITS}
    shown = [picture for picture in pictures if picture.name not in beside]
    sections: list[tuple[str, Sequence[Block]]] = [
        ("The answer", _answer(results)),
        ("Planned and done", _plan(results, times)),
        ("The rungs", _rungs(results)),
        ("Figures", [*shown, *([bullets(absent)] if absent else [])]),
        ("Samples", list(samples_section.section(results))),
        ("Fits and correlations", _fits(results, beside)),
        ("Limits of this study", [bullets([limit.text for limit in limits(results)])]),
        ("Excluded, diverged, failed, pruned and skipped", _ledger(results)),
        ("Data, and how to repeat every number", _provenance(results, times)),
    ]
    blocks = [block for i, (title, body) in enumerate(sections, 1) for block in (Heading(f"{i} {title}"), *body)]
    return Document(f"Study: {results.study.get('study', '')}", _subtitle(results), tuple(blocks))


def _subtitle(results: Results) -> str:
    runs = results.runs[results.runs["status"].notna() & (results.runs["status"] != "skipped")]
    sizes = measured(results)
    reach = f", {short(sizes[0].n_params)} to {short(sizes[-1].n_params)} parameters" if len(sizes) > 1 else ""
    twice = " in two parametrizations" if len({rung.parametrization for rung in sizes}) > 1 else ""
    own = sizes if not twice else [rung for rung in sizes if rung.parametrization == "standard"]
    of = f"{plural(len(own), 'size')}{twice}"
    return f"{plural(len(runs), 'run')} of {of}{reach}, on {results.data.get('source', 'unknown data')}"


def _answer(results: Results) -> list[Block]:
    found = findings(results)
    answer = tuple(f.text for f in found[:3]) or ("No run at a chosen learning rate has completed yet: there is no answer.",)
    remedies = [limit.remedy for limit in limits(results) if limit.remedy]
    change = "; ".join(remedies) + "." if remedies else "nothing that more runs of this study would add."
    change = change[:1].upper() + change[1:]
    checked = fits_section.held_out_sentence(results)
    box = Box(
        (
            ("Question", (str(results.study.get("question", "")),)),
            ("Hypothesis", (str(results.study.get("hypothesis", "")),)),
            *((("Prediction", (checked,)),) if checked else ()),
            ("Answer", answer),
            ("What would change it", (change,)),
        )
    )
    rest: list[Block] = [paragraph("Also found:"), bullets([f.text for f in found[3:]])] if found[3:] else []
    return [box, *rest, paragraph(_conventions(results))]


def _conventions(results: Results) -> str:
    known = " The best possible value is computed from the distribution that the texts were drawn from." if floor(results) else ""
    return (
        "NLL is in nats per text: summed over the characters of a text and its end, then averaged over texts. Top-1 accuracy is the share "
        "of those same characters whose most likely prediction is right. Values in brackets and after ± are 95 % t intervals over seeds; a "
        f"value without one rests on a single run.{known}"
    )


def _plan(results: Results, times: bool) -> list[Block]:
    plan = results.plan
    said = [f"The study planned {plural(runs_planned(results), 'run')} on {plan.get('device', 'an unknown device')}"]
    workers = f"{plural(int(plan.get('workers') or 1), 'worker')}, " if times else ""
    said.append(f" ({workers}{plan.get('precision', 'float32')}).")
    if plan.get("cut"):
        within = duration(plan.get("within_s") or numbers.NAN)
        said.append(f" To fit into {within}, token budgets were cut by a factor of {2 ** (plan['cut'] / 2):.3g}.")
    if times:
        said.append(timing.sentences(results))
    skipped = [rung.name for rung in rungs(results) if rung.skipped]
    if skipped:
        said.append(f" Left out on this machine: {listed(skipped)} (section 8 says why).")
    note = " Times are the sums over all runs of a row, on one worker." if times else ""
    if skipped and plan.get("cut"):
        note += " Plans of rungs left out are at the full budget."
    caption = f"Plan against what was done. Tokens and epochs are those of one run at the chosen rate, repeats counted.{note}"
    return [paragraph("".join(said)), Table(tables.plan_table(results, times), caption, left=("Rung",))]


def _fits(results: Results, pictures: Mapping[str, Picture]) -> list[Block]:
    return [
        *fits_section.section(results, pictures),
        *together_section.data_budgets(results),
        *together_section.correlations(results),
        *together_section.sample_measures(results),
    ]


def _rungs(results: Results) -> list[Block]:
    top, known = best(results), floor(results)
    lowest = f" The lowest validation NLL is that of {top.name}." if top else ""
    bound = ""
    if known:
        bound = (
            f" Best possible on these test texts: NLL {numbers.fixed(known['nll'], 2)}, top-1 {numbers.fixed(known['top1'] * 100, 1)} %."
        )
    seeds = sorted({r.seeds for r in measured(results)})
    over = plural(seeds[0], "seed") if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds" if seeds else "no seed"
    spread = (
        f"± is half the 95 % t interval over {over} at the chosen rate"
        if seeds[-1:] > [1]
        else f"Values rest on {over}: there is no interval"
    )
    beside = "; columns at the default rate are one run each" if searches(results) else ""
    caption = f"Test results, nats per text and per cent. {spread}{beside}.{lowest}{bound}"
    return [Table(tables.rung_table(results, times=False), caption, left=("Rung", "Best rate", "Rate", "Outcome")), *_training(results)]


def _training(results: Results) -> list[Block]:
    table = training_table(results)
    if table.empty:
        return []
    caption = (
        "How training went, judged from each run's curve by the first rule that holds: diverged (a loss was not finite, or both rose, "
        "validation loss by a nat), stuck (never below the entropy of single tokens), overfitting (validation loss rose by more than "
        "noise, training loss did not), still improving (as many steps again would lower validation loss by over .5 %), converged. Gaps "
        "are validation minus training loss; the last column is the fall that the last third of the curve promises for as many steps "
        "again; both in nats per token, means over runs."
    )
    return [Table(table, caption, left=("Runs", "Training"))]


def _ledger(results: Results) -> list[Block]:
    ended, trials = tables.ended_table(results), tables.trial_table(results)
    blocks: list[Block] = []
    if len(ended):
        blocks.append(Table(ended, "Runs that did not complete. No mean or interval includes them.", left=tuple(ended.columns)))
    else:
        blocks.append(paragraph("All ladder and ablation runs completed."))
    if len(trials):
        caption = (
            "Trials of the learning-rate searches by outcome. Regret: the bowl's loss at the chosen rate over its minimum, nats per token; "
            "0 where that is the rate chosen."
        )
        blocks.append(Table(trials, caption, left=("Rung", "Verdict on the optimum")))
        blocks.append(bullets([*_verdicts(results), *_broken(results), *searched_keys(results)]))
    return blocks


def _verdicts(results: Results) -> list[str]:
    searches = results.searches[results.searches["lr_status"] != "resolved"].sort_values("n_params")
    said = {
        "edge": "lies at the end of what was tried",
        "flat": "is flat",
        "unresolved": "is not resolved",
        "predicted": "was not searched but predicted",
    }
    lines = []
    for _, row in searches.iterrows():
        status, reason = str(row["lr_status"]), str(row["reason"] or "").rstrip(".")
        # The reason of a search opens with its status.
        reason = reason.removeprefix(f"{status}: ")
        lines.append(f"{row['rung']}: the optimum {said.get(status, status)}{f': {reason}' if reason else ''}.")
    return lines


def searched_keys(results: Results) -> list[str]:
    """What was searched beside the rate: the best trial's values, and how much each key mattered, one line a rung."""
    lines = []
    for _, row in results.searches.sort_values("n_params").iterrows():
        values, importances = (cell if isinstance(cell, Mapping) else {} for cell in (row["values"], row["importances"]))
        if values:
            said = listed([f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()])
            shares = ", ".join(f"{key} {100 * share:.0f} %" for key, share in importances.items())
            weight = f" What made trials good or bad: {shares} (PED-ANOVA)." if shares else ""
            lines.append(f"{row['rung']}: the best trial has {said}.{weight}")
    return lines


def _broken(results: Results) -> list[str]:
    """Why trials diverged or failed, one line a rung and outcome."""
    trials = results.runs[(results.runs["stage"] == "search") & results.runs["status"].isin(["diverged", "failed"])]
    lines = []
    for (_, rung, status), group in trials.groupby(["n_params", "rung", "status"], sort=True):
        rates = listed([power(lr) for lr in sorted(group["lr"])[:4]]) + (" and more" if len(group) > 4 else "")
        reasons = [str(reason) for reason in group.sort_values("lr")["reason"].dropna().unique()]
        others = f" (and {plural(len(reasons) - 1, 'other reason')})" if len(reasons) > 1 else ""
        lines.append(
            f"{rung}: {plural(len(group), 'trial')} {status} at {rates}: {reasons[0] if reasons else 'no reason recorded'}{others}."
        )
    return lines


def _provenance(results: Results, times: bool) -> list[Block]:
    blocks: list[Block] = [_data(results.data), Heading("Shapes", 2)]
    blocks.append(Table(tables.shape_table(results), "Shapes and parameters by group, the rungs left out included.", left=("Rung",)))
    blocks += [Heading("To repeat", 2), Verbatim("\n".join(_commands(results))), _versions(results.plan, times)]
    if times and len(results.invocations):
        blocks.append(Table(tables.invocation_table(results), "Starts of this study.", left=("Started", "Machine")))
    keys = tables.key_table(results)
    if len(keys):
        caption = (
            "Identity of each run: the same key means the same run. Trials are in results.csv, fits at full precision in numbers.json."
        )
        blocks.append(Table(keys, caption, left=tuple(keys.columns)))
    return blocks


def _data(data: Mapping[str, Any]) -> Bullets:
    splits = [f"{count(data.get(f'n_{split}', numbers.NAN))} {split}" for split in ("train", "validation", "test")]
    sizes = f"{listed(splits)} texts".replace(" train,", " training,")
    dropped = [f"{count(n)} {COUNTED.get(name, name.replace('_', ' '))}" for name, n in data.get("counts", {}).items() if n]
    items: list[str | Spans] = [
        f"Source: {data.get('source')}, revision {data.get('revision')}. Licence: {data.get('licence')}.",
        f"{sizes}. {_scored(data)}",
        f"A text has {data.get('mean_tokens', 0):.1f} predicted tokens on average, of {count(data.get('vocab_size', numbers.NAN))} values, "
        f"in sequences of at most {data.get('seq_len')}.",
        f"Counted while preparing: {', '.join(dropped) or 'nothing'}.",
        ("Fingerprint: ", Code(str(data.get("fingerprint", "")))),
        *(str(notice) for notice in data.get("notices", [])),
    ]
    return bullets(items)


def _scored(data: Mapping[str, Any]) -> str:
    """Which texts the metrics are taken over."""
    held, most = data.get("n_validation", 0), data.get("eval_texts", numbers.NAN)
    part = f"the first {count(most)}" if most < held else "all"
    return f"Validation scores during training are over {part} validation texts; test scores are over all test texts."


def _commands(results: Results) -> list[str]:
    commands = list(dict.fromkeys(str(command) for command in results.invocations["command"]))
    again = f"python -m harness report {results.study.get('study', '')}"
    return [*commands, again, f"{again} --verify"]


def _versions(plan: Mapping[str, Any], times: bool) -> Bullets:
    git = plan.get("git") or {}
    state = ", with uncommitted changes" if git.get("dirty") else ""
    versions = ", ".join(f"{name} {version}" for name, version in plan.get("versions", {}).items())
    items: list[str | Spans] = [
        f"Versions: {versions}.",
        ("Source code: commit ", Code(str(git.get("commit") or "unknown")[:12]), f"{state}."),
        f"Each run used {plural(int(plan.get('threads') or 1), 'thread')} in {plan.get('precision')}. Results are equal bit for bit for "
        "one recorded plan on one machine.",
    ]
    if times:
        items.append(f"Machine: {plan.get('machine')}. Plan recorded {str(plan.get('created', ''))[:19].replace('T', ' ')}.")
    return bullets(items)
