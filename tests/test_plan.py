"""The plan at made-up prices: what fits, what is cut, what is left out, and that everything that costs is counted."""

import json
import math
import re
from dataclasses import replace
from typing import Any

import pytest

from harness.accounting import memory_bytes
from harness.errors import StudyError
from harness.plan import COSMETIC, OVERHEAD_S, Plan, duration, runs_of, study_digest
from harness.pricing import MARGIN, RUN_BYTES, STEP_BYTES, ablation_steps, budget_steps
from harness.runspec import digest
from harness.spec import Study
from tests.fakes import COST, LENGTHS, MACHINE, SIZE, make_costs, make_ladder, make_plan, make_study

SPACIOUS: dict[str, Any] = {"epochs": 40, "min_steps": 60}


def spacious(**changes: Any) -> Study:
    """A study with much to cut."""
    return make_study(train=SPACIOUS, **changes)


def test_without_a_limit_nothing_is_cut_or_left_out() -> None:
    study = spacious()
    plan = make_plan(study)
    assert plan.cut == 0 and plan.kept == plan.rungs and plan.within_s is None
    assert [rung.steps for rung in plan.rungs] == [40 * 100] * 3
    assert [rung.rung for rung in plan.rungs] == ["20k", "40k", "87k-assignment"]


def test_the_price_by_hand() -> None:
    study = make_study(model={"rungs": ["20k"]}, ablations={"train_texts": [500]})
    steps, evaluations = 400, 20
    training = steps * COST.step_s + evaluations * 256 * COST.text_s
    kept = 400 * COST.text_s + COST.sample_end_s + evaluations * COST.sample_best_s
    short = 4 * math.ceil(500 / 32)
    ablation = short * COST.step_s + evaluations * 256 * COST.text_s + kept
    (rung,) = make_plan(study).rungs
    assert rung.steps == steps and rung.runs == 6 + 2 + 1
    assert rung.estimated_s == pytest.approx(MARGIN * (6 * training + 3 * (training + kept)))
    assert make_plan(study).estimated_s == pytest.approx(OVERHEAD_S + (rung.estimated_s + MARGIN * 2 * ablation) / MACHINE.workers)
    assert make_plan(study).ablation_runs == 2
    assert rung.train_tokens == pytest.approx(4 * 3200 * SIZE.mean_tokens, abs=1)
    assert rung.epochs == 4 and rung.train_flops == pytest.approx(rung.flops_per_token * rung.train_tokens)
    assert rung.six_nd == 6 * rung.n_params * rung.train_tokens


def test_searched_batch_sizes_are_priced_each_at_its_own() -> None:
    """Equal tokens: 64 texts in half of the steps, 8 in four times as many, each of which takes less."""
    space = {"train.batch_size": {"choices": [64, 8]}}
    study = make_study(model={"rungs": ["20k"]}, search={"trials": 6, "batch": 2, "pruner": "none", "extend": 0, "space": space})
    cost = replace(COST, text_step_s=COST.step_s / 64)
    (rung,) = make_plan(study, costs={"20k": cost}).rungs
    beside = 20 * 256 * COST.text_s
    small, own, large = (n * share * COST.step_s + beside for n, share in ((1600, 1 - 24 / 64), (400, 1.0), (200, 1.5)))
    kept = 400 * COST.text_s + COST.sample_end_s + 20 * COST.sample_best_s
    # Which of them is kept isn't known: the dearest. The run at the untuned rate has the study's own.
    expected = 6 * (small + large) / 2 + 2 * (small + kept) + own + kept
    assert rung.estimated_s == pytest.approx(MARGIN * expected)
    plain = make_plan(make_study(model={"rungs": ["20k"]})).rungs[0]
    assert rung.memory_bytes - plain.memory_bytes == pytest.approx(
        activations(64 * SIZE.mean_tokens) - activations(32 * SIZE.mean_tokens), rel=1e-3
    )


