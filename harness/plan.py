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
from harness.runspec import digest
from harness.spec import Study

# Seconds of an invocation that no run accounts for: starting workers, the tracking store, the report.
OVERHEAD_S = 30.0
# What the calibration misses: the steps of a real run share caches, disk and memory bandwidth with everything else.
MARGIN = 1.1
# On the disk, a run by itself (its events, its rows in MLflow) and each of its steps (a line of the record, points in MLflow).
RUN_BYTES, STEP_BYTES = 600_000, 400
MOST_RUNS = 100_000
# An extension carries a search past an end of its range by this factor, with so many trials.
EXTENSION_FACTOR = 10**0.5
EXTENSION_TRIALS = 2
# Keys of a study that say nothing about what is run.
COSMETIC = frozenset({"question", "hypothesis", "within", "report", "checkpoints"})


@dataclass(frozen=True)
class DataSize:
    """What the plan needs to know of the corpus: texts in each split, and tokens (targets) a training text has on average."""

    n_train: int
    n_validation: int
    n_test: int
    eval_texts: int
    vocab_size: int
    mean_tokens: float
    fingerprint: str
    lengths: Sequence[int]
    """Tokens of a sample of training texts, for exact FLOPs."""
    unigram_entropy: float | None = None
    """Nats per token of a model that knows the frequencies of tokens only; None where it hasn't been counted."""


@dataclass(frozen=True)
class Cost:
    """Measured seconds on one worker: a training step, scoring one text, sampling at the end, sampling at a new best.

    `process_bytes`: memory of a worker beside what its model, optimizer and activations take.
    """

    step_s: float
    text_s: float
    sample_end_s: float = 0.0
    sample_best_s: float = 0.0
    process_bytes: int = 0


@dataclass(frozen=True)
class RungPlan:
    """One rung: what it is, its budget, and the price of its runs.

    `steps`, `train_tokens`, `epochs`, `train_flops` are of one run. `estimated_s` is for all `runs`, on one worker. `skipped` says why
    the rung is left out, else None. `budget_steps` are the further data budgets of a grid. `trials`: 0 where its rate is not searched;
    those of an extension are priced, but are not among `runs`.
    """

    rung: str
    family: str
    arch: str
    shape: dict[str, Any]
    parameters: dict[str, int]
    n_params: int
    non_embedding_params: int
    embedding_params: int
    head_params: int
    steps: int
    budget_steps: tuple[int, ...]
    train_tokens: int
    epochs: float
    tokens_per_param: float
    flops_per_token: float
    train_flops: float
    six_nd: float
    runs: int
    step_s: float
    estimated_s: float
    memory_bytes: int
    disk_bytes: int
    skipped: str | None = None
    trials: int | None = None


@dataclass(frozen=True)
class Plan:
    """The resolved plan of a study on this machine. `cut`: budgets were scaled by 2^(-cut/2). `study`: digest of all but cosmetic keys."""

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

    @property
    def disk_bytes(self) -> int:
        """What the study leaves on the disk, and its checkpoints while it runs: three a worker."""
        checkpoints = 3 * accounting.checkpoint_bytes(max(rung.n_params for rung in self.kept))
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
        return _price(study, ordered[i], size, costs[ordered[i].name], cut, trials)

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
    evaluations = max(_evaluations(study, size, rung.steps) for rung in rungs)
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
    return digest({k: v for k, v in study.model_dump(mode="json").items() if k not in COSMETIC})


def steps_per_epoch(size: DataSize, batch_size: int, n_texts: int | None = None) -> int:
    """Optimizer steps that pass over the training texts once."""
    return math.ceil(min(n_texts or size.n_train, size.n_train) / batch_size)


def budget_steps(study: Study, rung: Rung, size: DataSize, cut: int) -> list[int]:
    """Steps of every data budget of a rung, largest first; one budget unless `budgets` gives a grid."""
    train, step_tokens = study.train, _step_tokens(study, size)
    limits = [float(train.max_steps)] if train.max_steps else []
    if train.epochs is not None:
        limits.append(train.epochs * steps_per_epoch(size, train.batch_size))
    if train.tokens is not None:
        limits.append(train.tokens / step_tokens)
    per_token = _flops_per_token(rung, size)
    asked = [tokens / step_tokens for tokens in study.budgets.train_tokens]
    asked += [flops / per_token / step_tokens for flops in study.budgets.train_flops]
    return sorted({max(1, int(min([*limits, steps]) * 2 ** (-cut / 2))) for steps in asked or [math.inf]}, reverse=True)


def duration(seconds: float) -> str:
    """Seconds for people: 3:10, 1.5 h, 40 h, 12 d."""
    if seconds < 3600:
        return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 10 else f"{hours:.0f} h" if hours < 100 else f"{hours / 24:,.0f} d"


def _flops_per_token(rung: Rung, size: DataSize) -> float:
    return _flops(rung.arch, tuple(rung.shape.items()), size.vocab_size, tuple(size.lengths))


@cache
def _flops(arch: str, shape: tuple[tuple[str, Any], ...], vocab_size: int, lengths: tuple[int, ...]) -> float:
    # Asked for at every cut of every rung.
    return accounting.train_flops(arch, dict(shape), vocab_size, lengths) / sum(lengths)


