"""Records of studies that never ran, minute by minute, and what a store holds of them: for tests of the projection to MLflow."""

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import pytest

from harness.journal import Journal
from harness.runspec import RunSpec
from harness.tracking import Projection

RUNGS = {"20k": (3, 16, 20_412), "87k-assignment": (5, 20, 87_289), "557k-assignment": (5, 30, 556_919)}
AWKWARD = [
    "plain words",
    "emoji \U0001f600, nul \x00, quote \"'`",
    "lone \ud800 surrogate",
    "<b>&amp;</b> | $x$ \\ [a](b)",
    "",
    "tab\tline\nend",
]
COMMAND = "python -m harness.run studies/scaling.yaml"


class Study:
    """Writes the record of a study that never ran, minute by minute."""

    opened: ClassVar[list["Study"]] = []

    def __init__(self, folder: Path, steps: int = 400, evaluations: int = 8) -> None:
        self.journal = Journal(folder / "journal.jsonl")
        self.steps, self.evaluations, self.now = steps, evaluations, 1_790_000_000.0
        self.opened.append(self)

    def note(self, event: str, **fields: Any) -> None:
        self.now += 0.25
        with patch("harness.journal.time", return_value=self.now):
            self.journal.append(event, **fields)

    def begin(self, id: str) -> None:
        git = {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False}
        self.note("invocation", id=id, command=COMMAND, host="node7", pid=1, started="2026-11-22T09:00:00+00:00", git=git, versions={})

    def plan(self, **rungs: Any) -> None:
        study: dict[str, Any] = {"study": "scaling", "question": "How does NLL fall with size?", "hypothesis": "As a power of N."}
        study["search"] = {"lr": {"low": 1e-5, "high": 3e-2}, "trials": 4}
        common = {"family": "assignment", "arch": "decoder", "steps": self.steps, "train_tokens": self.steps * 1540, "runs": 7}
        planned = [common | {"rung": name, "n_params": n, "non_embedding_params": n - 4_189} for name, (_, _, n) in RUNGS.items()]
        planned.append(planned[-1] | {"rung": "10M-assignment", "n_params": 10_122_749, "skipped": "needs 40 h (within: 15m)"})
        data = {
            "source": "wire",
            "licence": "MIT",
            "revision": "1",
            "fingerprint": "91be02" + "0" * 58,
            "n_train": 25_600,
            "vocab_size": 30,
        }
        self.note("plan", study=study, plan={"rungs": planned, "cut": 8} | rungs, data=data)

    def spec(self, rung: str, stage: str, lr: float, seed: int = 0, **more: Any) -> RunSpec:
        layers, width, _ = RUNGS[rung]
        shape = {"n_layer": layers, "d_model": width, "n_head": 5, "d_head": width, "d_ff": 200}
        fields: dict[str, Any] = {
            "vocab_size": 30,
            "seq_len": 150,
            "data": "91be02",
            "train_texts": 25_600,
            "eval_texts": 512,
            "steps": self.steps,
        }
        fields |= {
            "patience": 10,
            "batch_size": 32,
            "schedule": "constant",
            "warmup_steps": 0,
            "lr_min_fraction": 0.1,
            "weight_decay": 0.01,
        }
        fields |= {
            "beta1": 0.9,
            "beta2": 0.999,
            "eps": 1e-8,
            "dropout": 0.1,
            "grad_clip": None,
            "padding": "ignore",
            "precision": "float32",
        }
        fields |= {"lr_source": "" if stage == "search" else "tuned"}
        fields |= {"evaluate_at": tuple(self.steps * (i + 1) // self.evaluations for i in range(self.evaluations))}
        return RunSpec(stage=stage, rung=rung, family="assignment", arch="decoder", shape=shape, lr=lr, seed=seed, **fields | more)

    def run(
        self, spec: RunSpec, status: str | None = "completed", reason: str = "", select: bool = True, resumed_at: int | None = None
    ) -> None:
        """A whole run; one that is cut off or stops early gets half of its steps. `status` None: it never ends."""
        labels = {label: getattr(spec, label) for label in ("stage", "rung", "family", "lr_source", "lr_status")}
        if select:
            self.note("selected", key=spec.key, name=spec.name, spec=spec.to_dict(), **labels)
        begun: dict[str, Any] = {"name": spec.name, "spec": spec.to_dict(), "invocation": "a"}
        if resumed_at is None:
            self.note("run_started", key=spec.key, **begun)
        else:
            self.note("run_resumed", key=spec.key, step=resumed_at, events=0, **begun)
        whole = status == "completed"
        for i, step in enumerate(spec.evaluate_at if whole else spec.evaluate_at[: len(spec.evaluate_at) // 2]):
            if step <= (resumed_at or 0):
                continue
            self._train(spec, ([0, *spec.evaluate_at])[i], step)
            if spec.stage != "search":
                self.samples(spec, "best", step, 1.0)
        if status is None:
            return
        if spec.stage != "search" and whole:
            self.samples(spec, "end", step, 0.5)
        nll = self.nll(spec, step)
        scores = {"val_loss": nll / 48, "val_nll": nll, "val_top1": 0.4}
        if spec.stage != "search" and whole:
            scores |= {"test_loss": nll / 48, "test_nll": nll, "test_top1": 0.4, "test_bits_per_char": nll / 46, "floor_gap": nll - 70}
        outcome = {
            "steps": step,
            "epochs": step / 800,
            "train_tokens": step * 1540,
            "train_flops": step * 1e9,
            "tokens_per_second": 51_800.0,
        }
        self.note("run_ended", key=spec.key, status=status, reason=reason, **outcome, time_s=20.0, **scores)

    def nll(self, spec: RunSpec, step: int) -> float:
        away = math.log10(spec.lr / 3e-3)
        return 71.3 + 150 / math.pow(RUNGS[spec.rung][2], 0.2) + 9 * away**2 + 18 / math.sqrt(step / self.steps) + 0.1 * min(spec.seed, 9)

    def _train(self, spec: RunSpec, before: int, step: int) -> None:
        steps = list(range(before + 1, step + 1))
        loss = [self.nll(spec, s) / 48 + 0.05 * math.sin(7 * s) for s in steps]
        norm = [float("nan") if s == 3 else 1 + 1 / s for s in steps]
        self.note(
            "points", key=spec.key, step=steps, tokens=[s * 1540 for s in steps], train_loss=loss, lr=[spec.lr] * len(steps), grad_norm=norm
        )
        nll = self.nll(spec, step)
        where = {"step": step, "tokens": step * 1540, "epoch": step / 800, "flops": step * 1e9, "train_loss": nll / 48, "best": True}
        self.note(
            "evaluation",
            key=spec.key,
            **where,
            val_loss=nll / 48,
            val_nll=nll,
            val_nll_se=0.4,
            val_top1=40 / nll,
            val_bits_per_char=nll / 32,
        )

    def samples(self, spec: RunSpec, at: str, step: int, temperature: float, **cut: Any) -> None:
        measures = {
            "distinct_1": 0.3,
            "distinct_2": 0.8,
            "distinct_3": None,
            "known_words": 0.9,
            "copied": 0.0,
            "mean_length": 41.5,
            "ended": 1.0,
            "entropy": 1.2,
            "memorised": 0.4,
            "self_nll": 71.25,
        }
        self.note("samples", key=spec.key, at=at, step=step, tokens=step * 1540, temperature=temperature, **cut, texts=AWKWARD, **measures)

    def search(self, rung: str, rates: tuple[float, ...] = (1e-3, 3e-2, 3e-3, 3e-5), first: int = 0) -> None:
        ends = {3e-2: ("diverged", "the loss was not finite at step 212"), 3e-5: ("pruned", "behind the others")}
        for trial, lr in enumerate(rates, first):
            status, reason = ends.get(lr, ("completed", ""))
            self.run(self.spec(rung, "search", lr, 1_000_003, trial=trial, search="5ea2c4"), status, reason)
        self.note("lr_chosen", rung=rung, lr=3e-3, lr_status="resolved", reason="a minimum inside the range")

    def end(self, id: str, exit_code: int) -> None:
        self.note("invocation_ended", id=id, seconds=412.0, exit_code=exit_code, completed=9)


def small_study(folder: Path) -> Study:
    """Every kind of event: an interruption, a run that is started again, a killed one, a failure, a divergence."""
    study = Study(folder, steps=40, evaluations=4)
    study.begin("a")
    study.plan()
    study.search("20k")
    study.run(study.spec("20k", "ladder", 3e-3, 0))
    study.run(study.spec("20k", "ladder", 3e-3, 1), "interrupted", "stopped at step 20 of 40")
    study.end("a", 130)
    study.begin("b")
    study.run(study.spec("20k", "ladder", 3e-3, 1), select=False)
    study.run(study.spec("20k", "ladder", 1e-3, 0, lr_source="default"), None)
    study.begin("c")
    study.run(study.spec("20k", "ladder", 3e-2, 0, lr_source="default"), "diverged", "the loss rose")
    study.run(study.spec("20k", "ablation", 3e-3, 0, train_texts=1_000), "failed", "MemoryError: no memory")
    study.end("c", 3)
    return study


@pytest.fixture(autouse=True)
def close_records() -> Iterator[None]:
    """No record stays open after its test."""
    yield
    while Study.opened:
        Study.opened.pop().journal.close()


@pytest.fixture
def root(empty_store: Path, tmp_path: Path) -> Path:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return tmp_path


def projection(root: Path, study: str = "scaling") -> Projection:
    return Projection(root / study / "journal.jsonl", root, f"sqlite:///{root}/mlflow.db")


def client(root: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{root}/mlflow.db")


def stored(root: Path, study: str = "scaling") -> dict[str, Any]:
    """Active runs of an experiment by their key tag; a key that is there twice is an error."""
    store = client(root)
    runs = store.search_runs([store.get_experiment_by_name(study).experiment_id])
    by_key = {run.data.tags["harness.key"]: run for run in runs}
    assert len(by_key) == len(runs)
    return by_key


def contents(root: Path, study: str = "scaling") -> dict[str, Any]:
    """All of an experiment but what differs between two stores by nature: run ids stand for their keys."""
    store, runs = client(root), stored(root, study)
    names = {run.info.run_id: key for key, run in runs.items()}
    found = {}
    for key, run in runs.items():
        tags = {name: names.get(value, value) for name, value in run.data.tags.items() if name != "mlflow.note.content"}
        history = sorted(
            (m.key, m.step, m.value, m.timestamp) for name in run.data.metrics for m in store.get_metric_history(run.info.run_id, name)
        )
        assert len({(name, step) for name, step, _, _ in history}) == len(history), "a step is there twice"
        files = sorted(str(path.relative_to(folder)) for folder in [artifacts(run)] for path in folder.rglob("*") if path.is_file())
        data = [(d.dataset.name, d.dataset.digest) for d in run.inputs.dataset_inputs]
        info = (run.info.run_name, run.info.status, run.info.start_time, run.info.end_time)
        found[key] = {"info": info, "params": run.data.params, "tags": tags, "metrics": history, "files": files, "data": data}
    return found


def artifacts(run: Any) -> Path:
    return Path(run.info.artifact_uri.removeprefix("file://"))


def by_name(root: Path, study: str = "scaling") -> dict[str, Any]:
    return {run.info.run_name: run for run in stored(root, study).values()}
