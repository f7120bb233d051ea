"""The projection of a record to MLflow, against a real store: what is there, that it is there once, and that failures are survived."""

import json
import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import pandas as pd
import pytest

from harness.journal import Event, Journal, read
from harness.runspec import RunSpec
from harness.tracked import Tracking
from harness.tracked_run import MAX_POINTS, RUNNING
from harness.tracking import POSITION, Projection, ui_command
from harness.tracking_live import Live
from harness.tracking_store import StoreError

# MLflow's own use of SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
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

    def samples(self, spec: RunSpec, at: str, step: int, temperature: float) -> None:
        measures = {
            "distinct_1": 0.3,
            "distinct_2": 0.8,
            "distinct_3": None,
            "known_words": 0.9,
            "copied": 0.0,
            "mean_length": 41.5,
            "ended": 1.0,
        }
        self.note("samples", key=spec.key, at=at, step=step, tokens=step * 1540, temperature=temperature, texts=AWKWARD, **measures)

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
        files = sorted(str(path.relative_to(folder)) for folder in [_artifacts(run)] for path in folder.rglob("*") if path.is_file())
        data = [(d.dataset.name, d.dataset.digest) for d in run.inputs.dataset_inputs]
        info = (run.info.run_name, run.info.status, run.info.start_time, run.info.end_time)
        found[key] = {"info": info, "params": run.data.params, "tags": tags, "metrics": history, "files": files, "data": data}
    return found


def _artifacts(run: Any) -> Path:
    return Path(run.info.artifact_uri.removeprefix("file://"))


def by_name(root: Path, study: str = "scaling") -> dict[str, Any]:
    return {run.info.run_name: run for run in stored(root, study).values()}


class CutOff(Exception):
    """The store goes away."""


