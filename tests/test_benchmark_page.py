"""The page on performance holds what was measured and nothing else; a study's time is counted once, piece by piece."""

import json
import multiprocessing
import re
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import pytest

from benchmarks import _measure as measure
from benchmarks import page, peers, study
from benchmarks._clock import Clock, children_cpu_s
from benchmarks.notebook import epoch, summary
from harness import spec
from harness.record import Record

MACHINE = {
    "cpu": "Some CPU", "machine": "CPU, 2 cores, Linux x86_64", "versions": {"torch": "2.13.0"}, "load_average_1min": 3.25,
    "date": "2026-11-20T10:00:00+00:00", "commit": "0123",
}  # fmt: skip


def notebook_result(step_s: float) -> dict[str, Any]:
    """What notebook.py keeps of one rung whose notebook takes 2 s a step."""
    ratio = {"ratio": 2.0 / step_s, "quartiles": [1, 1], "ratio_cpu_time": 2.0 / step_s, "pairs": 7}
    seconds = {"notebook": 2.0, "notebook_allocator": 2.0, "harness": step_s}
    part = {"seconds": seconds, "against_notebook": ratio, "against_notebook_allocator": ratio}
    rung: dict[str, Any] = {"parts": dict.fromkeys(("step", "evaluate", "sample"), part)}
    rung |= {"peak_bytes": {"notebook": 400, "harness": 100}, "capturing_s": 0.0}
    rungs = {"10M": rung | {"epoch": epoch(rung, 3200)}}
    return summary(rungs) | {"machine": MACHINE, "full": False, "rungs": rungs}


def test_a_table_shows_what_was_measured_where_and_which_target_was_missed() -> None:
    fast, slow = (page.notebook(notebook_result(step_s)) for step_s in (0.25, 0.5))
    assert "| training step | 8.0x |" in fast
    assert "| training step | 4.0x (target: 6.0x) |" in slow
    assert "2026-11-20, Some CPU, 2 cores, torch 2.13.0, **while other work kept it busy** (load 3.2)." in fast
    assert "Pairs of steps: 7 at 10M" in fast and "| peak memory of the process | 25% |" in fast


@pytest.mark.parametrize(("device", "step", "whole"), [("cpu", "6.0x", "10.0x"), ("cuda", "16.0x", "30.0x")])
def test_beside_a_notebook_with_the_allocator_setting_the_targets_are_the_same(device: str, step: str, whole: str) -> None:
    shown = page.notebook(notebook_result(0.5), device)
    assert f"| the same, the notebook with the allocator setting too | 4.0x (target: {step}) |" in shown
    assert f"| the epoch, the notebook with the allocator setting too | 4.0x (target: {whole}) |" in shown


def test_what_has_no_result_says_so_and_filling_again_changes_nothing() -> None:
    empty = page.PAGE.read_text(encoding="utf-8")
    filled = page.fill(empty, {"notebook": notebook_result(0.25)})
    assert "8.0x" in filled and "Not measured yet: `python -m benchmarks.peers`" in filled
    assert page.fill(filled, {"notebook": notebook_result(0.25)}) == filled
    assert "8.0x" not in page.fill(filled, {})


def test_the_page_holds_the_kept_results() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.fill(text, page.kept()) == text


def test_every_result_of_a_benchmark_has_a_table() -> None:
    crew = {"rungs": {"87k": {"1": {"speedup": 1.0, "device": "cpu"}, "4": {"speedup": 1.5, "device": "cpu"}}}}
    crew |= {"processes": {"87k": {"sixteen_rates": 9.25}}}
    floor = {"step_cpu_s": 0.2, "floor_s": 0.05, "fraction_of_floor": 0.25, "bound_by": "memory", "matmul_gflops": 50, "copy_gb_per_s": 9}
    against = {"ratio": 2.5, "ratio_cpu_time": 2.75}
    peer = {
        "sides": peers.SIDES,
        "rungs": {"87k": {"against": {"trainer": against, "lightning": against}, "peer_n_params": {"trainer": 87_480}}},
    }
    assert "| 87k | 1.00x | 1.50x | 9.2 (target: under 8.5) |" in page.crew(crew | {"machine": MACHINE})
    assert "| 87k | 200 ms | 50 ms | 25% | memory |" in page.floor({"rungs": {"87k": floor}, "machine": MACHINE})
    assert "| 87k | 2.5x (target: 3.0x) | 2.5x (target: 3.0x) | 2.8x | 2.8x | 87,480 |" in page.peers(peer | {"machine": MACHINE})


