"""What a planned study will be able to say of its law, before a second is spent: whether it can be fitted, and how well the exponents.

A plan goes in, a frozen `Power` comes out, for `--plan` and its JSON. Widths are those of studies that are simulated from a prior surface
with seed noise and fitted. The runs to add are chosen to first order, and what they bring is simulated again.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from harness.affordable import short_count
from harness.analysis import design, information, repetition, seed_noise, study_runs, surface
from harness.analysis.additive import Law
from harness.analysis.condition import PLAUSIBLE
from harness.plan import Plan, duration
from harness.pricing import RungPlan
from harness.results import Results

# Where the study has no runs yet: standard deviation of log loss over seeds.
NOISE = 0.005
# Fewer degrees of freedom than this say less of the noise than NOISE does.
LEAST_DOF = 4
STUDIES = 200
ADDED = 4
SHARES = (0.25, 0.5, 1.0, 2.0, 4.0)
LEAST_SIZES = 3
LOSS = "test_loss"


@dataclass(frozen=True)
class Prior:
    """What is assumed of the loss before it is known, and in words where that comes from. `law` None: published exponents."""

    law: Law | None
    noise: float
    source: str


ASSUMED = Prior(None, NOISE, f"published exponents and a seed noise of {100 * NOISE:g} % assumed")


@dataclass(frozen=True)
class Added:
    """Runs at one place that would help, one a seed, and the price of all of them on one worker."""

    rung: str
    n_params: int
    train_tokens: float
    runs: int
    seconds: float


@dataclass(frozen=True)
class Power:
    """What the plan's runs can tell. Widths are half of 95 % intervals; None where the law can't be fitted.

    `law`: the one that the report will fit; with the runs in `add` it is always the surface. `condition`: of the surface's fit.
    """

    law: Literal["L(N, D)", "L(N)", "none"]
    reason: str
    runs: int
    condition: float | None
    sizes: int
    crossed_sizes: int
    size_reach: float
    token_reach: float
    noise: float
    prior: str
    alpha: float | None = None
    beta: float | None = None
    add: tuple[Added, ...] = ()
    alpha_then: float | None = None
    beta_then: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for --json."""
        return asdict(self)


def known_prior(results: Results) -> Prior:
    """The surface and the noise that the study's own runs show, as far as they do."""
    runs = study_runs.select(results.runs, LOSS).runs
    if runs.empty:
        return ASSUMED
    noise = seed_noise.seed_noise(runs, ["rung", "budget"], LOSS)
    if noise.dof < LEAST_DOF:
        return ASSUMED
    measured = Prior(None, noise.relative, f"published exponents assumed, seed noise of {100 * noise.relative:.2g} % as in the runs so far")
    known = runs.dropna(subset=["train_tokens", "unique_tokens"])
    if repetition.repeats(known["train_tokens"].tolist(), known["unique_tokens"].tolist()):
        return measured
    fitted = surface.fit_one(runs, "VPNLS", n_draws=0)
    if fitted.status != "converged":
        return measured
    return Prior(fitted.law, noise.relative, f"surface and seed noise of {100 * noise.relative:.2g} % as in the runs so far")


def power(plan: Plan, seeds: int, prior: Prior = ASSUMED) -> Power:
    """What the runs of a plan will tell; trials and ablations don't enter a law."""
    rungs = plan.kept
    places = np.array([(rung.n_params, d) for rung in rungs for d in _budgets(rung) for _ in range(seeds)], float)
    grid = design.judge(places[:, 0], places[:, 1])
    covered = grid.coverage
    condition = grid.condition if np.isfinite(grid.condition) else None
    facts: dict[str, Any] = {"runs": len(places), "condition": condition, "noise": prior.noise, "prior": prior.source}
    facts |= {name: getattr(covered, name) for name in ("sizes", "crossed_sizes", "size_reach", "token_reach")}
    missing = _missing(rungs)
    if missing:
        return Power(law="none", reason=missing, **facts)
    law = prior.law or assumed(places)
    if grid.status == "identified":
        found = _widths(law, places, prior.noise)
        more = _add(law, places, prior.noise, rungs, seeds)
        return Power("L(N, D)", grid.reason, **facts, alpha=found[0], beta=found[1], add=more, **_then(law, places, prior.noise, more))
    # Tokens are what they are: the law in size has all that does not fall with it in its E.
    own = np.array([(rung.n_params, rung.train_tokens) for rung in rungs for _ in range(seeds)], float)
    centre = float(np.exp(np.log(own[:, 1]).mean()))
    in_size = Law(law.E + law.factors[1] * centre ** -law.exponents[1], law.factors[:1], law.exponents[:1])
    alpha, _ = _widths(in_size, own[:, :1], prior.noise)
    more = _priced([(float(n), float(d)) for n, d in grid.add.itertuples(index=False)], rungs, seeds)
    reason = grid.reason.partition(": add ")[0]
    return Power("L(N)", reason, **facts, alpha=alpha, add=more, **_then(law, places, prior.noise, more))


