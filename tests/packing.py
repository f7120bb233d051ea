"""Packed batches by hand, for tests of models: the harness's own way is `harness.data.batches.pack`."""

import pytest
import torch
from torch import Tensor

from models import _cpu, _stacked, decoder
from models._layers import Packed


def packed(ids_BT: Tensor, lengths: list[int]) -> Packed:
    """The first `lengths[i]` ids of each row, text after text."""
    length = max(lengths)
    places = [(row, position) for row, n in enumerate(lengths) for position in range(n)]
    row_N, position_N = torch.tensor(places).T
    return Packed(ids_BT[row_N, position_N], position_N, row_N * length + position_N, len(lengths), length)


def real(x_BTV: Tensor, lengths: list[int]) -> Tensor:
    """The real positions of a padded result, in the packed order."""
    return torch.cat([x_BTV[row, :n] for row, n in enumerate(lengths)])


def plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the decoder use torch's own operators, as it does everywhere but on a CPU."""
    monkeypatch.setattr(decoder, "plain_cpu", lambda x: False)
    monkeypatch.setattr(_cpu, "plain_cpu", lambda x: False)
    monkeypatch.setattr(_stacked, "plain_cpu", lambda x: False)