def test_a_gpu_has_tables_and_targets_of_its_own() -> None:
    machine = MACHINE | {"machine": "Some GPU, 16 cores, Linux x86_64", "precision": "bfloat16"}
    result = notebook_result(0.25) | {"machine": machine}
    result = {key: value for key, value in result.items() if not key.endswith("same_allocator")}
    crew = {"rungs": {"87k": {"1": {"speedup": 0.9}, "16": {"speedup": 8.0}}, "10M": {"1": {"speedup": 1.0}}}, "processes": {}}
    text = page.fill(
        page.PAGE.read_text(encoding="utf-8"), page.kept() | {"notebook-cuda": result, "crew-cuda": crew | {"machine": machine}}
    )
    shown = text[text.index("<!-- notebook-cuda -->") :]
    assert "| training step | 8.0x (target: 16.0x) |" in shown
    assert all(word not in shown[: shown.index("<!-- end of")] for word in ("allocator", "CPU seconds"))
    assert "2026-11-20, Some GPU in bfloat16, Some CPU, 16 cores, torch" in shown
    assert "| 87k | 0.90x | 8.00x | 2.0 (target: under 1.3) |" in shown and "| 10M | 1.00x | - | - |" in shown


def test_peers_on_a_gpu_are_compared_by_the_time_alone() -> None:
    against = {"ratio": 1.5, "ratio_cpu_time": 2.75}
    found = {"against": {"trainer": against, "lightning": against}, "peer_n_params": {"trainer": 5_000_000}}
    shown = page.peers({"sides": peers.SIDES, "rungs": {"5M": found}, "machine": MACHINE}, "cuda")
    assert "| 5M | 1.5x (target: 2.0x) | 1.5x (target: 2.0x) | 5,000,000 |" in shown and "CPU seconds" not in shown


def test_the_table_of_peers_names_the_rungs_that_it_has_not() -> None:
    against = {"ratio": 2.0, "ratio_cpu_time": 2.0}
    found = {"against": {"trainer": against, "lightning": against}, "peer_n_params": {"trainer": 1}}
    result = {"sides": peers.SIDES, "machine": MACHINE}
    small, whole = (result | {"rungs": dict.fromkeys(rungs, found)} for rungs in (page.RUNGS[:2], page.RUNGS))
    assert "\n\n5M and 10M: not measured, only `make bench-full` does on a CPU. 2026" in page.peers(small)
    assert "5M and 10M: not measured. 2026" in page.peers(small, "cuda")
    assert all("not measured" not in page.peers(whole, device) for device in ("cpu", "cuda"))


def test_peers_are_compared_at_every_rung_on_a_gpu_and_at_the_small_ones_on_a_cpu() -> None:
    for device, targets in page.TARGETS.items():
        assert {rung for rung, target in zip(page.RUNGS, targets["peers"], strict=True) if target} <= set(peers.MEASURED[device])
    assert peers.MEASURED == {"cpu": ("87k", "557k"), "cuda": page.RUNGS}


def test_the_table_of_crews_says_what_was_not_tried_and_why() -> None:
    rungs = {"87k": {str(size): {"speedup": 1.0} for size in (1, 4, 16)}, "10M": {"1": {"speedup": 1.0}, "4": {"speedup": 1.0}}}
    result = {"rungs": rungs, "processes": {}, "machine": MACHINE}
    on_a_cpu, on_a_gpu = page.crew(result), page.crew(result, "cuda")
    assert "| 10M | 1.00x | 1.00x | - |" in on_a_cpu
    assert "-: not tried." in on_a_cpu and "in memory at once" in on_a_cpu and "at most 64 at 87k, 4 at 10M." in on_a_cpu
    assert "64 together: only by `make bench-full`, at 87k. 2026" in on_a_cpu
    assert "at most 64 at 87k, 16 at 10M." in on_a_gpu and "64 together: only by `make bench-full`, at 87k and 557k. 2026" in on_a_gpu
    whole = result | {"rungs": {"87k": {str(size): {"speedup": 1.0} for size in (1, 4, 16, 64)}}}
    assert "bench-full" not in page.crew(whole)


