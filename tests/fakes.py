"""Studies, plans and trainings that cost nothing: made-up prices, and a loss that is a known function of learning rate and size."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from harness import ladder
from harness.plan import Machine, Plan, make
from harness.pricing import Cost, DataSize
from harness.runspec import RunSpec
from harness.search import Trial, pruning
from harness.spec import Search, Study
from harness.stages import Ended, Group, Lane, RateChoice, Stages

VOCABULARY, SEQ_LEN = 29, 150
LENGTHS = tuple(40 + i % 17 for i in range(64))
SIZE = DataSize(
    n_train=3200,
    n_validation=400,
    n_test=400,
    eval_texts=256,
    vocab_size=VOCABULARY,
    mean_tokens=sum(LENGTHS) / len(LENGTHS),
    fingerprint="feedbeef",
    lengths=LENGTHS,
)
MACHINE = Machine("cpu", 2, 1, "float32")
COST = Cost(step_s=0.05, text_s=0.001, sample_end_s=1.0, sample_best_s=0.1)
START_LOSS = 3.5
# Above this rate a fake training diverges, whatever its size.
CLIFF = 1e-2


def make_study(**changes: Any) -> Study:
    """A small valid study; `changes` replace whole blocks."""
    plain: dict[str, Any] = {"study": "s", "question": "q", "model": {"rungs": ["20k", "40k", "87k-assignment"]}, "seeds": 2}
    plain |= {"train": {"epochs": 4}, "search": {"trials": 6, "batch": 3}, "ablations": {"train_texts": [500, 1000]}}
    return Study.model_validate(plain | changes)


def make_ladder(study: Study) -> list[ladder.Rung]:
    """The rungs of a study."""
    return ladder.resolve(study.model, VOCABULARY, SEQ_LEN)


def make_costs(study: Study, scale: float = 1.0) -> dict[str, Cost]:
    """Prices that grow with size."""
    rungs = make_ladder(study)
    return {
        r.name: Cost(COST.step_s * scale * r.n_params / rungs[0].n_params, COST.text_s, COST.sample_end_s, COST.sample_best_s)
        for r in rungs
    }


def make_plan(study: Study, within_s: float | None = None, costs: Mapping[str, Cost] | None = None, size: DataSize = SIZE) -> Plan:
    """The plan of a study at made-up prices."""
    return make(study, make_ladder(study), size, costs or make_costs(study), MACHINE, within_s)


def final_loss(lr: float, n_params: int) -> float:
    """A bowl in log lr, lower and further left for larger models (nats a token)."""
    best = 2e-3 * math.pow(2e4 / n_params, 0.4)
    return 1.5 + 3 * math.pow(n_params, -0.15) + 0.05 * math.log(lr / best) ** 2


def fake_train(spec: RunSpec, n_params: int, search: Search, finished: tuple[Trial, ...] = ()) -> Ended:
    """How a run ends: its loss falls smoothly to `final_loss`, or it diverges above the cliff, or it is pruned."""
    history: list[tuple[int, float]] = []
    # Different texts and seeds move the loss a little, so that no two runs tie.
    noise = 1e-3 * math.sin(spec.seed + spec.train_texts + 1e4 * spec.lr)
    final = min(final_loss(spec.lr, n_params) + noise, START_LOSS)
    status, prune = "completed", pruning(search, spec.steps, finished) if spec.stage == "search" else None
    for step in spec.evaluate_at:
        share = step / spec.steps
        if spec.lr > CLIFF and share > 0.4:
            status = "diverged"
            break
        history.append((step, final + (START_LOSS - final) * math.exp(-5 * share)))
        if prune is not None and step < spec.steps and prune(history):
            status = "pruned"
            break
    return as_recorded(spec, status, history)


def as_recorded(spec: RunSpec, status: str, history: list[tuple[int, float]]) -> Ended:
    """An ending that has been through the record's JSON."""
    best = min((loss for _, loss in history), default=None)
    fields = {"status": status, "val_loss": best, "val_nll": None if best is None else 47.5 * best}
    back = json.loads(json.dumps({"spec": spec.to_dict(), "fields": fields, "history": history}))
    return Ended(RunSpec.from_dict(back["spec"]), back["fields"], tuple((int(s), float(v)) for s, v in back["history"]))


def walk(lane: Lane, train: Callable[[RunSpec, Group], Ended]) -> tuple[list[Ended], list[RateChoice]]:
    """Drive a lane to its end."""
    ended: list[Ended] = []
    choices: list[RateChoice] = []
    answer: list[Ended] | None = None
    while True:
        try:
            given = next(lane) if answer is None else lane.send(answer)
        except StopIteration:
            return ended, choices
        if isinstance(given, RateChoice):
            choices.append(given)
            answer = []
            continue
        answer = [train(spec, given) for spec in given.specs]
        ended += answer


def stages_of(study: Study, **plan: Any) -> Stages:
    return Stages(study, make_plan(study, **plan), SIZE)


def trainer(stages: Stages) -> Callable[[RunSpec, Group], Ended]:
    sizes = {rung.rung: rung.n_params for rung in stages.plan.rungs}
    return lambda spec, group: fake_train(spec, sizes[spec.rung], stages.study.search, group.finished)


def whole(stages: Stages, train: Callable[[RunSpec, Group], Ended] | None = None) -> tuple[list[Ended], list[RateChoice]]:
    """Every lane of a study to its end, as one invocation walks them."""
    train = train or trainer(stages)
    ladder: list[Ended] = []
    choices: list[RateChoice] = []
    for rung in stages.plan.kept:
        ended, chosen = walk(stages.rung(rung), train)
        ladder += ended
        choices += chosen
    ablations, _ = walk(stages.ablations(ladder), train)
    return [*ladder, *ablations], choices
