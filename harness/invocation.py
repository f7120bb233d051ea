"""One start of a study: from the study to runs that have ended. What `run.py` calls, stage by stage.

The first start records the resolved plan; later ones reuse it as long as the study asks for the same runs.
"""

import os
import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from harness import calibration, environment, ladder, memory, plugins, preflight
from harness.calibration import Calibration
from harness.crew_sizes import as_they_were, with_crews
from harness.data import Floor
from harness.data.corpus import SOURCES, Corpus
from harness.data.corpus import prepare as prepare_corpus
from harness.errors import DONE, INTERRUPTED, RUNS_FAILED, PreflightError, StudyError
from harness.plan import Machine, Plan, make, study_digest
from harness.pricing import Cost, DataSize, batch_sizes
from harness.record import Record
from harness.runspec import RunSpec
from harness.spec import Device, Study
from harness.stages import Stages
from harness.workers import Pool, Setting, Task, allocator

# Training texts whose lengths stand for all in exact FLOPs of a plan.
LENGTH_SAMPLE = 4096
MAX_WORKERS = 16
JOURNAL = "journal.jsonl"
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Prepared:
    """A study with its data read and its rungs resolved; nothing has been written yet."""

    study: Study
    corpus: Corpus
    size: DataSize
    rungs: tuple[ladder.Rung, ...]


def prepare(study: Study) -> Prepared:
    """Read the data and resolve every rung, so that what can't work is said before anything is spent."""
    corpus = prepare_corpus(study.data)
    rungs = ladder.resolve(study.model, corpus.tokenizer.vocab_size, study.data.seq_len)
    lengths = corpus.train.lengths
    size = DataSize(
        n_train=corpus.train.n_texts,
        n_validation=corpus.validation.n_texts,
        n_test=corpus.test.n_texts,
        eval_texts=min(study.data.eval_texts or corpus.validation.n_texts, corpus.validation.n_texts),
        vocab_size=corpus.tokenizer.vocab_size,
        mean_tokens=float(lengths.mean()),
        fingerprint=corpus.fingerprint,
        lengths=tuple(int(n) for n in lengths[:LENGTH_SAMPLE]),
        unigram_entropy=corpus.unigram_entropy,
    )
    return Prepared(study, corpus, size, tuple(rungs))


def floor_of(prepared: Prepared) -> Floor | None:
    """The best possible scores on the test texts, where the source knows its distribution."""
    source = plugins.load(SOURCES, prepared.study.data.source, "data.source")
    if not hasattr(source, "floor") or not prepared.corpus.test.n_texts:
        return None
    floor: Floor = source.floor(list(prepared.corpus.test.texts))
    return floor


def data_facts(prepared: Prepared, floor: Floor | None) -> dict[str, Any]:
    """The data as it stands in the record and in the report."""
    corpus, size = prepared.corpus, prepared.size
    sizes = {"n_train": size.n_train, "n_validation": size.n_validation, "n_test": size.n_test, "eval_texts": size.eval_texts}
    facts: dict[str, Any] = {"source": corpus.source, "licence": corpus.licence, "revision": corpus.revision}
    facts |= {
        "fingerprint": corpus.fingerprint,
        "vocab_size": size.vocab_size,
        "seq_len": corpus.seq_len,
        "mean_tokens": size.mean_tokens,
        **sizes,
    }
    facts |= {"counts": dict(corpus.counts), "notices": list(corpus.notices), "unigram_entropy": corpus.unigram_entropy, "floor": None}
    if floor is not None:
        n, tokens = len(floor.nll), float(floor.tokens.sum())
        facts["floor"] = {
            "nll": float(floor.nll.mean()),
            "nll_se": float(floor.nll.std(ddof=1) / np.sqrt(n)) if n > 1 else None,
            "top1": float(floor.top1_hits.sum() / tokens),
            "loss": float(floor.nll.sum() / tokens),
        }
    return facts


def make_pool(prepared: Prepared, floor: Floor | None, machine: Machine, folder: Path) -> Pool:
    """Workers for this study; they hold the corpus from here on."""
    study = prepared.study
    samples = study.samples.model_dump(mode="json")
    setting = Setting(
        corpus=prepared.corpus,
        floor=floor,
        search=study.search,
        samples=samples,
        folder=folder / CHECKPOINTS,
        device=machine.device,
        threads=machine.threads,
        checkpoint_every_s=study.checkpoints.every_s,
        checkpoint_every_steps=study.checkpoints.every_steps,
    )
    return Pool(machine.workers, setting)


