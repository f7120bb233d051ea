"""The search of one rung, for its learning rate and what is searched with it, by Optuna's ask and tell.

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
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from harness.runspec import digest
from harness.spec import Dimension, Search

optuna.logging.set_verbosity(logging.ERROR)

# Nats a token by which a diverged trial is told to be worse than the worst that finished; a sampler needs a finite number.
DIVERGENCE_PENALTY = 1.0
# The share of a run in which no trial is pruned: early losses favour rates that are too high.
PRUNING_WARM_UP = 0.25
# Completed trials without which there is no median worth the name.
MEDIAN_OF = 4


# Values of other keys than the rate, as sorted pairs of key and value.
Others = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Point:
    """What a trial tries."""

    lr: float
    others: Others = ()


@dataclass(frozen=True)
class Trial:
    """One finished trial. `value`: its best validation loss in nats a token; `history`: (step, validation loss) at each evaluation."""

    number: int
    lr: float
    status: str
    value: float | None
    history: tuple[tuple[int, float], ...] = ()
    others: Others = ()


def search_digest(search: Search, predicted: float | None = None, extended: bool = False) -> str:
    """What makes two searches the same one, however many trials each has; a grid and an extension depend on their number as well.

    Nothing is pruned in an extension.
    """
    pruner = "none" if extended else search.pruner
    identity: dict[str, Any] = {"lr": [search.lr.low, search.lr.high], "sampler": search.sampler, "pruner": pruner}
    identity |= {"batch": search.batch, "default_lr": search.default_lr}
    identity |= {"space": {key: one.model_dump(mode="json") for key, one in search.space.items()}} if search.space else {}
    identity |= {"predicted": predicted} if predicted is not None else {}
    return digest(identity | ({"trials": search.trials} if search.sampler == "grid" or extended else {}))


def suggest(
    search: Search,
    study: str,
    rung: str,
    finished: Sequence[Trial],
    count: int,
    own: Mapping[str, Any] | None = None,
    predicted: float | None = None,
) -> list[Point]:
    """What the next `count` trials try, given all earlier ones in order.

    Args:
        own: the study's own value of each key of `search.space`, which the first trial takes.
        predicted: a rate to try among the first.
    """
    first, seed = len(finished), _seed(study, rung, 0)
    if search.sampler == "grid":
        return [Point(float(lr)) for lr in np.geomspace(search.lr.low, search.lr.high, search.trials)[first : first + count]]
    rates = opening_rates(search, predicted)
    numbers = range(first, first + count)
    opening = [Point(rates[n], _own(search, own or {}) if not n else _even(search, seed, n).others) for n in numbers if n < len(rates)]
    if len(opening) == count:
        return opening
    if search.sampler == "qmc":
        return [*opening, *(_even(search, seed, n) for n in numbers if n >= len(rates))]
    # A Gaussian process knows one range for all trials, so it hears nothing of a default rate outside of it.
    known = [trial for trial in finished if search.sampler != "gp" or search.lr.low <= trial.lr <= search.lr.high]
    optuna_study = told(search, known)
    for point in opening:
        optuna_study.enqueue_trial({"lr": point.lr} | dict(point.others))
    points = []
    for number in numbers:
        optuna_study.sampler = _sampler(search, _seed(study, rung, number))
        trial = optuna_study.ask()
        lr = trial.suggest_float("lr", search.lr.low, search.lr.high, log=True)
        points.append(Point(lr, tuple((key, _suggested(trial, key, one)) for key, one in sorted(search.space.items()))))
    return points


def opening_rates(search: Search, predicted: float | None = None) -> list[float]:
    """The first batch: the default rate, the predicted one, and the middles of the other cells of an even division of the range in log lr.

    A default that lies outside the range is still tried first: every rung is asked what the usual rate does to it.
    """
    enqueued = [search.default_lr, *([] if predicted is None else [predicted])]
    count = min(max(search.batch, len(enqueued)), search.trials)
    edges = np.geomspace(search.lr.low, search.lr.high, count + 1)
    middles = [float(lr) for lr in np.sqrt(edges[:-1] * edges[1:])]
    for rate in enqueued[:count]:
        middles.pop(int(np.argmin(np.abs(np.log(np.array(middles) / rate)))))
    return [*enqueued[:count], *middles]


def extension_rates(tried: Sequence[float], low: float, high: float, side: str, factor: float, count: int) -> list[float]:
    """The rates that carry a search past an end of its range [low, high]: even in log lr, from the outermost tried to the new end."""
    start, end = (max(tried), high * factor) if side == "high" else (min(tried), low / factor)
    return _geometric(start, end, count + 1)[1:]


def gap_rates(trials: Sequence[Trial], cliff: float, count: int) -> list[float]:
    """The rates between the highest completed trial below a cliff and the cliff: even in log lr."""
    # The cliff comes from a logarithm: a trial at its very rate is not below it.
    start = max(trial.lr for trial in trials if trial.status == "completed" and trial.lr < cliff * (1 - 1e-9))
    return _geometric(start, cliff, count + 2)[1:-1]


def _geometric(start: float, end: float, count: int) -> list[float]:
    # Six digits: what a power gives in its last ones may differ between machines.
    return [float(f"{lr:.6g}") for lr in np.geomspace(start, end, count)]


def importances(search: Search, finished: Sequence[Trial]) -> dict[str, float]:
    """The share of each key in what made trials good or bad, by PED-ANOVA (Watanabe, Bansal and Hutter, 2023); empty for the rate alone."""
    inside = [trial for trial in finished if search.lr.low <= trial.lr <= search.lr.high]
    if not search.space or sum(trial.status == "completed" and trial.value is not None for trial in inside) < MEDIAN_OF:
        return {}
    study = told(search, inside)
    found = optuna.importance.get_param_importances(study, evaluator=optuna.importance.PedAnovaImportanceEvaluator())
    return {key: float(value) for key, value in found.items()}


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
    own = _ask_fixed(study, Point(search.default_lr), search)
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


def told(search: Search, finished: Sequence[Trial], study: optuna.Study | None = None) -> optuna.Study:
    """Optuna's study with the finished trials in it, in order: a new one in memory unless one is given."""
    if study is None:
        study = optuna.create_study(direction="minimize", sampler=optuna.samplers.RandomSampler(seed=0))
    penalty = _penalty(finished)
    for trial in sorted(finished, key=lambda t: t.number):
        state, value = _as_told(trial, penalty)
        study.add_trial(
            optuna.trial.create_trial(
                params={"lr": trial.lr} | dict(trial.others),
                distributions=_distributions(search, trial.lr),
                value=value,
                state=state,
                intermediate_values=dict(trial.history),
                user_attrs={"status": trial.status, "number": trial.number},
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


def _distributions(search: Search, lr: float) -> dict[str, BaseDistribution]:
    # A default rate outside of the range widens what Optuna is told, not what it suggests.
    rate = FloatDistribution(min(search.lr.low, lr), max(search.lr.high, lr), log=True)
    return {"lr": rate} | {key: _distribution(one) for key, one in sorted(search.space.items())}


def _distribution(dimension: Dimension) -> BaseDistribution:
    if dimension.choices:
        return CategoricalDistribution(dimension.choices)
    assert dimension.low is not None and dimension.high is not None
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _suggested(trial: optuna.Trial, key: str, dimension: Dimension) -> Any:
    if dimension.choices:
        return trial.suggest_categorical(key, dimension.choices)
    assert dimension.low is not None and dimension.high is not None
    return trial.suggest_float(key, dimension.low, dimension.high, log=dimension.log)


def _own(search: Search, own: Mapping[str, Any]) -> Others:
    """The study's own values, or the nearest that the space has."""

    def nearest(key: str, dimension: Dimension) -> Any:
        if dimension.choices:
            return own[key] if own[key] in dimension.choices else dimension.choices[0]
        return float(np.clip(own[key] or 0.0, dimension.low, dimension.high))

    return tuple((key, nearest(key, one)) for key, one in sorted(search.space.items()))


def _even(search: Search, seed: int, number: int) -> Point:
    """Point `number` of a sequence that fills the space evenly, whatever its length: Kronecker's, with the roots of x^(d+1) = x + 1."""
    keys = sorted(search.space)
    root = 2.0
    for _ in range(60):
        root = (1 + root) ** (1 / (len(keys) + 2))
    shift = np.random.default_rng(seed).uniform(size=len(keys) + 1)
    shares = [float(share) for share in (shift + number * root ** -np.arange(1.0, len(keys) + 2)) % 1]
    others = tuple((key, _at(search.space[key], share)) for key, share in zip(keys, shares[1:], strict=True))
    return Point(_between(search.lr.low, search.lr.high, shares[0], True), others)


def _at(dimension: Dimension, share: float) -> Any:
    if dimension.choices:
        return dimension.choices[int(share * len(dimension.choices))]
    assert dimension.low is not None and dimension.high is not None
    return _between(dimension.low, dimension.high, share, dimension.log)


def _between(low: float, high: float, share: float, log: bool) -> float:
    return float(low * (high / low) ** share) if log else low + share * (high - low)


def _ask_fixed(study: optuna.Study, point: Point, search: Search) -> optuna.Trial:
    # Pruning compares losses alone: what a trial tried besides its rate plays no part in it.
    study.enqueue_trial({"lr": point.lr})
    trial = study.ask()
    trial.suggest_float("lr", min(search.lr.low, point.lr), max(search.lr.high, point.lr), log=True)
    return trial


def _replay(study: optuna.Study, finished: Trial, search: Search) -> None:
    """Report a finished trial as it happened, since successive halving keeps its own notes at each report."""
    trial = _ask_fixed(study, Point(finished.lr), search)
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
    if search.sampler == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=min(search.batch, search.trials))
    return optuna.samplers.RandomSampler(seed=seed)


def _seed(study: str, rung: str, number: int) -> int:
    return int(digest([study, rung, number])[:8], 16)


def finished_trial(number: int, lr: float, ended: Mapping[str, Any], history: Sequence[tuple[int, float]], others: Others = ()) -> Trial:
    """A trial as it stands in the record: the fields of its `run_ended` event and its evaluations."""
    return Trial(number, lr, ended["status"], ended.get("val_loss"), tuple(history), others)