class Wire:
    """Lets the client make so many writes, and fails from then on: the first failure before or after the store has taken it."""

    METHODS = ("create_run", "log_batch", "log_inputs", "log_text", "log_artifact", "set_terminated", "set_tag", "delete_run", "update_run")

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made, self.limit, self.after = 0, 10**9, False
        self.logged: Counter[tuple[str, str, int]] = Counter()
        from mlflow import MlflowClient

        for name in self.METHODS:
            monkeypatch.setattr(MlflowClient, name, self._limited(getattr(MlflowClient, name)))

    def cut(self, calls: int, after: bool) -> None:
        self.made, self.limit, self.after = 0, calls, after
        self.logged.clear()

    def mend(self) -> None:
        self.limit = 10**9

    def _limited(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def limited(client: Any, *args: Any, **kwargs: Any) -> Any:
            self.made += 1
            if self.made > self.limit + self.after:
                raise CutOff
            result = original(client, *args, **kwargs)
            if original.__name__ == "log_batch" and len(args) > 1:
                self.logged.update((args[0], metric.key, metric.step) for metric in args[1])
            if self.made > self.limit:
                raise CutOff
            return result

        return limited


@pytest.fixture(scope="session")
def small(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small study, projected in one go."""
    root = tmp_path_factory.mktemp("small")
    shutil.copy(empty_store, root / "mlflow.db")
    study = small_study(root / "scaling")
    weights = root / "scaling" / "checkpoints" / study.spec("20k", "ladder", 3e-3, 0).key / "best.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    assert projection(root).sync() == study.journal._n
    return root


def test_runs_hang_where_people_look_for_them(small: Path) -> None:
    runs = stored(small)
    parents = {run.info.run_name: runs_by_id(runs).get(run.data.tags.get("mlflow.parentRunId")) for run in runs.values()}
    trials = {name for name, parent in parents.items() if parent == "20k search"}
    assert trials == {"20k-search-t00-lr1e-3", "20k-search-t01-lr3e-2", "20k-search-t02-lr3e-3", "20k-search-t03-lr3e-5"}
    assert parents["scaling"] is None
    assert {parent for name, parent in parents.items() if name not in trials | {"scaling"}} == {"scaling"}


def runs_by_id(runs: dict[str, Any]) -> dict[str, str]:
    return {run.info.run_id: run.info.run_name for run in runs.values()}


def test_statuses_are_outcomes_and_nothing_is_left_running(small: Path) -> None:
    runs = by_name(small)
    found = {name: (run.info.status, run.data.tags["status"], run.data.tags.get("reason")) for name, run in runs.items()}
    assert found == {
        "scaling": ("FAILED", "failed", None),
        "20k search": ("FINISHED", "completed", "a minimum inside the range"),
        "20k-search-t00-lr1e-3": ("FINISHED", "completed", None),
        "20k-search-t01-lr3e-2": ("FAILED", "diverged", "the loss was not finite at step 212"),
        "20k-search-t02-lr3e-3": ("FINISHED", "completed", None),
        "20k-search-t03-lr3e-5": ("FINISHED", "pruned", "behind the others"),
        "20k-all-s0-lr3e-3": ("FINISHED", "completed", None),
        "20k-all-s1-lr3e-3": ("FINISHED", "completed", None),
        "20k-all-s0-lr1e-3": ("KILLED", "interrupted", "its invocation ended before it did"),
        "20k-all-s0-lr3e-2": ("FAILED", "diverged", "the loss rose"),
        "20k-1000texts-s0-lr3e-3": ("FAILED", "failed", "MemoryError: no memory"),
    }
    assert all(run.info.end_time is not None for run in runs.values())


def test_facts_of_a_run(small: Path) -> None:
    run = by_name(small)["20k-all-s1-lr3e-3"]
    assert run.data.params["n_params"] == "20412" and run.data.params["d_head"] == "16" and run.data.params["lr"] == "0.003"
    assert not {"grad_clip", "trial", "lr_status"} & set(run.data.params)
    assert run.data.tags["repeat"] == "python -m harness.run studies/scaling.yaml --only 20k"
    assert run.data.tags["git.commit"].startswith("0123456789") and run.data.tags["git.dirty"] == "false"
    assert [(d.dataset.name, d.dataset.digest) for d in run.inputs.dataset_inputs] == [("wire", "91be0200")]
    assert by_name(small)["20k-search-t02-lr3e-3"].data.params["trial"] == "2"


def test_metrics_are_the_record_s(small: Path) -> None:
    run, store = by_name(small)["20k-all-s1-lr3e-3"], client(small)
    key = run.data.tags["harness.key"]
    events = list(read(small / "scaling" / "journal.jsonl"))
    last_try = max(event["n"] for event in events if event["event"] == "run_started" and event["key"] == key)
    events = [event for event in events if event["n"] > last_try and event.get("key") == key]
    expected = {(e["tokens"], e["val_nll"], round(e["time"] * 1000)) for e in events if e["event"] == "evaluation"}
    assert {(m.step, m.value, m.timestamp) for m in store.get_metric_history(run.info.run_id, "val/nll")} == expected
    losses = {t: value for e in events if e["event"] == "points" for t, value in zip(e["tokens"], e["train_loss"], strict=True)}
    assert {m.step: m.value for m in store.get_metric_history(run.info.run_id, "train/loss")} == losses
    norms = [m.step for m in store.get_metric_history(run.info.run_id, "optim/grad_norm")]
    assert len(norms) == 39 and 3 * 1540 not in norms, "a norm that was not finite is left out"
    assert run.data.metrics["test/nll"] == events[-1]["test_nll"]
    search = by_name(small)["20k search"]
    assert {m.step for m in store.get_metric_history(search.info.run_id, "search/val_loss")} == {0, 1, 2, 3}


def test_files_of_a_run(small: Path) -> None:
    folder = _artifacts(by_name(small)["20k-all-s0-lr3e-3"])
    points = pd.read_parquet(folder / "points.parquet")
    assert list(points["step"]) == list(range(1, 41)) and points["grad_norm"].isna().sum() == 1
    samples = json.loads((folder / "samples.json").read_text())
    assert samples["columns"] == ["at", "step", "temperature", "text"]
    assert [row[3] for row in samples["data"][:6]] == AWKWARD and {row[0] for row in samples["data"]} == {"best", "end"}
    assert (folder / "best.safetensors").read_bytes() == b"weights"
    assert not (_artifacts(by_name(small)["20k-search-t00-lr1e-3"]) / "best.safetensors").exists()


def test_the_study_s_page_says_what_was_found(small: Path) -> None:
    note = by_name(small)["scaling"].data.tags["mlflow.note.content"]
    scores = [run.data.metrics["test/nll"] for name, run in by_name(small).items() if name in ("20k-all-s0-lr3e-3", "20k-all-s1-lr3e-3")]
    assert f"| 20k | 20,412 | 0.003 (resolved) | 2 | {sum(scores) / 2:.2f} | 0.400 |" in note
    assert "| 10M-assignment | 10,122,749 | skipped | 0 |  |  |" in note
    assert "viewStateShareKey=ladder" in note.splitlines()[0] and "How does NLL fall with size?" in note


def test_syncing_again_changes_nothing(small: Path) -> None:
    before = contents(small)
    assert projection(small).sync() == 0
    assert contents(small) == before


def test_projection_goes_on_where_the_record_does(root: Path) -> None:
    study = Study(root / "scaling", steps=4, evaluations=1)
    study.begin("a")
    study.plan()
    spec = study.spec("20k", "ladder", 3e-3)
    study.run(spec, None)
    live = projection(root)
    live.sync()
    assert stored(root)[spec.key].info.status == RUNNING
    study.end("a", 143)
    assert live.sync() == 1
    assert {run.info.status for run in stored(root).values()} == {"KILLED"}
    study.begin("b")
    study.run(spec, select=False)
    live.sync()
    assert {key: run.info.status for key, run in stored(root).items()} == {"study": RUNNING, spec.key: "FINISHED"}
    assert stored(root)["study"].data.tags[POSITION] == str(study.journal._n)
    report = root / "scaling" / "report"
    report.mkdir()
    (report / "report.md").write_text("# Report")
    study.end("b", 0)
    live.finish(report)
    assert stored(root)["study"].info.status == "FINISHED"
    assert (_artifacts(stored(root)["study"]) / "report" / "report.md").exists()


def test_a_search_that_finds_the_same_rate_again_is_complete(root: Path) -> None:
    study = Study(root / "scaling", steps=4, evaluations=1)
    study.begin("a")
    study.plan()
    study.search("20k", (1e-3, 3e-3))
    study.end("a", 0)
    study.begin("b")
    study.run(study.spec("20k", "search", 4e-3, 1_000_003, trial=2, search="5ea2c4"))
    study.end("b", 0)
    projection(root).sync()
    search = by_name(root)["20k search"]
    assert (search.info.status, search.data.tags["status"]) == ("FINISHED", "completed")


def test_cut_anywhere_and_repeated_is_the_same(root: Path, empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study(tmp_path / "scaling", steps=4, evaluations=2)
    study.begin("a")
    study.plan()
    study.search("20k", (3e-2, 3e-3))
    spec = study.spec("20k", "ladder", 3e-3)
    study.run(spec, None)
    projection(root).sync()
    study.end("a", 130)
    study.begin("b")
    study.run(spec, select=False)
    study.end("b", 0)
    half = tmp_path / "half.db"
    shutil.copy(root / "mlflow.db", half)
    wire = Wire(monkeypatch)
    projection(root).sync()
    total, whole = wire.made, contents(root)
    assert total > 12
    for k, after in product(range(total), (False, True)):
        shutil.copy(half, root / "mlflow.db")
        again = projection(root)
        wire.cut(k, after)
        with pytest.raises(StoreError, match="CutOff"):
            again.sync()
        wire.mend()
        # By turns as the same process would go on, and as a new one would.
        (again if k % 2 else projection(root)).sync()
        assert contents(root) == whole, f"cut at call {k} of {total}"
        assert set(wire.logged.values()) == {1}, f"a step was written twice, cut at call {k} of {total}"


def test_batches_that_end_anywhere_give_the_same(small: Path, root: Path) -> None:
    lines = (small / "scaling" / "journal.jsonl").read_bytes().splitlines(keepends=True)
    shutil.copytree(small / "scaling", root / "scaling")
    journal = root / "scaling" / "journal.jsonl"
    live = projection(root)
    for end in (0, 3, 4, 21, 22, 40, 55, 56, 57, 70, len(lines)):
        # A line that is still being written is left for the next time.
        journal.write_bytes(b"".join(lines[:end]) + b"".join(lines[end : end + 1])[:20])
        live.sync()
    assert contents(root) == contents(small)


@pytest.mark.parametrize("steps", [1, 999, 1000, 1001, 2500])
def test_thinning_keeps_the_last_point_and_at_most_a_thousand(steps: int, tmp_path: Path) -> None:
    study = Study(tmp_path / "scaling", steps=steps, evaluations=min(steps, 3))
    study.begin("a")
    study.plan()
    spec = study.spec("20k", "ladder", 3e-3)
    study.run(spec)
    fold = Tracking("scaling")
    for event in read(study.journal.path):
        fold.add(event)
    kept = [step for key, step in fold.runs[spec.key].metrics if key == "train/loss"]
    assert MAX_POINTS // 2 <= len(kept) <= MAX_POINTS or len(kept) == steps
    assert max(kept) == steps * 1540
    assert len(fold.runs[spec.key].points["step"]) == steps


def test_events_of_kinds_unknown_to_it_are_passed_over() -> None:
    fold = Tracking("scaling")
    strange: Event = {"n": 0, "time": 1.0, "event": "renamed"}
    fold.add(strange)
    assert list(fold.runs) == ["study"]


@pytest.fixture
def study_and_warnings(root: Path) -> tuple[Study, list[str]]:
    study = Study(root / "scaling", steps=4, evaluations=1)
    study.begin("a")
    study.plan()
    study.run(study.spec("20k", "ladder", 3e-3))
    study.end("a", 0)
    return study, []


def test_live_follows_the_record_and_closes_complete(root: Path, study_and_warnings: tuple[Study, list[str]]) -> None:
    study, warned = study_and_warnings
    live = Live(study.journal.path, root, warned.append, uri=f"sqlite:///{root}/mlflow.db", every_s=0.05)
    assert live.close(None, timeout=30)
    assert warned == [] and len(stored(root)) == 2
    assert "viewStateShareKey=ladder" in live.page


def test_a_server_that_is_away_neither_blocks_nor_raises(root: Path, study_and_warnings: tuple[Study, list[str]]) -> None:
    study, warned = study_and_warnings
    live = Live(study.journal.path, root, warned.append, uri="http://127.0.0.1:9", every_s=0.05)
    started = time.monotonic()
    assert not live.close(None, timeout=8)
    assert time.monotonic() - started < 8
    assert len(warned) == 2 and "127.0.0.1:9" in warned[0], "one warning a minute, and one at the end"
    projection(root).sync()
    assert len(stored(root)) == 2


def test_a_damaged_record_is_a_warning_of_live(root: Path, study_and_warnings: tuple[Study, list[str]]) -> None:
    study, warned = study_and_warnings
    path = study.journal.path
    path.write_bytes(path.read_bytes().replace(b"scaling", b"scalang", 1))
    live = Live(path, root, warned.append, uri=f"sqlite:///{root}/mlflow.db", every_s=0.05)
    assert not live.close(None, timeout=30)
    assert "damaged" in warned[0]


def test_a_run_that_was_resumed_holds_what_an_unbroken_one_holds(tmp_path: Path) -> None:
    """It was stopped at step 20 and goes on from the checkpoint of step 10, so that one evaluation comes twice."""
    folds = []
    for parts in (1, 2):
        study = Study(tmp_path / f"{parts}" / "toy", steps=40, evaluations=4)
        study.begin("a")
        study.plan()
        spec = study.spec("20k", "ladder", 3e-3, 1)
        if parts == 2:
            study.run(spec, "interrupted", "stopped at step 20 of 40")
            study.end("a", 130)
            study.begin("b")
        study.run(spec, select=parts == 1, resumed_at=10 if parts == 2 else None)
        fold = Tracking("toy")
        for event in read(study.journal.path):
            fold.add(event)
            # As after a sync that wrote everything.
            fold.clear() if event["event"] == "invocation_ended" else None
        folds.append(fold.runs[spec.key])
    one, other = folds
    assert {at: value for at, (value, _) in one.metrics.items()} == {at: value for at, (value, _) in other.metrics.items()}
    assert str(one.points) == str(other.points) and one.tables == other.tables
    assert one.status == other.status == "FINISHED" and one.tags["status"] == other.tags["status"] == "completed"


def test_ui_command_serves_this_machine_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    command = ui_command(tmp_path, 5055)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--backend-store-uri") + 1] == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somewhere:5000")
    with pytest.raises(Exception, match="open http://somewhere:5000"):
        ui_command(tmp_path)