def machine_for(study: Study, device: str, asked: int | None = None) -> Machine:
    """This machine, with no more workers than allowed and than the study has runs to give them. `asked`: how many a person wants."""
    width = study.model.n_models * max(study.search.batch if study.search.trials else 1, study.seeds)
    return environment.machine(device, study.train.precision, min(MAX_WORKERS, width), asked)


def within_s(study: Study, machine: Machine) -> float | None:
    """Seconds that one invocation may take on this machine; None: no limit."""
    return study.within.seconds(cast(Device, machine.device))


def new_plan(prepared: Prepared, machine: Machine, pool: Pool, known: Calibration) -> Plan:
    """Price every rung, by the runs that its shape has had here or by measuring it, and fit the study into its time."""
    stages = Stages(prepared.study, _uncosted(prepared, machine), prepared.size)
    probes = {rung.rung: stages.probe(rung) for rung in stages.plan.rungs}
    costs = with_crews(prepared.study, probes, calibrate(prepared, machine, pool, known), machine.device, pool)
    mean_tokens, samples = prepared.size.mean_tokens, prepared.study.samples.model_dump(mode="json")
    for rung, cost in costs.items():
        if cost.crew > 1:
            in_crews = calibration.shape_of(probes[rung], mean_tokens, samples, cost.crew)
            costs[rung] = as_they_were(cost, known.cost(in_crews, mean_tokens, {"texts": 0, "at_best": 0}))
    plan = make(prepared.study, prepared.rungs, prepared.size, costs, machine, within_s(prepared.study, machine))
    return replace(plan, calibrated_runs=known.runs, spread=known.spread)


def how_priced(prepared: Prepared, machine: Machine, known: Calibration) -> str:
    """A sentence on where the prices of a new plan come from."""
    missing, where = len(prepared.rungs) - len(known_costs(prepared, machine, known)), f"{machine.workers} x {machine.device}"
    estimate = calibration.trust(known.runs, known.spread)
    return f"measuring {missing} shapes on {where}" if missing else f"pricing by finished runs on {where}: estimate {estimate}"


def known_costs(prepared: Prepared, machine: Machine, known: Calibration) -> dict[str, Cost]:
    """The prices of the rungs whose shapes have had runs here."""
    stages = Stages(prepared.study, _uncosted(prepared, machine), prepared.size)
    specs = {rung.rung: stages.probe(rung) for rung in stages.plan.rungs}
    return calibration.costs(known, specs, prepared.size, prepared.study.samples.model_dump(mode="json"))


def as_planned(machine: Machine, plan: Plan) -> Machine:
    """This machine, used as the recorded plan says.

    Raises:
        StudyError: the plan was made for another device.
    """
    if machine.device != plan.device:
        here = f"the recorded plan is for {plan.device}, this start is on {machine.device}"
        raise StudyError(f"{here}: add --device {plan.device}, or --replan. Nothing was run.")
    return Machine(plan.device, plan.workers, plan.threads, plan.precision)


def exit_code(record: Record, signalled: int, out_of_time: bool) -> int:
    """How an invocation ended: by signal, out of time, with failed runs, or well."""
    if signalled:
        return signalled
    if out_of_time:
        return INTERRUPTED
    return RUNS_FAILED if record.status_counts().get("failed") else DONE


def free_memory(machine: Machine, of_the_system: int | None) -> int | None:
    """What the workers may use together: the system's free memory at the start, or that of the devices that they are on."""
    if machine.device != "cuda":
        return of_the_system
    import torch

    return sum(int(torch.cuda.mem_get_info(i)[0]) for i in range(min(machine.workers, torch.cuda.device_count())))


