"""First-order widths held against studies that are simulated and fitted, and recommended runs against the alternatives."""

import numpy as np
import pandas as pd
import pytest

from harness.analysis.additive import Law
from harness.analysis.design import simulate
from harness.analysis.information import LEAST_NARROWING, Knowledge, alpha, knowledge, narrowing, next_runs
from harness.analysis.surface import optimum
from tests.surfaces import TRUTH

NOISE = 0.004
SIZES, TOKENS = np.geomspace(2e4, 6e5, 4), np.geomspace(2.5e5, 4e6, 3)
BUDGET = 4e12


def places(repeats: int = 2) -> np.ndarray:
    return np.repeat([(n, d) for n in SIZES for d in TOKENS], repeats, axis=0)


def log_size(law: Law) -> float:
    return float(np.log(optimum(law, BUDGET)[0]))


def known() -> Knowledge:
    return knowledge(TRUTH, places(), NOISE)


def spreads(where: np.ndarray, studies: int) -> tuple[float, float]:
    """Standard deviations of alpha and of the log of the best size over simulated studies."""
    found, lost = simulate(where, NOISE * TRUTH.loss(*where.T), TRUTH, studies)
    assert lost == 0
    return float(found[:, 3].std()), float(np.std([log_size(Law(E, (A, B), (a, b))) for E, A, B, a, b in found]))


def test_first_order_widths_are_those_of_simulated_studies() -> None:
    simulated = spreads(places(), 600)
    for of, spread in zip((alpha, log_size), simulated, strict=True):
        assert known().half_width(of) == pytest.approx(1.96 * spread, rel=0.12)


def test_the_width_falls_as_the_root_of_runs_and_rises_with_noise() -> None:
    once, four = knowledge(TRUTH, places(1), NOISE), knowledge(TRUTH, places(4), NOISE)
    assert once.half_width(alpha) == pytest.approx(2 * four.half_width(alpha))
    assert knowledge(TRUTH, places(1), 2 * NOISE).half_width(alpha) == pytest.approx(2 * once.half_width(alpha))
    assert known().half_width(alpha, 0.5) < known().half_width(alpha, 0.95)


def test_too_few_places_say_nothing() -> None:
    poor = knowledge(TRUTH, places()[:8], NOISE)
    assert poor.half_width(alpha) == np.inf
    assert np.isnan(narrowing(poor, alpha, places())).all()


def test_the_share_of_one_run_is_that_of_computing_all_again() -> None:
    more = np.array([[1e4, 1e6], [2e6, 8e6], [1e5, 1e6]])
    for of in (alpha, log_size):
        before = known().half_width(of)
        then = [known().after(place[None]).half_width(of) for place in more]
        assert narrowing(known(), of, more) == pytest.approx(1 - np.array(then) / before, rel=1e-6)


def test_seeds_at_one_place_are_as_many_runs() -> None:
    place = np.array([[2e6, 8e6]])
    three = known().after(np.repeat(place, 3, axis=0)).half_width(alpha)
    assert narrowing(known(), alpha, place, 3)[0] == pytest.approx(1 - three / known().half_width(alpha), rel=1e-6)


def test_of_runs_at_one_cost_the_recommended_narrows_most_in_simulation() -> None:
    n = np.geomspace(5e3, 5e6, 7)
    candidates = pd.DataFrame({"n_params": n, "train_tokens": 4e11 / n, "cost": 1.0})
    for column, of in enumerate((alpha, log_size)):
        chosen = next_runs(known(), of, candidates, 1).iloc[0]
        after = [spreads(np.vstack([places(), place]), 600)[column] for place in candidates[["n_params", "train_tokens"]].to_numpy()]
        assert n[int(np.argmin(after))] == chosen["n_params"]
        now = spreads(places(), 600)[column]
        assert min(after) / now == pytest.approx(chosen["left"], abs=0.05) and min(after) < 0.95 * now
        assert max(after) > 1.03 * min(after)


def test_runs_are_chosen_for_their_cost_one_given_the_others() -> None:
    rows = [(n, d, n * d) for n in (2e4, 6e5, 2e6) for d in (2.5e5, 4e6, 1.6e7)]
    candidates = pd.DataFrame(rows, columns=["n_params", "train_tokens", "cost"]).assign(rung="x")
    chosen = next_runs(known(), alpha, candidates, 3)
    first = candidates[["n_params", "train_tokens"]].to_numpy()
    shares = narrowing(known(), alpha, first)
    worth = np.where(shares >= LEAST_NARROWING, -np.log1p(-shares) / candidates["cost"], 0)
    assert len(chosen) == 3 and set(chosen["rung"]) == {"x"}
    assert tuple(chosen.iloc[0][["n_params", "train_tokens"]]) == tuple(first[int(np.argmax(worth))])
    with_all = known().after(chosen[["n_params", "train_tokens"]].to_numpy(float)).half_width(alpha)
    assert chosen["left"].iloc[-1] == pytest.approx(with_all / known().half_width(alpha), rel=1e-6)
    assert (chosen["left"].diff().dropna() < 0).all()


def test_what_narrows_by_less_than_two_per_cent_is_not_recommended() -> None:
    same = pd.DataFrame({"n_params": [1e5], "train_tokens": [1e6], "cost": [1.0]})
    assert next_runs(knowledge(TRUTH, places(200), NOISE), alpha, same).empty
    assert next_runs(known(), alpha, same.iloc[:0]).empty


def test_the_optimum_where_tokens_cost_a_power_of_size() -> None:
    alpha_, beta = TRUTH.exponents
    G = (alpha_ * TRUTH.factors[0] / (beta * TRUTH.factors[1])) ** (1 / (alpha_ + beta))
    n, d = optimum(TRUTH, BUDGET)
    assert n == pytest.approx(G * (BUDGET / 6) ** (beta / (alpha_ + beta))) and 6 * n * d == pytest.approx(BUDGET)
    n, d = optimum(TRUTH, BUDGET, 30.0, 0.9)
    assert 30 * n**0.9 * d == pytest.approx(BUDGET)
    around = n * np.geomspace(0.97, 1.03, 3)
    losses = TRUTH.loss(around, BUDGET / (30 * around**0.9))
    assert losses[1] < losses[0] and losses[1] < losses[2]
