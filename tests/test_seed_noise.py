"""Spread over seeds, pooled over rungs."""

import numpy as np
import pandas as pd
import pytest

from harness.analysis.seed_noise import seed_noise


def runs(rungs: int, seeds: int, relative: float = 0.01, seed: int = 0) -> pd.DataFrame:
    means = np.repeat(np.linspace(2.0, 4.0, rungs), seeds)
    losses = means * np.exp(relative * np.random.default_rng(seed).normal(size=means.size))
    return pd.DataFrame({"rung": np.repeat(np.arange(rungs), seeds), "test_loss": losses})


def test_the_interval_covers_the_spread_as_often_as_promised() -> None:
    found = [seed_noise(runs(4, 3, seed=i), ["rung"]) for i in range(150)]
    assert 0.92 <= np.mean([one.low <= 0.01 <= one.high for one in found]) <= 0.98
    assert {one.dof for one in found} == {8} and found[0].warning == ""
    assert found[0].sigma([2.0])[0] == 2 * found[0].relative


def test_one_rung_is_its_own_standard_deviation() -> None:
    table = runs(1, 3)
    found = seed_noise(table, ["rung"])
    assert found.relative == pytest.approx(np.log(table["test_loss"]).std(ddof=1))
    assert found.table.loc[0, "sd"] == pytest.approx(table["test_loss"].std())
    assert "1 rungs have 3 seeds" in found.warning


def test_single_seeds_have_no_noise_to_measure() -> None:
    found = seed_noise(runs(5, 1), ["rung"])
    assert np.isnan(found.relative) and found.dof == 0 and len(found.table) == 5
    mixed = seed_noise(pd.concat([runs(3, 1), runs(1, 3).assign(rung=9)]), ["rung"])
    assert mixed.dof == 2 and mixed.relative > 0
