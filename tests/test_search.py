"""The search with the real Optuna on made-up losses: what it suggests, when it prunes, and that both follow from the record alone."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import search as searching
from harness.search import Trial, finished_trial, opening_rates, pruning, search_digest
from harness.spec import Search
from tests.fakes import CLIFF, final_loss

STEPS = 100
EVALUATED = range(5, STEPS + 1, 5)
N_PARAMS = 50_000


def search(**changes: Any) -> Search:
    return Search.model_validate({"trials": 12, "batch": 4} | changes)


def suggest(settings: Search, study: str, rung: str, finished: list[Trial], count: int) -> list[float]:
    """The rates alone."""
    return [point.lr for point in searching.suggest(settings, study, rung, finished, count)]


def curve(final: float, until: int = STEPS, start: float = 3.4) -> tuple[tuple[int, float], ...]:
    """(step, loss) falling from `start` to nearly `final`."""
    return tuple((step, final + (start - final) * math.exp(-step / 20)) for step in EVALUATED if step <= until)


def ended(number: int, lr: float) -> Trial:
    """A trial on the bowl of `final_loss`, diverged above the cliff."""
    loss = final_loss(lr, N_PARAMS)
    if lr > CLIFF:
        return Trial(number, lr, "diverged", 3.3, ((5, 3.3),))
    return Trial(number, lr, "completed", loss, curve(loss))


def whole_search(settings: Search, study: str, rung: str = "r") -> list[Trial]:
    """All trials of a search, told batch by batch."""
    trials: list[Trial] = []
    while len(trials) < settings.trials:
        count = min(settings.batch, settings.trials - len(trials))
        rates = suggest(settings, study, rung, trials, count)
        assert len(rates) == count
        trials += [ended(len(trials) + i, lr) for i, lr in enumerate(rates)]
    return trials


def rates(trials: list[Trial]) -> list[float]:
    return [trial.lr for trial in trials]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
@pytest.mark.parametrize("known", [4, 8, 11])
def test_the_same_history_gives_the_same_rates(sampler: str, known: int) -> None:
    settings = search(sampler=sampler)
    trials = whole_search(settings, "s")
    again = suggest(settings, "s", "r", trials[:known], 1)
    assert again == suggest(settings, "s", "r", list(reversed(trials[:known])), 1) == suggest(settings, "s", "r", trials[:known], 1)
    if known % 4 == 0:
        assert suggest(settings, "s", "r", trials[:known], 4) == rates(trials)[known : known + 4]
        assert suggest(settings, "s", "r", trials[:known], 2) == rates(trials)[known : known + 2]


def test_another_process_suggests_the_same() -> None:
    script = (
        "import json, sys; from harness.search import Trial, suggest; from harness.spec import Search\n"
        "trials = [Trial(*fields, tuple((s, v) for s, v in history)) for *fields, history in json.load(sys.stdin)]\n"
        "print(json.dumps([p.lr for p in suggest(Search(trials=12, batch=4), 's', 'r', trials, 4)]))"
    )
    trials = whole_search(search(), "s")[:8]
    told = json.dumps([[t.number, t.lr, t.status, t.value, t.history] for t in trials])
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    done = subprocess.run([sys.executable, "-c", script], input=told, capture_output=True, text=True, check=True, cwd=root, env=environment)
    assert json.loads(done.stdout) == suggest(search(), "s", "r", trials, 4)


def test_another_history_gives_other_rates() -> None:
    """A trial that is told as the best of all draws the next ones nearer."""
    before, after = [], []
    for study in "abcdefghij":
        trials = whole_search(search(), study)[:8]
        one = trials[1]
        turned = [t if t is not one else Trial(1, one.lr, "completed", 0.1, one.history) for t in trials]
        pair = [suggest(search(), study, "r", told, 4) for told in (trials, turned)]
        assert pair[0] != pair[1]
        for rates_of, drawn in zip((before, after), pair, strict=True):
            rates_of += [abs(math.log(lr / one.lr)) for lr in drawn]
    assert np.mean(after) < 0.7 * np.mean(before)


def test_every_study_rung_and_number_draws_for_itself() -> None:
    trials = whole_search(search(), "s")[:4]
    drawn = [suggest(search(sampler="random"), study, rung, trials, 4) for study in ("s", "t") for rung in ("a", "b")]
    later = suggest(search(sampler="random"), "s", "a", whole_search(search(), "s")[:8], 4)
    everything = [lr for some in [*drawn, later] for lr in some]
    assert len(set(everything)) == len(everything) == 20


@pytest.mark.parametrize(("batch", "trials"), [(1, 12), (2, 12), (4, 12), (4, 2), (8, 12)])
@pytest.mark.parametrize("default", [1e-3, 1e-5, 3e-2])
def test_the_first_batch_is_the_default_and_an_even_spread(batch: int, trials: int, default: float) -> None:
    settings = search(batch=batch, trials=trials, default_lr=default)
    opening = opening_rates(settings)
    count = min(batch, trials)
    assert opening[0] == default and len(opening) == count
    assert suggest(settings, "s", "r", [], count) == opening
    edges = np.log(np.geomspace(1e-5, 3e-2, count + 1))
    cells = np.clip(np.searchsorted(edges, np.log(opening)) - 1, 0, count - 1)
    assert sorted(cells) == list(range(count))


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
@pytest.mark.parametrize(("batch", "trials"), [(4, 12), (4, 6), (5, 12), (1, 6), (20, 6)])
def test_all_rates_are_in_the_range_and_there_are_no_more_than_asked(sampler: str, batch: int, trials: int) -> None:
    settings = search(sampler=sampler, batch=batch, trials=trials)
    done = whole_search(settings, "s")
    assert len(done) == len(set(rates(done))) == trials
    assert all(1e-5 <= lr <= 3e-2 for lr in rates(done))
    if sampler == "grid":
        assert rates(done) == pytest.approx(np.geomspace(1e-5, 3e-2, trials))


@pytest.mark.parametrize("default", [0.1, 1e-7])
def test_a_default_outside_of_the_range_is_tried_and_nothing_else_leaves_the_range(default: float) -> None:
    for study in "abc":
        done = rates(whole_search(search(default_lr=default), study))
        assert done[0] == default and all(1e-5 <= lr <= 3e-2 for lr in done[1:])


def test_a_search_of_more_trials_begins_with_the_same_ones() -> None:
    assert rates(whole_search(search(trials=6), "s")) == rates(whole_search(search(trials=12), "s"))[:6]


def test_tpe_finds_lower_losses_than_random_rates() -> None:
    def regret(sampler: str) -> float:
        best = [
            min(t.value for t in whole_search(search(sampler=sampler), f"s{i}")[1:] if t.status == "completed" and t.value)
            for i in range(10)
        ]
        return float(np.mean(best)) - min(final_loss(lr, N_PARAMS) for lr in np.geomspace(1e-5, 3e-2, 1000))

    assert 0 <= regret("tpe") < 0.5 * regret("random")


def test_divergence_drives_the_rates_away_from_the_cliff() -> None:
    """The loss still falls up to the cliff: told nothing of divergence, the sampler goes on falling over it."""

    def told(above: str) -> list[Trial]:
        grid = enumerate(np.geomspace(1e-4, 2.5e-2, 9))
        return [Trial(i, float(lr), "completed" if lr < 6e-3 else above, 2 - 0.2 * i if lr < 6e-3 else None) for i, lr in grid]

    def over(above: str) -> float:
        drawn = [lr for study in range(12) for lr in suggest(search(), str(study), "r", told(above), 4)]
        return float(np.mean([lr > 6e-3 for lr in drawn]))

    assert over("diverged") < 0.7 * over("failed")


def test_a_completed_trial_without_a_finite_loss_counts_as_a_bad_one() -> None:
    trials = whole_search(search(), "s")[:4]
    lost = [*trials[:3], Trial(3, trials[3].lr, "completed", None, ())]
    diverged = [*trials[:3], Trial(3, trials[3].lr, "diverged", None, ())]
    assert suggest(search(), "s", "r", lost, 4) == suggest(search(), "s", "r", diverged, 4)


def test_searches_go_on_whatever_became_of_the_first_batch() -> None:
    opening = opening_rates(search())
    for status in ("failed", "diverged", "pruned"):
        trials = [Trial(i, lr, status, None) for i, lr in enumerate(opening)]
        assert len(set(suggest(search(), "s", "r", trials, 4))) == 4


def completed(*finals: float) -> list[Trial]:
    return [Trial(i, 1e-3 * (i + 1), "completed", final, curve(final)) for i, final in enumerate(finals)]


def stopped_at(settings: Search, finished: list[Trial], history: tuple[tuple[int, float], ...]) -> int | None:
    """The step at which a trial is pruned, told evaluation by evaluation."""
    prune = pruning(settings, STEPS, finished)
    assert prune is not None
    return next((history[i][0] for i in range(len(history)) if prune(history[: i + 1])), None)


FINALS = (2.0, 2.1, 2.2, 2.3)


def test_the_median_stops_a_bad_trial_and_not_a_good_one() -> None:
    assert stopped_at(search(), completed(*FINALS), curve(2.6)) == 25
    assert stopped_at(search(), completed(*FINALS), curve(2.05)) is None
    assert stopped_at(search(), completed(*FINALS), curve(2.149)) is None
    assert stopped_at(search(), completed(*FINALS), curve(2.151)) == 25
    late = curve(1.9, until=60) + tuple((step, 9.0) for step in EVALUATED if step > 60)
    # A trial is judged by the best that it has had.
    assert stopped_at(search(), completed(*FINALS), late) is None


@pytest.mark.parametrize("pruner", ["median", "halving"])
def test_nothing_is_pruned_in_the_first_quarter(pruner: str) -> None:
    finished = completed(*FINALS, 2.0, 2.1)
    awful = tuple((step, 50.0) for step in EVALUATED)
    assert stopped_at(search(pruner=pruner), finished, awful) == 25
    assert stopped_at(search(pruner=pruner), finished, tuple((step, 50.0) for step in EVALUATED if step < 25)) is None


def test_nothing_is_pruned_before_enough_trials_have_completed() -> None:
    awful = tuple((step, 50.0) for step in EVALUATED)
    assert pruning(search(), STEPS, []) is None
    assert pruning(search(), STEPS, completed(*FINALS[:3])) is None
    assert pruning(search(pruner="none"), STEPS, completed(*FINALS, *FINALS)) is None
    lost = [Trial(4 + i, 2e-2, "diverged", None, ((25, 9.0),)) for i in range(4)]
    assert stopped_at(search(), completed(*FINALS[:3]) + lost, awful) is None
    assert stopped_at(search(batch=1), completed(*FINALS[:3]), awful) is None
    assert stopped_at(search(), completed(*FINALS) + lost, awful) == 25


def test_diverged_trials_do_not_raise_the_median() -> None:
    """A diverged trial that was at 9 nats would let every mediocre one pass."""
    lost = [Trial(4 + i, 2e-2, "diverged", None, tuple((step, 9.0) for step in EVALUATED if step < 60)) for i in range(4)]
    assert stopped_at(search(), completed(*FINALS) + lost, curve(2.4)) == 25


def test_halving_keeps_the_better_half_at_each_doubling() -> None:
    settings = search(pruner="halving")
    assert stopped_at(settings, completed(*FINALS), curve(1.9)) is None
    assert stopped_at(settings, completed(*FINALS), curve(2.5)) == 25
    # Good at a quarter of the steps, stuck from then on: the next halving ends it.
    stuck = tuple((step, 1.9 + 1.5 * math.exp(-25 / 20) if step >= 25 else 3.0) for step in EVALUATED)
    assert stopped_at(settings, completed(*FINALS), stuck) == 50


@pytest.mark.parametrize("pruner", ["median", "halving"])
def test_answers_are_the_same_when_rebuilt_from_the_record_at_any_point(pruner: str) -> None:
    settings, rng = search(pruner=pruner), np.random.default_rng(0)
    finished = completed(*FINALS, 2.05, 2.15)
    finished += [Trial(6, 9e-3, "pruned", 2.9, curve(2.8, until=50)), Trial(7, 2e-2, "diverged", None, curve(3.0, until=30))]
    answers = []
    for _ in range(12):
        level = rng.uniform(1.8, 2.5)
        history = tuple((step, loss + rng.normal(0, 0.15)) for step, loss in curve(level))
        live = pruning(settings, STEPS, finished)
        assert live is not None
        for i in range(1, len(history) + 1):
            rebuilt = pruning(settings, STEPS, json_back(finished))
            assert rebuilt is not None
            answers.append(live(history[:i]))
            assert rebuilt(history[:i]) == answers[-1]
            # Asked twice without news, as when a loss was not finite.
            assert live(history[:i]) == answers[-1]
    assert 0.05 < np.mean(answers) < 0.95


def json_back(trials: list[Trial]) -> list[Trial]:
    """Trials as they come out of the record."""
    back = []
    for trial in trials:
        fields = json.loads(json.dumps({"status": trial.status, "val_loss": trial.value, "history": trial.history}))
        back.append(finished_trial(trial.number, trial.lr, fields, [(step, loss) for step, loss in fields["history"]]))
    assert back == trials
    return back


def test_the_digest_of_a_search_holds_all_that_decides_a_trial() -> None:
    changes: list[dict[str, Any]] = [
        {"lr": {"low": 1e-4, "high": 3e-2}},
        {"lr": {"low": 1e-5, "high": 1e-2}},
        {"batch": 3},
        {"sampler": "random"},
        {"sampler": "grid"},
        {"pruner": "none"},
        {"default_lr": 2e-3},
        {"space": SPACE},
    ]
    digests = {search_digest(search(**change)) for change in [{}, *changes]}
    assert len(digests) == len(changes) + 1
    assert search_digest(search(trials=20, extend=0)) == search_digest(search())
    assert len({search_digest(search()), search_digest(search(), 2e-3), search_digest(search(), extended=True)}) == 3
    assert search_digest(search(trials=20, sampler="grid")) != search_digest(search(sampler="grid"))


SPACE: dict[str, Any] = {
    "train.weight_decay": {"low": 1e-3, "high": 1.0, "log": True},
    "train.schedule": {"choices": ["constant", "cosine"]},
    "train.dropout": {"low": 0.0, "high": 0.5},
}
OWN: dict[str, Any] = {"train.weight_decay": 0.01, "train.schedule": "cosine", "train.dropout": 0.9}


def searched(settings: Search, study: str, own: dict[str, Any] | None = None, predicted: float | None = None) -> list[Trial]:
    """All trials of a search of the rate and other keys, on a bowl in the rate and in the logarithm of the weight decay."""
    trials: list[Trial] = []
    while len(trials) < settings.trials:
        points = searching.suggest(settings, study, "r", trials, min(settings.batch, settings.trials - len(trials)), own, predicted)
        for point in points:
            decay = dict(point.others).get("train.weight_decay", 0.1)
            loss = final_loss(point.lr, N_PARAMS) + 0.05 * math.log(decay / 0.1) ** 2
            trials.append(Trial(len(trials), point.lr, "completed", loss, curve(loss), point.others))
    return trials


@pytest.mark.parametrize("sampler", ["tpe", "qmc", "random"])
def test_other_keys_are_tried_in_their_ranges_and_the_first_trial_has_the_studys_own_values(sampler: str) -> None:
    trials = searched(search(sampler=sampler, space=SPACE), "s", OWN)
    # A value of the study's own that the space doesn't have is taken as the nearest that it has.
    assert dict(trials[0].others) == {"train.weight_decay": 0.01, "train.schedule": "cosine", "train.dropout": 0.5}
    others = [dict(trial.others) for trial in trials]
    assert all(1e-3 <= o["train.weight_decay"] <= 1 and 0 <= o["train.dropout"] <= 0.5 for o in others)
    assert {o["train.schedule"] for o in others} == {"constant", "cosine"}
    assert len({o["train.weight_decay"] for o in others}) == 12 and searched(search(sampler=sampler, space=SPACE), "s", OWN) == trials


def test_the_importance_of_what_matters_is_larger() -> None:
    settings = search(sampler="qmc", trials=40, space=SPACE)
    found = searching.importances(settings, searched(settings, "s", OWN))
    assert set(found) == {"lr", *SPACE} and sum(found.values()) == pytest.approx(1)
    assert min(found["lr"], found["train.weight_decay"]) > 5 * max(found["train.dropout"], found["train.schedule"])
    assert searching.importances(search(), whole_search(search(), "s")) == {}


def test_a_predicted_rate_is_the_second_trial_and_takes_the_place_of_the_cell_that_it_is_in() -> None:
    trials = searched(search(), "s", predicted=4e-3)
    assert rates(trials)[:2] == [1e-3, 4e-3]
    assert opening_rates(search(), 4e-3)[2:] == opening_rates(search())[1:3]
    assert opening_rates(search(batch=1), 4e-3) == [1e-3, 4e-3] and opening_rates(search(trials=1), 4e-3) == [1e-3]


def test_qmc_is_even_and_each_number_has_its_place() -> None:
    settings = search(sampler="qmc", trials=24)
    trials = searched(settings, "s")
    x = np.sort(np.log(rates(trials)[4:]))
    gaps = np.diff(x) / math.log(3000)
    assert gaps.max() < 3 / 20 and gaps.min() > 1 / 60
    one_by_one = [searching.suggest(settings, "s", "r", trials[: 9 + i], 1)[0] for i in range(3)]
    assert searching.suggest(settings, "s", "r", trials[:9], 3) == one_by_one


@pytest.mark.slow
def test_gp_suggests_from_the_history_and_finds_the_bottom() -> None:
    settings = search(sampler="gp", default_lr=0.1)
    trials = searched(settings, "s")
    again = searching.suggest(settings, "s", "r", trials[:8], 4)
    assert [point.lr for point in again] == rates(trials)[8:] and all(1e-5 <= lr <= 3e-2 for lr in rates(trials)[1:])
    best = min(trial.value for trial in trials if trial.value)
    assert best - min(final_loss(lr, N_PARAMS) for lr in np.geomspace(1e-5, 3e-2, 500)) < 0.02


@pytest.mark.parametrize(("side", "ends"), [("high", (1.1e-2, 3e-2 * 10**0.5)), ("low", (2.7e-5, 1e-5 / 10**0.5))])
def test_an_extension_reaches_from_the_outermost_trial_to_the_new_end(side: str, ends: tuple[float, float]) -> None:
    first, last = searching.extension_rates([1e-3, 2.7e-5, 2e-4, 1.1e-2], 1e-5, 3e-2, side, 10**0.5, 2)
    # Suggested rates have six digits, so that they are the same on every machine.
    assert last == float(f"{ends[1]:.6g}") and first == float(f"{math.sqrt(ends[0] * ends[1]):.6g}")
