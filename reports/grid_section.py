"""The parts of the fits section on size and data together: the surface, profiles at equal compute, and repeated data, as blocks."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from harness.analysis.design import Design
from harness.analysis.fit import Constant, Fit
from harness.analysis.isoflop import Profile, Scaling
from harness.analysis.repetition import RepetitionFit, worth
from harness.analysis.surface import allocation_interval
from reports import repeats
from reports.blocks import Block, Heading, Picture, Table, paragraph
from reports.fits import Fits
from reports.numbers import ALPHA, BETA, bounded, decimals_of, fixed, known, listed, plural, power, sentence, short

GREEK = {"alpha": ALPHA, "beta": BETA, "a": "a"}


def section(found: Fits, pictures: Mapping[str, Picture]) -> list[Block]:
    """All blocks; `pictures`: by name, among them `surface` and `profiles` where there are such."""
    return [*_surface(found, pictures.get("surface")), *_profiles(found, pictures.get("profiles")), *_repeats(found)]


def _surface(found: Fits, picture: Picture | None) -> Iterator[Block]:
    yield Heading("Size and data together", 2)
    if found.surface is None:
        barred = found.refused if found.rollouts is None else ""
        why = barred or (_unidentified(found.grid) if found.grid else "there are no runs")
        yield paragraph(f"No surface in parameters and tokens is fitted: {why}.")
        return
    both = {"log-Huber": found.surface.log_huber, "VPNLS": found.surface.vpnls}
    caption = (
        f"L = E + A / N^{ALPHA} + B / D^{BETA} by two estimators, {plural(both['VPNLS'].n_runs, 'run')}; N* grows as C^a. Intervals: "
        f"2.5 and 97.5 percentiles over {both['VPNLS'].draws:,} bootstraps of runs, with the error of the chosen learning rates."
    )
    yield Table(_surface_table(both), caption, left=("Constant",))
    yield from [picture] if picture else []
    gap = found.surface.gap
    if gap:
        which = listed([GREEK.get(name, name) for name in gap])
        yield paragraph(f"The estimators disagree on {which}, beyond each other's interval: the form or the noise is not as assumed.")
    elif all(fitted.is_usable for fitted in both.values()):
        yield paragraph("Each estimate lies in the other's interval.")
    yield from [paragraph(_against_floor(both, found.floor))] if known(found.floor) else []
    yield from (paragraph(sentence(text)) for text in (found.grid.coverage.warnings if found.grid else ()))


def _against_floor(both: dict[str, Fit], floor: float) -> str:
    """The fitted E beside what is known of it."""
    bounds = {name: fitted.constants["E"] for name, fitted in both.items()}
    outside = [name for name, E in bounds.items() if not E.low <= floor <= E.high]
    where = f"outside of E's interval by {listed(outside)}" if outside else "inside of E's interval by both"
    why = ": the form, the budgets or the sizes are not enough to say where loss would end" if outside else ""
    digits = max(decimals_of((E.high - E.low) / 2, 3) for E in bounds.values())
    return f"The best possible loss on these texts is known: {fixed(floor, digits)} nats per token, {where}{why}."


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
            row[estimator] = bounded(constant.value, constant.low, constant.high, digits)
        rows.append(row)
    shares = {estimator: allocation_interval(fitted) for estimator, fitted in both.items()}
    rows.append({"Constant": "a"} | {e: bounded(v, low, high, decimals_of((high - low) / 2, 3)) for e, (v, low, high) in shares.items()})
    rows.append({"Constant": "Status"} | {e: f.status for e, f in both.items()})
    return pd.DataFrame(rows)


def _profiles(found: Fits, picture: Picture | None) -> Iterator[Block]:
    if not found.profiles:
        return
    yield Heading("Profiles at equal compute", 2)
    rows = [row for method, scaling in found.profiles.items() for row in _profile_rows(method, scaling, found.bias)]
    caption = (
        "The size of least loss at each compute budget, in parameters, by a parabola in the logarithm of size and by Akima's interpolation "
        "of the mean losses, with 95 % intervals over bootstraps of runs, open where these reach past an end of the sizes. An optimum at "
        "the end of its sizes is censored and enters no law. Bias: by how much a parabola on this grid would miss the best tokens without "
        "any noise, in closed form, were the fitted surface true."
    )
    yield Table(pd.DataFrame(rows), caption, left=("Method", "Verdict"))
    yield from [picture] if picture else []
    for method, scaling in found.profiles.items():
        if scaling.status != "fitted":
            yield paragraph(f"By {method} no law of the optimum: {scaling.reason}.")
            continue
        a, b = (_constant(constant) for constant in (scaling.a, scaling.b))
        yield paragraph(
            f"By {method}: N* grows as C^a with a = {a}, D* as C^b with b = {b}; fitted apart, their sum is {fixed(scaling.total, 3)} "
            f"({scaling.reason})."
        )
    yield paragraph(_bias(found))


def _bias(found: Fits) -> str:
    """What the grid alone does to a parabola, in a sentence."""
    scaling = found.profiles["parabola"]
    resolved = [profile.flops for profile in scaling.profiles if profile.status == "resolved"]
    if found.bias.empty:
        return "The bias of a parabola on this grid is not known: it takes a surface that converged."
    own = found.bias[found.bias["flops"].isin(resolved)].dropna()
    if len(own) < 2:
        return "The bias of a parabola on the exponents is not known: it takes two budgets with their optimum inside."
    slope = float(np.polyfit(np.log(own["flops"]), np.log1p(own["bias"]), 1)[0])
    return (
        f"Without any noise a parabola on these grids would miss D* by {fixed(100 * own['bias'].min(), 1)} to "
        f"{fixed(100 * own['bias'].max(), 1)} %, which moves b by {fixed(slope, 3)} and a by as much the other way."
    )


def _profile_rows(method: str, scaling: Scaling, bias: pd.DataFrame) -> Iterator[dict[str, str]]:
    biases = dict(zip(bias["flops"], bias["bias"], strict=True)) if len(bias) else {}
    for profile in scaling.profiles:
        own = biases.get(profile.flops, np.nan) if method == "parabola" and profile.status == "resolved" else np.nan
        yield {
            "Method": method,
            "FLOPs": power(profile.flops),
            "Runs": str(profile.n),
            "Best size": short(profile.n_params) + size_interval(profile),
            "Best tokens": short(profile.train_tokens),
            "Loss there": fixed(profile.loss, 3),
            "Bias, %": fixed(100 * own, 1),
            "Verdict": profile.status if not profile.reason else f"{profile.status}: {profile.reason}",
        }


def size_interval(profile: Profile) -> str:
    """Of the best size, where it is known."""
    if np.isnan(profile.low):
        return ""
    low, high = ("open" if end in (0, np.inf) else short(end) for end in (profile.low, profile.high))
    return f" [{low}, {high}]"


def _repeats(found: Fits) -> Iterator[Block]:
    """What a repeated token is worth, where some are."""
    again = found.repeats
    if again is None:
        return
    yield Heading("Repeated data", 2)
    seen = f"{again.repeating} of {plural(len(again.runs), 'run')} saw their texts again, up to {again.most:.3g} epochs"
    if again.fitted is None or not known(again.fitted.r_d.value):
        yield paragraph(f"{seen}. What a repeated token is worth is not known: {again.why}.{_to_add(again.add)}")
        return
    fitted = again.fitted
    yield Table(
        pd.DataFrame(
            [{"Constant": name, "Repeats": _constant(value), "Status": fitted.status} for name, value in _decays(fitted)],
        ),
        "The law of repeated data (Muennighoff et al. 2023): repeats over which a token (R_D), and a parameter beyond what the different "
        f"tokens can use (R_N), lose their worth; log-Huber on the {plural(fitted.n, 'run')} with repeats. Intervals: 2.5 and "
        f"97.5 percentiles over {repeats.DRAWS} bootstraps of runs, each with a replicate of the one-epoch surface that the law rests on.",
        left=("Constant", "Status"),
    )
    if fitted.status != "converged":
        yield paragraph(f"{seen}. These constants carry no claim: {sentence(fitted.reason)}{_to_add(again.add)}")
        return
    share = float(worth(again.most, 1.0, fitted.r_d.value)) / again.most
    yield paragraph(
        f"{seen}. By this law {again.most:.3g} epochs are worth {fixed(100 * share, 0)} % of as many different tokens. Each run counts at "
        "its best weights: the law knows no rise of the loss, so it does not describe runs that overfit."
    )


def _decays(fitted: RepetitionFit) -> list[tuple[str, Constant]]:
    return [("R_D", fitted.r_d), ("R_N", fitted.r_n)]


def _to_add(add: str) -> str:
    return f" To add: {add}." if add else ""


def _constant(found: Constant) -> str:
    return bounded(found.value, found.low, found.high, decimals_of((found.high - found.low) / 2, 3))
