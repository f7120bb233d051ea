"""What finished runs teach of a machine's speed: recovered from made-up runs, kept, refused where it isn't this machine's or is damaged."""

import json
import math
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import calibrate, calibration, environment, run
from harness.calibration import Calibration, Observation, keep, load, observations, planned_s, shape_of, weighted_median, work_of
from harness.failpoints import VARIABLE
from harness.generate import MAX_ROWS
from harness.invocation import new_plan
from harness.plan import Machine
from harness.pricing import MARGIN, Cost, Work, work_s
from harness.record import Record
from models.decoder import Model
from tests import inline, tiny, toy
from tests.fakes import make_plan, make_study

MACHINE = {"device": "cpu", "name": "some", "threads": 1, "torch": "2.13.0"}
SAMPLES = {"texts": 8, "temperatures": [0.5, 1.0], "at_best": 2}
TRUE = Cost(step_s=0.02, text_s=0.003, sample_end_s=0.9, sample_best_s=0.05, process_bytes=7, margin=1.0)
MEAN_TOKENS, N_TEST = 48.0, 30


def record_of(n: int, noise: float = 0.0, planned: Cost = TRUE, **changes: Any) -> Record:
    """A study whose `n` runs take what TRUE says, give or take."""
    record = Record(
        study={"samples": SAMPLES, "train": {"batch_size": 16}},
        plan={"rungs": [{"rung": "tiny", "cost": asdict(planned)}]},
        data={"mean_tokens": MEAN_TOKENS, "n_test": N_TEST},
    )
    record.invocations["i"] = {"machine": MACHINE}
    rng = np.random.default_rng(0)
    for i in range(n):
        spec = tiny.spec(seed=i, steps=50 + 10 * i, **changes)
        steps, factor = spec.steps, math.exp(rng.normal(0, noise))
        texts = 3 * spec.eval_texts + N_TEST
        parts = {"training": 0.9 * steps * TRUE.step_s, "evaluation": texts * TRUE.text_s, "sampling_best": 2 * 0.05, "sampling_end": 0.9}
        seconds = {part: [factor * wall, 0.0] for part, wall in parts.items()}
        record.selected[spec.key] = {"rung": "tiny", "spec": spec.to_dict()}
        record.started[spec.key] = {"spec": spec.to_dict(), "invocation": "i"}
        record.evaluations[spec.key] = [{}, {}, {}]
        record.samples[spec.key] = [{"at": "best", "step": s} for s in (4, 8)] + [{"at": "end", "step": 8}] * 2
        ended = {"status": "completed", "steps": steps, "test_nll": 1.0, "time": float(i), "seconds": seconds}
        record.ended[spec.key] = ended | {"time_s": factor * work_s(TRUE, Work(steps, texts, 2, 1))}
    return record


def known(record: Record) -> Calibration:
    """What a record teaches, as it is looked up."""
    shapes: dict[str, list[Observation]] = {}
    for shape, one in observations(record, MACHINE):
        shapes.setdefault(shape, []).append(one)
    return Calibration(shapes)


def shape(**changes: Any) -> str:
    return shape_of(tiny.spec(**changes), MEAN_TOKENS, SAMPLES)


def test_the_price_of_a_shape_is_what_its_runs_took() -> None:
    cost = known(record_of(5)).cost(shape(), MEAN_TOKENS, SAMPLES)
    assert cost is not None
    told, expected = asdict(cost), asdict(replace(TRUE, runs=5))
    assert told.pop("crew_step_s") == expected.pop("crew_step_s") and told == pytest.approx(expected)


def test_longer_texts_cost_more_by_their_tokens() -> None:
    cost = known(record_of(5)).cost(shape(), 1.1 * MEAN_TOKENS, SAMPLES)
    assert cost is not None and cost.step_s == pytest.approx(1.1 * TRUE.step_s) and cost.text_s == pytest.approx(1.1 * TRUE.text_s)


