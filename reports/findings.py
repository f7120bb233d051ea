"""Sentences that the evidence allows, most important first.

A difference is claimed where the intervals over seeds separate; otherwise the sentence says that it can't be told. A claim on one
seed says so.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from harness.analysis.correlation import correlate, partial, within
from harness.analysis.intervals import Interval
from harness.results import Results
from reports import batch_sizes, grid_findings, numbers
from reports.numbers import NLL_DECIMALS, bracketed, listed, plural, power
from reports.rates import IN_WORDS, law_in_words, one_ladder, rates, which_ladder
from reports.summary import Rung, best, budgets, chosen, default_lr, interval, measured, rungs, stuck


@dataclass(frozen=True)
class Finding:
    """A sentence or two on one subject; `supported` is False where the evidence does not decide."""

    subject: str
    text: str
    supported: bool


def findings(results: Results) -> list[Finding]:
    """All findings of a study; empty before the first completed run."""
    by_size = [*_sizes(results), _of_grid("surface", grid_findings.surface(results)), _default_rate(results)]
    rates_of = _rates_by_size(results)
    found = [
        _below_floor(results),
        _critical_batch(results),
        _of_grid("best size", grid_findings.best_size(results)),
        # Both parametrizations are trained to see what becomes of the best rate.
        *(by_size + rates_of if len(rates_of) < 2 else rates_of + by_size),
        _data(results),
        _floor(results),
        _stuck(results),
        _correlation(results),
    ]
    return [finding for finding in found if finding]


def separate(a: Interval, b: Interval) -> bool:
    """Whether two intervals exist and do not touch."""
    if not (numbers.known(a.half_width) and numbers.known(b.half_width)):
        return False
    return a.high < b.low or b.high < a.low


def _critical_batch(results: Results) -> Finding | None:
    said = batch_sizes.sentence(batch_sizes.reached(results))
    return Finding("critical batch", said, "unknown" not in said) if said else None


def _of_grid(subject: str, found: tuple[str, bool] | None) -> Finding | None:
    return Finding(subject, *found) if found else None


def _pair(a: Interval, b: Interval) -> tuple[str, str]:
    """Two intervals with the same decimals, as one sentence shows them."""
    decimals = numbers.column_decimals([a, b], NLL_DECIMALS)
    return bracketed(a, decimals), bracketed(b, decimals)


def default_cost(rung: Rung) -> tuple[float, bool] | None:
    """Nats per text that the default rate costs a rung, and whether one run lies outside what another tuned seed would give."""
    if rung.default_nll is None or rung.nll is None:
        return None
    cost = rung.default_nll - rung.nll.mean
    # A new single run scatters sqrt(n + 1) times as far as the mean of n.
    reach = rung.nll.half_width * (rung.nll.n + 1) ** 0.5
    return cost, numbers.known(reach) and abs(cost) > reach


def _sizes(results: Results) -> list[Finding | None]:
    """Along each parametrization by itself: a size is there once in each."""
    ladder = measured(results)
    kinds = {rung.parametrization: [one for one in ladder if one.parametrization == rung.parametrization] for rung in ladder}
    return [_size(own, IN_WORDS[kind] if len(kinds) > 1 else "") for kind, own in sorted(kinds.items(), reverse=True)]


def _size(ladder: list[Rung], of: str) -> Finding | None:
    if len(ladder) < 2:
        return None
    small, large = ladder[0], ladder[-1]
    assert small.nll and large.nll
    low, high = _pair(small.nll, large.nll)
    ends = f"{low} nats per text at {small.name} and {high} at {large.name}"
    if min(small.seeds, large.seeds) < 2:
        return Finding("size", f"Test NLL{of} is {ends}, with one seed at an end: no claim about size can rest on it.", False)
    if not separate(small.nll, large.nll):
        return Finding("size", f"Smallest and largest{of} can't be told apart: test NLL is {ends}.", False)
    verb = "falls" if large.nll.mean < small.nll.mean else "rises"
    change = f"{low} nats per text at {small.name} to {high} at {large.name}"
    counted = plural(small.seeds, "seed") if small.seeds == large.seeds else f"{small.seeds} and {large.seeds} seeds"
    return Finding("size", f"Test NLL{of} {verb} with size, from {change} ({counted} each).{_steps(ladder)}", True)


def _steps(ladder: list[Rung]) -> str:
    """What happens between neighbours, where there are any between the ends."""
    pairs = [(a, b) for a, b in pairwise(ladder) if a.nll and b.nll]
    if len(pairs) < 2:
        return ""
    level = [f"{a.name} and {b.name}" for a, b in pairs if not separate(a.nll, b.nll)]  # type: ignore[arg-type]
    worse = [b.name for a, b in pairs if b.nll and a.nll and b.nll.mean > a.nll.mean]
    if not level and len(worse) in (0, len(pairs)):
        return " Every step of the ladder separates from the one before."
    said = f" The mean does not fall at every step (not at {listed(worse)})." if 0 < len(worse) < len(pairs) else ""
    return said + (f" Not told apart: {'; '.join(level)}." if level else "")


def _default_rate(results: Results) -> Finding | None:
    rate = power(default_lr(results))
    ladder = [rung for rung in rungs(results) if rung.default is not None and rung.nll]
    if not ladder:
        return None
    broken = [rung.name for rung in ladder if rung.default and rung.default["status"] in ("diverged", "failed")]
    costs = [(rung, found) for rung in ladder if (found := default_cost(rung))]
    parts = [f"training diverged at {listed(broken)}"] if broken else []
    dear = [(rung, cost) for rung, (cost, outside) in costs if outside and cost > 0]
    better = [(rung, -cost) for rung, (cost, outside) in costs if outside and cost < 0]
    level = [rung.name for rung, (_, outside) in costs if not outside and rung.seeds > 1]
    single = [(rung, cost) for rung, (cost, _) in costs if rung.seeds < 2]
    if dear:
        parts.append(f"test NLL is higher than at the chosen rate by {_nats(dear)}")
    if better:
        parts.append(f"test NLL is lower than at the chosen rate by {_nats(better)}")
    if level:
        parts.append(f"no difference beyond the spread of the seeds can be shown at {listed(level)}")
    if single:
        parts.append(f"test NLL differs by {_nats(single)}, on single seeds, so without an interval")
    supported = bool(broken or dear or better)
    return Finding("default rate", f"At the default rate {rate} (one run a rung), {'; '.join(parts)}.", supported) if parts else None


def _nats(costs: list[tuple[Rung, float]]) -> str:
    """3.6 nats per text at 230k and 0.54 at 2M"""
    said = [f"{numbers.fixed(cost, 2 if abs(cost) < 1 else 1)}{{}} at {rung.name}" for rung, cost in costs]
    return listed([said[0].format(" nats per text"), *(part.format("") for part in said[1:])])


def _rates_by_size(results: Results) -> list[Finding | None]:
    twice = results.searches["parametrization"].nunique() > 1
    return [_rate_by_size(results, kind) for kind in (IN_WORDS if twice else ["standard"])]


def _rate_by_size(results: Results, kind: str) -> Finding | None:
    searches = one_ladder(results.searches.dropna(subset=["lr"]), kind).sort_values("n_params")
    of = which_ladder(results.searches, kind)
    resolved = searches[searches["lr_status"] == "resolved"]
    if len(searches) < 2:
        return None
    if len(resolved) < 2:
        few = "no search" if resolved.empty else "only one search"
        return Finding("best rate", f"Whether the best learning rate{of} moves with size can't be told: {few} resolved its minimum.", False)
    small, large = resolved.iloc[0], resolved.iloc[-1]
    a, b = (Interval(row["lr"], row["fitted_low"], row["fitted_high"], 2) for row in (small, large))
    ends = f"{_rate(small)} at {small['rung']} {{}} {_rate(large)} at {large['rung']}"
    if not separate(a, b):
        text = f"The best learning rate{of} is {ends.format('and')}; the intervals overlap, so no trend with size can be told."
        return Finding("best rate", text, False)
    verb = "falls" if large["lr"] < small["lr"] else "rises"
    order = ""
    if len(resolved) > 2:
        rho = correlate(resolved["n_params"], resolved["lr"]).rho
        order = f" Over the {len(resolved)} resolved rungs Spearman's rho is {numbers.fixed(rho, 2)}."
    left = len(searches) - len(resolved)
    left_out = f" {plural(left, 'search')} without a resolved minimum {'is' if left == 1 else 'are'} left out." if left else ""
    law = law_in_words(rates(results, kind), len(resolved))
    return Finding("best rate", f"The best learning rate{of} {verb} with size, from {ends.format('to')}.{order}{law}{left_out}", True)


def _rate(row: pd.Series) -> str:
    if pd.isna(row["fitted_low"]):
        return power(row["lr"])
    return f"{power(row['lr'])} [{power(row['fitted_low'])}, {power(row['fitted_high'])}]"


def _data(results: Results) -> Finding | None:
    runs = budgets(results)
    if runs.empty or runs["train_texts"].nunique() < 2:
        return None
    rung = str(runs[runs["stage"] == "ablation"]["rung"].iloc[0])
    own = runs[runs["rung"] == rung]
    by_texts = {float(n): interval(own[own["train_texts"] == n], "test_nll") for n in own["train_texts"].unique()}
    few, most = min(by_texts), max(by_texts)
    a, b = by_texts[few], by_texts[most]
    if few == most or a is None or b is None:
        return None
    first, last = _pair(a, b)
    ends = f"test NLL of {rung} is {first} on {numbers.count(few)} different texts and {last} on {numbers.count(most)}"
    if min(a.n, b.n) < 2:
        return Finding("data", f"With one seed a budget, {ends} nats per text: no interval stands behind the difference.", False)
    if not separate(a, b):
        return Finding("data", f"More data makes no difference that can be told: {ends} nats per text.", False)
    word = "Fewer texts cost" if a.mean > b.mean else "More texts cost"
    return Finding("data", f"{word} {numbers.fixed(abs(a.mean - b.mean), 1)} nats per text: {ends}.", True)


def gap(results: Results, rung: Rung) -> tuple[float, float] | None:
    """Mean distance of a rung's tuned runs from the floor, and its standard error over texts."""
    runs = chosen(results)
    runs = runs[runs["rung"] == rung.name].dropna(subset=["floor_gap", "floor_gap_se"])
    # The texts are the same for all seeds, so their errors do not average out over seeds.
    return (float(runs["floor_gap"].mean()), float(runs["floor_gap_se"].mean())) if len(runs) else None


