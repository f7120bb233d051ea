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
from harness.analysis.learning_rate import Optimum
from harness.analysis.rate_error import COLUMN, shared_by_rung, with_rate_error
from harness.held_out import LARGEST, NONE
from harness.results import Results
from reports.numbers import count, listed, plural, short
from reports.rates import rates
from reports.repeats import Repeats, repeats
from reports.summary import stuck

LOSS = "test_loss"
LEAST_SIZES = 3
METHODS: tuple[isoflop.Method, ...] = ("parabola", "akima")
DRAWS, SURFACE_DRAWS, CELL_DRAWS = 1000, 500, 200
EQUAL_COMPUTE = "budgets are of equal compute, so that larger sizes see fewer tokens, and the loss is of both"


@dataclass(frozen=True, eq=False)
class Fits:
    """All fits of a study; what could not be computed is None or an empty table.

    `runs`: what enters a fit, with the error of each rung's rate (`rate_error`); `ladder`: those at each size's own budget, which the law
    in N is of. `refused`: why there is no law in size, else empty; `add`: the runs that would allow one. `floor`: the best possible loss,
    NaN where it is not known. `unknown_rates`: rungs in a fit whose search gave no interval.
    `laws`: as `power_law.fit_power_laws`, in parameters. `cells`: as `specification.curve`, over ways to count parameters; `compute`: the
    same in FLOPs. `held`: the held-out rung, judged by the law in size, or by the surface where sizes have equal compute; None where the
    study holds none out or it has no run in a fit. `fixed`: whether the held-out laws have E fixed at the floor.
    `bias`: as `isoflop.grid_bias`, under the fitted surface. `repeats`: None where no run saw its data again.
    """

    runs: pd.DataFrame
    ladder: pd.DataFrame
    excluded: pd.DataFrame
    family: str
    floor: float
    refused: str
    add: str
    unknown_rates: tuple[str, ...]
    noise: seed_noise.SeedNoise | None
    laws: pd.DataFrame
    cells: pd.DataFrame
    compute: pd.DataFrame
    moved: specification.Range | None
    held: held_out.HeldOut | None
    rollouts: held_out.Rollouts | None
    fixed: bool
    grid: design.Design | None
    surface: surface.Surface | None
    profiles: Mapping[str, isoflop.Scaling]
    bias: pd.DataFrame
    repeats: Repeats | None


@functools.lru_cache(maxsize=2)
def fits(results: Results) -> Fits:
    """All fits that the study's runs allow."""
    selected, optima = study_runs.select(results.runs), rates(results).optima
    runs = with_rate_error(selected.runs, optima)
    ladder = runs[runs["stage"] == "ladder"]
    floor = float((results.data.get("floor") or {}).get("loss") or np.nan)
    E = None if np.isnan(floor) else floor
    barred, add = _barred(ladder, runs, selected.family)
    equal_compute = bool((results.study.get("budgets") or {}).get("train_flops"))
    refused = barred or (EQUAL_COMPUTE if equal_compute else "")
    laws = cells = compute = pd.DataFrame()
    moved = None
    if not refused:
        laws = power_law.fit_power_laws(ladder, "n_params", LOSS, E, n_draws=DRAWS, shared=shared_by_rung(ladder))
        cells, compute = _curves(results, ladder, optima, E)
        moved = specification.spread(cells)
    crossed = _is_grid(runs) and not barred
    fitted = surface.fit_surface(runs, n_draws=SURFACE_DRAWS, shared=shared_by_rung(runs)) if crossed else None
    held, rolled = (None, None) if barred else _held_out(results, runs if equal_compute else ladder, equal_compute, E)
    return Fits(
        runs=runs,
        ladder=ladder,
        excluded=selected.excluded,
        family=selected.family,
        floor=floor,
        refused=refused,
        add=add,
        unknown_rates=tuple(dict.fromkeys(ladder[ladder[COLUMN] == 0]["rung"])),
        noise=seed_noise.seed_noise(runs, ["rung", "budget"], LOSS) if len(runs) else None,
        laws=laws,
        cells=cells,
        compute=compute,
        moved=moved,
        held=held,
        rollouts=rolled,
        fixed=E is not None,
        grid=design.judge(runs["n_params"], runs["train_tokens"]) if len(runs) else None,
        surface=fitted,
        profiles=_profiles(runs) if equal_compute and not barred else {},
        bias=isoflop.grid_bias(runs, fitted.log_huber.law) if fitted and fitted.log_huber.status == "converged" else pd.DataFrame(),
        repeats=repeats(results),
    )