def activations(tokens: float) -> int:
    """Memory of a 20k run that grows with its batch."""
    (rung,) = make_ladder(make_study(model={"rungs": ["20k"]}))
    return memory_bytes(rung.arch, rung.shape, SIZE.vocab_size, 150, round(tokens))


@pytest.mark.parametrize("texts", [1, 8, 32, 500])
def test_a_step_of_fewer_texts_costs_its_share_at_least(texts: int) -> None:
    cost = replace(COST, text_step_s=COST.step_s / 20)
    assert cost.of_batch(texts, 32).step_s >= COST.step_s * min(1.0, texts / 32)
    assert COST.of_batch(texts, 32) == COST and cost.of_batch(32, 32) == cost


@pytest.mark.parametrize("share", [0.9, 0.5, 0.2, 0.12, 0.09])
def test_the_cut_is_the_smallest_that_fits(share: float) -> None:
    study = spacious(model={"rungs": ["20k"]})
    whole = make_plan(study)
    plan = make_plan(study, within_s=share * whole.estimated_s)
    assert plan.estimated_s <= plan.within_s == share * whole.estimated_s
    assert plan.cut > 0 and plan.rungs[0].steps == int(4000 * 2 ** (-plan.cut / 2)) >= 60
    # The same study with one cut less asked for outright, and no limit.
    before = make_plan(make_study(train=SPACIOUS | {"max_steps": int(4000 * 2 ** (-(plan.cut - 1) / 2))}, model={"rungs": ["20k"]}))
    assert before.estimated_s > plan.within_s


def test_all_budgets_of_all_rungs_are_cut_by_one_factor() -> None:
    study = make_study(train=SPACIOUS | {"min_steps": 1}, budgets={"train_tokens": [1_000_000, 4_000_000]})
    whole = make_plan(study)
    plan = make_plan(study, within_s=0.3 * whole.estimated_s)
    factor = 2 ** (-plan.cut / 2)
    assert plan.cut > 0 and plan.kept == plan.rungs
    for rung, uncut in zip(plan.rungs, whole.rungs, strict=True):
        # Both are rounded down to whole steps, from the same exact budget.
        assert rung.steps == pytest.approx(uncut.steps * factor, abs=1)
        assert rung.budget_steps == pytest.approx([steps * factor for steps in uncut.budget_steps], abs=1)


def test_the_largest_rungs_are_left_out_rather_than_starved() -> None:
    study = spacious()
    costs = make_costs(study)
    limit = 0.5 * make_plan(spacious(model={"rungs": ["20k", "40k"]}), costs=costs).estimated_s * 60 / 4000 + 250
    plan = make_plan(study, within_s=limit, costs=costs)
    assert [rung.skipped is None for rung in plan.rungs] == [True, True, False]
    assert min(rung.steps for rung in plan.kept) >= 60 and plan.estimated_s <= limit
    left = plan.rungs[-1]
    whole = make_plan(study, costs=costs).rungs[-1]
    assert replace(left, skipped=None) == whole
    assert left.skipped == f"needs {duration(whole.estimated_s / 2)} for 40 epochs (within: {duration(limit)})"


def test_the_smaller_budgets_of_a_grid_are_not_starved_either() -> None:
    study = spacious(model={"rungs": ["20k"]}, budgets={"train_tokens": [400_000, 4_000_000]})
    whole = make_plan(study)
    smallest = whole.rungs[0].budget_steps[-1]
    assert smallest > 60
    with pytest.raises(StudyError) as refused:
        make_plan(study, within_s=0.05 * whole.estimated_s)
    plan = make_plan(study, within_s=60.0 * minutes(refused.value))
    assert plan.cut > 0 and plan.rungs[0].budget_steps[-1] >= 60


