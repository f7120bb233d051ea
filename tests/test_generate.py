"""Decoding: the same text whatever is drawn beside it, the right distribution, no forbidden token, ends that end."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness import generate
from harness.data.corpus import Encoded
from harness.draws import Rules, distribution, draw
from harness.evaluate import evaluate
from harness.generate import Drawn, sample, sample_sets
from harness.state import build_model
from harness.strategies import Strategy
from models.decoder import FAMILIES, Model
from tests import tiny
from tests.decoding import Ids, at, peaked


class Fixed(nn.Module):
    """A model without a cache whose logits are always the same; `end_at` makes it end at that position."""

    def __init__(self, logits_V: Tensor, end_at: int | None = None) -> None:
        super().__init__()
        self.logits_V, self.end_at = nn.Parameter(logits_V), end_at

    def forward(self, ids_BT: Tensor) -> Tensor:
        logits_BTV = self.logits_V.expand(*ids_BT.shape, -1).clone()
        if self.end_at is not None:
            logits_BTV[:, self.end_at :, 0] = 1e9
        return logits_BTV


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Model:
    return peaked(request.param)


def test_a_text_depends_on_nothing_that_is_drawn_beside_it(model: Model) -> None:
    together = sample(model, 12, [0.5, 1.0, 0.01], seed=3, tokenizer=Ids(), seq_len=40)
    torch.manual_seed(99)
    alone = sample(model, 5, [1.0], seed=3, tokenizer=Ids(), seq_len=40)
    assert alone[1.0] == together[1.0][:5]
    assert sample(model, 5, [1.0], seed=4, tokenizer=Ids(), seq_len=40) != alone
    assert len({tuple(text) for text in together[1.0]}) > 6


def test_rows_decoded_in_turns_are_the_same_texts(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"n": 6, "temperatures": [0.5, 1.0], "seed": 2, "tokenizer": Ids(), "seq_len": 40}
    at_once = sample(model.double(), **given)
    monkeypatch.setattr(generate, "MAX_ROWS", 5)
    assert sample(model, **given) == at_once


def test_the_global_generator_and_the_mode_stay_as_they_were(model: Model) -> None:
    before = torch.get_rng_state()
    for training in (True, False):
        model.train(training)
        sample(model, 2, [1.0], seed=0, tokenizer=Ids(), seq_len=40)
        assert model.training is training and model.dropout.training is training
    assert torch.equal(before, torch.get_rng_state())


def test_the_cache_and_the_full_pass_write_the_same_texts(model: Model) -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model.double()

        def forward(self, ids_BT: Tensor) -> Tensor:
            return self.inner(ids_BT)

    given = {"n": 8, "temperatures": [0.8, 1.2], "seed": 1, "tokenizer": Ids(), "seq_len": 40}
    assert sample(Plain(), **given) == sample(model.double(), **given)


def test_temperature_zero_is_the_most_likely_token(model: Model) -> None:
    model.double().eval()
    (text,) = sample(model, 1, [0.0], seed=0, tokenizer=Ids(), seq_len=40)[0.0]
    logits_TV = model(torch.tensor([[28, *text]]))[0]
    logits_TV[:, 27:] = -torch.inf
    assert logits_TV.argmax(-1).tolist()[: len(text)] == text


def test_start_and_unk_are_never_drawn_and_the_longest_text_has_no_end() -> None:
    logits_V = torch.zeros(29)
    logits_V[27:] = 50.0
    logits_V[0] = -1e9
    texts = sample(Fixed(logits_V), 20, [1.0], seed=0, tokenizer=Ids(), seq_len=30)[1.0]
    assert all(len(text) == 29 and set(text) <= set(range(1, 27)) for text in texts)
    assert any(27 in text for text in sample(Fixed(logits_V), 5, [1.0], seed=0, tokenizer=Ids(unk=None), seq_len=30)[1.0])


def test_decoding_stops_when_every_text_has_ended() -> None:
    model, calls = Fixed(torch.tensor([-1e9] + 28 * [0.0]), end_at=4), []
    model.register_forward_hook(lambda module, given, out: calls.append(given[0].shape))
    texts = sample(model, 6, [0.5, 1.0], seed=0, tokenizer=Ids(), seq_len=1000)
    assert {len(text) for drawn in texts.values() for text in drawn} == {4}
    assert len(calls) == 5


def test_draws_follow_the_softmax_at_the_temperature() -> None:
    torch.manual_seed(0)
    logits_V, n = torch.tensor([0.3, -1.0, 1.2, -torch.inf, 0.0], dtype=torch.float64), 200_000
    uniform_R = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    for temperature in (0.5, 1.0, 2.0):
        p_RV = distribution(logits_V.expand(n, -1), Rules.of(at(temperature) * n))
        drawn = draw(p_RV, uniform_R)
        share = torch.bincount(drawn, minlength=5) / n
        assert (share - torch.softmax(logits_V / temperature, 0)).abs().max() < 2 / n


def test_the_ends_of_the_unit_interval_draw_possible_tokens() -> None:
    logits_RV = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]], dtype=torch.float64).expand(2, -1)
    uniform_R = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert draw(distribution(logits_RV, Rules.of(at(1.0, 1.0))), uniform_R).tolist() == [1, 2]


def test_a_temperature_below_zero_is_refused_and_no_texts_are_none() -> None:
    model = Fixed(torch.zeros(29))
    with pytest.raises(ValueError, match="below 0"):
        sample(model, 1, [-0.1], seed=0, tokenizer=Ids(), seq_len=10)
    assert sample_sets(model, 0, at(1.0), seed=0, tokenizer=Ids(), seq_len=10) == {Strategy(): Drawn([], None, None)}


def test_all_tokens_alike_have_the_entropy_of_their_number_whatever_the_temperature() -> None:
    drawn = sample_sets(Fixed(torch.zeros(29)), 30, at(0.1, 1.0, 5.0), seed=0, tokenizer=Ids(), seq_len=40)
    for one in drawn.values():
        positions = [min(len(text) + 1, 39) for text in one.texts]
        # Of 29 tokens start and unk are never drawn, but the model thinks that they could be.
        assert one.entropy == pytest.approx(math.log(27), rel=1e-12)
        assert one.self_nll == pytest.approx(math.log(29) * np.mean(positions), rel=1e-12)
        assert len(set(positions)) > 5


def test_entropy_is_that_of_the_softmax_at_the_temperature() -> None:
    logits_V = torch.linspace(-2, 3, 29)
    temperatures = (0.25, 1.0, 4.0)
    drawn = sample_sets(Fixed(logits_V), 5, at(*temperatures), seed=0, tokenizer=Ids(), seq_len=20)
    z = logits_V[:27].double().numpy()
    for temperature in temperatures:
        weight = np.exp(z / temperature)
        p = weight / weight.sum()
        assert drawn[Strategy(temperature)].entropy == pytest.approx(-(p * np.log(p)).sum(), rel=1e-12)
    likeliest = sample_sets(Fixed(logits_V), 2, at(0.0), seed=0, tokenizer=Ids(), seq_len=20)[Strategy(0.0)]
    assert likeliest.entropy == pytest.approx(0, abs=1e-12)


def test_what_is_drawn_after_an_end_counts_for_nothing(model: Model) -> None:
    """The mean over texts that are drawn together, some long ended, is that of texts drawn each by itself."""
    given = {"strategies": at(0.9), "seed": 5, "tokenizer": Ids(), "seq_len": 40}
    alone = [[sample_sets(model.double(), n, **given)[Strategy(0.9)] for n in (k, k + 1)] for k in range(1, 9)]
    forward = torch.no_grad()(model.eval().forward)
    for fewer, more in alone:
        (added,) = more.texts[len(fewer.texts) :]
        before, after = (sum(min(len(text) + 1, 39) for text in one.texts) for one in (fewer, more))
        log_p_TV = torch.log_softmax(forward(torch.tensor([[28, *added]]))[0], -1)
        targets = [*added, 0][:39]
        nll = -sum(float(log_p_TV[t, token]) for t, token in enumerate(targets))
        assert (more.self_nll or 0) * len(more.texts) - (fewer.self_nll or 0) * len(fewer.texts) == pytest.approx(nll, rel=1e-6)
        log_p_TV = log_p_TV[: len(targets), :27] / 0.9
        p_TV = torch.softmax(log_p_TV, -1)
        entropy = float(-(p_TV * torch.log_softmax(log_p_TV, -1)).sum())
        assert (more.entropy or 0) * after - (fewer.entropy or 0) * before == pytest.approx(entropy, rel=1e-6)


def test_self_nll_is_what_evaluation_gives_for_the_same_texts() -> None:
    corpus, trained = tiny.corpus(), build_model(tiny.spec()).eval()
    ids, seq_len = corpus.tokenizer, 30
    for strategy, one in sample_sets(trained, 24, at(0.5, 1.0), seed=1, tokenizer=ids, seq_len=seq_len).items():
        rows = [[ids.start, *text, *([ids.end] if len(text) < seq_len - 1 else [])] for text in one.texts]
        # Some ended by themselves and some did not.
        assert len({row[-1] == ids.end for row in rows}) == 2, strategy
        offsets = np.cumsum([0, *map(len, rows)])
        encoded = Encoded(np.concatenate(rows), offsets, np.ones(24), np.zeros(24), [""] * 24)
        assert one.self_nll == pytest.approx(evaluate(trained, corpus, encoded).nll, rel=1e-5)
