"""The section on fits as blocks: the held-out rung first, then form, counts, intervals, what moves them, and what can't be fitted."""

from collections.abc import Iterator

import pandas as pd

from harness.analysis.design import Design
from harness.analysis.fit import Fit
from harness.analysis.held_out import HeldOut
from harness.analysis.isoflop import Scaling
from harness.analysis.surface import allocation_interval
from harness.results import Results
from reports.blocks import Block, Heading, Picture, Table, bullets, paragraph
from reports.figures.specification import GROUPS
from reports.fits import DRAWS, Fits, fits, why_excluded
from reports.numbers import ALPHA, BETA, NOTHING, decimals_of, fixed, known, listed, plural, power, short

FORM = f"L = E + A / N^{ALPHA}"
E_IN_WORDS = {"free": "free", "0": "fixed at 0", "floor": "fixed at the best possible"}
COMPUTE_IN_WORDS = {"train_flops": "training FLOPs, counted", "six_nd": "6ND (parameters times tokens)"}
GREEK = {"alpha": ALPHA, "beta": BETA, "a": "a"}


def section(results: Results, picture: Picture | None) -> list[Block]:
    """All blocks of the section; `picture`: the specification curve, where there is one."""
    found = fits(results)
    law = (*_held_out(found), *_law(found), *([picture] if picture else []), *_counted(found)) if not found.refused else ()
    return [*(law or [_refused(found)]), bullets(_bounds_of(found)), *_surface(found), *_profiles(found)]


def _refused(found: Fits) -> Block:
    return paragraph(f"No law is fitted, and no exponent given: {found.refused}. To add: {found.add}.")


def held_out_sentence(found: Fits) -> str:
    """The largest rung as the smaller ones predict it, against what was seen; empty without a law of them."""
    held = found.largest
    if held is None or held.status == "no law":
        return ""
    digits = decimals_of((held.high - held.low) / 2, 3)
    expected = f"{fixed(held.predicted, digits)} [{fixed(held.low, digits)}, {fixed(held.high, digits)}]"
    error = f"an error of {fixed(held.error, digits)}"
    noise = f", {fixed(abs(held.in_noise), 1)} times the standard deviation over seeds" if known(held.in_noise) else ""
    return (
        f"Held out: the law of the {plural(held.fitted_sizes, 'smaller size')} predicts {expected} nats per token for "
        f"{_rung_of(found, held)}; {fixed(held.observed, digits)} was observed ({plural(held.runs, 'seed')}), {held.status} of the "
        f"{100 * held.level:g} % interval: {error}{noise}."
    )


def _held_out(found: Fits) -> Iterator[Block]:
    said = held_out_sentence(found)
    held, rolled = found.largest, found.rollouts
    if not said:
        why = held.reason if held else "there is no largest size"
        yield paragraph(
            f"The largest size could not be held out: {why}. So nothing here was checked against a size that the law had not seen."
        )
        return
    choice = "at the best possible loss" if found.fixed else "free"
    yield paragraph(f"{said} The law has E {choice}, as decided by rule before the fit.")
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
                "Predicted": _bracket(held.predicted, held.low, held.high, digits),
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
    return _bracket(row[name], low, high, decimals_of((high - low) / 2, default))


def _bracket(value: float, low: float, high: float, digits: int) -> str:
    bounds = f" [{fixed(low, digits)}, {fixed(high, digits)}]" if known(low) and known(high) else ""
    return fixed(value, digits) + bounds


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
            row[f"E {E_IN_WORDS[E]}"] = _bracket(value, low, high, decimals_of((high - low) / 2, 3)) if status == "converged" else status
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


def _surface(found: Fits) -> Iterator[Block]:
    yield Heading("Size and data together", 2)
    if found.surface is None:
        why = found.refused or (_unidentified(found.grid) if found.grid else "there are no runs")
        yield paragraph(f"No surface in parameters and tokens is fitted: {why}.")
        return
    both = {"log-Huber": found.surface.log_huber, "VPNLS": found.surface.vpnls}
    caption = (
        f"L = E + A / N^{ALPHA} + B / D^{BETA} by two estimators, {plural(both['VPNLS'].n_runs, 'run')}; N* grows as C^a. Intervals: "
        f"2.5 and 97.5 percentiles over {both['VPNLS'].draws:,} bootstraps of runs."
    )
    yield Table(_surface_table(both), caption, left=("Constant",))
    gap = found.surface.gap
    if gap:
        which = listed([GREEK.get(name, name) for name in gap])
        yield paragraph(f"The estimators disagree on {which}, beyond each other's interval: the form or the noise is not as assumed.")
    elif all(fitted.is_usable for fitted in both.values()):
        yield paragraph("Each estimate lies in the other's interval.")
    yield from (paragraph(_sentence(text)) for text in (found.grid.coverage.warnings if found.grid else ()))


