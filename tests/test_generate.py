"""Decoding: the same text whatever is drawn beside it, the right distribution, no forbidden token, ends that end."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from harness import generate
from harness.generate import draw, sample
from models import decoder
from models.decoder import FAMILIES, Model


@dataclass(frozen=True)
class Ids:
    start: int = 28
    end: int = 0
    unk: int | None = 27


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
    torch.manual_seed(0)
    built = Model(decoder.solve(12_000, 29, 40, **vars(FAMILIES[request.param])), 29, 40, dropout=0.3)
    # Peaked enough that temperature matters, and some texts end early.
    built.head.weight.data *= 8
    return built


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
        drawn = draw(logits_V.expand(n, -1), torch.full((n,), temperature, dtype=torch.float64), uniform_R)
        share = torch.bincount(drawn, minlength=5) / n
        assert (share - torch.softmax(logits_V / temperature, 0)).abs().max() < 2 / n


def test_the_ends_of_the_unit_interval_draw_possible_tokens() -> None:
    logits_RV = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]], dtype=torch.float64).expand(2, -1)
    uniform_R = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert draw(logits_RV, torch.ones(2, dtype=torch.float64), uniform_R).tolist() == [1, 2]


def test_a_temperature_below_zero_is_refused_and_no_texts_are_none() -> None:
    model = Fixed(torch.zeros(29))
    with pytest.raises(ValueError, match="below 0"):
        sample(model, 1, [-0.1], seed=0, tokenizer=Ids(), seq_len=10)
    assert sample(model, 0, [1.0], seed=0, tokenizer=Ids(), seq_len=10) == {1.0: []}