def free_bytes(folder: Path) -> int:
    """Free disk space where the study writes."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def calibrate(prepared: Prepared, machine: Machine, pool: Pool, known: Calibration) -> dict[str, Cost]:
    """What every rung costs. Those that have had no runs here are measured in the workers, all of them busy as they will be; the largest
    first."""
    stages = Stages(prepared.study, _uncosted(prepared, machine), prepared.size)
    preflight.check_one(stages.plan.rungs, free_memory(machine, memory.available_bytes()))
    costs = known_costs(prepared, machine, known)
    missing = [rung for rung in reversed(stages.plan.rungs) if rung.rung not in costs]
    process_bytes = max((cost.process_bytes for cost in costs.values()), default=0)
    if missing:
        measured = _measure([stages.probe(rung) for rung in missing], pool)
        # A process's peak never shrinks: only that of the first, the largest, is its own.
        largest = missing[0]
        process_bytes = max(process_bytes, measured[largest.rung].process_bytes - largest.memory_bytes)
        costs |= {rung: replace(cost, margin=known.margin) for rung, cost in measured.items()}
    costs = {rung: replace(cost, process_bytes=process_bytes) for rung, cost in costs.items()}
    return _with_batch_sizes(prepared, stages, costs, pool, known)


def _with_batch_sizes(prepared: Prepared, stages: Stages, costs: dict[str, Cost], pool: Pool, known: Calibration) -> dict[str, Cost]:
    """Where batch sizes are searched: by how much a step grows with its texts, between the smallest and the largest of them."""
    sizes = batch_sizes(prepared.study)
    if len(sizes) < 2:
        return costs
    samples, found = prepared.study.samples.model_dump(mode="json"), dict[int, dict[str, Cost]]()
    for texts in (sizes[-1], sizes[0]):
        specs = {rung.rung: stages.probe(rung, texts) for rung in reversed(stages.plan.rungs)}
        found[texts] = calibration.costs(known, specs, prepared.size, samples)
        measured = _measure([spec for rung, spec in specs.items() if rung not in found[texts]], pool)
        found[texts] |= {rung: replace(cost, margin=known.margin) for rung, cost in measured.items()}
    slopes = {}
    for rung, cost in costs.items():
        low, high = (found[texts][rung].margin * found[texts][rung].step_s for texts in (sizes[0], sizes[-1]))
        slopes[rung] = max(0.0, high - low) / (sizes[-1] - sizes[0]) / cost.margin
    return {rung: replace(cost, text_step_s=slopes[rung]) for rung, cost in costs.items()}


def _measure(specs: Sequence[RunSpec], pool: Pool) -> dict[str, Cost]:
    """Seconds of each of these runs' parts, by rung."""
    todo, costs = list(specs), dict[str, Cost]()
    while len(costs) < len(specs):
        while todo and pool.idle:
            pool.submit(Task("measure", (todo.pop(0),)))
        for message in pool.poll(1.0):
            rung = message.task.specs[0].rung
            if message.kind == "error":
                raise PreflightError(f"rung {rung} can't be trained here: {message.fields['reason']}. Nothing was run.")
            costs[rung] = Cost(**message.fields)
    return costs


def probe(prepared: Prepared, machine: Machine) -> RunSpec:
    """A run of the smallest rung, as it would be measured."""
    stages = Stages(prepared.study, _uncosted(prepared, machine), prepared.size)
    return stages.probe(stages.plan.rungs[0])


def _uncosted(prepared: Prepared, machine: Machine) -> Plan:
    free = {rung.name: Cost(0.0, 0.0) for rung in prepared.rungs}
    return make(prepared.study, prepared.rungs, prepared.size, free, machine, None)


def recorded_plan(record: Record, prepared: Prepared) -> Plan | None:
    """The plan of an earlier start, if the study still asks for the same runs on the same data."""
    if not record.plan:
        return None
    plan = Plan.from_dict(record.plan)
    same = plan.study == study_digest(prepared.study) and plan.data == prepared.size.fingerprint
    return plan if same else None


def plan_facts(plan: Plan) -> dict[str, Any]:
    """A new plan as it is recorded: the plan itself and what it was made on."""
    provenance = {"machine": environment.describe(plan.device), "created": environment.now()}
    return plan.to_dict() | provenance | {"versions": environment.versions(), "git": environment.git()}


def facts(machine: Machine) -> dict[str, Any]:
    """Who started what, where and when. `machine`: what the speed of its runs depends on."""
    started, speed = environment.now(), environment.speed_facts(machine)
    identity = {"id": f"{started}-{os.getpid()}", "command": environment.command(), "host": socket.gethostname(), "pid": os.getpid()}
    facts = {"started": started, "git": environment.git(), "versions": environment.versions(), "machine": speed}
    return identity | facts | {"allocator": allocator()}


def wanted(only: Sequence[str], prepared: Prepared) -> tuple[str, ...]:
    """The names given to --only, checked.

    Raises:
        StudyError: a name that is neither a rung nor a stage.
    """
    known = [*(rung.name for rung in prepared.rungs), "search", "ladder", "budget", "ablation"]
    for name in only:
        if name not in known:
            there = f"{plugins.nearest(name, known)} There are: {', '.join(known)}"
            raise StudyError(f"--only {name}: no such rung or stage.{there}. Nothing was run.")
    return tuple(only)
