"""Plan -> runs, stage by stage: a rung's search, its ladder runs, and the ablations at the best rung.

A lane is a generator that yields groups of runs, is sent how each ended, and yields the next group. What it yields depends on what it was
sent and on nothing else, so that after an interruption it takes the same way again, runs that are done being answered from the record.
"""

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from harness import search as searching
from harness.analysis.learning_rate import Optimum, optimum
from harness.plan import DataSize, Plan, RungPlan, ablation_steps, steps_per_epoch
from harness.runspec import RunSpec
from harness.schedule import evaluation_steps
from harness.search import Trial
from harness.spec import Study

# The seed of every trial. Ladder runs have the seeds 0, 1, ..., so that the winner of a search is judged on fresh ones.
SEARCH_SEED = 1_000_003
# All trials of a search share a seed, so they can't show what a seed changes: over seeds, the validation loss of ladder runs had a standard
# deviation of .007 to .022 nats a token (20k to 230k on the embedded corpus, docs/log.md).
SEED_NOISE = 0.01


@dataclass(frozen=True)
class Ended:
    """How a run ended: the fields of its record, and (step, validation loss) at its evaluations."""

    spec: RunSpec
    fields: Mapping[str, Any]
    history: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Group:
    """Runs that don't need each other. `finished`: the trials of this search's earlier batches, which pruning compares with."""

    specs: tuple[RunSpec, ...]
    finished: tuple[Trial, ...] = ()


@dataclass(frozen=True)
class RateChoice:
    """The rate that a rung's ladder runs use, for the record. `fields`: all that the search found."""

    rung: str
    fields: Mapping[str, Any]


Lane = Generator[Group | RateChoice, list[Ended], None]


@dataclass(frozen=True)
class Stages:
    """Makes the runs of one study under one plan."""

    study: Study
    plan: Plan
    size: DataSize

    def rung(self, rung: RungPlan) -> Lane:
        """Search the rung's rate, then train it with every seed at that rate, and once at the default."""
        search = self.study.search
        if not search.trials:
            yield Group(tuple(self._ladder(rung, search.default_lr, "default", "")))
            return
        trials: list[Trial] = []
        while len(trials) < search.trials:
            count = min(search.batch, search.trials - len(trials))
            rates = searching.suggest(search, self.study.study, rung.rung, trials, count)
            specs = tuple(self._trial(rung, len(trials) + i, lr) for i, lr in enumerate(rates))
            ended = yield Group(specs, tuple(trials))
            trials += [searching.finished_trial(e.spec.trial or 0, e.spec.lr, e.fields, e.history) for e in ended]
        choice = choose_rate(self.study, rung, trials)
        yield RateChoice(rung.rung, choice)
        tuned = list(self._ladder(rung, choice["lr"], "tuned", choice["lr_status"]))
        default = self._spec(rung, "ladder", search.default_lr, 0, lr_source="default")
        yield Group((*tuned, *([] if default.key in {spec.key for spec in tuned} else [default])))

    def ablations(self, ladder: Sequence[Ended]) -> Lane:
        """The best rung (lowest mean validation NLL over seeds at its tuned rate) on fewer training texts, with every seed."""
        best = self._best(ladder)
        if best is None:
            return
        rung, lr, source, status = best
        specs = []
        for n_texts in self.study.ablations.train_texts:
            steps = ablation_steps(self.study, self.size, rung, n_texts)
            for seed in range(self.study.seeds):
                specs.append(self._spec(rung, "ablation", lr, seed, steps=steps, train_texts=n_texts, lr_source=source, lr_status=status))
        if specs:
            yield Group(tuple(specs))

    def probe(self, rung: RungPlan) -> RunSpec:
        """A run that is only measured."""
        return self._spec(rung, "search", self.study.search.default_lr, SEARCH_SEED)

    def _best(self, ladder: Sequence[Ended]) -> tuple[RungPlan, float, str, str] | None:
        main_source = "tuned" if self.study.search.trials else "default"
        means: dict[str, list[float]] = {}
        rates: dict[str, RunSpec] = {}
        for run in ladder:
            scored = run.fields["status"] == "completed" and run.fields["val_nll"] is not None
            if run.spec.stage == "ladder" and run.spec.lr_source == main_source and scored:
                means.setdefault(run.spec.rung, []).append(run.fields["val_nll"])
                rates[run.spec.rung] = run.spec
        if not means:
            return None
        name = min(means, key=lambda rung: float(np.mean(means[rung])))
        spec = rates[name]
        return next(r for r in self.plan.kept if r.rung == name), spec.lr, spec.lr_source, spec.lr_status

    def _ladder(self, rung: RungPlan, lr: float, source: str, status: str) -> Sequence[RunSpec]:
        """All seeds at the rung's own budget, and at each further budget of a grid."""
        runs = [("ladder", rung.steps), *(("budget", steps) for steps in rung.budget_steps)]
        seeds = range(self.study.seeds)
        labels: dict[str, Any] = {"lr_source": source, "lr_status": status}
        return [self._spec(rung, stage, lr, seed, steps=steps, **labels) for stage, steps in runs for seed in seeds]

    def _trial(self, rung: RungPlan, number: int, lr: float) -> RunSpec:
        spec = self._spec(rung, "search", lr, SEARCH_SEED)
        return replace(spec, trial=number, search=searching.search_digest(self.study.search))

    def _spec(
        self, rung: RungPlan, stage: str, lr: float, seed: int, steps: int | None = None, train_texts: int | None = None, **labels: Any
    ) -> RunSpec:
        train, n_texts = self.study.train, min(train_texts or self.size.n_train, self.size.n_train)
        steps = rung.steps if steps is None else steps
        return RunSpec(
            stage=stage,
            rung=rung.rung,
            family=rung.family,
            arch=rung.arch,
            shape=rung.shape,
            vocab_size=self.size.vocab_size,
            seq_len=self.study.data.seq_len,
            data=self.plan.data,
            train_texts=n_texts,
            eval_texts=self.size.eval_texts,
            steps=steps,
            evaluate_at=evaluation_steps(steps, train.evaluations, steps_per_epoch(self.size, train.batch_size, n_texts)),
            patience=train.patience,
            batch_size=train.batch_size,
            lr=lr,
            schedule=train.schedule,
            warmup_steps=int(train.warmup_fraction * steps),
            lr_min_fraction=train.lr_min_fraction,
            weight_decay=train.weight_decay,
            beta1=train.beta1,
            beta2=train.beta2,
            eps=train.eps,
            dropout=train.dropout,
            grad_clip=train.grad_clip,
            padding=train.padding,
            precision=self.plan.precision,
            seed=seed,
            **labels,
        )


