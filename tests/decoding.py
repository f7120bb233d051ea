"""What tests of decoding need: a tokenizer's ids, and a model whose texts differ by temperature."""

from dataclasses import dataclass

import torch

from harness.strategies import Strategy
from models import decoder
from models.decoder import FAMILIES, Model

CUT = (Strategy(top_k=1), Strategy(top_k=4), Strategy(top_p=0.6), Strategy(0.7, top_k=8, top_p=0.9))


def at(*temperatures: float) -> list[Strategy]:
    """Nothing cut off."""
    return [Strategy(temperature) for temperature in temperatures]


@dataclass(frozen=True)
class Ids:
    start: int = 28
    end: int = 0
    unk: int | None = 27


def peaked(family: str) -> Model:
    """Peaked enough that temperature matters, and some texts end early."""
    torch.manual_seed(0)
    built = Model(decoder.solve(12_000, 29, 40, **vars(FAMILIES[family])), 29, 40, dropout=0.3)
    built.head.weight.data *= 8
    return built