def _step_tokens(study: Study, size: DataSize) -> float:
    """Tokens of a step on average; the last batch of an epoch is smaller."""
    return size.n_train * size.mean_tokens / steps_per_epoch(size, study.train.batch_size)


def _trials(study: Study, n_rungs: int) -> list[int]:
    """The trials of each rung, smallest first: none at those whose rate is predicted."""
    searched = n_rungs
    if study.search.transfer == "predict":
        searched = min(n_rungs, study.search.transfer_from or max(2, n_rungs - 1))
    return [study.search.trials] * searched + [0] * (n_rungs - searched)


def extension_trials(study: Study) -> int:
    """The most trials by which a search may exceed `search.trials`; none is ever needed without a search."""
    return EXTENSION_TRIALS * study.search.extend if study.search.trials else 0


def _price(study: Study, rung: Rung, size: DataSize, cost: Cost, cut: int, trials: int) -> RungPlan:
    """A rung at a cut: its budget, and the seconds of all its runs on one worker."""
    steps, *further = budget_steps(study, rung, size, cut)
    tokens = round(steps * _step_tokens(study, size))
    per_token = _flops_per_token(rung, size)
    defaults = 1 if study.search.trials else 0
    ladder_runs = study.seeds * (1 + len(further)) + defaults
    ladder_s = [_run_s(study, size, cost, s, True) for s in (steps, *further)]
    # With a pruner about a quarter of the trials' steps is never made (docs/log.md), which pays for an extension.
    extension = extension_trials(study) if trials and study.search.pruner == "none" else 0
    search_s = (trials + extension) * _run_s(study, size, cost, steps, False)
    estimated = search_s + study.seeds * sum(ladder_s) + defaults * ladder_s[0]
    counts = rung.counts
    # What a batch holds at once: its real tokens, or all positions where padding is learned.
    batch_tokens = round(study.train.batch_size * (study.data.seq_len - 1 if study.train.padding == "learn" else size.mean_tokens))
    return RungPlan(
        rung=rung.name,
        family=rung.family,
        arch=rung.arch,
        shape=dict(rung.shape),
        parameters=dict(counts.groups),
        n_params=counts.n_params,
        non_embedding_params=counts.non_embedding_params,
        embedding_params=counts.embedding_params,
        head_params=counts.head_params,
        steps=steps,
        budget_steps=tuple(further),
        train_tokens=tokens,
        epochs=steps / steps_per_epoch(size, study.train.batch_size),
        tokens_per_param=tokens / counts.n_params,
        flops_per_token=per_token,
        train_flops=per_token * tokens,
        six_nd=6.0 * counts.n_params * tokens,
        runs=trials + ladder_runs,
        trials=trials,
        step_s=cost.step_s,
        estimated_s=estimated * MARGIN,
        memory_bytes=cost.process_bytes + accounting.memory_bytes(rung.arch, rung.shape, size.vocab_size, study.data.seq_len, batch_tokens),
        disk_bytes=_disk_bytes(counts.n_params, ladder_runs, study.search.trials, [steps, *further]),
    )


def _disk_bytes(n_params: int, kept_runs: int, trials: int, budgets: Sequence[int]) -> int:
    """What a rung's runs leave: best weights, here and among MLflow's artifacts, and a line a step in the record, there and in MLflow."""
    runs = kept_runs + trials
    return 2 * accounting.weights_bytes(n_params) * kept_runs + runs * (RUN_BYTES + STEP_BYTES * max(budgets))


def _run_s(study: Study, size: DataSize, cost: Cost, steps: int, keeps: bool, n_texts: int | None = None) -> float:
    """One run: its steps and evaluations; a run that is kept also samples, and scores the test texts."""
    count = _evaluations(study, size, steps, n_texts)
    seconds = steps * cost.step_s + count * size.eval_texts * cost.text_s
    return seconds + (size.n_test * cost.text_s + cost.sample_end_s + count * cost.sample_best_s if keeps else 0.0)


def _evaluations(study: Study, size: DataSize, steps: int, n_texts: int | None = None) -> int:
    """How often a run is evaluated."""
    asked = study.train.evaluations
    return math.ceil(steps / steps_per_epoch(size, study.train.batch_size, n_texts)) if asked == "every_epoch" else min(int(asked), steps)


def ablation_steps(study: Study, size: DataSize, rung: RungPlan, n_texts: int) -> int:
    """The steps of a run on fewer texts: the rung's own budget, and at most `train.epochs` of what is left."""
    if study.train.epochs is None:
        return rung.steps
    return max(1, min(rung.steps, int(study.train.epochs * steps_per_epoch(size, study.train.batch_size, n_texts))))


def _ablation_s(study: Study, size: DataSize, rung: RungPlan, cost: Cost) -> float:
    runs = (_run_s(study, size, cost, ablation_steps(study, size, rung, n), True, n) for n in study.ablations.train_texts)
    return study.seeds * sum(runs) * MARGIN


def _wall(study: Study, rungs: Sequence[RungPlan], size: DataSize, costs: Mapping[str, Cost], machine: Machine) -> float:
    """Seconds from start to report. Which rung is best is not known yet: ablations are priced at the dearest."""
    ablations = max(_ablation_s(study, size, rung, costs[rung.rung]) for rung in rungs)
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
