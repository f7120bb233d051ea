"""Intervals hold as often as they promise: studies simulated from known laws, fitted as any study is."""

import numpy as np
import pytest

from harness.analysis.additive import Law, points
from harness.analysis.fit import Estimator, fit

TRUTH = Law(1.81686, (482.01, 2085.43), (0.34781, 0.36585))
LADDER = Law(1.7, (400.0,), (0.35,))


def surface_study(seed: int, noise: float, sizes: int = 8, seeds: int = 1) -> tuple[np.ndarray, np.ndarray]:
    n, ratio, _ = (a.ravel() for a in np.meshgrid(np.geomspace(1e5, 2e7, sizes), [5, 20, 80], range(seeds), indexing="ij"))
    grid = np.column_stack([n, n * ratio])
    return grid, TRUTH.loss(*grid.T) * np.exp(noise * np.random.default_rng([17, seed]).normal(size=n.size))


def ladder_study(seed: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    n = np.repeat(np.geomspace(1e5, 1e8, 8), 3)[:, None]
    return n, LADDER.loss(n[:, 0]) * np.exp(noise * np.random.default_rng([18, seed]).normal(size=len(n)))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("sizes,seeds,noise", [(12, 1, 0.005), (5, 3, 0.02)])
@pytest.mark.parametrize("estimator", ["log-Huber", "VPNLS"])
def test_intervals_of_a_surface_cover_over_200_studies(estimator: Estimator, sizes: int, seeds: int, noise: float) -> None:
    truth = {"E": TRUTH.E, "alpha": TRUTH.exponents[0], "beta": TRUTH.exponents[1]}
    covered = dict.fromkeys(truth, 0)
    for seed in range(200):
        found = fit(points(*surface_study(seed, noise, sizes, seeds)), estimator, n_draws=300, seed=seed)
        for name, value in truth.items():
            covered[name] += found.constants[name].low <= value <= found.constants[name].high
    assert all(180 <= count <= 196 for count in covered.values()), covered


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("estimator", ["log-Huber", "VPNLS"])
def test_intervals_of_a_power_law_cover_over_200_studies(estimator: Estimator) -> None:
    covered = 0
    for seed in range(200):
        found = fit(points(*ladder_study(seed, 0.005)), estimator, n_draws=300, seed=seed).constants["alpha"]
        covered += found.low <= LADDER.exponents[0] <= found.high
    assert 180 <= covered <= 196


def test_intervals_hold_the_truth_and_shrink_with_noise() -> None:
    # Twenty studies would hold it in fewer than fifteen once in 20,000 times if intervals of 95 % did what they promise.
    held, widths = 0, []
    for noise in (0.002, 0.02):
        found = [fit(points(*surface_study(seed, noise)), "VPNLS", n_draws=80, seed=seed).constants["alpha"] for seed in range(10)]
        held += sum(one.low <= TRUTH.exponents[0] <= one.high for one in found)
        widths.append(np.mean([one.high - one.low for one in found]))
    assert held >= 15
    assert widths[1] > 5 * widths[0]
