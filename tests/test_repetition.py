"""The law of repeated data: published values, limits, recovery, refusals."""

import numpy as np
import pandas as pd
import pytest

from harness.analysis.additive import Law
from harness.analysis.repetition import Repetition, compute_optimal, fit_repetition, repeats, worth
from harness.analysis.surface import optimum

SURFACE = Law(float(np.exp(0.6254804)), (float(np.exp(6.255414)), float(np.exp(7.3049974))), (0.3526596, 0.3526596))
PUBLISHED = Repetition(SURFACE, r_d=15.387756, r_n=5.309743)


@pytest.mark.parametrize("n,d,expected", [(6.34e9, 242e9, 2.2256440889984477), (8.67e9, 178e9, 2.2269634075087867)])
def test_published_constants_give_the_published_losses(n: float, d: float, expected: float) -> None:
    assert float(PUBLISHED.loss(n, d, 25e9)) == pytest.approx(expected, rel=1e-13)


def test_without_repeats_it_is_the_one_epoch_law() -> None:
    n = float(compute_optimal(SURFACE, 1e9)) / 2
    assert float(PUBLISHED.loss(n, 1e9, 1e9)) == float(SURFACE.loss(n, 1e9))
    assert float(PUBLISHED.loss(n, 1e9, 5e9)) == float(SURFACE.loss(n, 1e9))


def test_repeated_tokens_are_worth_less_and_less() -> None:
    assert float(worth(1e9, 1e9, 15.0)) == 1e9
    assert float(worth(2e9, 1e9, 15.0)) == pytest.approx(1e9 * (1 + 15 * (1 - np.exp(-1 / 15))))
    assert float(worth(1e15, 1e9, 15.0)) == pytest.approx(16e9)
    assert (np.diff(PUBLISHED.loss(1e8, 1e9 * np.arange(1, 60), 1e9)) < 0).all()


def test_the_size_for_its_tokens_is_the_compute_optimal_one() -> None:
    law = Law(1.69, (406.4, 410.7), (0.34, 0.28))
    n, d = optimum(law, 1e21)
    assert float(compute_optimal(law, d)) == pytest.approx(n, rel=1e-9)


def runs(noise: float = 0.0) -> pd.DataFrame:
    n, epochs = (a.ravel() for a in np.meshgrid([3e7, 1e8, 1e9, 4e9], [1, 2, 4, 8, 16, 40]))
    d = epochs * 1e9
    drawn = np.exp(noise * np.random.default_rng(0).normal(size=n.size))
    return pd.DataFrame({"n_params": n, "train_tokens": d, "unique_tokens": 1e9, "test_loss": PUBLISHED.loss(n, d, 1e9) * drawn})


def test_the_decay_is_recovered_without_noise() -> None:
    found = fit_repetition(runs(), SURFACE, n_draws=0)
    assert found.status == "converged"
    assert (found.r_d.value, found.r_n.value) == pytest.approx((15.387756, 5.309743), rel=1e-4)


def test_the_interval_holds_the_decay_under_noise() -> None:
    found = fit_repetition(runs(noise=0.003), SURFACE, n_draws=40)
    assert found.r_d.low < 15.387756 < found.r_d.high and 1 < found.r_d.low < found.r_d.high < 100


def test_runs_of_one_number_of_epochs_do_not_tell() -> None:
    found = fit_repetition(runs().query("train_tokens <= 2e9"), SURFACE)
    assert found.status == "too few" and np.isnan(found.r_d.value)


def test_decay_of_parameters_can_not_be_told_from_small_models() -> None:
    assert (compute_optimal(SURFACE, 1e9) > 3e7).all()
    found = fit_repetition(runs().query("n_params < 4e7"), SURFACE, n_draws=0)
    assert found.r_d.value == pytest.approx(15.387756, rel=1e-3)
    assert found.status == "not converged"


def test_a_one_epoch_law_is_refused_where_data_repeat() -> None:
    assert repeats([1e9, 1.005e9], [1e9, 1e9]) == ""
    assert repeats([1e9, 4e9], [1e9, 1e9]) == "1 of 2 runs repeat their data (up to 4 epochs): a one-epoch law does not hold"
