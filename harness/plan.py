"""Study -> what will be run: every rung's shape, budget and price, and which rungs this machine leaves out. A pure function.

The plan is plain data once made: it is printed by `--plan`, recorded at the first start and reused by later ones. `harness.stages`
turns it into runs.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from typing import Any

from harness import accounting
from harness._values import MOST_EVALUATIONS
from harness.errors import StudyError
from harness.ladder import Rung
from harness.pricing import Cost, DataSize, RungPlan, ablation_s, evaluations_of, price
from harness.runspec import digest
from harness.spec import Study

# Seconds of an invocation that no run accounts for: starting workers, the tracking store, the report.
OVERHEAD_S = 30.0
MOST_RUNS = 100_000
# Keys of a study that say nothing about what is run.
COSMETIC = frozenset({"question", "hypothesis", "within", "report", "checkpoints", "analysis", "crew"})
# Keys that studies didn't always have: at these values a study is what it was without them.
LATER: Mapping[str, Any] = {"model.parametrization": "standard", "model.mup_base": None, "samples.top_k": [], "samples.top_p": []}


@dataclass(frozen=True)
class Plan:
    """The resolved plan of a study on this machine. `cut`: budgets were scaled by 2^(-cut/2). `study`: digest of all but cosmetic keys.

    `calibrated_runs`: how many finished runs of this machine are behind the prices; `spread`: the share by which 95 % of runs here have
    missed theirs at most, None where too few have ended to say.
    """

    study: str
    data: str
    rungs: tuple[RungPlan, ...]
    cut: int
    within_s: float | None
    estimated_s: float
    workers: int
    threads: int
    device: str
    precision: str
    ablation_runs: int
    calibrated_runs: int = 0
    spread: float | None = None

    @property
    def disk_bytes(self) -> int:
        """What the study leaves on the disk, and its checkpoints while it runs: three of each run that trains."""
        checkpoints = 3 * max(rung.crew * accounting.checkpoint_bytes(rung.n_params) for rung in self.kept)
        return self.workers * checkpoints + sum(rung.disk_bytes for rung in self.kept)

    @property
    def kept(self) -> tuple[RungPlan, ...]:
        """The rungs that are run, smallest first."""
        return tuple(rung for rung in self.rungs if rung.skipped is None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the record and for --json."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Plan":
        """The plan that `to_dict` described; keys that were added beside it are passed over."""
        known = {f.name for f in fields(cls)}
        rungs = tuple(RungPlan(**r | {"budget_steps": tuple(r["budget_steps"])}) for r in data["rungs"])
        return cls(**{k: v for k, v in data.items() if k in known} | {"rungs": rungs})


@dataclass(frozen=True)
class Machine:
    """Where the study runs. `precision` is resolved (never auto); `workers` processes of `threads` threads each."""

    device: str
    workers: int
    threads: int
    precision: str


def make(study: Study, ladder: Sequence[Rung], size: DataSize, costs: Mapping[str, Cost], machine: Machine, within_s: float | None) -> Plan:
    """Fit the study into `within_s` seconds of this machine (None: no limit).

    Budgets are cut for all rungs by the smallest 2^(-k/2) that makes the study fit. Where that takes a run below `train.min_steps`,
    the largest rung is left out instead, and the search for k starts again.

    Raises:
        StudyError: not even the smallest rung fits at `train.min_steps`.
    """
    ordered = sorted(ladder, key=lambda rung: rung.n_params)

    @cache
    def priced(i: int, cut: int, trials: int) -> RungPlan:
        # Asked for again for every number of rungs that may be kept.
        return price(study, ordered[i], size, costs[ordered[i].name], cut, trials)

    whole = [priced(i, 0, trials) for i, trials in enumerate(_trials(study, len(ordered)))]
    _refuse_absurd(study, size, whole)
    limit = math.inf if within_s is None else within_s
    for n_kept in range(len(ordered), 0, -1):
        for cut, rungs in _cuts(study, n_kept, priced):
            wall = _wall(study, rungs, size, costs, machine)
            if wall <= limit:
                left_out = [_leave_out(rung, machine, within_s) for rung in whole[n_kept:]]
                return _plan(study, size, (*rungs, *left_out), cut, within_s, wall, machine)
    # The last that was tried is the least there is: the smallest rung, cut as far as it may be.
    raise StudyError(
        f"within {duration(limit)} can't hold even the rung {ordered[0].name} cut to {rungs[0].steps:,} steps (train.min_steps "
        f"{study.train.min_steps}): it needs about {duration(wall)} on this machine. Give more time (--within {math.ceil(wall / 60)}m), "
        "fewer search.trials or seeds, or a lower train.min_steps. Nothing was run."
    )


def _refuse_absurd(study: Study, size: DataSize, rungs: Sequence[RungPlan]) -> None:
    """Plans that would fill the memory before anything is trained."""
    runs = sum(rung.runs for rung in rungs) + study.seeds * len(study.ablations.train_texts)
    if runs > MOST_RUNS:
        raise StudyError(
            f"the study asks for {runs:,} runs, at most {MOST_RUNS:,} can be planned: fewer seeds, trials or budgets. Nothing was run."
        )
    evaluations = max(evaluations_of(study, size, rung.steps) for rung in rungs)
    if evaluations > MOST_EVALUATIONS:
        what = f"every_epoch is {evaluations:,} evaluations in a run of {max(rung.steps for rung in rungs):,} steps"
        raise StudyError(f"train.evaluations: {what}, at most {MOST_EVALUATIONS:,} can be had: give a number. Nothing was run.")


def _cuts(study: Study, n_kept: int, priced: Callable[[int, int, int], RungPlan]) -> Iterator[tuple[int, list[RungPlan]]]:
    """The smallest rungs, priced uncut and at every cut that takes no run below `train.min_steps`."""
    for cut in itertools.count():
        rungs = [priced(i, cut, trials) for i, trials in enumerate(_trials(study, n_kept))]
        budgets = [steps for rung in rungs for steps in (rung.steps, *rung.budget_steps)]
        if cut and min(budgets) < study.train.min_steps:
            return
        yield cut, rungs
        if max(budgets) == 1:
            return


def runs_of(rung: Mapping[str, Any], chosen: Mapping[str, Any] | None) -> int:
    """A recorded rung's runs; one fewer than planned where its search chose the default rate, which is then not trained
    twice, and more where it was extended."""
    if chosen is None:
        return int(rung["runs"])
    extension = chosen.get("extension_trials")
    return int(rung["runs"]) - int(chosen["lr"] == chosen["default_lr"]) + int(extension if extension and extension > 0 else 0)


def total_runs(plan: Mapping[str, Any], chosen: Mapping[str, Mapping[str, Any]]) -> int:
    """All runs of a recorded plan, as far as is known: those of the rungs that are kept, and the ablations.

    Args:
        chosen: the learning rate of each rung whose search has ended, with its default rate.
    """
    kept = (rung for rung in plan["rungs"] if not rung["skipped"])
    return sum(runs_of(rung, chosen.get(rung["rung"])) for rung in kept) + int(plan["ablation_runs"])


def study_digest(study: Study) -> str:
    """Equal for two study files that would run the same."""
    plain = study.model_dump(mode="json")
    for path, value in LATER.items():
        block, key = path.split(".")
        if plain[block][key] == value:
            del plain[block][key]
    return digest({k: v for k, v in plain.items() if k not in COSMETIC})


def duration(seconds: float) -> str:
    """Seconds for people: 3:10, 1.5 h, 40 h, 12 d."""
    if seconds < 3600:
        return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 10 else f"{hours:.0f} h" if hours < 100 else f"{hours / 24:,.0f} d"


def _trials(study: Study, n_rungs: int) -> list[int]:
    """The trials of each rung, smallest first: none at those whose rate is predicted."""
    searched = n_rungs
    if study.search.transfer == "predict":
        searched = min(n_rungs, study.search.transfer_from or max(2, n_rungs - 1))
    return [study.search.trials] * searched + [0] * (n_rungs - searched)


def _wall(study: Study, rungs: Sequence[RungPlan], size: DataSize, costs: Mapping[str, Cost], machine: Machine) -> float:
    """Seconds from start to report. Which rung is best is not known yet: ablations are priced at the dearest."""
    ablations = max(ablation_s(study, size, rung, costs[rung.rung]) for rung in rungs)
    return OVERHEAD_S + (sum(rung.estimated_s for rung in rungs) + ablations) / machine.workers


def _leave_out(rung: RungPlan, machine: Machine, within_s: float | None) -> RungPlan:
    assert within_s is not None
    need = rung.estimated_s / machine.workers
    return replace(rung, skipped=f"needs {duration(need)} for {rung.epochs:g} epochs (within: {duration(within_s)})")


def _plan(
    study: Study, size: DataSize, rungs: tuple[RungPlan, ...], cut: int, within_s: float | None, wall: float, machine: Machine
) -> Plan:
    return Plan(
        study=study_digest(study),
        data=size.fingerprint,
        rungs=rungs,
        cut=cut,
        within_s=within_s,
        estimated_s=wall,
        workers=machine.workers,
        threads=machine.threads,
        device=machine.device,
        precision=machine.precision,
        ablation_runs=study.seeds * len(study.ablations.train_texts),
    )
