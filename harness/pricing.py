"""What a rung's runs cost: steps, tokens, FLOPs, seconds, memory and disk, from the study, the corpus and what was measured here."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import Any

from harness import accounting
from harness.ladder import Rung
from harness.spec import Study

# What a measurement misses, until runs have shown it: the steps of a real run share caches, disk and memory bandwidth with everything else.
MARGIN = 1.1
# On the disk, a run by itself (its events, its rows in MLflow) and each of its steps (a line of the record, points in MLflow).
RUN_BYTES, STEP_BYTES = 600_000, 400
# An extension carries a search past an end of its range by this factor, with so many trials.
EXTENSION_FACTOR = 10**0.5
EXTENSION_TRIALS = 2


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
    """Seconds on one worker: a training step, scoring one text, sampling at the end, sampling at a new best.

    `process_bytes`: memory of a worker beside what its model, optimizer and activations take. `runs`: how many finished runs they come
    from, 0 where they were measured in a few steps. A run takes `margin` times what its parts come to. `crew`: how many runs of the shape
    train together at most; `step_s` is then a run's share, and `crew_step_s` has those of all sizes that were measured. `text_step_s`: by
    how much a step grows with a further text of its batch, where other batch sizes are searched.
    """

    step_s: float
    text_s: float
    sample_end_s: float = 0.0
    sample_best_s: float = 0.0
    process_bytes: int = 0
    margin: float = MARGIN
    runs: int = 0
    crew: int = 1
    text_step_s: float | None = None
    crew_step_s: Sequence[tuple[int, float]] = ()

    def of_crew(self, runs: int) -> "Cost":
        """The price of one of so many runs that can be together, on average over the crews that they form."""
        if not self.crew_step_s:
            return self
        parts = math.ceil(runs / self.crew)
        sizes = [runs // parts + (part < runs % parts) for part in range(parts)]
        return replace(self, step_s=sum(size * self._share_s(size) for size in sizes) / runs)

    def _share_s(self, size: int) -> float:
        """Seconds of a step a run in a crew of this size, as in the largest measured that is no larger."""
        fitting = [one for one in self.crew_step_s if one[0] <= size]
        return max(fitting)[1] if fitting else min(self.crew_step_s)[1]

    def of_batch(self, texts: int, own: int) -> "Cost":
        """The price at another batch size than its own: a line through what was measured, and no less than the texts' share."""
        if texts == own or self.text_step_s is None:
            return self
        step_s = self.step_s + (texts - own) * self.text_step_s
        return replace(self, step_s=max(step_s, self.step_s * min(1.0, texts / own)))


@dataclass(frozen=True)
class Work:
    """What a run does that takes time: steps, texts scored, sets of samples at new bests and at the end."""

    steps: int
    texts: int
    bests: int
    ends: int


def work_s(cost: Cost, work: Work) -> float:
    """Seconds of this work at this price."""
    sampling = work.bests * cost.sample_best_s + work.ends * cost.sample_end_s
    return cost.margin * (work.steps * cost.step_s + work.texts * cost.text_s + sampling)