def _below_floor(results: Results) -> Finding | None:
    runs = results.runs.dropna(subset=["floor_gap", "floor_gap_se"])
    below = runs[runs["floor_gap"] < -3 * runs["floor_gap_se"]]
    if below.empty:
        return None
    names = listed(sorted(set(below["rung"])))
    return Finding(
        "leak", f"Runs of {names} score better than the best possible: texts leak, or a metric is wrong. Trust nothing below.", True
    )


def _floor(results: Results) -> Finding | None:
    top = best(results)
    found = gap(results, top) if top else None
    if not top or not found:
        return None
    mean, se = found
    if mean < 2 * se:
        return Finding("floor", f"{top.name} can't be told from the best possible: {numbers.fixed(mean, 2)} nats per text above it.", False)
    seeds = "" if top.seeds > 1 else ", one seed"
    distance = f"{numbers.fixed(mean, 1)} ± {numbers.fixed(1.96 * se, 1)}"
    text = f"The best rung, {top.name}, is still {distance} nats per text above the best possible{seeds}."
    return Finding("floor", text, True)


def _stuck(results: Results) -> Finding | None:
    runs = stuck(results)
    if runs.empty:
        return None
    names = listed([f"{rung} at {power(lr)}" for rung, lr in sorted(set(zip(runs["rung"], runs["lr"], strict=True)))])
    return Finding("stuck", f"Stuck: {names} completed without ever beating the frequencies of single characters.", True)


def _correlation(results: Results) -> Finding | None:
    runs = chosen(results).dropna(subset=["val_nll", "val_top1"])
    evaluations = results.evaluations[results.evaluations["key"].isin(runs["key"])].dropna(subset=["val_nll", "val_top1"])
    inside = within(evaluations, "val_nll", "val_top1", "key")
    if not inside.n:
        return None
    low, high = (numbers.correlation(r) for r in (inside.low, inside.high))
    reach = f" (from {low} to {high} over {plural(inside.n, 'run')})" if inside.n > 1 else " (one run)"
    text = f"Within a run, validation NLL and top-1 correlate with r = {numbers.correlation(inside.mean)}{reach}."
    if len(runs) > 3 and runs["n_params"].nunique() > 1:
        across, given = correlate(runs["val_nll"], runs["val_top1"]), partial(runs["val_nll"], runs["val_top1"], np.log(runs["n_params"]))
        text += (
            f" Across {across.n} finished runs r is {numbers.correlation(across.r)}, and {numbers.correlation(given)} with size held fixed."
        )
    return Finding("correlation", text, True)