def test_what_a_gpu_took_does_not_replace_what_a_cpu_took(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    for device in ("cpu", "cuda"):
        monkeypatch.setattr(measure, "device", lambda device=device: device)
        measure.keep("crew", {"on": device})
    assert {path.stem: json.loads(path.read_text())["on"] for path in tmp_path.iterdir()} == {"crew": "cpu", "crew-cuda": "cuda"}


def test_on_a_gpu_the_shares_are_of_the_time() -> None:
    by_stage = study.stages(record_with(training=10.0, evaluation=0.5))
    whole = {"driver_cpu_s": 5.0, "workers_cpu_s": 25.0, "wall_s": 50.0, "driver": {"tracking": [2.0, 1.0], "record": [1.0, 0.1]}}
    part = study.shares(whole, by_stage, "cuda")
    assert part["training"] == pytest.approx(0.8) and part["tracking"] == pytest.approx(0.04)
    assert part["rest"] == pytest.approx((50 - 40 - 2 - 2 - 1) / 50)
    assert study.shares(whole | {"wall_s": 40.0}, by_stage, "cuda")["rest"] == 0
    said = study.summary(whole, by_stage, "cuda") | {"study": "s", "plan": {"estimated_s": 9.0}, "stages": by_stage, "machine": MACHINE}
    shown = page.study(said | {"whole": whole | {"wall_s": 350.0}}, "cuda")
    assert "| of the time | share |" in shown and "s: 350 s, 30 s of CPU" in shown
    assert "6.0% (target: under 2.0%) of the study" in shown


def assignment_result(
    wall_s: float, exit_code: int = 0, n_texts: int = 4_327, keys_set: tuple[str, ...] = (), **plan: Any
) -> dict[str, Any]:
    """What study.py keeps of the assignment's study."""
    by_stage = study.stages(record_with(training=10.0, evaluation=0.5))
    whole = {"driver_cpu_s": 5.0, "workers_cpu_s": 25.0, "wall_s": wall_s, "exit_code": exit_code, "driver": {"tracking": [0.1, 0.1]}}
    planned = {"estimated_s": 200.0, "within_s": None, "cut": 0, "rungs": 4, "left_out": []} | plan
    facts = {"study": "The assignment", "keys_set": list(keys_set), "plan": planned, "stages": by_stage, "machine": MACHINE}
    texts = {"source": "file some.csv", "train_texts": n_texts, "mean_length": 53.0}
    result: dict[str, Any] = json.loads(json.dumps(facts | {"whole": whole, "data": texts} | study.summary(whole, by_stage, "cuda")))
    return result


def test_the_assignments_study_is_compared_with_its_time() -> None:
    late, fast = page.assignment(assignment_result(350.0), "cuda"), page.assignment(assignment_result(250.0), "cuda")
    assert "The assignment: 350 s (target: under 300 s), 30 s of CPU" in late and "4,327 texts of 53 tokens" in late
    assert "The assignment: 250 s, 30 s of CPU" in fast and all("Not compared" not in shown for shown in (late, fast))
    on_a_cpu = page.assignment(assignment_result(9e5, cut=3, within_s=9e5))
    assert "The assignment: 900000 s, 30 s of CPU" in on_a_cpu and "Not compared" not in on_a_cpu


@pytest.mark.parametrize(
    ("less", "said"),
    [
        ({"cut": 3, "within_s": 180.0}, "budgets were cut"),
        ({"left_out": ["10M"], "within_s": 180.0}, "rungs were left out"),
        ({"keys_set": ("seeds=1",)}, "other keys were set"),
        ({"exit_code": 3}, "it ended with exit code 3"),
        ({"n_texts": 1_000}, "it had 1,000 texts only"),
    ],
)
def test_less_than_the_assignments_study_is_not_compared_with_its_time(less: dict[str, Any], said: str) -> None:
    shown = page.assignment(assignment_result(350.0, **less), "cuda")
    assert "The assignment: 350 s, 30 s of CPU" in shown
    assert shown.endswith(f"Not compared with the target of 300 s: {said}.")


def test_the_table_of_a_study_says_what_a_limit_took_from_it() -> None:
    cut = page.study(assignment_result(60.0, cut=14, within_s=900.0, rungs=8))
    assert "To fit its limit of 15:00: budgets cut to 0.78% of the study file's, none of 8 rungs left out. 2026" in cut
    both = page.study(assignment_result(60.0, cut=2, within_s=180.0, rungs=8, left_out=["5M", "10M"]))
    assert "of 3:00: budgets cut to 50.00% of the study file's, 2 of 8 rungs left out (5M, 10M). 2026" in both
    one = page.study(assignment_result(60.0, within_s=180.0, left_out=["10M"]))
    assert "of 3:00: 1 of 4 rungs left out (10M). 2026" in one
    assert all("To fit" not in page.study(assignment_result(60.0, **whole)) for whole in ({}, {"within_s": 900.0}))
    earlier = assignment_result(60.0)
    earlier["plan"] = {"estimated_s": 60.0, "within_s": 900.0, "cut": 2}
    assert "To fit its limit of 15:00: budgets cut to 50.00% of the study file's. 2026" in page.study(earlier)


def test_a_study_keeps_what_its_limit_took() -> None:
    record, rungs = Record(), [{"rung": "87k", "skipped": None}, {"rung": "10M", "skipped": "needs 3 h"}]
    record.plan = {"estimated_s": 9.0, "within_s": 60.0, "cut": 3, "workers": 2, "device": "cpu", "rungs": rungs}
    assert study.planned(record) == record.plan | {"rungs": 2, "left_out": ["10M"]}


@pytest.mark.parametrize("own", [True, False])
def test_the_assignments_study_is_all_of_it_and_without_limit(own: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    table = tmp_path / "some.csv"
    table.write_text("id,text\n1,a long line of text\n", encoding="utf-8")
    monkeypatch.delenv("COLUMN", raising=False)
    monkeypatch.setenv("DATA", str(table) if own else "")
    asked = spec.load(study.HEADLINES, study.overrides(True, ["seeds=2"]))
    file = spec.load(study.HEADLINES)
    assert [spec.rung_name(rung) for rung in asked.model.rungs] == [f"{rung}-assignment" for rung in page.RUNGS]
    assert asked.search.trials == 16 and asked.ablations.train_texts == (1000,) and asked.samples.temperatures == (0.01, 0.1, 0.5, 0.8, 1.0)
    assert asked.train == file.train.model_copy(update={"padding": "ignore", "precision": "auto"}) and file.train.padding == "learn"
    assert all(asked.within.seconds(device) is None for device in ("cpu", "cuda", "mps")) and asked.seeds == 2
    assert (asked.data.source, asked.data.column) == (("file", "text") if own else ("wire", None))
    assert (asked.data.texts, asked.data.validation, asked.data.test, asked.data.eval_texts) == (5_416, 542, 542, None)


def test_another_study_has_its_own_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA", "")
    assert study.overrides(False, ["seeds=1"]) == ["seeds=1"]
    assert study.label(study.SCALING, False, None, []) == "scaling.yaml"
    assert study.label(study.SCALING, False, "3m", ["seeds=1"]) == "scaling.yaml, scaled down to 3m, other keys set"
    assert "headlines.yaml, 16 trials" in study.label(study.HEADLINES, True, None, [])


def test_without_a_gpu_the_assignments_study_is_left_out_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measure, "device", lambda: "cpu")
    monkeypatch.setattr(study, "carry_out", lambda *given: pytest.fail("it was run"))
    monkeypatch.setattr("sys.argv", ["study", "--assignment"])
    study.main()
    assert re.fullmatch(r"study: the assignment's is left out, .*--force.*\n", capsys.readouterr().out)


@pytest.mark.parametrize(("device", "words"), [("cpu", ["--force"]), ("cuda", [])])
def test_the_assignments_study_has_a_result_of_its_own(
    device: str, words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    record = record_with(training=10.0, evaluation=0.5)
    record.plan = {"estimated_s": 9.0, "within_s": None, "cut": 0, "workers": 2, "device": device, "rungs": []}
    record.data = {"source": "wire", "n_train": 4_332, "mean_tokens": 53.0}
    whole = {"driver_cpu_s": 5.0, "workers_cpu_s": 25.0, "wall_s": 50.0, "exit_code": 0, "driver": {}}
    asked: list[list[str]] = []

    def carried_out(path: Path, words: list[str]) -> tuple[dict[str, Any], Record]:
        asked.append([path.name, *words])
        return whole, record

    monkeypatch.setattr(study, "carry_out", carried_out)
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    monkeypatch.setattr(measure, "machine", lambda: MACHINE)
    monkeypatch.setattr(measure, "device", lambda: device)
    monkeypatch.setattr("sys.argv", ["study", "--assignment", *words])
    study.main()
    (path,) = tmp_path.iterdir()
    assert path.stem == f"study-assignment{'-cuda' * (device == 'cuda')}" and path.stem in page.TABLES
    assert asked[0][0] == "headlines.yaml" and "search.trials=16" in asked[0] and "--within" not in asked[0]
    assert "50 s, 30 s of CPU, planned at 9 s" in page.TABLES[path.stem](json.loads(path.read_text()))


def record_with(**seconds: float) -> Record:
    """Two runs of one stage with these CPU seconds, and one that was cut off."""
    record, parts = Record(), {part: [2 * cpu, cpu] for part, cpu in seconds.items()}
    for key in ("a", "b", "c"):
        record.selected[key] = {"stage": "ladder"}
    for key in ("a", "b"):
        record.ended[key] = {"time_s": 50.0, "seconds": parts}
    return record


def test_shares_of_a_study_sum_to_all_of_it() -> None:
    by_stage = study.stages(record_with(training=10.0, evaluation=0.5, sampling_end=0.25))
    assert by_stage["ladder"]["runs"] == 2 and by_stage["ladder"]["time_s"] == 100.0
    whole = {"driver_cpu_s": 5.0, "workers_cpu_s": 25.0, "driver": {"tracking": [9.0, 1.0], "record": [9.0, 0.1], "planning": [9.0, 0.4]}}
    said = study.summary(whole, by_stage)
    assert sum(said["shares"].values()) == pytest.approx(1.0) and said["shares"]["training"] == pytest.approx(20 / 30)
    assert said["evaluation_and_samples_of_training"] == pytest.approx(0.075)
    assert said["tracking_record_and_plan_of_study"] == pytest.approx(1.5 / 30)
    table = {"study": "s", "plan": {"estimated_s": 9.0}, "machine": MACHINE, "whole": whole | {"wall_s": 60.0}, "stages": by_stage} | said
    shown = page.study(json.loads(json.dumps(table)))
    assert (
        "| training | 66.7% |" in shown
        and "are 7.5% (target: under 5.0%) of training" in shown
        and "| ladder | 2 | 100 s | 40.0% |" in shown
    )


def test_a_piece_inside_another_is_counted_once() -> None:
    clock = Clock()
    inner = clock.timed("inner", lambda: sleep(0.05))
    outer = clock.timed("outer", lambda: (sleep(0.02), inner(), inner()))
    started = perf_counter()
    outer()
    whole = perf_counter() - started
    assert clock.spent["inner"][0] >= 0.1 and clock.spent["outer"][0] >= 0.02
    assert clock.spent["inner"][0] + clock.spent["outer"][0] <= whole


def test_what_raises_is_counted_too() -> None:
    clock = Clock()
    with pytest.raises(ZeroDivisionError):
        clock.timed("broken", lambda: 1 / 0)()
    clock.timed("fine", lambda: None)()
    assert clock.spent.keys() == {"broken", "fine"}


def _spin(seconds: float) -> None:
    until = perf_counter() + seconds
    while perf_counter() < until:
        pass


def test_the_cpu_seconds_of_living_children_are_seen() -> None:
    process = multiprocessing.get_context("fork").Process(target=_spin, args=(60.0,), daemon=True)
    before = children_cpu_s()
    process.start()
    try:
        until = perf_counter() + 55
        while children_cpu_s() <= before and perf_counter() < until:
            sleep(0.05)
        assert children_cpu_s() > before
    finally:
        process.kill()
        process.join()


def test_without_its_packages_the_benchmark_of_peers_is_left_out_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda name: None if name == "lightning" else name)
    monkeypatch.setattr("sys.argv", ["peers"])
    peers.main()
    out = capsys.readouterr().out
    assert re.fullmatch(r"peers: left out, lightning not installed: .*'\.\[peers\]'\n", out)
