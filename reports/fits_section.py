"""The section on fits as blocks: the held-out rung first, then form, counts, intervals, what moves them, and what can't be fitted."""

from collections.abc import Iterator, Mapping

import pandas as pd

from harness.analysis.held_out import HeldOut
from harness.held_out import Lock
from harness.results import Results
from reports import grid_section
from reports.blocks import Block, Picture, Table, bullets, paragraph
from reports.figures.specification import GROUPS
from reports.fits import DRAWS, Fits, fits, why_excluded
from reports.numbers import ALPHA, NOTHING, bounded, decimals_of, fixed, known, listed, plural, sentence, short

FORM = f"L = E + A / N^{ALPHA}"
E_IN_WORDS = {"free": "free", "0": "fixed at 0", "floor": "fixed at the best possible"}
COMPUTE_IN_WORDS = {"train_flops": "training FLOPs, counted", "six_nd": "6ND (parameters times tokens)"}


def section(results: Results, pictures: Mapping[str, Picture]) -> list[Block]:
    """All blocks of the section; `pictures`: by name, those of the figures that belong into it which there are."""
    found = fits(results)
    curve = [pictures["specification"]] if "specification" in pictures else []
    law = (*_law(found), *curve, *_counted(found)) if not found.refused else (_refused(found),)
    return [*_held_out(results), *law, bullets(_bounds_of(found)), *grid_section.section(found, pictures)]


def _refused(found: Fits) -> Block:
    if not found.add:
        return paragraph(f"No law in size alone is fitted: {found.refused}.")
    return paragraph(f"No law is fitted, and no exponent given: {found.refused}. To add: {found.add}.")


def held_out_sentence(results: Results) -> str:
    """The held-out rung as the smaller ones predict it, against what was seen, and when it was named; empty without a law of them."""
    found = fits(results)
    held = found.held
    if held is None or held.status == "no law":
        return ""
    digits = decimals_of((held.high - held.low) / 2, 3)
    expected = f"{fixed(held.predicted, digits)} [{fixed(held.low, digits)}, {fixed(held.high, digits)}]"
    error = f"an error of {fixed(held.error, digits)}"
    noise = f", {fixed(abs(held.in_noise), 1)} times the standard deviation over seeds" if known(held.in_noise) else ""
    return (
        f"Held out: the law of the {plural(held.fitted_sizes, 'smaller size')} predicts {expected} nats per token for "
        f"{_rung_of(found, held)}; {fixed(held.observed, digits)} was observed ({plural(held.runs, 'seed')}), {held.status} of the "
        f"{100 * held.level:g} % interval: {error}{noise}.{_when(results.lock, _rung_of(found, held))}"
    )


def _when(lock: Lock, rung: str) -> str:
    """Whether the rung was named before it was trained."""
    if not lock.held:
        named = f"the plan named {lock.then}" if lock.then else "the plan named none"
        return f" It was chosen after its training had begun, when {named}: this is no prediction made beforehand."
    if lock.rung and lock.rung != rung:
        return f" The plan named {lock.rung}, which has no run in a fit; this is the largest that has."
    return " The plan named it before it was trained." if lock.then else ""


def _held_out(results: Results) -> Iterator[Block]:
    found, said = fits(results), held_out_sentence(results)
    held, rolled = found.held, found.rollouts
    if not said:
        if rolled is None:
            return
        no_size = "the study holds none out (analysis.held_out: none)" if not results.lock.rung else "the one named has no run in a fit"
        why = held.reason if held else no_size
        yield paragraph(f"No size was held out: {why}. So nothing here was checked against a size that the law had not seen.")
        return
    choice = "at the best possible loss" if found.fixed else "free"
    form = " of parameters and tokens" if found.refused else ""
    yield paragraph(f"{said} The law{form} has E {choice}, as decided by rule before the fit.")
    if rolled and len(rolled.rungs) > 1:
        caption = (
            f"Each size against the law of all smaller ones, nats per token: {rolled.covered} of {rolled.judged} observed means lie inside "
            f"their 95 % interval. Errors are observed minus predicted, in standard deviations over seeds on the right."
        )
        yield Table(_rollout_table(found), caption, left=("Rung", "Verdict"))


def _rung_of(found: Fits, held: HeldOut) -> str:
    return str(found.ladder[found.ladder["n_params"] == held.n_params]["rung"].iloc[0])


def _rollout_table(found: Fits) -> pd.DataFrame:
    assert found.rollouts
    rungs = found.rollouts.rungs
    halves = [decimals_of((held.high - held.low) / 2, 3) for held in rungs if known(held.low)]
    digits = max(halves, default=3)
    return pd.DataFrame(
        [
            {
                "Rung": _rung_of(found, held),
                "Smaller sizes": str(held.fitted_sizes),
                "Predicted": bounded(held.predicted, held.low, held.high, digits),
                "Observed": fixed(held.observed, digits),
                "Error": fixed(held.error, digits),
                "In seed noise": fixed(held.in_noise, 1),
                "Verdict": held.status,
            }
            for held in rungs
        ]
    )


