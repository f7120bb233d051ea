"""A study of equal compute from its file to its report, trained for real; and the plans of the shipped grids."""

from pathlib import Path

import numpy as np
import pytest

from harness import spec
from harness.analysis.isoflop import budgets
from harness.journal import read
from harness.results import from_events
from reports.fits import EQUAL_COMPUTE, fits
from tests import toy

FLOPS = (4e7, 1.2e8, 3.6e8)
STUDY = """
study: toy
question: Which size is best at equal compute?
data: {texts: 8000, eval_texts: 32, seq_len: 32}
model:
  rungs:
    - {name: a, n_layer: 1, d_model: 6, n_head: 2, d_ff: 12}
    - {name: b, n_layer: 1, d_model: 8, n_head: 2, d_ff: 16}
    - {name: c, n_layer: 1, d_model: 11, n_head: 2, d_ff: 22}
    - {name: d, n_layer: 1, d_model: 15, n_head: 2, d_ff: 30}
    - {name: e, n_layer: 1, d_model: 20, n_head: 2, d_ff: 40}
train: {epochs: 1, batch_size: 4, evaluations: 2, patience: null}
search: null
seeds: 1
budgets: {train_flops: [4e7, 1.2e8, 3.6e8]}
samples: {texts: 0, at_best: 0}
within: null
report: {formats: [md]}
"""


@pytest.mark.slow
def test_a_study_at_equal_compute_runs_from_its_file_to_a_report_that_verifies(tmp_path: Path) -> None:
    folder = toy.write(tmp_path, STUDY)
    ended = toy.run(folder)
    assert (ended.code, ended.err) == (0, "")
    results = from_events(read(toy.journal(folder)))
    found = fits(results)
    assert len(found.runs) == 15 and found.excluded.empty and (found.runs["epochs"] <= 1).all()
    # What was trained is what was asked for, to a step; so each budget is one, of every size.
    group = budgets(found.runs["train_flops"].to_numpy(float))
    assert np.bincount(group).tolist() == [5, 5, 5]
    assert found.runs.groupby(group)["train_flops"].mean().to_numpy() == pytest.approx(np.array(FLOPS), rel=0.1)
    assert found.refused == EQUAL_COMPUTE and found.surface is not None
    assert set(found.profiles) == {"parabola", "akima"}
    assert all([profile.n for profile in scaling.profiles] == [5] * 3 for scaling in found.profiles.values())
    assert results.plan["held_out"] == "e" and (results.lock.rung, results.lock.then) == ("e", "e")
    report = (folder / "mlruns" / "toy" / "report" / "report.md").read_text(encoding="utf-8")
    assert "### Profiles at equal compute" in report and "No law in size alone is fitted" in report
    assert toy.finish(toy.start(folder, "report", "toy", "--verify", module="harness")).code == 0


@pytest.mark.parametrize("name", ["isoflop", "surface"])
def test_the_shipped_grids_cross_five_sizes_with_three_budgets_of_texts_seen_once(name: str) -> None:
    study = spec.load(toy.ROOT / "studies" / f"{name}.yaml")
    asked = study.budgets.train_flops or study.budgets.train_tokens
    assert len(study.model.rungs) >= 5 and len(asked) >= 3 and study.train.epochs == 1 and study.train.patience is None
    assert study.analysis.held_out == "largest" and study.seeds >= 2
