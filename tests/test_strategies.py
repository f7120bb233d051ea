"""Drawing from a part of the distribution: which part, by what law, and that nothing else changes by it."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness.draws import Rules, distribution, draw
from harness.generate import sample_sets
from harness.strategies import Strategy, cut_in_words, strategies
from models.decoder import FAMILIES, Model
from tests.decoding import CUT, Ids, at, peaked

GIVEN: dict[str, Any] = {"n": 8, "seed": 2, "tokenizer": Ids(), "seq_len": 40}


class Plain(nn.Module):
    """Without a cache."""

    def __init__(self, inner: Model) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, ids_BT: Tensor) -> Tensor:
        logits_BTV: Tensor = self.inner(ids_BT)
        return logits_BTV


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Model:
    return peaked(request.param).double()


def test_one_token_or_next_to_no_mass_is_the_most_likely_token(model: Model) -> None:
    (likeliest,) = sample_sets(model, strategies=at(0.0), **GIVEN).values()
    for strategy in (Strategy(top_k=1), Strategy(top_p=1e-9), Strategy(5.0, top_k=1), Strategy(0.0, top_k=3, top_p=0.5)):
        drawn = sample_sets(model, strategies=[strategy], **GIVEN)[strategy]
        assert drawn.texts == likeliest.texts and drawn.entropy == pytest.approx(0, abs=1e-12)


def test_cutting_nothing_off_is_drawing_from_all_bit_by_bit(model: Model) -> None:
    (whole,) = sample_sets(model, strategies=at(1.0), **GIVEN).values()
    nothing = [Strategy(top_p=1.0), Strategy(top_k=29), Strategy(top_k=10**15, top_p=1.0)]
    for strategy, drawn in sample_sets(model, strategies=[*nothing, *CUT], **GIVEN).items():
        assert (drawn == whole) == (strategy in nothing)


def test_what_is_cut_beside_it_changes_nothing_of_a_set(model: Model) -> None:
    """Equal bits, with and without the others, whose own texts are those that they are alone."""
    temperatures = at(0.5, 1.0)
    together = sample_sets(model, strategies=[*CUT, *temperatures], **GIVEN)
    for strategy, drawn in sample_sets(model, strategies=temperatures, **GIVEN).items():
        assert together[strategy].texts == drawn.texts
        assert (together[strategy].entropy, together[strategy].self_nll) == pytest.approx((drawn.entropy, drawn.self_nll), rel=1e-12)
    for strategy in CUT:
        assert sample_sets(model, strategies=[strategy], **GIVEN)[strategy].texts == together[strategy].texts
    assert len({str(drawn.texts) for drawn in together.values()}) == len(together)


def test_the_cache_and_the_full_pass_cut_alike(model: Model) -> None:
    cached, plain = (sample_sets(one, strategies=CUT, **GIVEN) for one in (model, Plain(model)))
    assert [drawn.texts for drawn in cached.values()] == [drawn.texts for drawn in plain.values()]


@pytest.mark.parametrize("strategy", [*CUT, Strategy(0.5, top_k=2), Strategy(2.0, top_p=0.3), Strategy(top_k=3, top_p=0.99)])
def test_draws_follow_the_renormalised_probabilities_of_what_is_left(strategy: Strategy) -> None:
    logits_V, n = torch.tensor([0.3, -1.0, 1.2, -torch.inf, 0.0, 1.9, -0.2, 0.9, 0.1, -3.0], dtype=torch.float64), 100_000
    uniform_R = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    p_RV = distribution(logits_V.expand(n, -1), Rules.of([strategy] * n))
    share = torch.bincount(draw(p_RV, uniform_R), minlength=10).numpy() / n
    expected = left(np.exp(logits_V.numpy() / strategy.temperature), strategy)
    np.testing.assert_allclose(p_RV[0].numpy(), expected, rtol=1e-12)
    assert 0 < (expected > 0).sum() < 9 and np.abs(share - expected).max() < 2 / n


def left(weight_V: np.ndarray, strategy: Strategy) -> np.ndarray:
    """By the definition, a token at a time from the likeliest on."""
    p_V = weight_V / weight_V.sum()
    ranked = sorted(range(len(p_V)), key=lambda token: -p_V[token])[: strategy.top_k]
    kept: list[int] = []
    while sum(p_V[kept]) < (strategy.top_p or 1.0) * sum(p_V[ranked]) and len(kept) < len(ranked):
        kept.append(ranked[len(kept)])
    out_V = np.zeros_like(p_V)
    out_V[kept] = p_V[kept] / p_V[kept].sum()
    return out_V


def test_of_tokens_alike_as_many_as_asked_for_are_kept() -> None:
    p_RV = distribution(torch.zeros(2, 9, dtype=torch.float64), Rules.of([Strategy(top_k=4), Strategy(top_p=0.5)]))
    assert (p_RV > 0).sum(1).tolist() == [4, 5]
    assert p_RV.sum(1).tolist() == pytest.approx([1.0, 1.0])


def test_entropy_is_that_of_what_is_left_and_self_nll_that_of_the_whole() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits_V = nn.Parameter(torch.linspace(-2, 3, 29, dtype=torch.float64))

        def forward(self, ids_BT: Tensor) -> Tensor:
            return self.logits_V.expand(*ids_BT.shape, -1).clone()

    fixed, strategy = Fixed(), Strategy(top_k=3)
    (drawn,) = sample_sets(fixed, strategies=[strategy], **GIVEN).values()
    z_V = fixed.logits_V.detach().numpy()
    # Of the likeliest, start and unk are never drawn.
    p = np.exp(z_V[24:27]) / np.exp(z_V[24:27]).sum()
    assert drawn.entropy == pytest.approx(-(p * np.log(p)).sum(), rel=1e-12)
    log_p_V = z_V - np.log(np.exp(z_V).sum())
    assert drawn.self_nll == pytest.approx(-np.mean([sum(log_p_V[text]) for text in drawn.texts]), rel=1e-12)
    assert {token for text in drawn.texts for token in text} == {24, 25, 26}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"temperature": -0.1}, "temperature -0.1 is below 0"),
        ({"top_k": 0}, "top_k 0 is below 1"),
        ({"top_p": 0.0}, "top_p 0.0 is not above 0"),
        ({"top_p": 1.5}, "top_p 1.5 is not above 0 and at most 1"),
        ({"top_p": float("nan")}, "top_p nan"),
    ],
)
def test_what_is_no_strategy_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Strategy(**given)


def test_sets_of_a_study_and_their_words() -> None:
    asked = strategies({"temperatures": [0.5, 1.0], "top_k": [5], "top_p": [0.9], "texts": 4})
    assert asked == [Strategy(0.5), Strategy(1.0), Strategy(top_k=5), Strategy(top_p=0.9)]
    assert [cut_in_words(one.facts) for one in asked] == ["", "", "top-k 5", "top-p 0.9"]
    assert strategies({"temperatures": [0.5]}) == [Strategy(0.5)] and asked[0].facts == {"temperature": 0.5}
    # A row of a table has no None.
    assert cut_in_words({"temperature": 1.0, "top_k": 5.0, "top_p": float("nan")}) == "top-k 5"
