"""A study of a thousand runs whose trainer is idle: what planning, keeping the record, tracking and reporting cost by themselves."""

import math
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

from harness import invocation
from harness.execute import Executor
from harness.journal import Journal
from harness.plan import Machine, make
from harness.pricing import Cost
from harness.record import Record
from harness.results import from_record, write_csv
from harness.runspec import RunSpec
from harness.stages import Stages
from harness.tracking import Projection
from harness.workers import Message, Task
from reports import document
from tests import inline
from tests.faults.table import Fault, Figure, Row, scaled

# MLflow's own.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

RUNGS = 10
SEEDS, TRIALS = scaled(3, 87), scaled(4, 12)
EVALUATIONS = 3


class Idle(inline.Inline):
    """Says at once how a run might have gone."""

    def poll(self, timeout: float) -> list[Message]:
        task, self.task = self.task, None
        return [] if task is None else [message for spec in task.specs for message in _told(task, spec)] + [Message("result", task)]


def _told(task: Task, spec: RunSpec) -> list[Message]:
    events: list[Message] = []

    def say(event: str, fields: Mapping[str, Any]) -> None:
        events.append(Message("event", task, event, spec.key, dict(fields)))

    size = spec.shape["d_ff"]
    final = 2.0 + 3 * size**-0.3 + 0.05 * math.log(spec.lr / 1e-2) ** 2 + 0.01 * math.sin(spec.seed + 1e4 * spec.lr)
    for index in range(EVALUATIONS):
        steps = list(range(2 * index + 1, 2 * index + 3))
        loss = final + math.exp(-index)
        place = {"step": steps[-1], "tokens": 300 * steps[-1], "epoch": 0.1 * steps[-1], "flops": 1e6 * steps[-1]}
        columns = {
            "step": steps,
            "tokens": [300 * step for step in steps],
            "train_loss": [loss] * 2,
            "lr": [spec.lr] * 2,
            "grad_norm": [1.0] * 2,
        }
        say("points", columns | {"index": 2 * index})
        scores = {"val_loss": loss, "val_nll": 40 * loss, "val_nll_se": 1.0, "val_top1": 1 / loss, "val_bits_per_char": loss}
        say("evaluation", place | scores | {"train_loss": loss, "best": True, "index": 2 * index + 1})
    ended = {
        "status": "completed",
        "reason": "",
        "steps": 6,
        "epochs": 0.6,
        "train_tokens": 1800,
        "unique_tokens": 1800,
        "train_flops": 6e6,
    }
    scored = {
        f"{split}_{name}": value for split in ("val", "test") for name, value in (("loss", final), ("nll", 40 * final), ("top1", 0.4))
    }
    say("run_ended", ended | scored | {"best_step": 6, "tokens_per_second": 1e4, "time_s": 0.2, "events": 2 * EVALUATIONS})
    return events


def test_a_study_of_a_thousand_runs_completes(tmp_path: Path, fault: Fault, figure: Figure) -> None:
    rungs = [{"name": f"r{i}", "n_layer": 1, "d_model": 4, "n_head": 1, "d_ff": 8 * 2**i} for i in range(RUNGS)]
    study = inline.prepared(model={"rungs": rungs}, seeds=SEEDS, search={"trials": TRIALS, "batch": 4}, train={"evaluations": EVALUATIONS})
    folder, times = tmp_path / "mlruns" / "inline", {"plan": perf_counter()}
    plan = make(
        study.study, study.rungs, study.size, {r.name: Cost(1e-3, 1e-4) for r in study.rungs}, Machine("cpu", 1, 1, "float32"), None
    )
    times |= {"plan": perf_counter() - times["plan"], "run": perf_counter()}
    journal, record = Journal(folder / invocation.JOURNAL), Record()
    with Idle(inline.setting(study, folder)) as pool:
        executor = Executor(journal, record, pool, inline.Watch(), folder / invocation.CHECKPOINTS, "test", None)
        facts = {"study": study.study.model_dump(mode="json"), "plan": invocation.plan_facts(plan)}
        executor.note("plan", **facts, data=invocation.data_facts(study, None))
        executor.run(Stages(study.study, plan, study.size))
    journal.close()
    n = len(record.selected)
    times |= {"run": (perf_counter() - times["run"]) / n, "report": perf_counter()}
    results = from_record(record)
    write_csv(results.runs, folder / "results.csv")
    document.write(results, folder / "report", ("md", "pdf"))
    times |= {"report": perf_counter() - times["report"], "tracking": perf_counter()}
    projection = Projection(folder / invocation.JOURNAL, tmp_path / "mlruns")
    projection.sync()
    times["tracking"] = (perf_counter() - times["tracking"]) / n
    fault(Row.THOUSAND, n)
    figure(
        f"{n:,} runs with an idle trainer: plan {times['plan']:.2f} s; record {1000 * times['run']:.0f} ms a run, search included; "
        f"MLflow {1000 * times['tracking']:.0f} ms a run; results.csv and report {times['report']:.1f} s"
    )
    assert n == RUNGS * (SEEDS + TRIALS + 1) and record.status_counts() == {"completed": n}
    assert (folder / "report/report.pdf").stat().st_size > 10_000 and len(results.runs) == n
    assert n >= scaled(80, 1000)