def minutes(error: StudyError) -> int:
    """The limit that an error says would do."""
    found = re.search(r"--within (\d+)m", str(error))
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize("train", [SPACIOUS, {"epochs": 0.1, "min_steps": 60}, {"epochs": 4, "min_steps": 0}, {"max_steps": 1}])
def test_where_nothing_fits_the_error_says_what_would(train: dict[str, Any]) -> None:
    study = make_study(train=train)
    costs = make_costs(study, scale=10)
    with pytest.raises(StudyError, match=r"even the rung 20k .*Nothing was run\.") as refused:
        make_plan(study, within_s=OVERHEAD_S + 1, costs=costs)
    plan = make_plan(study, within_s=60.0 * minutes(refused.value), costs=costs)
    assert plan.kept[0].rung == "20k"
    assert make_plan(study, within_s=1e9, costs=costs).cut == 0


def test_min_steps_limits_only_what_the_limit_may_cut() -> None:
    study = make_study(train={"max_steps": 7, "min_steps": 60})
    for within_s in (None, 1e6):
        plan = make_plan(study, within_s)
        assert plan.cut == 0 and [rung.steps for rung in plan.kept] == [7, 7, 7]


@pytest.mark.parametrize(
    "changes",
    [
        {"search": {"trials": 7, "batch": 3}},
        {"seeds": 3},
        {"train": {"epochs": 4, "evaluations": 40}},
        {"train": {"epochs": 5}},
        {"ablations": {"train_texts": [500, 1000, 1500]}},
        {"ablations": {"train_texts": [500, 1200]}},
        {"budgets": {"train_tokens": [100_000, 600_000]}},
        {"model": {"rungs": ["20k", "40k", "87k-assignment", "230k"]}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_more_of_anything_costs_more(changes: dict[str, Any]) -> None:
    assert make_plan(make_study(**changes)).estimated_s > make_plan(make_study()).estimated_s


@pytest.mark.parametrize("part", ["step_s", "text_s", "sample_end_s", "sample_best_s"])
def test_every_measured_price_counts(part: str) -> None:
    study = make_study()
    dearer = {name: replace(cost, **{part: 2 * getattr(cost, part)}) for name, cost in make_costs(study).items()}
    assert make_plan(study, costs=dearer).estimated_s > make_plan(study).estimated_s


@pytest.mark.parametrize("part", ["eval_texts", "n_test"])
def test_more_texts_to_score_cost_more(part: str) -> None:
    more = replace(SIZE, **{part: 2 * getattr(SIZE, part)})
    assert make_plan(make_study(), size=more).estimated_s > make_plan(make_study()).estimated_s


def test_an_evaluation_every_epoch_is_priced_by_the_epochs_of_the_run_itself() -> None:
    """A run on few texts has short epochs, and so more evaluations in the same number of steps."""
    often = {"max_steps": 400, "epochs": None, "evaluations": "every_epoch"}
    study = make_study(train=often, model={"rungs": ["20k"]}, ablations={"train_texts": [320]})
    bare = make_study(train=often, model={"rungs": ["20k"]}, ablations={})
    per_evaluation = 256 * COST.text_s + COST.sample_best_s
    one = 400 * COST.step_s + 40 * per_evaluation + 400 * COST.text_s + COST.sample_end_s
    assert make_plan(study).estimated_s - make_plan(bare).estimated_s == pytest.approx(2 * one * MARGIN / 2)


def test_no_search_no_trials_and_no_extra_default_run() -> None:
    plan = make_plan(make_study(search={"trials": 0}))
    assert [rung.runs for rung in plan.rungs] == [2, 2, 2]


def test_the_lowest_of_epochs_tokens_and_steps_holds() -> None:
    (rung, *_) = make_ladder(make_study())
    tokens_a_step = 32 * SIZE.mean_tokens

    def steps(**train: Any) -> list[int]:
        budgets = train.pop("budgets", {})
        return budget_steps(make_study(train={"epochs": None} | train, budgets=budgets), rung, SIZE, 0)

    assert steps(epochs=2.5) == [250] and steps(max_steps=33) == [33]
    assert steps(tokens=1_000_000) == [int(1_000_000 / tokens_a_step)]
    assert steps(tokens=1_000_000, epochs=1) == [100] and steps(tokens=50_000, epochs=1) == [int(50_000 / tokens_a_step)]
    assert steps(epochs=0.001) == [1]
    grid = {"train_tokens": [100_000, 300_000, 10**9]}
    assert steps(epochs=4, budgets=grid) == [400, int(300_000 / tokens_a_step), int(100_000 / tokens_a_step)]
    assert steps(epochs=4, tokens=200_000, budgets=grid) == [int(200_000 / tokens_a_step), int(100_000 / tokens_a_step)]


def test_equal_flops_are_fewer_steps_for_a_larger_rung() -> None:
    study = make_study(train={"epochs": None, "max_steps": 10**6}, budgets={"train_flops": [1e12, 3e12]})
    plan = make_plan(study)
    for rung in plan.rungs:
        assert len(rung.budget_steps) == 1 and rung.train_flops == pytest.approx(3e12, rel=0.02)
        assert rung.budget_steps[0] / rung.steps == pytest.approx(1 / 3, rel=0.02)
    assert plan.rungs[0].steps > plan.rungs[1].steps > plan.rungs[2].steps


def test_the_short_last_batch_of_an_epoch_is_counted_as_it_is() -> None:
    odd = replace(SIZE, n_train=33)
    rung = make_plan(make_study(train={"epochs": 10}, model={"rungs": ["20k"]}, ablations={}), size=odd).rungs[0]
    assert rung.steps == 20 and rung.train_tokens == round(10 * 33 * SIZE.mean_tokens)


def test_a_run_on_fewer_texts_has_the_same_epochs_and_never_more_steps() -> None:
    study = make_study()
    rung = make_plan(study).rungs[0]
    assert [ablation_steps(study, SIZE, rung, n) for n in (32, 500, 3200, 10**6)] == [4, 64, 400, 400]
    by_steps = make_study(train={"epochs": None, "max_steps": 50})
    assert ablation_steps(by_steps, SIZE, make_plan(by_steps).rungs[0], 32) == 50


def test_learning_padding_takes_the_memory_of_padding() -> None:
    learn = make_plan(make_study(train={"epochs": 4, "padding": "learn"}))
    assert learn.rungs[0].memory_bytes > make_plan(make_study()).rungs[0].memory_bytes


def test_counts_stand_by_group() -> None:
    for rung in make_plan(make_study()).rungs:
        assert sum(rung.parameters.values()) == rung.n_params == rung.non_embedding_params + rung.embedding_params + rung.head_params
        # Best weights of three kept runs, here and in MLflow, and what nine runs leave in the record.
        assert rung.disk_bytes == 2 * 4 * rung.n_params * 3 + 9 * (RUN_BYTES + STEP_BYTES * rung.steps)


@pytest.mark.parametrize("within_s", [None, 300.0])
def test_a_plan_survives_json(within_s: float | None) -> None:
    plan = make_plan(make_study(budgets={"train_tokens": [100_000, 600_000]}), within_s)
    beside = {"machine": {"cores": 2}, "created": "now"}
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict() | beside))) == plan


