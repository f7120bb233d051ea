"""The lanes of a study driven by hand with a training that costs nothing: which runs, in which order, and the same ones on every replay."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import pytest

from harness.plan import Plan, runs_of
from harness.runspec import RunSpec
from harness.spec import Study
from harness.stages import SEARCH_SEED, Ended, Group, Stages
from tests.fakes import CLIFF, SIZE, as_recorded, make_plan, make_study, stages_of, trainer, walk, whole

GRID = {"train_tokens": [100_000, 300_000, 600_000]}
STUDIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "twelve trials": {"search": {"trials": 12, "batch": 4}},
    "halving": {"search": {"trials": 9, "batch": 4, "pruner": "halving"}},
    "no search": {"search": {"trials": 0}},
    "grid": {"budgets": GRID},
    "grid without search": {"budgets": GRID, "search": {"trials": 0}},
    "one seed": {"seeds": 1},
    "in turn": {"search": {"trials": 12, "batch": 4, "order": "in_turn"}},
    "predicted": {"search": {"trials": 12, "batch": 4, "transfer": "predict"}},
    "extended": {"search": {"trials": 12, "batch": 4, "lr": {"low": 1e-5, "high": 3e-4}, "default_lr": 3e-4}},
}


@pytest.mark.parametrize("changes", STUDIES.values(), ids=STUDIES)
def test_there_are_as_many_runs_as_the_plan_says(changes: dict[str, Any]) -> None:
    stages = stages_of(make_study(**changes))
    ended, choices = whole(stages)
    specs = [one.spec for one in ended]
    assert len({spec.key for spec in specs}) == len(specs)
    chosen = {choice.rung: choice.fields for choice in choices}
    for rung in stages.plan.kept:
        counted = sum(spec.rung == rung.rung and spec.stage != "ablation" for spec in specs)
        assert counted == runs_of(asdict(rung), chosen.get(rung.rung))
    assert sum(spec.stage == "ablation" for spec in specs) == stages.plan.ablation_runs
    assert len(choices) == (len(stages.plan.kept) if stages.study.search.trials else 0)


@pytest.mark.parametrize("changes", STUDIES.values(), ids=STUDIES)
def test_every_run_is_what_its_stage_says(changes: dict[str, Any]) -> None:
    study = make_study(**changes)
    stages = stages_of(study)
    ended, choices = whole(stages)
    rates = {choice.rung: choice.fields["lr"] for choice in choices}
    plans = {rung.rung: rung for rung in stages.plan.rungs}
    main = "tuned" if study.search.trials else "default"
    for spec in (one.spec for one in ended):
        rung = plans[spec.rung]
        assert spec.evaluate_at[-1] == spec.steps and spec.data == SIZE.fingerprint and spec.shape == rung.shape
        if spec.stage == "search":
            assert spec.seed == SEARCH_SEED and spec.steps == rung.steps and spec.trial is not None and spec.search
            assert (spec.lr_source, spec.lr_status) == ("", "")
            continue
        # The winner of a search is judged on fresh seeds.
        assert spec.seed != SEARCH_SEED and spec.seed in range(study.seeds) and spec.trial is None and spec.search == ""
        is_default = spec.lr_source == "default"
        assert spec.lr == (study.search.default_lr if is_default else rates[spec.rung])
        source = "predicted" if rung.trials == 0 and study.search.trials else main
        if spec.stage != "ladder" or not is_default:
            assert spec.lr_source == source
        assert spec.steps in {"ladder": {rung.steps}, "budget": set(rung.budget_steps)}.get(spec.stage, range(1, rung.steps + 1))
    numbers = [one.spec.trial for one in ended if one.spec.stage == "search"]
    counts = {choice.rung: choice.fields["trials"] for choice in choices}
    assert numbers == [n for name in plans for n in range(counts.get(name, 0))]
    by_seed = [one.spec.seed for one in ended if one.spec.stage == "ladder" and one.spec.lr_source == main and one.spec.rung == "20k"]
    assert by_seed == list(range(study.seeds))


def test_the_ladder_uses_the_rate_that_the_search_chose_with_its_status() -> None:
    stages = stages_of(make_study(search={"trials": 12, "batch": 4}))
    ended, (choice,) = walk(stages.rung(stages.plan.rungs[0]), trainer(stages))
    assert choice.fields["lr_status"] == "resolved"
    assert choice.fields["lr"] == pytest.approx(2e-3, rel=0.3)
    assert {e.spec.lr_status for e in ended if e.spec.lr_source == "tuned"} == {"resolved"}
    assert {e.spec.lr_status for e in ended if e.spec.lr_source == "default"} == {""}
    statuses = [e.fields["status"] for e in ended if e.spec.stage == "search"]
    assert {status: choice.fields[status] for status in set(statuses)} == {status: statuses.count(status) for status in set(statuses)}
    assert choice.fields["trials"] == 12


def test_a_rung_whose_best_rate_is_the_default_is_not_trained_there_twice() -> None:
    stages = stages_of(make_study())

    def fails(spec: RunSpec, group: Group) -> Ended:
        status = "diverged" if spec.stage == "search" else "completed"
        return as_recorded(spec, status, [(1, 3.0)])

    ended, (choice,) = walk(stages.rung(stages.plan.rungs[0]), fails)
    assert choice.fields["lr"] == stages.study.search.default_lr and choice.fields["lr_status"] == "unresolved"
    after = [one.spec for one in ended if one.spec.stage != "search"]
    assert [(spec.seed, spec.lr_source) for spec in after] == [(0, "tuned"), (1, "tuned")]


def nll(value: float | None, status: str = "completed") -> Mapping[str, Any]:
    return {"status": status, "val_nll": value}


def ladder_of(stages: Stages, values: Mapping[str, list[Mapping[str, Any]]], source: str = "tuned") -> list[Ended]:
    """Ladder runs of each rung that ended so."""
    lane = {rung.rung: stages.rung(rung) for rung in stages.plan.rungs}
    specs = {name: next(iter(next(one).specs)) for name, one in lane.items()}
    return [
        Ended(
            replace(specs[name], stage="ladder", seed=seed, lr=7e-4, lr_source=source, lr_status="resolved", trial=None, search=""),
            fields,
            (),
        )
        for name, endings in values.items()
        for seed, fields in enumerate(endings)
    ]


def ablated(stages: Stages, ladder: list[Ended]) -> list[RunSpec]:
    ended, _ = walk(stages.ablations(ladder), lambda spec, group: Ended(spec, nll(1.0), ()))
    return [one.spec for one in ended]


def test_ablations_are_at_the_rung_with_the_lowest_mean_at_its_rate_for_all_seeds() -> None:
    stages = stages_of(make_study())
    values = {"20k": [nll(99), nll(101)], "40k": [nll(90), nll(108)], "87k-assignment": [nll(80), nll(130)]}
    specs = ablated(stages, ladder_of(stages, values))
    assert [(spec.rung, spec.train_texts, spec.seed) for spec in specs] == [("40k", n, seed) for n in (500, 1000) for seed in (0, 1)]
    assert {(spec.stage, spec.lr, spec.lr_source, spec.lr_status) for spec in specs} == {("ablation", 7e-4, "tuned", "resolved")}
    assert [spec.steps for spec in specs] == [4 * 16, 4 * 16, 4 * 32, 4 * 32]


def test_the_best_rung_is_not_found_by_what_did_not_complete_nor_by_the_default_rate() -> None:
    stages = stages_of(make_study())
    values = {"20k": [nll(99), nll(99)], "40k": [nll(1, "diverged"), nll(100)], "87k-assignment": [nll(None), nll(101)]}
    ladder = ladder_of(stages, values) + ladder_of(stages, {"40k": [nll(2)]}, source="default")
    trial = replace(ladder[2].spec, stage="search", trial=0)
    ladder += [Ended(trial, nll(3), ()), Ended(replace(ladder[2].spec, stage="budget"), nll(4), ())]
    assert {spec.rung for spec in ablated(stages, ladder)} == {"20k"}


def test_without_a_completed_rung_there_is_nothing_to_ablate() -> None:
    stages = stages_of(make_study())
    assert ablated(stages, ladder_of(stages, {"20k": [nll(1, "failed"), nll(1, "diverged")]})) == []
    assert ablated(stages, []) == []
    assert ablated(stages_of(make_study(ablations={})), ladder_of(stages, {"20k": [nll(1)]})) == []


def test_without_a_search_the_best_rung_is_judged_at_the_default() -> None:
    stages = stages_of(make_study(search={"trials": 0}))
    ended, choices = whole(stages)
    assert not choices and {one.spec.lr for one in ended} == {1e-3} and {one.spec.lr_source for one in ended} == {"default"}
    assert {one.spec.rung for one in ended if one.spec.stage == "ablation"} == {"87k-assignment"}


def test_more_texts_than_there_are_is_the_run_on_all_of_them() -> None:
    stages = stages_of(make_study(ablations={"train_texts": [10**6]}))
    ended, _ = whole(stages)
    best = {one.spec.rung for one in ended if one.spec.stage == "ablation"}
    same = {e.spec.key for e in ended if e.spec.stage == "ladder" and e.spec.rung in best and e.spec.lr_source == "tuned"}
    assert {one.spec.key for one in ended if one.spec.stage == "ablation"} == same


@pytest.mark.parametrize("changes", STUDIES.values(), ids=STUDIES)
def test_a_replay_from_the_record_takes_the_same_way(changes: dict[str, Any]) -> None:
    """Interrupted after any number of runs, and started again from what is recorded, as often as one likes."""
    study = make_study(**changes)
    first = stages_of(study)
    ended, choices = whole(first)
    if study.search.trials > 8 and study.search.lr.high > CLIFF:
        assert {one.fields["status"] for one in ended} == {"completed", "diverged", "pruned"}
    again = Stages(Study.model_validate_json(study.model_dump_json()), Plan.from_dict(json.loads(json.dumps(first.plan.to_dict()))), SIZE)
    known = {one.spec.key: one for one in ended}
    for done in range(0, len(ended) + 1, 7):
        answered = {one.spec.key: one for one in ended[:done]}
        trained: list[RunSpec] = []

        def train(spec: RunSpec, group: Group, answered: Mapping[str, Ended] = answered, trained: list[RunSpec] = trained) -> Ended:
            if spec.key in answered:
                return as_recorded(spec, answered[spec.key].fields["status"], list(answered[spec.key].history))
            trained.append(spec)
            return trainer(again)(spec, group)

        ended_again, choices_again = whole(again, train)
        assert [asdict(one.spec) for one in ended_again] == [asdict(one.spec) for one in ended]
        assert [str(choice) for choice in choices_again] == [str(choice) for choice in choices]
        assert all(one.fields == known[one.spec.key].fields for one in ended_again)
        assert [spec.key for spec in trained] == [one.spec.key for one in ended[done:]]


def test_a_lane_does_not_depend_on_the_others() -> None:
    stages = stages_of(make_study())
    alone = {rung.rung: [e.spec.key for e in walk(stages.rung(rung), trainer(stages))[0]] for rung in reversed(stages.plan.rungs)}
    together = [one.spec for one in whole(stages)[0] if one.spec.stage != "ablation"]
    assert {name: [spec.key for spec in together if spec.rung == name] for name in alone} == alone


def test_rungs_that_the_plan_leaves_out_have_no_runs_and_a_cut_budget_is_used() -> None:
    study = make_study(train={"epochs": 40, "min_steps": 60})
    plan = make_plan(study, within_s=240)
    assert plan.cut > 0 and len(plan.kept) < len(plan.rungs)
    ended, _ = whole(Stages(study, plan, SIZE))
    assert {one.spec.rung for one in ended} == {rung.rung for rung in plan.kept}
    assert {one.spec.steps for one in ended if one.spec.stage == "ladder"} == {rung.steps for rung in plan.kept}


def test_a_warm_up_is_a_share_of_the_runs_own_steps() -> None:
    stages = stages_of(make_study(train={"epochs": 4, "warmup_fraction": 0.1}, budgets=GRID))
    ended, _ = whole(stages)
    assert all(one.spec.warmup_steps == one.spec.steps // 10 for one in ended)
