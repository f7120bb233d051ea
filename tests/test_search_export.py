"""The searches of a record as Optuna studies in a file: every finished trial, as the sampler was told of it."""

from pathlib import Path
from typing import Any

import optuna
import pytest

from harness.record import Record
from harness.runspec import RunSpec
from harness.search_export import export
from harness.stages import Ended, Group, Stages
from tests.fakes import SIZE, fake_train, make_plan, make_study, walk


def recorded(search: dict[str, Any]) -> tuple[Record, list[Ended]]:
    """The record of two rungs' searches, one trial of which is still running."""
    study = make_study(search=search)
    stages = Stages(study, make_plan(study), SIZE)
    record, ended = Record(study=study.model_dump(mode="json")), list[Ended]()
    for rung in stages.plan.kept[:2]:

        def train(spec: RunSpec, group: Group, n_params: int = rung.n_params) -> Ended:
            return fake_train(spec, n_params, study.search, group.finished)

        ended += walk(stages.rung(rung), train)[0]
    for one in ended:
        event: dict[str, Any] = {"key": one.spec.key, "stage": one.spec.stage, "spec": one.spec.to_dict()}
        record.selected[one.spec.key] = event
        record.ended[one.spec.key] = dict(one.fields)
        record.evaluations[one.spec.key] = [{"step": step, "val_loss": loss} for step, loss in one.history]
    del record.ended[ended[5].spec.key]
    return record, [one for i, one in enumerate(ended) if one.spec.stage == "search" and i != 5]


@pytest.mark.parametrize("space", [{}, {"train.weight_decay": {"low": 1e-3, "high": 1.0, "log": True}}])
def test_every_finished_trial_is_in_the_file_as_it_ended(tmp_path: Path, space: dict[str, Any]) -> None:
    record, trials = recorded({"trials": 12, "batch": 4, "space": space})
    path = tmp_path / "optuna.db"
    path.write_bytes(b"an older export")
    assert export(record, path) == {"20k": 11, "40k": 12}
    assert [one.name for one in tmp_path.iterdir()] == ["optuna.db"]
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    for rung in ("20k", "40k"):
        study = optuna.load_study(study_name=f"s {rung}", storage=storage)
        own = [one for one in trials if one.spec.rung == rung]
        assert [trial.params["lr"] for trial in study.trials] == pytest.approx([one.spec.lr for one in own])
        assert [trial.user_attrs["status"] for trial in study.trials] == [one.fields["status"] for one in own]
        assert [trial.user_attrs["number"] for trial in study.trials] == [one.spec.trial for one in own]
        assert all(len(trial.params) == 1 + len(space) for trial in study.trials)
        completed = [one for one in own if one.fields["status"] == "completed"]
        assert study.best_value == pytest.approx(min(one.fields["val_loss"] for one in completed))
    storage.engine.dispose()
