"""The runs to make next: those that would narrow an answer most for their cost, or allow one at all.

A study's runs, its fitted surface and the prices of sizes go in; a few runs come out, each with what is known once it is made.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from harness.affordable import Budget, Market, Size, short_count
from harness.analysis import design, information
from harness.analysis.additive import Law, law
from harness.analysis.fit import Fit

# Shares of a size's own budget at which runs are considered, and how far past the largest size one is.
SHARES, LARGER = (0.25, 0.5, 1.0, 2.0, 4.0), 2.0
NAN = float("nan")


@dataclass(frozen=True)
class NextRun:
    """Further runs at one place: what they cost together, and half the interval asked for once they and those before them are known."""

    rung: str
    n_params: float
    train_tokens: float
    cost: float
    half_width: float
    runs: int = 1


def best(runs: pd.DataFrame, fit: Fit, noise: float, of: Callable[[Law], float], around: pd.DataFrame) -> tuple[float, tuple[NextRun, ...]]:
    """Half the interval of a quantity now, and of the candidates `around` those that narrow it most for their cost.

    How much a run narrows it is known to first order; the interval now is that of the fit's own bootstrap.
    """
    known = information.knowledge(fit.law, runs[["n_params", "train_tokens"]].to_numpy(float), noise)
    drawn = [of(law(theta, fit.data)) for theta in fit.replicates]
    now = design.half_width(np.array(drawn), fit.level) if drawn else known.half_width(of, fit.level)
    found: list[NextRun] = []
    for row in information.next_runs(known, of, around).to_dict("records"):
        run = NextRun(row["rung"], row["n_params"], row["train_tokens"], row["cost"], now * row["left"])
        last = found[-1] if found else None
        if last is not None and (last.rung, last.train_tokens) == (run.rung, run.train_tokens):
            run = replace(run, cost=last.cost + run.cost, runs=last.runs + 1)
            found.pop()
        found.append(run)
    return now, tuple(found)


def proposed(grid: design.Design, budget: Budget, market: Market) -> tuple[NextRun, ...]:
    """The runs without which the surface can't be fitted."""
    rungs = {float(rung.n_params): Size(rung.rung, rung.n_params, rung.flops_per_token) for rung in market.plan.kept}
    added = [(rungs[float(n)], float(d)) for n, d in grid.add.itertuples(index=False)]
    return tuple(NextRun(size.rung, size.n_params, d, float(budget.cost(market, size, np.array([d]))[0]), NAN) for size, d in added)


def candidates(runs: pd.DataFrame, advised: str, budget: Budget, market: Market) -> pd.DataFrame:
    """Runs around the grid that see no token twice and cost no more than the budget: n_params, train_tokens, cost, rung.

    At the rungs, the size advised and one past the largest, on shares and multiples of a size's own tokens.
    """
    sizes = [Size(rung.rung, rung.n_params, rung.flops_per_token) for rung in market.plan.kept if (runs["rung"] == rung.rung).any()]
    sizes += [market.size(name) for name in (advised, short_count(LARGER * max(size.n_params for size in sizes)))]
    tokens = np.log(runs["train_tokens"].astype(float))
    rows: list[dict[str, Any]] = []
    for size in sizes:
        own = tokens[runs["n_params"] == size.n_params]
        d = np.exp(float((own if len(own) else tokens).mean())) * np.array(SHARES)
        costs = budget.cost(market, size, d)
        rows += [
            {"n_params": float(size.n_params), "train_tokens": float(t), "cost": float(cost), "rung": size.rung}
            for t, cost in zip(d, costs, strict=True)
            if market.step_tokens <= t <= market.unique_tokens and cost <= budget.amount
        ]
    return pd.DataFrame(rows, columns=["n_params", "train_tokens", "cost", "rung"])