def _law(found: Fits) -> Iterator[Block]:
    runs, tokens = found.ladder, found.ladder["train_tokens"]
    sizes = runs["n_params"].nunique()
    budget = short(tokens.mean()) if tokens.max() <= 1.05 * tokens.min() else f"{short(tokens.min())} to {short(tokens.max())}"
    left = f" Not in the fit: {why_excluded(found)}." if len(found.excluded) else ""
    yield paragraph(
        f"The law is {FORM}, of test loss L in nats per token and parameters N, by log-Huber on {plural(len(runs), 'run')} of "
        f"{plural(sizes, 'size')} (family {found.family}), each read at the end of its own schedule of {budget} tokens. It holds for that "
        f"budget.{left}"
    )
    caption = (
        f"{FORM} by choice of E. Intervals are 2.5 and 97.5 percentiles over {DRAWS:,} bootstraps of runs, with the error of the chosen "
        "learning rates. A row that did not converge carries no claim. Full precision: numbers.json."
    )
    yield Table(_law_table(found.laws), caption, left=("E", "Status"))
    yield from _floor(found)


def _law_table(laws: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for _, law in laws.iterrows():
        free = law["irreducible"] == "free"
        value = _constant(law, "E", 3) if free else fixed(law["E"], 3)
        rows.append(
            {
                "E": E_IN_WORDS[str(law["irreducible"])],
                "E, nats per token": value,
                "A": _constant(law, "A", 2),
                ALPHA: _constant(law, "alpha", 3),
                "Condition": f"{law['condition']:.3g}" if known(law["condition"]) else NOTHING,
                "Runs": str(law["n_runs"]),
                "Status": law["status"] if law["status"] == "converged" else f"{law['status']}: {law['reason']}",
            }
        )
    return pd.DataFrame(rows)


def _constant(row: pd.Series, name: str, default: int) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return bounded(row[name], low, high, decimals_of((high - low) / 2, default))


def _floor(found: Fits) -> Iterator[Block]:
    """The fitted E against the known one."""
    free = found.laws[found.laws["irreducible"] == "free"].iloc[0]
    if not (known(found.floor) and known(free["E"])):
        return
    inside = free["E_low"] <= found.floor <= free["E_high"]
    digits = decimals_of((free["E_high"] - free["E_low"]) / 2, 3)
    where = "inside" if inside else "outside of"
    note = "" if inside else " A free E on so few sizes is then no estimate of what can be reached."
    yield paragraph(
        f"Where E is free it comes to {_constant(free, 'E', 3)}; the best possible on these texts is {fixed(found.floor, digits)}, {where} "
        f"that interval.{note}"
    )


def _counted(found: Fits) -> Iterator[Block]:
    """The exponent under each way to count, and what moves it."""
    whole = found.cells[(found.cells["exclusion"] == "none") & (found.cells["estimator"] == "log-Huber")]
    names = {**GROUPS["x"][1], **COMPUTE_IN_WORDS}
    rows = []
    for x, cells in pd.concat([whole, found.compute]).groupby("x", sort=False):
        values = cells.set_index("irreducible")
        row = {"Counted": names[str(x)]}
        for E in (E for E in E_IN_WORDS if E in values.index):
            value, low, high = (float(values[name].loc[E]) for name in ("value", "low", "high"))
            status = str(values["status"].loc[E])
            row[f"E {E_IN_WORDS[E]}"] = bounded(value, low, high, decimals_of((high - low) / 2, 3)) if status == "converged" else status
        rows.append(row)
    caption = "The exponent by what is counted, all sizes, log-Huber. The exponent of FLOPs is another number than that of parameters."
    yield Table(pd.DataFrame(rows), caption, left=("Counted",))
    moved = found.moved
    if moved and moved.converged:
        order = sorted(moved.by_choice.items(), key=lambda item: -item[1])
        parts = listed([f"{GROUPS[choice][0][0].lower()}{GROUPS[choice][0][1:]} by {fixed(by, 3)}" for choice, by in order])
        failed = f" {moved.cells - moved.converged} further cells have no fit that converged." if moved.cells > moved.converged else ""
        yield paragraph(
            f"Over {moved.converged} fits {ALPHA} goes from {fixed(moved.low, 3)} to {fixed(moved.high, 3)}. Choices move it on average: "
            f"{parts}.{failed}"
        )


def _bounds_of(found: Fits) -> list[str]:
    """What the intervals hold and what they leave out."""
    noise = found.noise
    lines = []
    if noise and known(noise.relative):
        reach = f"[{fixed(100 * noise.low, 2)}, {fixed(100 * noise.high, 2)}]"
        few = f" {sentence(noise.warning)}" if noise.warning else ""
        lines.append(
            f"Seed noise is {fixed(100 * noise.relative, 2)} % {reach} of the loss, pooled over rungs ({plural(noise.dof, 'degree')} of "
            f"freedom); it enters the intervals through the runs that are drawn.{few}"
        )
    elif noise:
        lines.append(f"Seed noise is not known: {noise.warning}.")
    if found.rollouts is not None:
        lines.append(
            "All intervals of laws, predictions and profiles hold the error of the chosen learning rates, as one that all runs of a rung "
            f"share, taken from the bowls of the searches.{_unknown(found)} None holds that of the choice of test texts."
        )
    return lines or ["No run may enter a fit yet."]


def _unknown(found: Fits) -> str:
    rungs = list(found.unknown_rates)
    if not rungs:
        return ""
    them = "it" if len(rungs) == 1 else "them"
    return f" Of {listed(rungs)} that error is not known, since no search gave {them} an interval at this seed noise: there it is missing."
