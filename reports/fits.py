"""What the analysis makes of a study: the laws, what moves their exponents, and whether they predict the largest rung.

Results go in, one frozen value comes out, computed once for the section, its figure, the limits and `numbers.json`. Losses are nats a
token. Where the data do not allow a law there is a reason, and no number.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.analysis import design, held_out, isoflop, power_law, repetition, seed_noise, specification, study_runs, surface
from harness.analysis.bootstrap import Shared
from harness.results import Results
from reports.numbers import count, listed, plural, short
from reports.rates import rates

LOSS = "test_loss"
LEAST_SIZES = 3
METHODS: tuple[isoflop.Method, ...] = ("parabola", "akima")
DRAWS, SURFACE_DRAWS, CELL_DRAWS = 1000, 500, 200


@dataclass(frozen=True, eq=False)
class Fits:
    """All fits of a study; what could not be computed is None or an empty table.

    `runs`: what enters a fit; `ladder`: those at each size's own budget, which the law in N is of. `refused`: why there is no law, else
    empty; `add`: the runs that would allow one. `floor`: the best possible loss, NaN where it is not known.
    `laws`: as `power_law.fit_power_laws`, in parameters. `cells`: as `specification.curve`, over ways to count parameters; `compute`: the
    same in FLOPs. `fixed`: whether the held-out laws have E fixed at the floor.
    """

    runs: pd.DataFrame
    ladder: pd.DataFrame
    excluded: pd.DataFrame
    family: str
    floor: float
    refused: str
    add: str
    noise: seed_noise.SeedNoise | None
    laws: pd.DataFrame
    cells: pd.DataFrame
    compute: pd.DataFrame
    moved: specification.Range | None
    largest: held_out.HeldOut | None
    rollouts: held_out.Rollouts | None
    fixed: bool
    grid: design.Design | None
    surface: surface.Surface | None
    profiles: Mapping[str, isoflop.Scaling]


@functools.lru_cache(maxsize=2)
def fits(results: Results) -> Fits:
    """All fits that the study's runs allow."""
    selected = study_runs.select(results.runs)
    runs = selected.runs
    ladder = runs[runs["stage"] == "ladder"]
    floor = float((results.data.get("floor") or {}).get("loss") or np.nan)
    refused, add = _refusal(ladder, runs, selected.family)
    E = None if np.isnan(floor) else floor
    laws = cells = compute = pd.DataFrame()
    moved = largest = rolled = None
    if not refused:
        laws = power_law.fit_power_laws(ladder, "n_params", LOSS, E, n_draws=DRAWS, shared=_rate_error(results, ladder))
        cells, compute = _curves(ladder, E)
        moved = specification.spread(cells)
        fitter = held_out.power_law_fitter(loss=LOSS, irreducible=E)
        largest, rolled = held_out.predict_largest(ladder, fitter, loss=LOSS), held_out.rollouts(ladder, fitter, loss=LOSS)
    crossed = _is_grid(runs) and not refused
    return Fits(
        runs=runs,
        ladder=ladder,
        excluded=selected.excluded,
        family=selected.family,
        floor=floor,
        refused=refused,
        add=add,
        noise=seed_noise.seed_noise(runs, ["rung", "budget"], LOSS) if len(runs) else None,
        laws=laws,
        cells=cells,
        compute=compute,
        moved=moved,
        largest=largest,
        rollouts=rolled,
        fixed=E is not None,
        grid=design.judge(runs["n_params"], runs["train_tokens"]) if len(runs) else None,
        surface=surface.fit_surface(runs, n_draws=SURFACE_DRAWS) if crossed else None,
        profiles=_profiles(runs) if crossed and (results.study.get("budgets") or {}).get("train_flops") else {},
    )


def _refusal(ladder: pd.DataFrame, runs: pd.DataFrame, family: str) -> tuple[str, str]:
    """Why no law is fitted, and the runs to add; both empty where one is."""
    sizes = ladder["n_params"].nunique()
    if sizes < LEAST_SIZES:
        of = f" of family {family}" if family else ""
        rest = plural(LEAST_SIZES - sizes, "further size") if sizes else plural(LEAST_SIZES, "size")
        return f"{plural(sizes, 'size')}{of} {'has' if sizes == 1 else 'have'} runs that may enter a fit; a law needs 3", f"{rest}{of}"
    known = runs.dropna(subset=["train_tokens", "unique_tokens"])
    repeated = repetition.repeats(known["train_tokens"].tolist(), known["unique_tokens"].tolist())
    if repeated:
        most, unique = known["train_tokens"].max(), known["unique_tokens"].max()
        return repeated, f"runs on {short(most)} different training tokens (there are {short(unique)}), or budgets of one epoch"
    return "", ""


def _rate_error(results: Results, ladder: pd.DataFrame) -> Shared:
    """The error of the loss that runs of one size share because their learning rate is known within an interval only.

    The cost of a rate grows with the square of its distance d from the best. Were d normal and the interval's ends at 1.96 of its standard
    deviations, the root of the mean square of the cost would be sqrt(3) / 1.96^2 of that at an end. Rates without an interval add nothing.
    """
    optima = rates(results).optima
    cost = {}
    for rung, best in optima.items():
        ends = [best.cost_at(lr) for lr in (best.fitted_low, best.fitted_high)]
        cost[rung] = np.nan_to_num(np.mean(ends)) * np.sqrt(3) / 1.96**2
    return Shared(ladder["rung"].to_numpy(), ladder["rung"].map(cost).fillna(0.0).to_numpy(float))


def _is_grid(runs: pd.DataFrame) -> bool:
    """Whether sizes are crossed with token budgets."""
    return bool((runs["stage"] == "budget").any())


def _curves(ladder: pd.DataFrame, floor: float | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The exponent under every choice, by parameters; by FLOPs on all runs only, since it is another exponent."""
    E, subsets = specification.irreducible_choices(floor), specification.exclusions(ladder, LOSS)
    cells = specification.curve(ladder, specification.Choices(study_runs.COUNTS, subsets, E), LOSS, n_draws=CELL_DRAWS)
    whole = {"none": subsets["none"]}
    choices = specification.Choices(study_runs.COMPUTE, whole, E, ("log-Huber",))
    return cells, specification.curve(ladder, choices, LOSS, n_draws=CELL_DRAWS)


def _profiles(runs: pd.DataFrame) -> dict[str, isoflop.Scaling]:
    return {method: isoflop.fit_isoflop(runs, LOSS, method, SURFACE_DRAWS) for method in METHODS}


def why_excluded(found: Fits) -> str:
    """The runs that no fit uses, counted by reason in few words."""
    counted = found.excluded["reason"].map(_in_words).value_counts(sort=False).sort_index()
    return listed([f"{count(n)} {words}" for words, n in counted.items()])


def _in_words(reason: str) -> str:
    """A reason in a few words that follow a count."""
    if reason.startswith("family "):
        return f"of {reason.split(';')[0]}"
    if reason.startswith("stage ablation"):
        return "on fewer texts"
    return reason.split(",")[0].split(":")[0]