def test_a_plan_is_a_pure_function() -> None:
    study = spacious()
    assert make_plan(study, 600.0) == make_plan(study, 600.0)
    assert sum(LENGTHS) / len(LENGTHS) == SIZE.mean_tokens


CHANGES: dict[str, Any] = {
    "study": "t",
    "question": "other",
    "hypothesis": "other",
    "data": {"texts": 100},
    "model": {"rungs": ["20k"]},
    "train": {"epochs": 5},
    "search": {"trials": 5},
    "seeds": 4,
    "budgets": {"train_tokens": [5]},
    "ablations": {},
    "samples": {"texts": 1},
    "within": "3m",
    "report": {"formats": ["md"]},
    "checkpoints": {"every_s": 5},
    "crew": 4,
    "analysis": {"held_out": "none"},
}


def test_every_key_of_a_study_is_looked_at() -> None:
    assert CHANGES.keys() == Study.model_fields.keys()


@pytest.mark.parametrize("key", CHANGES)
def test_only_cosmetic_keys_leave_the_digest_of_a_study_alone(key: str) -> None:
    same = study_digest(make_study(**{key: CHANGES[key]})) == study_digest(make_study())
    assert same == (key in COSMETIC) == (key in {"question", "hypothesis", "within", "report", "checkpoints", "analysis", "crew"})


