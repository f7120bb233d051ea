"""An advice for people and for other programs: a table and sentences, or all numbers at full precision."""

import math
from dataclasses import asdict
from typing import Any

import pandas as pd

from harness.advise import Advice, Estimate, Training
from harness.affordable import Budget, short_count
from harness.analysis.fit import Constant
from harness.fit_table import shown
from harness.plan import duration
from harness.runspec import short_rate

# A size known less well than this has its interval as a factor.
WIDE = 1.5
ASKED = {"size": "the best size", "loss": "the loss to expect", "alpha": "alpha"}


def as_data(advice: Advice) -> dict[str, Any]:
    """Everything at full precision, ready for JSON: null where there is no number."""
    plain: dict[str, Any] = _plain(asdict(advice))
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def heading(advice: Advice, study: str) -> str:
    """What is asked."""
    return f"one training run for {_cost(advice.budget.amount, advice.budget)}, by L(N, D) = E + A / N^alpha + B / D^beta of {study}"


def as_table(advice: Advice) -> pd.DataFrame:
    """The best use of the budget, a column an estimator."""
    rows = {
        "parameters": lambda one: _ranged(one.n_params, one.n_low, one.n_high),
        "training tokens": lambda one: _ranged(one.train_tokens, one.d_low, one.d_high),
        "test loss, nats a token": _loss,
    }
    return pd.DataFrame([{"best": name, **{one.estimator: cell(one) for one in advice.estimates}} for name, cell in rows.items()])


def _loss(one: Estimate) -> str:
    return shown(Constant(one.loss, one.loss_low, one.loss_high))


def _ranged(value: float, low: float, high: float) -> str:
    """`1.23M (0.9M to 1.7M)`."""
    return f"{short_count(value)} ({short_count(low)} to {short_count(high)})" if math.isfinite(low) else short_count(value)


def notes(advice: Advice) -> list[str]:
    """The lines under the table."""
    lines = []
    if advice.training is not None and advice.rate is not None:
        lines += _to_run(advice, advice.training)
        rate = advice.rate
        interval = f" ({short_rate(rate.low)} to {short_rate(rate.high)})" if math.isfinite(rate.low) else ""
        lines.append(f"rate     {short_rate(rate.lr)}{interval}: {rate.source}")
        if math.isfinite(advice.near_low):
            lines.append(
                f"near     {short_count(advice.near_low)} to {short_count(advice.near_high)} parameters: no more than seed noise in loss"
            )
        lines.append(f"rests on {advice.runs} runs, seed noise {100 * advice.noise:.2g} %; intervals of 95 %, over bootstraps of runs")
    lines += [f"! {warning}" for warning in advice.warnings]
    return lines + _next(advice)


def _to_run(advice: Advice, run: Training) -> list[str]:
    size = f"{run.rung} ({run.n_params:,} parameters) on {short_count(run.train_tokens)} tokens, {run.epochs:.2g} epochs"
    cost = f"{_power(run.train_flops)} FLOPs (6ND says {_power(run.six_nd)}), about {duration(run.seconds)}"
    return [f"train    {size}: test loss {run.loss:.4g} expected", f"cost     {cost} as measured for the study's plan"]


def _next(advice: Advice) -> list[str]:
    """The runs to make next, with what each leaves of the interval."""
    if not advice.next_runs:
        return [] if advice.status == "refused" else ["next     no run around the grid narrows the answer by 2 % or more"]
    if advice.status == "refused":
        return ["next     " + "; ".join(_run(advice, i) for i in range(len(advice.next_runs)))]
    lines = [f"next     what would narrow {ASKED[advice.narrow]} most for its cost (now {_half(advice, advice.half_width)}):"]
    lines += [f"  {i + 1}. {_run(advice, i)}: {_half(advice, run.half_width)}" for i, run in enumerate(advice.next_runs)]
    return lines


def _run(advice: Advice, i: int) -> str:
    run = advice.next_runs[i]
    seeds = f", {run.runs} seeds" if run.runs > 1 else ""
    return f"{run.rung} on {short_count(run.train_tokens)} tokens{seeds} ({_cost(run.cost, advice.budget)})"


def _half(advice: Advice, half: float) -> str:
    """Half an interval in the words of what it is of; that of a size is a factor."""
    if not math.isfinite(half):
        return "not known"
    if advice.narrow != "size":
        return f"+-{half:.2g}"
    factor = math.exp(half)
    return f"within a factor of {factor:.2g}" if factor > WIDE else f"+-{100 * (factor - 1):.2g} %"


def _cost(amount: float, budget: Budget) -> str:
    return duration(amount) if budget.unit == "seconds" else f"{_power(amount)} FLOPs"


def _power(value: float) -> str:
    """1e16, 3.1e12"""
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