def test_a_few_runs_beside_a_busy_neighbour_leave_the_price_alone() -> None:
    record = record_of(9)
    for ended in list(record.ended.values())[:4]:
        ended |= {"time_s": 5 * ended["time_s"], "seconds": {part: [5 * wall, 0.0] for part, (wall, _) in ended["seconds"].items()}}
    cost = known(record).cost(shape(), MEAN_TOKENS, SAMPLES)
    assert cost is not None and cost.step_s == pytest.approx(TRUE.step_s)


@pytest.mark.parametrize("noise", [0.05, 0.3])
def test_the_spread_is_that_of_the_runs(noise: float) -> None:
    spread = known(record_of(64, noise)).spread
    # A standard deviation from the median of 64 values has a standard error of 15 %.
    assert spread is not None and math.log1p(spread) == pytest.approx(1.96 * noise, rel=0.35)


def test_a_plan_that_is_off_for_all_runs_alike_is_seen_to_be() -> None:
    half = replace(TRUE, margin=0.5)
    assert known(record_of(9, planned=half)).spread == pytest.approx(2 ** (1.96 / 0.6745) - 1)
    assert known(record_of(9)).spread == pytest.approx(0.0, abs=1e-9)


def test_measured_prices_get_the_margin_that_runs_have_shown() -> None:
    low = Cost(*(getattr(TRUE, name) / 1.3 for name in ("step_s", "text_s", "sample_end_s", "sample_best_s")))
    assert known(record_of(5, planned=low)).margin == pytest.approx(1.3)
    assert known(record_of(5, planned=replace(low, runs=4))).margin == known(record_of(2, planned=low)).margin == MARGIN


@pytest.mark.parametrize(
    "changes", [{"batch_size": 8}, {"padding": "learn"}, {"shape": tiny.SHAPE | {"d_ff": 20}}, {"precision": "bfloat16"}, {"seq_len": 99}]
)
def test_what_changes_the_time_of_a_step_is_another_shape(changes: dict[str, Any]) -> None:
    assert shape(**changes) != shape()


@pytest.mark.parametrize("changes", [{"lr": 0.5}, {"seed": 9}, {"steps": 99}, {"stage": "search", "trial": 3}, {"train_texts": 20}])
def test_what_does_not_is_the_same(changes: dict[str, Any]) -> None:
    assert shape(**changes) == shape()


def test_other_texts_and_other_samples_are_other_shapes() -> None:
    spec = tiny.spec()
    assert shape_of(spec, 2 * MEAN_TOKENS, SAMPLES) != shape() != shape_of(spec, MEAN_TOKENS, SAMPLES | {"texts": 64})
    none, cut = (shape_of(spec, MEAN_TOKENS, SAMPLES | {"top_k": top_k, "top_p": []}) for top_k in ([], [5]))
    assert none == shape() != cut


def test_too_few_runs_or_none_that_sampled_tell_no_price() -> None:
    assert known(record_of(2)).cost(shape(), MEAN_TOKENS, SAMPLES) is None
    trials = record_of(5)
    for key, ended in trials.ended.items():
        ended["seconds"] = {part: ended["seconds"][part] for part in ("training", "evaluation")}
        trials.samples[key] = []
    assert known(trials).cost(shape(), MEAN_TOKENS, SAMPLES) is None
    assert known(trials).cost(shape(), MEAN_TOKENS, {"texts": 0, "temperatures": [], "at_best": 0}) is not None


def test_runs_that_were_cut_off_or_ran_elsewhere_teach_nothing() -> None:
    record = record_of(4)
    first, second, third, _ = record.selected
    record.ended[first]["status"] = "interrupted"
    record.started[second]["invocation"] = "unknown"
    record.started[third]["micro_batches"] = 2
    assert len(observations(record, MACHINE)) == 1 and observations(record, MACHINE | {"threads": 2}) == []
    assert observations(Record(), MACHINE) == []


def test_what_runs_took_in_a_crew_is_no_price_of_a_run_by_itself() -> None:
    record = record_of(5)
    keys = list(record.selected)
    for key in keys:
        record.started[key]["crew"] = keys
    assert known(record).cost(shape(), MEAN_TOKENS, SAMPLES) is None
    in_fives = known(record).cost(shape_of(tiny.spec(), MEAN_TOKENS, SAMPLES, crew=5), MEAN_TOKENS, SAMPLES)
    assert in_fives is not None and in_fives.step_s == pytest.approx(TRUE.step_s)