@dataclass(frozen=True)
class RungPlan:
    """One rung: what it is, its budget, and the price of its runs.

    `steps`, `train_tokens`, `epochs`, `train_flops` are of one run. `estimated_s` is for all `runs`, on one worker. `skipped` says why
    the rung is left out, else None. `budget_steps` are the further data budgets of a grid. `trials`: 0 where its rate is not searched;
    those of an extension are priced, but are not among `runs`. `run_s`: one run that is kept, on the rung's own budget;
    None in plans of versions that did not say. `cost`: the fields of the Cost that it was priced at. `crew`: how many runs of
    this shape train together at most.
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
    mup_base: dict[str, int] | None = None
    run_s: float | None = None
    cost: Mapping[str, Any] = field(default_factory=dict)
    crew: int = 1

    @property
    def priced_step_s(self) -> float:
        """Seconds of a step with the margin of its price."""
        return self.step_s * float(self.cost.get("margin", MARGIN))


def steps_per_epoch(size: DataSize, batch_size: int, n_texts: int | None = None) -> int:
    """Optimizer steps that pass over the training texts once."""
    return math.ceil(min(n_texts or size.n_train, size.n_train) / batch_size)


def budget_steps(study: Study, rung: Rung, size: DataSize, cut: int) -> list[int]:
    """Steps of every data budget of a rung, largest first; one budget unless `budgets` gives a grid."""
    train, a_step = study.train, step_tokens(study, size)
    limits = [float(train.max_steps)] if train.max_steps else []
    if train.epochs is not None:
        limits.append(train.epochs * steps_per_epoch(size, train.batch_size))
    if train.tokens is not None:
        limits.append(train.tokens / a_step)
    per_token = _flops_per_token(rung, size)
    asked = [tokens / a_step for tokens in study.budgets.train_tokens]
    asked += [flops / per_token / a_step for flops in study.budgets.train_flops]
    return sorted({max(1, int(min([*limits, steps]) * 2 ** (-cut / 2))) for steps in asked or [math.inf]}, reverse=True)


def _flops_per_token(rung: Rung, size: DataSize) -> float:
    return _flops(rung.arch, tuple(rung.shape.items()), size.vocab_size, tuple(size.lengths))


@cache
def _flops(arch: str, shape: tuple[tuple[str, Any], ...], vocab_size: int, lengths: tuple[int, ...]) -> float:
    # Asked for at every cut of every rung.
    return accounting.train_flops(arch, dict(shape), vocab_size, lengths) / sum(lengths)


def step_tokens(study: Study, size: DataSize) -> float:
    """Tokens of a step on average; the last batch of an epoch is smaller."""
    return size.n_train * size.mean_tokens / steps_per_epoch(size, study.train.batch_size)


def batch_sizes(study: Study) -> tuple[int, ...]:
    """The batch sizes that a search tries, smallest first; none where it leaves them alone."""
    dimension = study.search.space.get("train.batch_size") if study.search.trials else None
    return () if dimension is None else tuple(sorted(int(choice) for choice in dimension.choices))


def trains_apart(study: Study) -> bool:
    """Whether trials differ in what runs of one crew have in common."""
    return study.search.trials > 0 and not {"train.batch_size", "train.dropout"}.isdisjoint(study.search.space)


def steps_of_batch(study: Study, steps: int, texts: int) -> int:
    """Steps of a budget that is given at the study's own batch size, at another: it has as many tokens."""
    return steps if texts == study.train.batch_size else max(1, round(steps * study.train.batch_size / texts))


def extension_trials(study: Study) -> int:
    """The most trials by which a search may exceed `search.trials`; none is ever needed without a search."""
    return EXTENSION_TRIALS * study.search.extend if study.search.trials else 0