def _held_out(
    results: Results, runs: pd.DataFrame, by_surface: bool, E: float | None
) -> tuple[held_out.HeldOut | None, held_out.Rollouts | None]:
    """The rung that the study holds out, and every other that has smaller ones, against what those say."""
    variables = ("n_params", "train_tokens") if by_surface else ("n_params",)
    if by_surface:
        fitter = held_out.surface_fitter(irreducible=E, shared=shared_by_rung)
    else:
        fitter = held_out.power_law_fitter(loss=LOSS, irreducible=E, shared=shared_by_rung)
    rolled = held_out.rollouts(runs, fitter, variables, LOSS, shared_by_rung)
    size = _held_size(results, runs)
    if np.isnan(size):
        return None, rolled
    known = next((rung for rung in rolled.rungs if rung.n_params == size), None)
    return known or held_out.predict_size(runs, size, fitter, variables, LOSS, shared_by_rung), rolled


def _held_size(results: Results, runs: pd.DataFrame) -> float:
    """Parameters of the held-out rung. Where the study names none, it is the largest that enters a fit; NaN where there is none."""
    asked = str((results.study.get("analysis") or {}).get("held_out", LARGEST))
    own = runs["n_params"] if asked == LARGEST else runs[runs["rung"] == asked]["n_params"]
    return float(own.max()) if asked != NONE and len(own) else float("nan")


def _barred(ladder: pd.DataFrame, runs: pd.DataFrame, family: str) -> tuple[str, str]:
    """Why no law of any kind is fitted, and the runs to add; both empty where one is."""
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


def _is_grid(runs: pd.DataFrame) -> bool:
    """Whether sizes are crossed with token budgets."""
    return bool((runs["stage"] == "budget").any())


def _curves(
    results: Results, ladder: pd.DataFrame, optima: Mapping[str, Optimum], floor: float | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The exponent under every choice, by parameters; by FLOPs on all runs only, since it is another exponent."""
    E, (runs, subsets) = specification.irreducible_choices(floor), _subsets(results, ladder, optima)
    every = specification.Choices(study_runs.COUNTS, subsets, E)
    cells = specification.curve(runs, every, LOSS, n_draws=CELL_DRAWS, shared=shared_by_rung)
    whole = specification.Choices(study_runs.COMPUTE, {"none": subsets["none"]}, E, ("log-Huber",))
    return cells, specification.curve(runs, whole, LOSS, n_draws=CELL_DRAWS, shared=shared_by_rung)


def _subsets(results: Results, ladder: pd.DataFrame, optima: Mapping[str, Optimum]) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """The runs of the curve with its exclusions: those that diverged, at their best weights, are in one of them and out of the others."""
    ended = results.runs.assign(status=results.runs["status"].replace("diverged", "completed"))
    runs = with_rate_error(study_runs.select(ended).runs, optima)
    runs = runs[runs["stage"] == "ladder"]
    good, lost = runs["key"].isin(ladder["key"]).to_numpy(), runs["key"].isin(stuck(results)["key"]).to_numpy()
    usual = specification.exclusions(ladder, LOSS)
    subsets = {name: good & runs["key"].isin(ladder["key"][keep]).to_numpy() for name, keep in usual.items()}
    if (good & lost).any():
        subsets["stuck runs"] = good & ~lost
    if not good.all():
        subsets["with diverged runs"] = np.ones(len(runs), bool)
    return runs, subsets


def _profiles(runs: pd.DataFrame) -> dict[str, isoflop.Scaling]:
    return {method: isoflop.fit_isoflop(runs, LOSS, method, SURFACE_DRAWS, shared=shared_by_rung(runs)) for method in METHODS}


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
