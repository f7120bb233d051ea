"""Several runs of one shape trained together: RunSpecs enter, a step of all of them is one set of kernels, and each is its lone twin.

A member's batch, dropout mask, rate and moments are its own functions of (seed, step), and none touches another. Where one leaves, the
others are a new crew. A crew stands for the model and the optimizer of its members; `harness.together` drives it, and all else that a run
does is its own.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from harness.runspec import RunSpec
from harness.state import State, group_facts, set_rate, start
from harness.step import autocast
from models._layers import Packed
from models._stacked import StackedBatch, StackedModel, losses, stack
from models.decoder import Model

# What members may differ in; everything else they share.
OWN = frozenset(
    {"stage", "rung", "lr", "seed", "trial", "search", "lr_source", "lr_status", "steps", "evaluate_at", "patience"}
    | {"schedule", "warmup_steps", "lr_min_fraction", "weight_decay", "beta1", "beta2", "eps", "grad_clip", "eval_texts"}
)

MOMENTS = ("exp_avg", "exp_avg_sq")
Moments = dict[str, Tensor]


def together(specs: Sequence[RunSpec]) -> bool:
    """Whether these runs can be one crew: decoders of one shape on one corpus, on real tokens."""
    shared = [f.name for f in fields(RunSpec) if f.name not in OWN]
    alike = all(getattr(spec, name) == getattr(specs[0], name) for spec in specs for name in shared)
    return alike and (specs[0].arch, specs[0].padding) == ("decoder", "ignore")


class Crew:
    """Weights, gradients and moments of every member.

    While a run is in the crew, its state's weights and moments are windows on the crew's, evaluated and saved as those of any run.
    """

    def __init__(self, specs: Sequence[RunSpec], device: str = "cpu", token_multiple: int = 1, states: Sequence[State] = ()) -> None:
        """`states`: where the runs are, none for their starts. `token_multiple`: batches are filled up to one, so that few sizes occur."""
        assert together(specs)
        self.specs, self.device, self.token_multiple = tuple(specs), device, token_multiple
        self.states = tuple(states) or tuple(start(spec, device) for spec in specs)
        self.model = StackedModel(_models(self.states))
        self.optimizer = self._new_optimizer()
        clips = [spec.grad_clip for spec in specs]
        limits = [torch.inf if clip is None else clip for clip in clips]
        self._limit_K = None if clips == [None] * len(clips) else torch.tensor(limits, device=device)
        self._open_windows()

    def take(self, specs: Sequence[RunSpec], states: Sequence[State]) -> None:
        """Become the crew of other runs, which differ in nothing that the optimizer or a graph of kernels is bound to."""
        with torch.no_grad():
            self.model.rows.copy_(self.model.rows_of(_models(states)))
            for k, state in enumerate(states):
                for held, own in zip(self._states(k), self._moments(state), strict=True):
                    for name, moment in own.items():
                        held[name].copy_(moment)
        self.specs, self.states = tuple(specs), tuple(states)
        self._open_windows()

    def _new_optimizer(self) -> torch.optim.AdamW:
        """One group for each member and factor of the rate, whose only parameter is that part of its row: torch's own fused AdamW."""
        groups, moments = [], []
        for spec, state, row, gradient in zip(self.specs, self.states, self.model.rows, self.model.gradients, strict=True):
            moments += self._moments(state)
            for (factor, _), part, slope in zip(self.model.parts, self._parts(row), self._parts(gradient), strict=True):
                weight = nn.Parameter(part.detach())
                weight.grad = slope
                groups.append({"params": [weight], **group_facts(spec, factor)})
        optimizer = torch.optim.AdamW(groups, fused=True)
        for group, own in zip(optimizer.param_groups, moments, strict=True):
            optimizer.state[group["params"][0]] = own
        return optimizer

    def _moments(self, state: State) -> list[Moments]:
        """What a run's optimizer holds, as that of the parts of its row; zeros before its first step, as torch begins."""
        weights = dict(state.model.named_parameters())
        held, row = [state.optimizer.state[weights[name]] for name in self.model.weights], self.model.rows[0]
        # Where torch's fused optimizer counts.
        step = held[0]["step"] if held[0] else torch.zeros((), device=row.device)
        flat = {name: torch.cat([own[name].flatten() for own in held]) if held[0] else torch.zeros_like(row) for name in MOMENTS}
        parts = {name: [part.clone() for part in self._parts(whole)] for name, whole in flat.items()}
        own = [{name: parts[name][i] for name in MOMENTS} for i in range(len(self.model.parts))]
        return [{"step": step.to(row.device, copy=True)} | one for one in own]

    def _open_windows(self) -> None:
        for k, (state, row) in enumerate(zip(self.states, self.model.rows, strict=True)):
            weights, names = dict(state.model.named_parameters()), iter(self.model.weights)
            for part, own in zip(self._parts(row), self._states(k), strict=True):
                begin = 0
                while begin < part.numel():
                    weight = weights[next(names)]
                    here = slice(begin, begin + weight.numel())
                    weight.data = part[here].view(weight.shape)
                    moments = {name: own[name][here].view(weight.shape) for name in MOMENTS}
                    state.optimizer.state[weight] = {"step": own["step"]} | moments
                    begin += weight.numel()

    def _parts(self, row: Tensor) -> tuple[Tensor, ...]:
        """A row, or its gradient, by the factor of the rate."""
        return torch.split(row, [size for _, size in self.model.parts])

    def _groups(self, k: int) -> list[dict[str, Any]]:
        """Member k's groups in the optimizer."""
        n = len(self.model.parts)
        return self.optimizer.param_groups[k * n : (k + 1) * n]

    def _states(self, k: int) -> list[dict[str, Tensor]]:
        """AdamW's state of each of them."""
        return [self.optimizer.state[group["params"][0]] for group in self._groups(k)]

    def forward_backward(self, batches: Sequence[Packed], seeds: Sequence[int]) -> tuple[list[float], list[float]]:
        """Gradients of each member's nats a token; its loss and gradient norm (before clipping). `seeds`: of this step's dropout masks."""
        # Groups save a CPU work; elsewhere one large call beats several small ones.
        laid_out = batches if self.device == "cpu" else [replace(batch, groups=None) for batch in batches]
        batch = stack(laid_out, self.token_multiple).to(self.device)
        kept_KNC = None
        if self.model.dropout:
            kept_KNC = self.model.rows.new_ones(*batch.ids_KN.shape, self.model.shape.d_model)
            self.model.draw(kept_KNC, seeds, [len(own.ids_N) for own in batches])
        # The only wait for the device in a step.
        loss, norm = self.gradients(batch, kept_KNC).tolist()
        return loss, norm

    def gradients(self, batch: StackedBatch, kept_KNC: Tensor | None) -> Tensor:
        """The same, of batches that are on the device: losses and norms, (2, K), for which nothing waits."""
        with autocast(self.specs[0], self.device):
            logits_KNV = self.model.forward_packed(batch, kept_KNC)
        losses_K = losses(logits_KNV, batch.targets_KN)
        self.model.backward(losses_K.sum())
        norms_K = self.model.gradients.norm(dim=1)
        if self._limit_K is not None:
            # As torch.nn.utils.clip_grads_with_norm_ has it.
            self.model.gradients.mul_((self._limit_K / (norms_K + 1e-6)).clamp(max=1.0)[:, None])
        return torch.stack((losses_K.detach(), norms_K))

    def update(self, rates: Sequence[float]) -> None:
        """One optimizer step, each member at its own rate."""
        for k, rate in enumerate(rates):
            set_rate(self._groups(k), rate)
        self.optimizer.step()


def release(state: State) -> None:
    """Let a member of a crew go on by itself: its state gets weights and moments of its own."""
    for weight in state.model.parameters():
        weight.data = weight.data.clone()
        state.optimizer.state[weight] = {name: value.clone() for name, value in state.optimizer.state[weight].items()}


def _models(states: Sequence[State]) -> list[Model]:
    return [state.model for state in states if isinstance(state.model, Model)]
