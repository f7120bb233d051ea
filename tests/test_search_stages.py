"""The search of a lane driven by hand: batches, extensions past an end, predictions from smaller rungs, further keys, and replays."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pytest

from harness.journal import Journal
from harness.plan import runs_of
from harness.rates import choose_rate
from harness.runspec import RunSpec
from harness.search import Trial
from harness.stages import Ended, Group
from tests.fakes import SIZE, as_recorded, fake_train, make_plan, make_study, stages_of, trainer, walk, whole


def test_all_groups_of_a_search_compare_with_the_batches_before_only() -> None:
    stages = stages_of(make_study(search={"trials": 7, "batch": 3}))
    seen: list[tuple[int | None, int]] = []

    def train(spec: RunSpec, group: Group) -> Ended:
        seen.append((spec.trial, len(group.finished)))
        return trainer(stages)(spec, group)

    walk(stages.rung(stages.plan.rungs[0]), train)
    assert seen[:7] == [(0, 0), (1, 0), (2, 0), (3, 3), (4, 3), (5, 3), (6, 6)]
    assert {count for _, count in seen[7:]} == {0}


@pytest.mark.parametrize("trials", [4, 12])
def test_a_tried_rate_is_used_to_its_last_digit_and_a_fitted_one_to_six(trials: int) -> None:
    stages = stages_of(
        make_study(search={"trials": trials, "batch": 4, "lr": {"low": 1e-5, "high": 1e-3}, "default_lr": 3e-4, "extend": 0})
    )
    for rung in stages.plan.rungs:
        ended, (choice,) = walk(stages.rung(rung), trainer(stages))
        tried = [one.spec.lr for one in ended if one.spec.stage == "search"]
        assert choice.fields["lr_status"] in ("edge", "unresolved") and choice.fields["lr"] in tried
    stages = stages_of(make_study(search={"trials": 12, "batch": 4}))
    _, (choice,) = walk(stages.rung(stages.plan.rungs[0]), trainer(stages))
    assert choice.fields["lr_status"] == "resolved" and choice.fields["lr"] == float(f"{choice.fields['fitted_lr']:.6g}")


def test_what_a_search_chose_can_be_recorded(tmp_path: Any) -> None:
    """Also with a fitted bowl, whose arrays are no part of the record."""
    stages = stages_of(make_study(search={"trials": 12, "batch": 4}))
    _, (choice,) = walk(stages.rung(stages.plan.rungs[0]), trainer(stages))
    journal = Journal(tmp_path / "j")
    told = journal.append("lr_chosen", **choice.fields)
    journal.close()
    assert told["lr"] == choice.fields["lr"] and told["fitted_low"] < told["fitted_lr"] < told["fitted_high"]
    assert told["rung"] == choice.rung == "20k"


@pytest.mark.parametrize("statuses", [["failed"] * 6, ["diverged"] * 6, ["pruned", "failed"] * 3, ["completed", *["diverged"] * 5]])
def test_a_rate_is_chosen_whatever_became_of_the_trials(statuses: list[str]) -> None:
    study = make_study()
    lrs = [1e-3, 1e-4, 1e-2, 2e-4, 3e-3, 5e-5]
    trials = [Trial(i, lr, s, 2.0 if s == "completed" else None) for i, (lr, s) in enumerate(zip(lrs, statuses, strict=True))]
    choice = choose_rate(study, make_plan(study).rungs[0], trials, SIZE, 1e-5, 3e-2)
    # To the last digit, or the ladder's run at the default rate would be another run.
    assert choice["lr"] == 1e-3 and choice["lr_status"] == "unresolved" and choice["reason"].startswith("unresolved: ")


NARROW: dict[str, Any] = {"trials": 12, "batch": 4, "lr": {"low": 1e-5, "high": 5e-4}, "default_lr": 3e-4}


def test_a_search_whose_optimum_lies_past_an_end_goes_on_past_it_and_says_so() -> None:
    stages = stages_of(make_study(search=NARROW))
    rung = stages.plan.rungs[0]
    ended, (choice,) = walk(stages.rung(rung), trainer(stages))
    trials = [one.spec for one in ended if one.spec.stage == "search"]
    further = [spec.lr for spec in trials[12:]]
    assert choice.fields["extended"] == 2 and choice.fields["extension_trials"] == 4 == len(further)
    assert choice.fields["trials"] == 16 and [spec.trial for spec in trials] == list(range(16))
    # Twice by a factor of 10^(1/2): the ends of both steps were tried, and what was searched is on record.
    assert further[1] == pytest.approx(5e-4 * 10**0.5) and further[3] == pytest.approx(5e-3) == choice.fields["high"]
    assert choice.fields["low"] == 1e-5 and "extended to 1e-05 to 0.005" in choice.fields["reason"]
    assert choice.fields["lr_status"] == "resolved" and choice.fields["lr"] == pytest.approx(2e-3, rel=0.4)
    assert runs_of(asdict(rung), choice.fields) == len(ended)


@pytest.mark.parametrize(("extend", "trials"), [(0, 12), (1, 14), (3, 16)])
def test_an_extension_has_a_limit_and_stops_once_the_optimum_is_inside(extend: int, trials: int) -> None:
    stages = stages_of(make_study(search=NARROW | {"extend": extend}))
    ended, (choice,) = walk(stages.rung(stages.plan.rungs[0]), trainer(stages))
    assert sum(one.spec.stage == "search" for one in ended) == trials == choice.fields["trials"]
    assert choice.fields["lr_status"] == ("edge" if trials < 16 else "resolved")


def test_what_goes_on_past_an_end_is_not_pruned_and_is_a_search_of_its_own() -> None:
    stages = stages_of(make_study(search=NARROW | {"pruner": "median"}))
    compared: dict[int, int] = {}

    def train(spec: RunSpec, group: Group) -> Ended:
        if spec.trial is not None:
            compared[spec.trial] = len(group.finished)
        return trainer(stages)(spec, group)

    ended, _ = walk(stages.rung(stages.plan.rungs[0]), train)
    assert [compared[trial] for trial in range(16)] == [0] * 4 + [4] * 4 + [8] * 4 + [0] * 4
    assert {one.fields["status"] for one in ended if (one.spec.trial or 0) >= 12} <= {"completed", "diverged"}
    searches = [one.spec.search for one in ended if one.spec.stage == "search"]
    assert len(set(searches[:12])) == 1 == len(set(searches[12:])) and searches[0] != searches[-1]


def test_a_search_goes_on_below_as_well() -> None:
    stages = stages_of(make_study(search={"trials": 12, "batch": 4, "lr": {"low": 3e-3, "high": 3e-2}, "default_lr": 3e-3, "extend": 4}))
    ended, (choice,) = walk(stages.rung(stages.plan.rungs[2]), trainer(stages))
    assert choice.fields["extended"] >= 1 and choice.fields["low"] < 3e-3 and choice.fields["high"] == 3e-2
    assert min(one.spec.lr for one in ended if one.spec.stage == "search") == pytest.approx(choice.fields["low"])


def test_below_a_cliff_at_the_top_the_search_goes_on_and_not_past_it() -> None:
    """The loss falls up to the rate at which training diverges: the optimum lies between the highest that trained and that one."""
    stages = stages_of(make_study(search={"trials": 12, "batch": 4, "pruner": "none"}))

    def train(spec: RunSpec, group: Group) -> Ended:
        if spec.lr > 4e-3:
            return as_recorded(spec, "diverged", [(1, 3.4)])
        return as_recorded(spec, "completed", [(spec.steps, 2.5 - 0.1 * math.log(spec.lr / 1e-5) + 1e-3 * math.sin(1e5 * spec.lr))])

    _, (choice,) = walk(stages.rung(stages.plan.rungs[0]), train)
    fields = choice.fields
    assert (fields["extended"], fields["trials"], fields["lr_status"]) == (1, 14, "resolved")
    assert fields["high"] == stages.study.search.lr.high and "went on below the cliff" in fields["reason"]
    assert fields["fitted_low"] <= fields["lr"] <= 4e-3 < fields["cliff_lr"]
    assert fields["lr"] == pytest.approx(fields["highest_stable_lr"])
    assert choice.fields["lr"] <= 4e-3 < choice.fields["cliff_lr"]


RUNGS = {"rungs": ["20k", "40k", "87k-assignment", "230k"]}
FULL: dict[str, Any] = {"trials": 12, "batch": 4}


def test_rungs_in_turn_try_the_rate_that_the_smaller_ones_predict() -> None:
    stages = stages_of(make_study(model=RUNGS, search=FULL | {"order": "in_turn"}))
    ended, choices = whole(stages)
    assert [choice.rung for choice in choices] == [rung.rung for rung in stages.plan.kept]
    trials = [one.spec for one in ended if one.spec.stage == "search"]
    assert [spec.rung for spec in trials] == [rung.rung for rung in stages.plan.kept for _ in range(12)]
    second = {spec.rung: spec.lr for spec in trials if spec.trial == 1}
    together = {one.spec.rung: one.spec.lr for one in whole(stages_of(make_study(model=RUNGS, search=FULL)))[0] if one.spec.trial == 1}
    assert [second[name] == together[name] for name in second] == [True, True, False, False]
    # The fake bowl's optimum is 2e-3 (2e4 / N)^0.4.
    for rung in stages.plan.kept[2:]:
        assert second[rung.rung] == pytest.approx(2e-3 * (2e4 / rung.n_params) ** 0.4, rel=0.35)


def test_a_predicted_rung_is_not_searched_and_its_runs_say_so() -> None:
    stages = stages_of(make_study(model=RUNGS, search=FULL | {"transfer": "predict"}))
    ended, choices = whole(stages)
    largest = stages.plan.kept[-1]
    assert [rung.trials for rung in stages.plan.kept] == [12, 12, 12, 0] and largest.runs == 2 + 1
    assert {one.spec.stage for one in ended if one.spec.rung == largest.rung} <= {"ladder", "ablation"}
    choice = choices[-1].fields
    assert (choice["rung"], choice["lr_source"], choice["lr_status"], choice["trials"]) == (largest.rung, "predicted", "predicted", 0)
    assert (
        choice["lr"] == pytest.approx(2e-3 * (2e4 / largest.n_params) ** 0.4, rel=0.35) and "20k, 40k, 87k-assignment" in choice["reason"]
    )
    sources = {(one.spec.lr_source, one.spec.lr_status) for one in ended if one.spec.rung == largest.rung and one.spec.lr == choice["lr"]}
    assert sources == {("predicted", "")}
    # It is the best of the fake bowls, so it is ablated at its predicted rate.
    assert {(one.spec.rung, one.spec.lr_source) for one in ended if one.spec.stage == "ablation"} == {(largest.rung, "predicted")}
    two = stages_of(make_study(model=RUNGS, search=FULL | {"transfer": "predict", "transfer_from": 2}))
    assert [rung.trials for rung in two.plan.kept] == [12, 12, 0, 0]


def test_without_resolved_optima_the_prediction_is_the_nearest_rate_and_says_so() -> None:
    stages = stages_of(make_study(search={"trials": 3, "batch": 3, "transfer": "predict"}))
    _, choices = whole(stages)
    assert choices[-1].fields["lr"] == choices[-2].fields["lr"] and "fewer than 2 smaller rungs" in choices[-1].fields["reason"]


SPACE: dict[str, Any] = {
    "train.weight_decay": {"low": 1e-3, "high": 1.0, "log": True},
    "train.batch_size": {"choices": [16, 32]},
    "train.warmup_fraction": {"low": 0.0, "high": 0.1},
}


def test_other_keys_are_searched_with_the_rate_and_the_winner_is_used_whole() -> None:
    stages = stages_of(make_study(search={"trials": 12, "batch": 4, "pruner": "none", "space": SPACE}))
    rung = stages.plan.rungs[0]

    def train(spec: RunSpec, group: Group) -> Ended:
        one = fake_train(spec, rung.n_params, stages.study.search, group.finished)
        worse = 0.2 * abs(math.log(spec.weight_decay / 0.1)) + 0.3 * (spec.batch_size == 32)
        return as_recorded(spec, one.fields["status"], [(step, loss + worse) for step, loss in one.history])

    ended, (choice,) = walk(stages.rung(rung), train)
    trials = [one for one in ended if one.spec.stage == "search"]
    assert trials[0].spec.weight_decay == 0.01 and trials[0].spec.batch_size == 32 and trials[0].spec.warmup_steps == 0
    assert len({one.spec.key for one in trials}) == 12 == len({one.spec.weight_decay for one in trials})
    # The same tokens at every batch size.
    assert {(one.spec.batch_size, one.spec.steps) for one in trials} == {(32, rung.steps), (16, 2 * rung.steps)}
    best = min((one for one in trials if one.fields["status"] == "completed"), key=lambda one: one.fields["val_loss"]).spec
    tuned = [one.spec for one in ended if one.spec.lr_source == "tuned"]
    assert {(spec.lr, spec.weight_decay, spec.batch_size, spec.warmup_steps, spec.steps) for spec in tuned} == {
        (best.lr, best.weight_decay, best.batch_size, best.warmup_steps, best.steps)
    }
    (default,) = [one.spec for one in ended if one.spec.lr_source == "default"]
    assert (default.weight_decay, default.batch_size) == (0.01, 32)
    assert set(choice.fields["importances"]) == {"lr", *SPACE} and sum(choice.fields["importances"].values()) == pytest.approx(1)
    assert choice.fields["values"]["train.weight_decay"] == best.weight_decay
    ablated_runs, _ = walk(stages.ablations([one for one in ended if one.spec.lr_source == "tuned"]), train)
    assert {(one.spec.weight_decay, one.spec.batch_size) for one in ablated_runs} == {(best.weight_decay, best.batch_size)}
    shares = [one.spec.warmup_steps / one.spec.steps for one in ablated_runs]
    assert shares == pytest.approx([best.warmup_steps / best.steps] * len(shares), abs=0.02)


@pytest.mark.parametrize("sampler", ["tpe", "qmc", "random", "grid"])
def test_a_search_cut_after_any_run_goes_on_as_if_it_had_not_been(sampler: str) -> None:
    """At every point, an extension's included: the trials answered from the record, the others trained, and all are the same."""
    stages = stages_of(make_study(model={"rungs": ["20k"]}, search=NARROW | {"sampler": sampler, "trials": 8}))
    lane = stages.rung(stages.plan.rungs[0])
    ended, (choice,) = walk(lane, trainer(stages))
    keys = [one.spec.key for one in ended]
    assert choice.fields["extended"]
    for cut in range(len(ended) + 1):
        recorded = {one.spec.key: one for one in ended[:cut]}

        def train(spec: RunSpec, group: Group, recorded: Mapping[str, Ended] = recorded) -> Ended:
            if spec.key not in recorded:
                return trainer(stages)(spec, group)
            known = recorded[spec.key]
            return as_recorded(spec, known.fields["status"], list(known.history))

        again, (chosen,) = walk(stages.rung(stages.plan.rungs[0]), train)
        assert [one.spec.key for one in again] == keys and str(chosen) == str(choice)
        assert [one.fields for one in again] == [one.fields for one in ended]