def test_what_a_crew_did_is_priced_by_its_size() -> None:
    in_pairs = replace(TRUE, crew=4, crew_step_s=((1, 2 * TRUE.step_s), (2, TRUE.step_s), (4, 0.1 * TRUE.step_s)))
    record = record_of(3, planned=in_pairs)
    one, two, three = record.selected
    record.started[two]["crew"] = record.started[three]["crew"] = [two, three]
    seconds = [record.ended[key]["time_s"] for key in (one, two)]
    steps = record.ended[one]["steps"]
    assert planned_s(record, one) == pytest.approx(seconds[0] + steps * TRUE.step_s) and planned_s(record, two) == pytest.approx(seconds[1])


def test_what_was_done_is_priced_as_planned() -> None:
    record = record_of(1, planned=replace(TRUE, margin=1.5))
    (key,) = record.selected
    assert planned_s(record, key) == pytest.approx(1.5 * record.ended[key]["time_s"])
    del record.plan["rungs"][0]["cost"]
    assert planned_s(record, key) is None


def test_what_is_kept_is_read_back_and_nothing_is_counted_twice(tmp_path: Path) -> None:
    seen = observations(record_of(5, 0.1), MACHINE)
    for part in (seen[:3], seen[2:], seen):
        keep(tmp_path, MACHINE, part)
    assert load(tmp_path, MACHINE) == known(record_of(5, 0.1))
    before = os.stat(tmp_path / calibration.FILE).st_mtime_ns
    keep(tmp_path, MACHINE, seen)
    assert os.stat(tmp_path / calibration.FILE).st_mtime_ns == before and len(list(tmp_path.iterdir())) == 1


def test_old_runs_go(tmp_path: Path) -> None:
    seen = observations(record_of(calibration.RUNS_A_SHAPE + 4), MACHINE)
    keep(tmp_path, MACHINE, seen)
    (kept,) = load(tmp_path, MACHINE).shapes.values()
    assert [one.time for one in kept] == [float(i) for i in range(4, calibration.RUNS_A_SHAPE + 4)]


def test_another_machine_is_left_alone_with_a_note(tmp_path: Path) -> None:
    other = MACHINE | {"threads": 4, "name": "elsewhere"}
    keep(tmp_path, other, observations(record_of(4), MACHINE))
    found = load(tmp_path, MACHINE)
    assert found.runs == 0 and "knows other machines or settings only (name elsewhere, threads 4)" in found.note
    keep(tmp_path, MACHINE, observations(record_of(3), MACHINE))
    assert (load(tmp_path, other).runs, load(tmp_path, MACHINE).runs, load(tmp_path, MACHINE).note) == (4, 3, "")


@pytest.mark.parametrize("damage", ["cut", "bit", "zeros", "other", "later", "list", "folder"])
def test_a_damaged_file_is_left_out_with_a_note_and_replaced(tmp_path: Path, damage: str) -> None:
    seen = observations(record_of(4), MACHINE)
    keep(tmp_path, MACHINE, seen)
    path = tmp_path / calibration.FILE
    whole = path.read_bytes()
    made = {"cut": whole[:-9], "bit": whole.replace(b'"time_s": ', b'"time_s": 1', 1), "zeros": bytes(len(whole)), "other": b"{}"}
    made |= {"later": json.dumps(json.loads(whole) | {"format": 99}).encode(), "list": b"[" * 100_000}
    path.unlink()
    path.mkdir() if damage == "folder" else path.write_bytes(made[damage])
    found = load(tmp_path, MACHINE)
    assert found.runs == 0 and f"{path} can't be used (" in found.note
    if damage != "folder":
        keep(tmp_path, MACHINE, seen)
        assert load(tmp_path, MACHINE).runs == 4


def test_a_disk_that_refuses_is_said_and_breaks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "calibration.write:1:full")
    assert "the disk is full" in calibration.learn(tmp_path, MACHINE, record_of(3))
    assert not list(tmp_path.iterdir())


