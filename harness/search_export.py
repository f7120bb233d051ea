"""The searches of a study as a file that optuna-dashboard opens: the record in, an sqlite file with one Optuna study a rung out."""

import tempfile
from pathlib import Path

import optuna

from harness import durable
from harness.rates import values_of
from harness.record import Record
from harness.runspec import RunSpec
from harness.search import Trial, finished_trial, told
from harness.spec import Search


def export(record: Record, path: Path) -> dict[str, int]:
    """Write all finished trials of the current plan to `path`, replacing what is there; how many of each rung.

    A diverged trial is a completed one with the loss that the sampler was told, as its user attribute `status` says.
    """
    search, trials = Search.model_validate(record.study["search"]), _trials(record)
    with tempfile.TemporaryDirectory() as folder:
        aside = Path(folder) / "optuna.db"
        storage = optuna.storages.RDBStorage(f"sqlite:///{aside}")
        for rung, finished in trials.items():
            name = f"{record.study['study']} {rung}"
            told(search, finished, optuna.create_study(storage=storage, study_name=name, direction="minimize"))
        storage.engine.dispose()
        durable.replace(path, aside.read_bytes(), "report")
    return {rung: len(finished) for rung, finished in trials.items()}


def _trials(record: Record) -> dict[str, list[Trial]]:
    """The finished trials of each rung, by number."""
    search = Search.model_validate(record.study["search"])
    found: dict[str, list[Trial]] = {}
    for key, event in record.selected.items():
        if event["stage"] != "search" or key not in record.ended or record.ended[key]["status"] == "interrupted":
            continue
        spec = RunSpec.from_dict(event["spec"])
        others = tuple(sorted(values_of(search, spec).items()))
        trial = finished_trial(spec.trial or 0, spec.lr, record.ended[key], record.history(key), others)
        found.setdefault(spec.rung, []).append(trial)
    return {rung: sorted(trials, key=lambda trial: trial.number) for rung, trials in found.items()}
