"""The learning-rate search of one rung, by Optuna's ask and tell; the only module that imports optuna.

What is suggested is a function of the finished batches alone: Optuna's study is made anew from them, the sampler of trial n is seeded
by (study, rung, n), and trials are told in the order of their numbers. So an interrupted search goes on as if nothing had happened.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from harness.runspec import digest
from harness.spec import Search

optuna.logging.set_verbosity(logging.WARNING)

# Nats a token by which a diverged trial is told to be worse than the worst that finished; a sampler needs a finite number.
DIVERGENCE_PENALTY = 1.0
# The share of a run in which no trial is pruned: early losses favour rates that are too high.
PRUNING_WARM_UP = 0.25
# Completed trials without which there is no median worth the name.
MEDIAN_OF = 4


@dataclass(frozen=True)
class Trial:
    """One finished trial. `value`: its best validation loss in nats a token; `history`: (step, validation loss) at each evaluation."""

    number: int
    lr: float
    status: str
    value: float | None
    history: tuple[tuple[int, float], ...] = ()


def search_digest(search: Search) -> str:
    """What makes two searches the same one, however many trials each has; a grid depends on their number as well."""
    identity: dict[str, Any] = {"lr": [search.lr.low, search.lr.high], "sampler": search.sampler, "pruner": search.pruner}
    identity |= {"batch": search.batch, "default_lr": search.default_lr}
    return digest(identity | ({"trials": search.trials} if search.sampler == "grid" else {}))


def suggest(search: Search, study: str, rung: str, finished: Sequence[Trial], count: int) -> list[float]:
    """The rates of the next `count` trials, given all earlier ones in order."""
    first = len(finished)
    if search.sampler == "grid":
        return [float(lr) for lr in np.geomspace(search.lr.low, search.lr.high, search.trials)[first : first + count]]
    opening = opening_rates(search)[first : first + count]
    if len(opening) == count:
        return opening
    optuna_study = _told(search, finished)
    for lr in opening:
        optuna_study.enqueue_trial({"lr": lr})
    rates = []
    for number in range(first, first + count):
        optuna_study.sampler = _sampler(search, _seed(study, rung, number))
        rates.append(optuna_study.ask().suggest_float("lr", search.lr.low, search.lr.high, log=True))
    return rates


def opening_rates(search: Search) -> list[float]:
    """The first batch: the default rate, and the middles of the other cells of an even division of the range in log lr.

    A default that lies outside the range is still tried first: every rung is asked what the usual rate does to it.
    """
    count = min(search.batch, search.trials)
    edges = np.geomspace(search.lr.low, search.lr.high, count + 1)
    middles = np.sqrt(edges[:-1] * edges[1:])
    nearest = int(np.argmin(np.abs(np.log(middles / search.default_lr))))
    return [search.default_lr, *(float(lr) for i, lr in enumerate(middles) if i != nearest)]


def pruning(search: Search, steps: int, finished: Sequence[Trial]) -> Callable[[Sequence[tuple[int, float]]], bool] | None:
    """Whether a trial should stop, judged against finished batches only; None where nothing is ever pruned.

    The returned function is given the trial's whole (step, loss) history at each of its evaluations.
    """
    if search.pruner == "none" or len(finished) < search.batch:
        return None
    warm_up = int(steps * PRUNING_WARM_UP)
    pruner: optuna.pruners.BasePruner
    if search.pruner == "median":
        pruner = optuna.pruners.MedianPruner(n_startup_trials=MEDIAN_OF, n_warmup_steps=warm_up)
    else:
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=max(1, warm_up), reduction_factor=2)
    study = optuna.create_study(pruner=pruner, sampler=optuna.samplers.RandomSampler(seed=0))
    for trial in finished:
        _replay(study, trial, search)
    own = _ask_fixed(study, search.default_lr, search)
    reported, answer = 0, False

    def prune(history: Sequence[tuple[int, float]]) -> bool:
        nonlocal reported, answer
        # Successive halving takes notes whenever it is asked, so it is asked after each report, however many come at once.
        for step, loss in history[reported:]:
            own.report(loss, step)
            answer = own.should_prune()
        reported = len(history)
        return answer

    return prune


def _told(search: Search, finished: Sequence[Trial]) -> optuna.Study:
    """Optuna's study with the finished trials in it, in order."""
    study = optuna.create_study(direction="minimize", sampler=optuna.samplers.RandomSampler(seed=0))
    penalty = _penalty(finished)
    for trial in sorted(finished, key=lambda t: t.number):
        state, value = _as_told(trial, penalty)
        distribution = _distribution(search, trial.lr)
        study.add_trial(
            optuna.trial.create_trial(
                params={"lr": trial.lr},
                distributions={"lr": distribution},
                value=value,
                state=state,
                intermediate_values=dict(trial.history),
                user_attrs={"status": trial.status},
            )
        )
    return study


def _as_told(trial: Trial, penalty: float) -> tuple[TrialState, float | None]:
    if trial.status == "completed":
        return TrialState.COMPLETE, trial.value if trial.value is not None and math.isfinite(trial.value) else penalty
    if trial.status == "pruned":
        return TrialState.PRUNED, trial.history[-1][1] if trial.history else penalty
    if trial.status == "diverged":
        return TrialState.COMPLETE, penalty
    return TrialState.FAIL, None


def _penalty(finished: Sequence[Trial]) -> float:
    values = [loss for t in finished for loss in (*(v for _, v in t.history), t.value) if loss is not None and math.isfinite(loss)]
    return max(values, default=0.0) + DIVERGENCE_PENALTY


def _distribution(search: Search, lr: float) -> FloatDistribution:
    # A default rate outside of the range widens what Optuna is told, not what it suggests.
    return FloatDistribution(min(search.lr.low, lr), max(search.lr.high, lr), log=True)


def _ask_fixed(study: optuna.Study, lr: float, search: Search) -> optuna.Trial:
    study.enqueue_trial({"lr": lr})
    trial = study.ask()
    distribution = _distribution(search, lr)
    trial.suggest_float("lr", distribution.low, distribution.high, log=True)
    return trial


def _replay(study: optuna.Study, finished: Trial, search: Search) -> None:
    """Report a finished trial as it happened, since successive halving keeps its own notes at each report."""
    trial = _ask_fixed(study, finished.lr, search)
    for step, loss in finished.history:
        trial.report(loss, step)
        trial.should_prune()
    # A diverged trial has no say in the median: it is not one of the completed ones.
    state, value = _as_told(finished, 0.0)
    if finished.status == "diverged":
        state, value = TrialState.FAIL, None
    study.tell(trial, None if state is TrialState.PRUNED else value, state=state)


def _sampler(search: Search, seed: int) -> optuna.samplers.BaseSampler:
    if search.sampler == "tpe":
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=min(search.batch, search.trials))
    return optuna.samplers.RandomSampler(seed=seed)


def _seed(study: str, rung: str, number: int) -> int:
    return int(digest([study, rung, number])[:8], 16)


def finished_trial(number: int, lr: float, ended: Mapping[str, Any], history: Sequence[tuple[int, float]]) -> Trial:
    """A trial as it stands in the record: the fields of its `run_ended` event and its evaluations."""
    return Trial(number, lr, ended["status"], ended.get("val_loss"), tuple(history))