def test_a_study_that_says_nothing_of_keys_that_came_later_is_the_one_it_was_before() -> None:
    study = make_study()
    plain = {key: value for key, value in study.model_dump(mode="json").items() if key not in COSMETIC}
    del plain["model"]["parametrization"], plain["model"]["mup_base"], plain["samples"]["top_k"], plain["samples"]["top_p"]
    assert study_digest(study) == digest(plain)
    mup = make_study(model={"rungs": ["20k"], "parametrization": "mup", "mup_base": "20k"})
    assert study_digest(mup) != study_digest(make_study(model={"rungs": ["20k"]}))
    assert study_digest(make_study(samples={"top_k": [5]})) != study_digest(study)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.9, "0:59"), (190, "3:10"), (3599, "59:59"), (5400, "1.5 h"), (144_000, "40 h"), (1e6, "12 d")]
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_an_extension_is_priced_where_no_pruner_pays_for_it() -> None:
    def search_s(**search: Any) -> float:
        return make_plan(make_study(search={"trials": 12, "batch": 4} | search)).rungs[0].estimated_s

    with_pruner, none, never = search_s(), search_s(pruner="none"), search_s(pruner="none", extend=0)
    assert with_pruner == never == search_s(extend=5)
    (one,) = {rung.steps for rung in make_plan(make_study()).rungs}
    trial = MARGIN * (one * COST.step_s + 20 * 256 * COST.text_s)
    assert none - never == pytest.approx(4 * trial)
    assert make_plan(make_study(search={"trials": 0, "pruner": "none"})).rungs[0].runs == 2


def test_runs_count_an_extension_once_it_has_happened() -> None:
    rung = make_plan(make_study()).to_dict()["rungs"][0]
    chosen = {"lr": 2e-3, "default_lr": 1e-3}
    assert runs_of(rung, None) == runs_of(rung, chosen) == 6 + 2 + 1
    assert runs_of(rung, chosen | {"extension_trials": 4}) == 13 and runs_of(rung, chosen | {"extension_trials": math.nan}) == 9
    assert runs_of(rung, {"lr": 1e-3, "default_lr": 1e-3, "extension_trials": 2}) == 10


@pytest.mark.parametrize(("first", "searched"), [(None, 2), (2, 2), (3, 3), (9, 3)])
def test_predicted_rungs_have_no_trials_and_cost_less(first: int | None, searched: int) -> None:
    plan = make_plan(make_study(search={"trials": 6, "batch": 3, "transfer": "predict", "transfer_from": first}))
    measured = make_plan(make_study())
    assert [rung.trials for rung in plan.rungs] == [6] * searched + [0] * (3 - searched)
    for one, other in zip(plan.rungs, measured.rungs, strict=True):
        assert (one.runs, one.estimated_s < other.estimated_s) == ((3, True) if one.trials == 0 else (9, False))


def test_a_rung_that_is_left_out_does_not_take_the_place_of_a_predicted_one() -> None:
    study = spacious(search={"trials": 6, "batch": 3, "transfer": "predict"})
    plan = make_plan(study, within_s=200)
    kept = [rung.trials for rung in plan.kept]
    assert len(kept) < 3 and kept == [6] * len(kept)