def price(study: Study, rung: Rung, size: DataSize, cost: Cost, cut: int, trials: int) -> RungPlan:
    """A rung at a cut: its budget, and the seconds of all its runs on one worker."""
    steps, *further = budget_steps(study, rung, size, cut)
    tokens = round(steps * step_tokens(study, size))
    per_token = _flops_per_token(rung, size)
    defaults = 1 if study.search.trials else 0
    apart = trains_apart(study)
    of_trials = cost.of_crew(1 if apart else max(1, min(study.search.batch, trials)))
    of_kept = cost.of_crew(study.seeds * (1 + len(further)) + (0 if apart else defaults))
    ladder_runs = study.seeds * (1 + len(further)) + defaults
    own = study.train.batch_size
    searched = batch_sizes(study) or (own,)
    # Which batch size will be chosen is not known: trials are priced at the mean of those that are tried, kept runs at the dearest.
    trial_s = sum(_run_s(study, size, of_trials, steps, False, texts=texts) for texts in searched) / len(searched)
    ladder_s = [max(_run_s(study, size, of_kept, s, True, texts=texts) for texts in searched) for s in (steps, *further)]
    # With a pruner about a quarter of the trials' steps is never made (docs/log.md), which pays for an extension.
    extension = extension_trials(study) if trials and study.search.pruner == "none" else 0
    search_s = (trials + extension) * trial_s
    estimated = search_s + study.seeds * sum(ladder_s) + defaults * _run_s(study, size, of_kept, steps, True)
    counts = rung.counts
    # What a batch holds at once: its real tokens, or all positions where padding is learned.
    batch_tokens = round(max(own, *searched) * (study.data.seq_len - 1 if study.train.padding == "learn" else size.mean_tokens))
    return RungPlan(
        rung=rung.name,
        family=rung.family,
        arch=rung.arch,
        shape=dict(rung.shape),
        mup_base=None if rung.mup_base is None else dict(rung.mup_base),
        parameters=dict(counts.groups),
        n_params=counts.n_params,
        non_embedding_params=counts.non_embedding_params,
        embedding_params=counts.embedding_params,
        head_params=counts.head_params,
        steps=steps,
        budget_steps=tuple(further),
        train_tokens=tokens,
        epochs=steps / steps_per_epoch(size, own),
        tokens_per_param=tokens / counts.n_params,
        flops_per_token=per_token,
        train_flops=per_token * tokens,
        six_nd=6.0 * counts.n_params * tokens,
        runs=trials + ladder_runs,
        trials=trials,
        step_s=of_kept.step_s,
        estimated_s=estimated,
        run_s=ladder_s[0],
        cost=asdict(cost) | {"crew_step_s": [list(pair) for pair in cost.crew_step_s]},
        memory_bytes=cost.process_bytes
        + accounting.memory_bytes(rung.arch, rung.shape, size.vocab_size, study.data.seq_len, batch_tokens, cost.crew),
        crew=cost.crew,
        disk_bytes=_disk_bytes(counts.n_params, ladder_runs, study.search.trials, [steps, *further]),
    )


def _disk_bytes(n_params: int, kept_runs: int, trials: int, budgets: Sequence[int]) -> int:
    """What a rung's runs leave: best weights, here and among MLflow's artifacts, and a line a step in the record, there and in MLflow."""
    runs = kept_runs + trials
    return 2 * accounting.weights_bytes(n_params) * kept_runs + runs * (RUN_BYTES + STEP_BYTES * max(budgets))


def _run_s(
    study: Study, size: DataSize, cost: Cost, steps: int, keeps: bool, n_texts: int | None = None, texts: int | None = None
) -> float:
    """One run: its steps and evaluations; a run that is kept also samples, and scores the test texts. `texts`: of its batch."""
    own = study.train.batch_size
    texts = texts or own
    steps, cost = steps_of_batch(study, steps, texts), cost.of_batch(texts, own)
    count = evaluations_of(study, size, steps, n_texts, texts)
    scored = count * size.eval_texts
    return work_s(cost, Work(steps, scored + size.n_test, count, 1) if keeps else Work(steps, scored, 0, 0))


def evaluations_of(study: Study, size: DataSize, steps: int, n_texts: int | None = None, texts: int | None = None) -> int:
    """How often a run is evaluated. `texts`: of a batch, where that isn't the study's own."""
    asked, batch = study.train.evaluations, texts or study.train.batch_size
    return math.ceil(steps / steps_per_epoch(size, batch, n_texts)) if asked == "every_epoch" else min(int(asked), steps)


def ablation_steps(study: Study, size: DataSize, rung: RungPlan, n_texts: int) -> int:
    """The steps of a run on fewer texts: the rung's own budget, and at most `train.epochs` of what is left."""
    if study.train.epochs is None:
        return rung.steps
    return max(1, min(rung.steps, int(study.train.epochs * steps_per_epoch(size, study.train.batch_size, n_texts))))


def ablation_s(study: Study, size: DataSize, rung: RungPlan, cost: Cost) -> float:
    cost = cost.of_crew(study.seeds)
    runs = (_run_s(study, size, cost, ablation_steps(study, size, rung, n), True, n) for n in study.ablations.train_texts)
    return study.seeds * sum(runs)
