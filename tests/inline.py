"""A pool whose one worker is this process: studies that train in a blink, for what needs hundreds of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from harness import invocation
from harness.execute import Executor
from harness.journal import Event, Journal, read
from harness.plan import Machine, Plan, make
from harness.pricing import Cost
from harness.record import Record
from harness.spec import Study
from harness.stages import Stages
from harness.workers import Message, Pool, Setting, Task, carry_out

# One rung, searched, with two seeds: seven runs of six steps.
STUDY: dict[str, Any] = {
    "study": "inline",
    "question": "q",
    "data": {"texts": 200, "eval_texts": 8, "validation": 20, "test": 20},
    "model": {"rungs": [{"name": "tiny", "n_layer": 1, "d_model": 4, "n_head": 1, "d_ff": 8}]},
    "train": {"epochs": None, "max_steps": 6, "evaluations": 2, "batch_size": 8, "min_steps": 1},
    "search": {"lr": {"low": 1e-3, "high": 1e-1}, "trials": 4, "batch": 2},
    "seeds": 2,
    "samples": {"texts": 2, "at_best": 1, "temperatures": [1.0]},
    "checkpoints": {"every_steps": 2},
    "within": None,
}


class Inline(Pool):
    """Carries a task out when it is asked what there is to say."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(1, setting)
        self.task: Task | None = None

    @property
    def busy(self) -> int:
        return int(self.task is not None)

    def submit(self, task: Task) -> None:
        assert self.task is None
        self.task = task

    def poll(self, timeout: float) -> list[Message]:
        task, self.task = self.task, None
        said: list[Message] = []
        if task is not None:
            carry_out(task, self.setting, self._stop, SimpleNamespace(send=said.append))  # type: ignore[arg-type]
        return said

    def kill(self) -> None:
        pass


@dataclass
class Watch:
    """Keeps what it was told; `on_event` may do something at each event."""

    on_event: Callable[[Event], None] = lambda event: None
    said: list[str] = field(default_factory=list)

    def event(self, event: Event) -> None:
        self.on_event(event)

    def progress(self, key: str, fields: Mapping[str, Any]) -> None:
        pass

    def say(self, text: str) -> None:
        self.said.append(text)


def prepared(**changes: Any) -> invocation.Prepared:
    """The study with some of its blocks changed, its data read."""
    plain = {name: {**STUDY.get(name, {}), **block} if isinstance(block, dict) else block for name, block in changes.items()}
    return invocation.prepare(Study.model_validate(STUDY | plain))


def plan_of(study: invocation.Prepared) -> Plan:
    """Its plan, at made-up prices."""
    size = study.study.crew
    costs = {rung.name: Cost(1e-3, 1e-4, crew=1 if size == "auto" else size) for rung in study.rungs}
    return make(study.study, study.rungs, study.size, costs, Machine("cpu", 1, 1, "float32"), None)


def run(study: invocation.Prepared, folder: Path, watch: Watch | None = None, plan: Plan | None = None, **options: Any) -> Record:
    """Carry the study out, or go on with it; its record. Whatever breaks it comes through. `plan`: another than `plan_of` makes."""
    plan = plan or plan_of(study)
    journal = Journal(folder / invocation.JOURNAL)
    try:
        record = Record.of(read(journal.path))
        with Inline(setting(study, folder)) as pool:
            executor = Executor(journal, record, pool, watch or Watch(), folder / invocation.CHECKPOINTS, "test", None, **options)
            if not record.plan:
                facts = {"study": study.study.model_dump(mode="json"), "plan": plan.to_dict(), "data": invocation.data_facts(study, None)}
                executor.note("plan", **facts)
            executor.run(Stages(study.study, plan, study.size))
    finally:
        journal.close()
    return record


def setting(study: invocation.Prepared, folder: Path) -> Setting:
    """What its tasks share."""
    with invocation.make_pool(study, None, Machine("cpu", 1, 1, "float32"), folder) as pool:
        return pool.setting
