"""One training step of one run: forward, backward, norm, clip, and the update.

A RunSpec, its State and a batch go in; the loss and the gradient norm come out, and the weights have moved. What is drawn in a step depends
on the run's seed and the step alone.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.data.batches import pack, padded
from harness.data.corpus import Encoded
from harness.data.filled import drawn_tokens
from harness.evaluate import packed_logits
from harness.runspec import RunSpec
from harness.schedule import lr_at
from harness.state import State, set_rate
from models._layers import part_of_batch


def forward_backward(
    spec: RunSpec, state: State, texts: Encoded, rows: np.ndarray, step: int, device: str, micro_batches: int = 1
) -> tuple[float, float]:
    """Gradients of the batch's nats over its number of tokens (padding is a token under `learn`); loss and norm, clipped if asked.

    In several micro-batches it is the same loss, up to rounding: each is divided by the tokens of the whole batch, and sees its part of
    the same dropout masks.
    """
    state.optimizer.zero_grad(set_to_none=True)
    lengths = texts.lengths[rows] if spec.padding == "ignore" else np.full(len(rows), spec.seq_len - 1)
    losses = []
    for part in np.array_split(np.arange(len(rows)), min(micro_batches, len(rows))):
        # The dropout masks of a step depend on the seed and the step alone.
        torch.manual_seed(step_seed(spec.seed, step))
        first, n = int(lengths[: part[0]].sum()), int(lengths[part].sum())
        with part_of_batch(state.model, first, drawn_tokens(int(lengths.sum()), device)), autocast(spec, device):
            logits_NV, targets_N = _forward(spec, state, texts, rows[part], device)
        loss = F.cross_entropy(logits_NV.float(), targets_N) * (n / int(lengths.sum()))
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(float(loss.detach()))
    return sum(losses), float(clipped(spec, state.model))


def clipped(spec: RunSpec, model: nn.Module) -> Tensor:
    """The norm of all gradients, which are scaled down to the run's limit afterwards, where it has one."""
    grad_norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    if spec.grad_clip is not None:
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), spec.grad_clip, grad_norm)
    return grad_norm


def autocast(spec: RunSpec, device: str) -> torch.autocast:
    return torch.autocast(device, dtype=torch.bfloat16, enabled=spec.precision == "bfloat16")


def _forward(spec: RunSpec, state: State, texts: Encoded, rows: np.ndarray, device: str) -> tuple[Tensor, Tensor]:
    """Logits and targets of these texts, a row a token."""
    if spec.padding == "learn":
        ids_BT, targets_BT = (t.to(device) for t in padded(texts, rows, spec.seq_len))
        return state.model(ids_BT).flatten(0, 1), targets_BT.flatten()
    batch = pack(texts, rows).to(device)
    assert batch.targets_N is not None
    return packed_logits(state.model, batch), batch.targets_N


def update(state: State, lr: float) -> None:
    """One optimizer step at this rate."""
    set_rate(state.optimizer.param_groups, lr)
    state.optimizer.step()


def rate_at(spec: RunSpec, step: int) -> float:
    """The learning rate of a step, counted from 1."""
    return lr_at(step, spec.steps, spec.lr, spec.schedule, spec.warmup_steps, spec.lr_min_fraction)


def step_seed(seed: int, step: int) -> int:
    """A generator seed that differs for every run seed and step."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))