def assumed(places_N2: np.ndarray) -> Law:
    """Published exponents, with E half and each term a quarter of the loss, 1, at the centre of the grid; only ratios matter."""
    centre = np.exp(np.log(places_N2).mean(axis=0))
    A, B = (0.25 * float(x) ** p for x, p in zip(centre, PLAUSIBLE, strict=True))
    return Law(0.5, (A, B), PLAUSIBLE)


def _missing(rungs: Sequence[RungPlan]) -> str:
    """Why the report will fit no law, by the rules that it has."""
    sizes = len({rung.n_params for rung in rungs})
    if sizes < LEAST_SIZES:
        return f"{sizes} size{'s' if sizes > 1 else ''} planned; a law needs {LEAST_SIZES}"
    epochs = max(rung.epochs for rung in rungs)
    if epochs > repetition.ONE_EPOCH:
        return f"runs see their data up to {epochs:.3g} times, and laws hold for data seen once: give fewer tokens or more texts"
    return ""


def _budgets(rung: RungPlan) -> list[float]:
    """Tokens of a run at each budget of a rung."""
    return [rung.train_tokens * steps / rung.steps for steps in (rung.steps, *rung.budget_steps)]


def _widths(law: Law, places: np.ndarray, noise: float) -> tuple[float | None, float | None]:
    """Half the intervals of alpha and, with two variables, of beta; None where half of the studies or more found no law."""
    found, lost = design.simulate(places, noise * law.loss(*places.T), law, STUDIES)
    if lost * 2 >= STUDIES:
        return None, None
    terms = places.shape[1]
    return design.half_width(found[:, 1 + terms]), design.half_width(found[:, 2 + terms]) if terms > 1 else None


def _then(law: Law, places: np.ndarray, noise: float, added: Sequence[Added]) -> dict[str, Any]:
    """The widths of the surface's exponents once runs are added."""
    if not added:
        return {}
    more = [(run.n_params, run.train_tokens) for run in added for _ in range(run.runs)]
    alpha, beta = _widths(law, np.vstack([places, more]), noise)
    return {"alpha_then": alpha, "beta_then": beta}


def _add(law: Law, places: np.ndarray, noise: float, rungs: Sequence[RungPlan], seeds: int) -> tuple[Added, ...]:
    """Runs at the plan's sizes that narrow alpha most for their time, no token seen twice."""
    runs = [(float(rung.n_params), rung.train_tokens * share) for rung in rungs for share in SHARES if rung.epochs * share <= 1.0]
    priced = _priced(runs, rungs, seeds)
    table = pd.DataFrame([{"n_params": float(run.n_params), "train_tokens": run.train_tokens, "cost": run.seconds} for run in priced])
    chosen = information.next_runs(information.knowledge(law, places, noise), information.alpha, table, ADDED, seeds)
    if chosen.empty:
        return ()
    times = chosen.groupby(["n_params", "train_tokens"], sort=False).size().reset_index(name="times")
    rows = times.itertuples(index=False)
    return tuple(run for n, d, count in rows for run in _priced([(float(n), float(d))], rungs, seeds * int(count)))


def _priced(runs: Sequence[tuple[float, float]], rungs: Sequence[RungPlan], seeds: int) -> tuple[Added, ...]:
    of = {float(rung.n_params): rung for rung in rungs}
    return tuple(Added(of[n].rung, of[n].n_params, d, seeds, seeds * _seconds(of[n], d)) for n, d in runs)


def _seconds(rung: RungPlan, train_tokens: float) -> float:
    """A run of a rung on other tokens: its steps, and what comes beside them."""
    step_s = rung.priced_step_s
    whole = rung.estimated_s / rung.runs if rung.run_s is None else rung.run_s
    return max(whole - rung.steps * step_s, 0.0) + rung.steps * train_tokens / rung.train_tokens * step_s


def notes(found: Power, workers: int) -> list[str]:
    """The lines for people."""
    reach = f"{found.sizes} sizes over a factor of {found.size_reach:.3g}, tokens over {found.token_reach:.3g}"
    condition = f", condition {found.condition:.3g}" if found.condition is not None and found.law == "L(N, D)" else ""
    lines = [f"law      {found.law}: {reach}, {found.crossed_sizes} of them with 3 budgets{condition}"]
    if found.law != "L(N, D)":
        lines.append(f"! {found.reason}")
    if found.law == "none":
        return lines
    widths = f"alpha to {_half(found.alpha)}" + ("" if found.beta is None else f" and beta to {_half(found.beta)}")
    lines.append(f"power    {widths} with {found.runs} runs (95 %, simulated; {found.prior})")
    if found.add:
        added = ", ".join(f"{run.runs} x {run.rung} on {short_count(run.train_tokens)} tokens" for run in found.add)
        extra = duration(sum(run.seconds for run in found.add) / workers)
        then = f"alpha to {_half(found.alpha_then)} and beta to {_half(found.beta_then)}"
        lines.append(f"add      {added} (+{extra}): {'L(N, D) with ' if found.law == 'L(N)' else ''}{then}")
    return lines


def _half(width: float | None) -> str:
    return "no width that can be told" if width is None else f"+-{width:.2g}"