def test_where_batch_sizes_are_searched_a_plan_knows_what_each_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest and the largest are measured too; a run at any of them has a planned time, and is compared with it."""
    space = {"train.batch_size": {"choices": [4, 8, 16]}}
    study = inline.prepared(search={"space": space, "pruner": "none"})
    asked: list[int] = []

    def measured(spec: Any, *given: Any) -> dict[str, Any]:
        asked.append(spec.batch_size)
        return asdict(Cost(0.1 + 0.01 * spec.batch_size, 1e-3))

    monkeypatch.setattr("harness.calibrate.measure", measured)
    machine = Machine("cpu", 1, 1, "float32")
    with inline.Inline(inline.setting(study, tmp_path)) as pool:
        plan = new_plan(study, machine, pool, Calibration())
    assert sorted(asked) == [4, 8, 16]
    (rung,) = plan.rungs
    cost = Cost(**rung.cost)
    assert cost.text_step_s == pytest.approx(0.01)
    record = inline.run(study, tmp_path, plan=plan)
    sizes = {selected["spec"]["batch_size"] for selected in record.selected.values() if selected["stage"] == "search"}
    assert len(sizes) > 1
    for key, selected in record.selected.items():
        size, work = selected["spec"]["batch_size"], work_of(record, key)
        expected = work.steps * (0.1 + 0.01 * size) + work.texts * 1e-3
        assert planned_s(record, key) == pytest.approx(MARGIN * expected)


def test_the_memory_of_whole_texts_counts_though_few_tokens_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it is written to: what was never touched is not held."""
    spec, caches = tiny.spec(), dict[tuple[int, int], Any]()
    begin = Model.init_cache

    def noted(self: Model, batch_size: int, length: int) -> Any:
        cache = caches[batch_size, length] = begin(self, batch_size, length)
        for tensor in [*cache.keys, *cache.values]:
            tensor.fill_(math.nan)
        return cache

    monkeypatch.setattr(Model, "init_cache", noted)
    calibrate.measure(spec, tiny.corpus(), {"texts": 300, "temperatures": [0.5, 1.0], "at_best": 2}, "cpu")
    for rows in (MAX_ROWS, 2):
        whole = caches[rows, spec.seq_len]
        assert all(tensor.count_nonzero() == 0 for tensor in [*whole.keys, *whole.values])


def test_the_weighted_median() -> None:
    assert weighted_median([(3.0, 1.0), (1.0, 1.0), (2.0, 1.0)]) == 2.0
    assert weighted_median([(1.0, 1.0), (5.0, 9.0), (2.0, 1.0)]) == 5.0


def test_a_plan_tells_how_its_rungs_were_priced() -> None:
    for rung in make_plan(make_study()).rungs:
        assert Cost(**rung.cost).step_s == rung.step_s


@pytest.mark.slow
def test_a_study_that_has_ended_prices_the_next_one(
    finished_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another study of the same shapes is planned without measuring, and what `--plan` reads it leaves alone."""
    folder = tmp_path / "next"
    shutil.copytree(finished_study, folder)
    monkeypatch.chdir(folder)
    path = folder / "mlruns" / calibration.FILE
    before = path.read_bytes()
    machine = next(iter(json.loads(before)["machines"].values()))["machine"]
    # Trials that were pruned early are too short to tell.
    n = load(folder / "mlruns", machine).runs
    assert toy.N_RUNS - 8 <= n <= toy.N_RUNS
    assert machine == json.loads(json.dumps(environment.speed_facts(environment.machine("cpu", "auto", machine["workers"]))))
    assert run.main(["toy.yaml", "--plan", "--set", "study=other", "--set", "train.max_steps=40"]) == 0
    out = capsys.readouterr().out
    assert "measuring" not in out and "pricing by finished runs" in out and out.count(f"(calibrated here, {n} runs)") == 2
    assert path.read_bytes() == before and not (folder / "mlruns/other").exists()
    # A shape that has had no run is measured.
    assert run.main(["toy.yaml", "--plan", "--set", "study=other", "--set", "train.batch_size=8"]) == 0
    assert "measuring 2 shapes" in capsys.readouterr().out