def _unidentified(grid: Design) -> str:
    """Why no surface can be fitted, and the cheapest runs that would change it."""
    if grid.status == "identified":
        return "the study asks for no grid of sizes and budgets"
    why = f"{ALPHA} and {BETA} can't both be told from these runs (condition number {power(grid.condition)}, over 1e4)"
    if grid.add.empty:
        return f"{why}; it needs other sizes and budgets altogether"
    runs = listed([f"{short(n)} parameters on {short(d)} tokens" for n, d in grid.add.itertuples(index=False)])
    return f"{why}. To add: {runs} (condition then {power(grid.condition_then)})"


def _surface_table(both: dict[str, Fit]) -> pd.DataFrame:
    names = ("E", "A", "alpha", "B", "beta")
    rows: list[dict[str, str]] = []
    for name in names:
        row = {"Constant": GREEK.get(name, name)}
        for estimator, fitted in both.items():
            constant = fitted.constants[name]
            digits = decimals_of((constant.high - constant.low) / 2, 3)
            row[estimator] = _bracket(constant.value, constant.low, constant.high, digits)
        rows.append(row)
    shares = {estimator: allocation_interval(fitted) for estimator, fitted in both.items()}
    rows.append({"Constant": "a"} | {e: _bracket(v, low, high, decimals_of((high - low) / 2, 3)) for e, (v, low, high) in shares.items()})
    rows.append({"Constant": "Status"} | {e: f.status for e, f in both.items()})
    return pd.DataFrame(rows)


def _profiles(found: Fits) -> Iterator[Block]:
    if not found.profiles:
        return
    yield Heading("Profiles at equal compute", 2)
    rows = [row for method, scaling in found.profiles.items() for row in _profile_rows(method, scaling)]
    caption = "The size of least loss at each compute budget. An optimum at the end of its sizes is censored and enters no law."
    yield Table(pd.DataFrame(rows), caption, left=("Method", "Verdict"))
    for method, scaling in found.profiles.items():
        if scaling.status != "fitted":
            yield paragraph(f"By {method} no law of the optimum: {scaling.reason}.")
            continue
        a, b = (_bracket(c.value, c.low, c.high, decimals_of((c.high - c.low) / 2, 3)) for c in (scaling.a, scaling.b))
        yield paragraph(
            f"By {method}: N* grows as C^a with a = {a}, D* as C^b with b = {b}; their sum is {fixed(scaling.total, 3)} ({scaling.reason})."
        )


def _profile_rows(method: str, scaling: Scaling) -> Iterator[dict[str, str]]:
    for profile in scaling.profiles:
        yield {
            "Method": method,
            "FLOPs": power(profile.flops),
            "Runs": str(profile.n),
            "Best size": short(profile.n_params),
            "Best tokens": short(profile.train_tokens),
            "Loss there": fixed(profile.loss, 3),
            "Verdict": profile.status if not profile.reason else f"{profile.status}: {profile.reason}",
        }


def _bounds_of(found: Fits) -> list[str]:
    """What the intervals hold and what they leave out."""
    noise = found.noise
    lines = []
    if noise and known(noise.relative):
        reach = f"[{fixed(100 * noise.low, 2)}, {fixed(100 * noise.high, 2)}]"
        few = f" {_sentence(noise.warning)}" if noise.warning else ""
        lines.append(
            f"Seed noise is {fixed(100 * noise.relative, 2)} % {reach} of the loss, pooled over rungs ({plural(noise.dof, 'degree')} of "
            f"freedom); it enters the intervals through the runs that are drawn.{few}"
        )
    elif noise:
        lines.append(f"Seed noise is not known: {noise.warning}.")
    if not found.refused:
        lines.append(
            "The intervals of the curve, of predictions and of surfaces do not hold the error of the chosen learning rates. None holds "
            "that of the choice of test texts."
        )
    return lines or ["No run may enter a fit yet."]


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
