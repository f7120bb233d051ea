"""Held-out rungs: predicted intervals against what was observed."""

import numpy as np
import pandas as pd
import pytest

from harness.analysis.additive import Law
from harness.analysis.held_out import HeldOut, power_law_fitter, predict_largest, rollouts, surface_fitter

TRUTH = Law(1.7, (482.01, 2085.43), (0.35, 0.36))


def ladder(noise: float = 0.005, seed: int = 0, sizes: int = 7, seeds: int = 3) -> pd.DataFrame:
    n = np.repeat(np.geomspace(1e5, 1e8, sizes), seeds)
    loss = (1.7 + 400 * n**-0.35) * np.exp(noise * np.random.default_rng(seed).normal(size=n.size))
    return pd.DataFrame({"n_params": n, "test_loss": loss})


def test_the_largest_rung_is_judged_by_the_law_of_the_smaller_ones() -> None:
    runs = ladder(noise=0)
    found = predict_largest(runs, power_law_fitter(n_draws=50))
    assert found.predicted == pytest.approx(1.7 + 400 * 1e8**-0.35, rel=1e-6)
    assert (found.n_params, found.runs, found.fitted_sizes) == (1e8, 3, 6) and np.isnan(found.in_noise)
    moved = runs.copy()
    moved.loc[moved["n_params"] == 1e8, "test_loss"] = 99.0
    assert predict_largest(moved, power_law_fitter(n_draws=50)).predicted == found.predicted


def test_a_rung_that_breaks_the_law_lies_outside_in_units_of_noise() -> None:
    runs = ladder()
    largest = runs["n_params"] == runs["n_params"].max()
    noise = runs[largest]["test_loss"].std()
    runs.loc[largest, "test_loss"] += 0.5
    found = predict_largest(runs, power_law_fitter(n_draws=100))
    assert found.status == "outside" and found.in_noise == pytest.approx(found.error / noise)
    assert found.observed - found.predicted == found.error > 0.4
    assert f"observed {found.observed:.4g}" in found.reason


def test_of_a_grid_the_largest_budget_is_judged_by_the_surface() -> None:
    n, ratio = (a.ravel() for a in np.meshgrid(np.geomspace(1e6, 1e9, 6), [5, 20, 80], indexing="ij"))
    runs = pd.DataFrame({"n_params": n, "train_tokens": n * ratio, "test_loss": TRUTH.loss(n, n * ratio)})
    found = predict_largest(runs, surface_fitter(n_draws=30), ("n_params", "train_tokens"))
    assert found.runs == 1 and found.predicted == pytest.approx(float(TRUTH.loss(1e9, 8e10)), rel=1e-6)


def test_seeds_whose_tokens_differ_a_little_are_one_rung() -> None:
    n, ratio, jitter = (a.ravel() for a in np.meshgrid(np.geomspace(1e6, 1e9, 6), [5, 20, 80], [0.99, 1.0, 1.01], indexing="ij"))
    d = n * ratio * jitter
    runs = pd.DataFrame({"n_params": n, "train_tokens": d, "test_loss": TRUTH.loss(n, d)})
    found = predict_largest(runs, surface_fitter(n_draws=20), ("n_params", "train_tokens"))
    assert found.runs == 3 and found.predicted == pytest.approx(float(TRUTH.loss(1e9, 8e10)), rel=1e-6)


def test_few_sizes_have_no_law() -> None:
    found = predict_largest(ladder(sizes=3), power_law_fitter())
    assert found.status == "no law" and "2 smaller sizes" in found.reason and np.isnan(found.low)
    unfit = predict_largest(ladder(sizes=4), power_law_fitter(n_draws=20))
    assert unfit.status == "no law" and unfit.reason.startswith("too few")


def test_rollouts_judge_every_rung_that_has_a_law() -> None:
    found = rollouts(ladder(), power_law_fitter(irreducible=1.7, n_draws=50))
    assert len(found.rungs) == 4 and found.judged == 4
    assert found.covered == sum(rung.status == "inside" for rung in found.rungs)
    assert list(found.table.columns) == list(HeldOut.__dataclass_fields__) and len(found.table) == 4
    assert [rung.n_params for rung in found.rungs] == sorted(rung.n_params for rung in found.rungs)


def test_intervals_of_held_out_rungs_hold_as_often_as_promised() -> None:
    judged = covered = 0
    for seed in range(40):
        found = predict_largest(ladder(seed=seed), power_law_fitter(n_draws=100))
        judged += found.status != "no law"
        covered += found.status == "inside"
    assert judged == 40 and covered >= 33
