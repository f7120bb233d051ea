"""What to spend a budget on, from a study that has been run: size, tokens and learning rate, with the loss to expect.

Results go in, a frozen `Advice` comes out. It rests on the surface L(N, D) as the report fits it, on the prices of shapes that can be
built, and on the law of the learning rate. Where the surface can't be fitted, or the answer lies too far from the runs, there is a reason
and no number; the runs that would help are named either way.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from harness import next_runs
from harness.affordable import Budget, Market, Size, short_count
from harness.analysis import design, information, repetition, seed_noise, study_runs, surface
from harness.analysis.additive import Law, law
from harness.analysis.fit import Fit, Prediction
from harness.analysis.learning_rate_ladder import LadderLaw
from harness.analysis.learning_rate_law import Law as RateLaw
from harness.analysis.rate_error import shared_by_rung, with_rate_error
from harness.next_runs import NextRun
from harness.plan import Plan
from harness.results import Results

LOSS = "test_loss"
DRAWS = 500
# Past the runs by more than this factor, in parameters or tokens, there is a warning, and no answer.
FAR, TOO_FAR = 10.0, 100.0
# The same for the tokens of the runs at which rates were searched.
RATE_FAR = 3.0
# Sizes on each side of the best by which the growth of prices with size is measured.
NEIGHBOURS = 3
# An interval of the best size that spans more than this is no answer to lean on.
VAGUE = 30.0
# Losses that agree to the last digit would say everything.
LEAST_NOISE = 1e-6
NAN = float("nan")

Narrow = Literal["size", "loss", "alpha"]
NARROW: tuple[Narrow, ...] = ("size", "loss", "alpha")


@dataclass(frozen=True)
class Estimate:
    """The best use of the budget by one estimator, with intervals over bootstraps of runs; that of the loss is for one further run.

    Where the data would repeat (`limited`), tokens are all that there are, and only the loss has an interval.
    """

    estimator: str
    n_params: float
    n_low: float
    n_high: float
    train_tokens: float
    d_low: float
    d_high: float
    loss: float
    loss_low: float
    loss_high: float
    limited: bool


@dataclass(frozen=True)
class Rate:
    """The peak learning rate to use and where it comes from; bounds are NaN where there is no interval."""

    lr: float
    low: float
    high: float
    source: str


@dataclass(frozen=True)
class Training:
    """The run to make: a shape that can be built, and all of the budget in tokens. `seconds`: on one worker, as measured for the plan."""

    rung: str
    n_params: int
    train_tokens: float
    epochs: float
    train_flops: float
    six_nd: float
    seconds: float
    loss: float


@dataclass(frozen=True)
class Advice:
    """The answer. Where `status` is refused, `reason` says why and there is no `training`.

    `near_low`, `near_high`: the sizes for which the expected loss is within seed noise of the best. `narrow`: what `next_runs` narrow,
    the logarithm of the best size, its loss, or alpha; `half_width`: half its interval now.
    """

    status: Literal["advised", "refused"]
    reason: str
    budget: Budget
    warnings: tuple[str, ...]
    runs: int
    noise: float
    estimates: tuple[Estimate, ...] = ()
    training: Training | None = None
    rate: Rate | None = None
    near_low: float = NAN
    near_high: float = NAN
    narrow: Narrow = "size"
    half_width: float = NAN
    next_runs: tuple[NextRun, ...] = ()


@dataclass(frozen=True, eq=False)
class _Choice:
    """Sizes with what their tokens cost and how many the budget is enough for; near the best, a token costs `scale` N^`growth`."""

    sizes: list[Size]
    n: np.ndarray
    price: np.ndarray
    tokens: np.ndarray
    spent: float
    scale: float
    growth: float

    def best(self, given: Law) -> tuple[float, float]:
        """Parameters and tokens of least loss."""
        return surface.optimum(given, self.spent, self.scale, self.growth)


def advise(results: Results, budget: Budget, rates: LadderLaw, narrow: Narrow = "size", draws: int = DRAWS) -> Advice:
    """What to spend `budget` on, for one training run.

    Args:
        rates: the law of the learning rate over the study's rungs, and their optima, whose error is in the intervals; where there is no
            law, the rate is that of the nearest rung.
        narrow: what the next runs are chosen for.
    """
    market = Market(dict(results.study), Plan.from_dict(results.plan), dict(results.data))
    chosen = with_rate_error(study_runs.select(results.runs, LOSS).runs, rates.optima)
    runs = chosen[~(chosen["train_tokens"] / chosen["unique_tokens"] > repetition.ONE_EPOCH)]
    noise = seed_noise.seed_noise(runs, ["rung", "budget"], LOSS).relative if len(runs) else NAN
    refused, proposed = _refusal(runs, len(chosen), market, budget)
    if refused:
        return Advice("refused", refused, budget, (), len(runs), noise, next_runs=proposed)
    fitted = surface.fit_surface(runs, n_draws=draws, shared=shared_by_rung(runs))
    main = fitted.log_huber
    if main.status != "converged":
        return Advice("refused", f"the surface is {main.status}: {main.reason}", budget, (), len(runs), noise)
    noise = max(float(np.std(main.scatter)) if np.isnan(noise) else noise, LEAST_NOISE)
    choice = _choice(main.law, budget, market)
    if isinstance(choice, str):
        return Advice("refused", choice, budget, (), len(runs), noise)
    estimates = tuple(_estimate(fit, choice, market) for fit in (main, fitted.vpnls) if fit.status == "converged")
    far = _extrapolation(runs, estimates[0])
    if max(far.values()) > TOO_FAR:
        return Advice("refused", f"the answer lies {_in_words(far)}: over a factor of {TOO_FAR:g}", budget, (), len(runs), noise)
    training = _training(estimates[0], main.law, budget, market)
    rate = _rate(training, rates.law, results)
    narrow = "loss" if narrow == "size" and estimates[0].limited else narrow
    quantities: Mapping[Narrow, Callable[[Law], float]] = {
        "size": lambda one: float(np.log(choice.best(one)[0])),
        "loss": lambda one: float(one.loss(training.n_params, training.train_tokens)),
        "alpha": information.alpha,
    }
    around = next_runs.candidates(runs, training.rung, budget, market)
    now, more = next_runs.best(runs, main, noise, quantities[narrow], around)
    low, high = _near(main.law, choice, noise, market)
    warnings = (
        *_warnings(fitted, estimates, far, choice, market),
        *_rate_warnings(runs, training, results),
        *_coverage(runs, len(chosen) - len(runs)),
    )
    return Advice("advised", main.reason, budget, warnings, len(runs), noise, estimates, training, rate, low, high, narrow, now, more)


def _refusal(runs: pd.DataFrame, ended: int, market: Market, budget: Budget) -> tuple[str, tuple[NextRun, ...]]:
    """Why there is no surface, and the runs that would allow one; `ended` counts those that repeat their data too."""
    if not ended:
        return "no run has ended that may enter a fit", ()
    if runs.empty:
        return f"all runs repeat their data; it takes runs on {market.unique_tokens:.3g} tokens or less, or more texts (data.texts)", ()
    grid = design.judge(runs["n_params"], runs["train_tokens"])
    if grid.status == "identified":
        return "", ()
    return grid.reason, next_runs.proposed(grid, budget, market)


def _choice(given: Law, budget: Budget, market: Market) -> _Choice | str:
    """What could be bought, and how prices grow near the best; a sentence where the best is none of the sizes looked at."""
    sizes = market.sizes()
    n = np.array([size.n_params for size in sizes], float)
    price, tokens = budget.prices(market, sizes)
    can = tokens >= market.step_tokens
    if not can.any():
        return f"{budget.amount:.3g} {budget.unit} are not enough for a single step of the smallest size, {sizes[0].rung}"
    expected = np.where(can, given.loss(n, np.maximum(tokens, 1.0)), np.inf)
    best = int(np.argmin(expected))
    if best in (0, len(sizes) - 1) or not can[best + 1]:
        return f"the best size is not among those looked at ({sizes[0].rung} to {sizes[int(can.nonzero()[0][-1])].rung})"
    near = slice(max(0, best - NEIGHBOURS), best + NEIGHBOURS + 1)
    growth, scale = np.polyfit(np.log(n[near]), np.log(price[near]), 1)
    return _Choice(sizes, n, price, tokens, float(tokens[best] * price[best]), float(np.exp(scale)), float(growth))


def _estimate(fit: Fit, choice: _Choice, market: Market) -> Estimate:
    """The best size and tokens, of all that the data hold."""
    n, d = choice.best(fit.law)
    limited = d > market.unique_tokens * repetition.ONE_EPOCH
    n_low = n_high = d_low = d_high = NAN
    if limited:
        # Tokens fall with size, so that all of them are seen once at one size, a larger one than the best.
        d = market.unique_tokens
        there = choice.tokens > 0
        n = float(np.exp(np.interp(-np.log(d), -np.log(choice.tokens[there]), np.log(choice.n[there]))))
    elif len(fit.replicates):
        drawn = np.array([choice.best(law(theta, fit.data)) for theta in fit.replicates])
        (n_low, d_low), (n_high, d_high) = np.quantile(drawn, [(1 - fit.level) / 2, (1 + fit.level) / 2], axis=0).tolist()
    expected = fit.predict(n, d) if len(fit.replicates) else Prediction(float(fit.law.loss(n, d)), NAN, NAN)
    return Estimate(fit.estimator, n, n_low, n_high, d, d_low, d_high, expected.loss, expected.low, expected.high, limited)


def _training(best: Estimate, given: Law, budget: Budget, market: Market) -> Training:
    """The shape that comes nearest to the best size, with the tokens that the budget is enough for there."""
    size = market.size(short_count(best.n_params))
    _, tokens = budget.prices(market, [size])
    steps = max(1, int(min(float(tokens[0]), market.unique_tokens) / market.step_tokens))
    d = steps * market.step_tokens
    per_token, beside = market.seconds([size.flops_per_token])
    seconds = float(per_token[0] * d + beside[0])
    flops, six_nd = size.flops_per_token * d, 6.0 * size.n_params * d
    return Training(size.rung, size.n_params, d, d / market.unique_tokens, flops, six_nd, seconds, float(given.loss(size.n_params, d)))


def _rate(training: Training, rates: RateLaw, results: Results) -> Rate:
    """By the law over rungs, else that of the rung nearest in size, else the study's default."""
    found = rates.predict(training.n_params)
    if rates.status == "fitted":
        return Rate(float(f"{found.lr:.3g}"), found.low, found.high, f"the law over {rates.n_rungs} rungs, lr* ~ N^-{rates.p:.2f}")
    searches = results.searches.dropna(subset=["lr"])
    if searches.empty:
        lr = float((results.study.get("search") or {}).get("default_lr") or 1e-3)
        return Rate(lr, NAN, NAN, "the study's default: no rate was searched")
    nearest = searches.loc[(np.log(searches["n_params"].astype(float)) - np.log(training.n_params)).abs().idxmin()]
    return Rate(float(nearest["lr"]), NAN, NAN, f"that of {nearest['rung']} ({nearest['lr_status']}), the nearest size: {rates.reason}")