def choose_rate(study: Study, rung: RungPlan, trials: Sequence[Trial]) -> dict[str, Any]:
    """What a finished search says of a rung: the rate to use, its status, and the fitted optimum."""
    search = study.search
    frame = pd.DataFrame({"lr": [t.lr for t in trials], "val_loss": [t.value for t in trials], "status": [t.status for t in trials]})
    found: Optimum = optimum(frame, search.lr.low, search.lr.high, noise=SEED_NOISE)
    counts = frame["status"].value_counts()
    fields = asdict(found)
    # Nothing completed: the comparison with the default rate is all that is left to train.
    lr = _rate_to_use(found.lr, trials) if math.isfinite(found.lr) else search.default_lr
    return {
        "rung": rung.rung,
        "family": rung.family,
        "n_params": rung.n_params,
        "lr": lr,
        "lr_status": fields.pop("status"),
        "trials": len(trials),
        **{status: int(counts.get(status, 0)) for status in ("completed", "pruned", "diverged", "failed")},
        **{k: v for k, v in fields.items() if k not in ("lr", "bowl", "n_completed", "n_pruned", "n_diverged")},
        "low": search.lr.low,
        "high": search.lr.high,
        "default_lr": search.default_lr,
    }


def _rate_to_use(lr: float, trials: Sequence[Trial]) -> float:
    """A rate that was tried, to its last digit, or a fitted one to six digits.

    The analysis works in logarithms, and its last digits may differ between versions of its libraries: without this, a run at the default
    rate would not be known as the same run again, and a resumed study could train its ladder at a rate that is new by 1e-16.
    """
    return next((trial.lr for trial in trials if math.isclose(trial.lr, lr, rel_tol=1e-12)), float(f"{lr:.6g}"))
