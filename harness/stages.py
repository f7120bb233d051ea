"""Plan -> runs, stage by stage: a rung's search, its ladder runs, and the ablations at the best rung.

A lane is a generator that yields groups of runs, is sent how each ended, and yields the next group. What it yields depends on what it was
sent and on nothing else, so that after an interruption it takes the same way again, runs that are done being answered from the record.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harness import search as searching
from harness.plan import Plan
from harness.pricing import DataSize, RungPlan, ablation_steps, steps_of_batch, steps_per_epoch
from harness.rates import choose_rate, further_rates, predict_rate, prediction, values_of
from harness.runspec import RunSpec
from harness.schedule import evaluation_steps
from harness.search import Point, Trial
from harness.spec import Study

# The seed of every trial. Ladder runs have the seeds 0, 1, ..., so that the winner of a search is judged on fresh ones.
SEARCH_SEED = 1_000_003


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
Values = Mapping[str, Any]


@dataclass(frozen=True)
class Stages:
    """Makes the runs of one study under one plan."""

    study: Study
    plan: Plan
    size: DataSize

    def rung(self, rung: RungPlan) -> Lane:
        """Search the rung's rate, then train it with every seed at that rate, and once at the default.

        Where rungs are searched in turn, the smallest one's lane is that of all.
        """
        search = self.study.search
        if not search.trials:
            yield Group(tuple(self._ladder(rung, search.default_lr, "default", "")))
        elif search.order == "together" and search.transfer == "measure":
            choice, values = yield from self._search(rung, None)
            yield Group(tuple(self._after(rung, choice, values)))
        elif rung.rung == self.plan.kept[0].rung:
            yield from self._in_turn()

    def _in_turn(self) -> Lane:
        """Search the rungs one after the other, smallest first; then all ladder runs, which need each other no more."""
        choices: list[Mapping[str, Any]] = []
        specs: list[RunSpec] = []
        values: Values = {}
        for rung in self.plan.kept:
            if rung.trials == 0:
                choice = predict_rate(self.study, rung, choices)
                yield RateChoice(rung.rung, choice)
            else:
                choice, values = yield from self._search(rung, prediction(rung, choices))
                choices.append(choice)
            # A rung whose rate is predicted takes the other values of the largest one that was searched.
            specs += self._after(rung, choice, values)
        yield Group(tuple(specs))

    def _search(self, rung: RungPlan, predicted: float | None) -> Generator[Group | RateChoice, list[Ended], tuple[dict[str, Any], Values]]:
        """All trials of a rung, also past an end or below a cliff if the optimum is there; the choice, the winner's other values."""
        search, low, high, extended = self.study.search, self.study.search.lr.low, self.study.search.lr.high, 0
        trials: list[Trial] = []
        while len(trials) < search.trials:
            count = min(search.batch, search.trials - len(trials))
            points = searching.suggest(search, self.study.study, rung.rung, trials, count, self._own(), predicted)
            trials += yield from self._try(rung, points, trials, searching.search_digest(search, predicted))
        choice = choose_rate(self.study, rung, trials, self.size, low, high)
        while extended < search.extend and choice["lr_status"] == "edge":
            rates = further_rates(trials, low, high, choice)
            points = [Point(lr, tuple(sorted(choice["values"].items()))) for lr in rates]
            trials += yield from self._try(rung, points, trials, searching.search_digest(search, predicted, extended=True), prune=False)
            extended, low, high = extended + 1, min(low, *rates), max(high, *rates)
            choice = choose_rate(self.study, rung, trials, self.size, low, high, extended)
        yield RateChoice(rung.rung, choice)
        return choice, choice["values"]

    def _try(
        self, rung: RungPlan, points: Sequence[Point], earlier: Sequence[Trial], digest: str, prune: bool = True
    ) -> Generator[Group | RateChoice, list[Ended], list[Trial]]:
        """One batch of trials. Those of an extension run to their end: a pruned one would not say on which side of it the optimum is."""
        specs = tuple(
            replace(self._spec(rung, "search", point.lr, SEARCH_SEED, values=dict(point.others)), trial=len(earlier) + i, search=digest)
            for i, point in enumerate(points)
        )
        ended = yield Group(specs, tuple(earlier) if prune else ())
        return [
            searching.finished_trial(one.spec.trial or 0, one.spec.lr, one.fields, one.history, point.others)
            for one, point in zip(ended, points, strict=True)
        ]

    def _after(self, rung: RungPlan, choice: Mapping[str, Any], values: Values) -> list[RunSpec]:
        """What is trained once a rung's rate is known: every seed at that rate, and one run at the default with the study's own values."""
        status = "" if choice["lr_source"] == "predicted" else choice["lr_status"]
        chosen = list(self._ladder(rung, choice["lr"], choice["lr_source"], status, values))
        default = self._spec(rung, "ladder", self.study.search.default_lr, 0, lr_source="default")
        return [*chosen, *([] if default.key in {spec.key for spec in chosen} else [default])]

    def _own(self) -> dict[str, Any]:
        """The study's own values of the keys that are searched beside the rate."""
        return {key: getattr(self.study.train, key.removeprefix("train.")) for key in self.study.search.space}

    def ablations(self, ladder: Sequence[Ended]) -> Lane:
        """The best rung (lowest mean validation NLL over seeds at its tuned rate) on fewer training texts, with every seed."""
        best = self._best(ladder)
        if best is None:
            return
        rung, like = best
        values, labels = values_of(self.study.search, like), {"lr_source": like.lr_source, "lr_status": like.lr_status}
        specs = []
        for n_texts in self.study.ablations.train_texts:
            steps = ablation_steps(self.study, self.size, rung, n_texts)
            for seed in range(self.study.seeds):
                specs.append(self._spec(rung, "ablation", like.lr, seed, steps, n_texts, values, **labels))
        if specs:
            yield Group(tuple(specs))

    def probe(self, rung: RungPlan, texts: int | None = None) -> RunSpec:
        """A run that is only measured; `texts`: of its batch, where that isn't the study's own."""
        values = {} if texts is None else {"train.batch_size": texts}
        return self._spec(rung, "search", self.study.search.default_lr, SEARCH_SEED, values=values)

    def _best(self, ladder: Sequence[Ended]) -> tuple[RungPlan, RunSpec] | None:
        """The best rung and one of its runs at the chosen rate."""
        main_sources = ("tuned", "predicted") if self.study.search.trials else ("default",)
        means: dict[str, list[float]] = {}
        rates: dict[str, RunSpec] = {}
        for run in ladder:
            scored = run.fields["status"] == "completed" and run.fields["val_nll"] is not None
            if run.spec.stage == "ladder" and run.spec.lr_source in main_sources and scored:
                means.setdefault(run.spec.rung, []).append(run.fields["val_nll"])
                rates[run.spec.rung] = run.spec
        if not means:
            return None
        name = min(means, key=lambda rung: float(np.mean(means[rung])))
        return next(r for r in self.plan.kept if r.rung == name), rates[name]

    def _ladder(self, rung: RungPlan, lr: float, source: str, status: str, values: Values | None = None) -> Sequence[RunSpec]:
        """All seeds at the rung's own budget, and at each further budget of a grid."""
        runs = [("ladder", rung.steps), *(("budget", steps) for steps in rung.budget_steps)]
        seeds = range(self.study.seeds)
        labels: dict[str, Any] = {"lr_source": source, "lr_status": status}
        return [self._spec(rung, stage, lr, seed, steps, values=values, **labels) for stage, steps in runs for seed in seeds]

    def _spec(
        self,
        rung: RungPlan,
        stage: str,
        lr: float,
        seed: int,
        steps: int | None = None,
        train_texts: int | None = None,
        values: Values | None = None,
        **labels: Any,
    ) -> RunSpec:
        """A run. `values`: keys of `train` that a search set otherwise than the study file."""
        plain, n_texts = self.study.train, min(train_texts or self.size.n_train, self.size.n_train)
        train = plain.model_copy(update={key.removeprefix("train."): value for key, value in (values or {}).items()})
        steps = rung.steps if steps is None else steps
        steps = steps_of_batch(self.study, steps, train.batch_size)
        return RunSpec(
            stage=stage,
            rung=rung.rung,
            family=rung.family,
            arch=rung.arch,
            shape=rung.shape,
            mup_base=rung.mup_base,
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