def _near(given: Law, choice: _Choice, noise: float, market: Market) -> tuple[float, float]:
    """The smallest and the largest size whose expected loss is within seed noise of the best."""
    can = (choice.tokens >= market.step_tokens) & (choice.tokens <= market.unique_tokens * repetition.ONE_EPOCH)
    if not can.any():
        return NAN, NAN
    expected = given.loss(choice.n[can], choice.tokens[can])
    close = choice.n[can][expected <= expected.min() * (1 + noise)]
    return float(close[0]), float(close[-1])


def _extrapolation(runs: pd.DataFrame, best: Estimate) -> dict[str, float]:
    """By what factor the answer lies outside of the runs; 1 or less is inside."""
    pairs = (("parameters", runs["n_params"], best.n_params), ("tokens", runs["train_tokens"], best.train_tokens))
    return {name: max(x / float(values.max()), float(values.min()) / x) for name, values, x in pairs}


def _in_words(far: Mapping[str, float]) -> str:
    return " and ".join(f"{factor:.3g} times past the runs in {name}" for name, factor in far.items() if factor > 1.05)


def _warnings(
    fitted: surface.Surface, estimates: tuple[Estimate, ...], far: Mapping[str, float], choice: _Choice, market: Market
) -> tuple[str, ...]:
    said = []
    if max(far.values()) > FAR:
        said.append(f"extrapolates {_in_words(far)}: over a factor of {FAR:g}, where the law may bend; intervals don't hold that")
    elif _in_words(far):
        said.append(f"extrapolates {_in_words(far)}")
    if estimates[0].limited:
        wanted = choice.best(fitted.log_huber.law)[1]
        texts = int(np.ceil(market.data["n_train"] * wanted / market.unique_tokens))
        why = f"data would repeat: the best use would be {wanted:.3g} tokens, there are {market.unique_tokens:.3g}"
        said.append(f"{why}; this is the best that sees none twice. Better: {texts:,} training texts (data.texts)")
    span = estimates[0].n_high / estimates[0].n_low
    if span > VAGUE:
        said.append(f"the interval of the best size spans a factor of {span:.2g}: the runs hardly say what it is")
    if len(estimates) == 1:
        said.append(f"VPNLS is {fitted.vpnls.status} ({fitted.vpnls.reason}), so that one estimator speaks alone")
    if fitted.gap:
        said.append(
            f"the two estimates of {', '.join(fitted.gap)} lie outside each other's interval: the form or the noise is not as assumed"
        )
    return tuple(said)


def _rate_warnings(runs: pd.DataFrame, training: Training, results: Results) -> list[str]:
    """Rates are searched at the rungs' own budgets, and the law knows size alone."""
    ladder, said = runs[runs["stage"] == "ladder"]["train_tokens"], []
    factor = training.train_tokens / float(ladder.median()) if len(ladder) else 1.0
    if max(factor, 1 / factor) > RATE_FAR:
        said.append(f"the rate is of runs on {1 / factor:.3g} times the tokens; how it moves with tokens was not measured")
    if (results.study.get("search") or {}).get("space"):
        said.append("keys that were searched beside the rate stand at the study's own values")
    return said


def _coverage(runs: pd.DataFrame, repeating: int) -> list[str]:
    said = [f"{repeating} runs that repeat their data are left out: the law is of data seen once"] if repeating else []
    return [*said, *design.coverage(runs["n_params"], runs["train_tokens"]).warnings]
