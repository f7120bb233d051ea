"""The assignment's procedure as a notebook has it: the plain model, training step, two-pass evaluation and sampling through numpy.

Nothing is made slow on purpose and nothing is made fast: it is what `notebook.py` compares with. Every sequence is padded to seq_len and
all seq_len - 1 positions count. Shapes: B texts, T positions, H heads, C = the model's width, which is also a head's.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from models.decoder import Shape

BATCH = 32


class Attention(nn.Module):
    """Heads as wide as the model, scores of all pairs of positions, later ones masked by their index."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, heads * width) for _ in range(3))
        self.unify = nn.Linear(heads * width, width)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Every position reads itself and the ones before it."""
        B, T, C = x_BTC.shape
        q, k, v = (self._split(linear(x_BTC)) for linear in (self.query, self.key, self.value))
        scores = torch.bmm(q / C**0.25, (k / C**0.25).transpose(1, 2))
        row, column = torch.triu_indices(T, T, offset=1)
        scores[:, row, column] = -torch.inf
        y = torch.bmm(torch.softmax(scores, dim=2), v).view(B, self.heads, T, C)
        out: Tensor = self.unify(y.transpose(1, 2).contiguous().view(B, T, self.heads * C))
        return out

    def _split(self, x: Tensor) -> Tensor:
        B, T, wide = x.shape
        return x.view(B, T, self.heads, -1).transpose(1, 2).contiguous().view(B * self.heads, T, wide // self.heads)


class Block(nn.Module):
    """x = LN(x + attention(x)), then x = LN(x + MLP(x))."""

    def __init__(self, width: int, heads: int, neurons: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, neurons), nn.GELU(), nn.Linear(neurons, width))

    def forward(self, x: Tensor) -> Tensor:
        """Both halves, normalised after."""
        x = self.norm_1(x + self.attention(x))
        out: Tensor = self.norm_2(x + self.mlp(x))
        return out


class Transformer(nn.Module):
    """Ids (B, T) to log probabilities (B, T, V)."""

    def __init__(self, shape: Shape, vocab_size: int, seq_len: int, dropout: float = 0.1) -> None:
        super().__init__()
        assert shape.d_head == shape.d_model, "the assignment's heads are as wide as its model"
        self.tokens = nn.Embedding(vocab_size, shape.d_model)
        self.positions = nn.Embedding(seq_len, shape.d_model)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(Block(shape.d_model, shape.n_head, shape.d_ff) for _ in range(shape.n_layer)))
        self.output = nn.Linear(shape.d_model, vocab_size)

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Log probabilities of the next token at every position."""
        positions_TC = self.positions(torch.arange(ids_BT.shape[1], device=ids_BT.device))
        x = self.dropout(self.tokens(ids_BT) + positions_TC)
        return torch.log_softmax(self.output(self.blocks(x)), dim=2)


class Notebook:
    """A model with its optimizer, in the assignment's own steps; `ids` are whole padded sequences (n, seq_len).

    On a device, batches are brought there as they come and samples are brought back at each position.
    """

    def __init__(self, shape: Shape, vocab_size: int, ids: np.ndarray, start: int, device: str = "cpu") -> None:
        self.model, self.device = Transformer(shape, vocab_size, ids.shape[1]).to(device), device
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.criterion = nn.NLLLoss(reduction="sum")
        self.loader = DataLoader(TensorDataset(torch.from_numpy(ids)), batch_size=BATCH, shuffle=True)
        self.start, self.vocab_size = start, vocab_size
        self._batches: Iterator[list[Tensor]] = iter(())
        self.loss: Tensor | None = None

    def batch(self) -> Tensor:
        """The next batch of the loader, which begins anew after an epoch."""
        found = next(self._batches, None)
        if found is None:
            self._batches = iter(self.loader)
            found = next(self._batches)
        return found[0].to(self.device)

    def nll(self, ids_BT: Tensor) -> Tensor:
        """Mean over texts of the sum over all targets, padding counted."""
        log_p = self.model(ids_BT[:, :-1])
        total: Tensor = self.criterion(log_p.reshape(-1, self.vocab_size), ids_BT[:, 1:].reshape(-1))
        return total / len(ids_BT)

    def step(self) -> float:
        """One training step; the graph stays alive until the next loss replaces it, as it does in a notebook's loop."""
        self.model.train()
        ids_BT = self.batch()
        self.optimizer.zero_grad()
        self.loss = self.nll(ids_BT)
        self.loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return self.loss.item()

    def evaluate(self, ids: np.ndarray) -> tuple[float, float]:
        """NLL a text, then top-1 over all positions in a second pass; the first one records a graph that nobody uses."""
        self.model.eval()
        batches = [batch.to(self.device) for (batch,) in DataLoader(TensorDataset(torch.from_numpy(ids)), batch_size=BATCH)]
        nll = sum(self.nll(batch).item() * len(batch) for batch in batches) / len(ids)
        with torch.no_grad():
            hits = [(self.model(batch[:, :-1]).argmax(2) == batch[:, 1:]).float().mean().item() * len(batch) for batch in batches]
        return nll, sum(hits) / len(ids)

    def sample(self, n: int, seq_len: int, positions: list[int]) -> np.ndarray:
        """`n` texts at temperature 1, every token from a full forward pass; `positions` may be a few of the seq_len - 1 only."""
        self.model.eval()
        texts = np.zeros((n, seq_len - 1), dtype=np.int64)
        texts[:, 0] = self.start
        for t in positions:
            with torch.no_grad():
                p = self.model(torch.from_numpy(texts).to(self.device))[:, t].exp().cpu().numpy().astype(np.float64)
            drawn = [np.random.choice(self.vocab_size, p=row / row.sum()) for row in p]
            if t + 1 < seq_len - 1:
                texts[:, t + 1] = drawn
        return texts


def decoder_weights(notebook: Transformer) -> dict[str, Tensor]:
    """The same weights by the names of `models.decoder.Model`."""
    weights = {name: tensor.detach().clone() for name, tensor in notebook.state_dict().items()}
    renamed = {"tokens.": "embedding.", "output.": "head.", ".mlp.0.": ".mlp.up.", ".mlp.2.": ".mlp.down.", ".unify.": ".out."}
    out: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if ".key." in name or ".value." in name:
            continue
        if ".query." in name:
            three = [weights[name.replace(".query.", f".{part}.")] for part in ("query", "key", "value")]
            out[name.replace(".query.", ".qkv.")] = torch.cat(three)
            continue
        for old, new in renamed.items():
            name = name.replace(old, new)
        out[name] = tensor
    return out
