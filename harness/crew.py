"""Several runs of one shape trained together: RunSpecs enter, a step of all of them is one set of kernels, and each is its lone twin.

A member's batch, dropout mask, rate and moments are its own functions of (seed, step). Members leave without touching the others. The
loop over steps, evaluation and the record stay with `harness.train`; a crew stands for the model and the optimizer of its members.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from harness.runspec import RunSpec
from harness.state import build_model, group_facts, set_rate
from models._layers import Packed
from models._stacked import StackedModel, losses, stack
from models.decoder import Model

# What members may differ in; everything else they share.
OWN = frozenset(
    {"stage", "rung", "lr", "seed", "trial", "search", "lr_source", "lr_status", "steps", "evaluate_at", "patience"}
    | {"schedule", "warmup_steps", "lr_min_fraction", "weight_decay", "beta1", "beta2", "eps", "grad_clip", "eval_texts"}
)


def together(specs: Sequence[RunSpec]) -> bool:
    """Whether these runs can be one crew: decoders of one shape on one corpus, on real tokens, in float32."""
    shared = [f.name for f in fields(RunSpec) if f.name not in OWN]
    alike = all(getattr(spec, name) == getattr(specs[0], name) for spec in specs for name in shared)
    return alike and (specs[0].arch, specs[0].padding, specs[0].precision) == ("decoder", "ignore", "float32")


class Crew:
    """Weights, gradients and moments of every member; `specs` are those that are still in it."""

    def __init__(self, specs: Sequence[RunSpec], device: str = "cpu", token_multiple: int = 1) -> None:
        assert together(specs)
        self.specs, self.device, self.token_multiple = tuple(specs), device, token_multiple
        built = [build_model(spec) for spec in specs]
        self.model = StackedModel([model.to(device) for model in built if isinstance(model, Model)])
        self._model = built[0]
        self.optimizer = self._new_optimizer()

    def _new_optimizer(self) -> torch.optim.AdamW:
        """One group for each member and factor of the rate, whose only parameter is that part of its row: torch's own fused AdamW."""
        groups = []
        for spec, row in zip(self.specs, self.model.rows, strict=True):
            for (factor, _), part in zip(self.model.parts, self._parts(row), strict=True):
                groups.append({"params": [nn.Parameter(part.detach())], **group_facts(spec, factor)})
        return torch.optim.AdamW(groups, fused=True)

    def _parts(self, row: Tensor) -> tuple[Tensor, ...]:
        """A row, or its gradient, by the factor of the rate."""
        return torch.split(row, [size for _, size in self.model.parts])

    def _groups(self, k: int) -> list[dict[str, Any]]:
        """Member k's groups in the optimizer."""
        n = len(self.model.parts)
        return self.optimizer.param_groups[k * n : (k + 1) * n]

    def _states(self, k: int) -> list[dict[str, Tensor]]:
        """AdamW's state of each of them, empty before the first step."""
        return [self.optimizer.state[group["params"][0]] for group in self._groups(k)]

    def forward_backward(self, batches: Sequence[Packed], seeds: Sequence[int]) -> tuple[list[float], list[float]]:
        """Gradients of each member's nats a token; its loss and gradient norm (before clipping). `seeds`: of this step's dropout masks."""
        # Groups save a CPU work; elsewhere one large call beats several small ones.
        laid_out = batches if self.device == "cpu" else [replace(batch, groups=None) for batch in batches]
        batch = stack(laid_out, self.token_multiple).to(self.device)
        masks_KNC = self.model.masks(seeds, batch.tokens, batch.ids_KN.shape[1])
        losses_K = losses(self.model.forward_packed(batch, masks_KNC), batch)
        self.model.backward(losses_K.sum())
        norms_K = self.model.gradients.norm(dim=1)
        self._clip(norms_K)
        # The only wait for the device in a step.
        loss, norm = torch.stack((losses_K.detach(), norms_K)).tolist()
        return loss, norm

    def _clip(self, norms_K: Tensor) -> None:
        clips = [spec.grad_clip for spec in self.specs]
        if any(clip is not None for clip in clips):
            limit_K = torch.tensor([torch.inf if clip is None else clip for clip in clips], device=norms_K.device)
            # As torch.nn.utils.clip_grads_with_norm_ has it.
            self.model.gradients.mul_((limit_K / (norms_K + 1e-6)).clamp(max=1.0)[:, None])

    def update(self, rates: Sequence[float]) -> None:
        """One optimizer step, each member at its own rate."""
        for k, (rate, gradient) in enumerate(zip(rates, self.model.gradients, strict=True)):
            set_rate(self._groups(k), rate)
            for group, part in zip(self._groups(k), self._parts(gradient), strict=True):
                group["params"][0].grad = part
        self.optimizer.step()

    def keep(self, members: Sequence[int]) -> None:
        """Go on with these members only; the others' memory is given back."""
        states = [state for k in members for state in self._states(k)]
        self.specs = tuple(self.specs[k] for k in members)
        self.model.keep(members)
        self.optimizer = self._new_optimizer()
        for group, state in zip(self.optimizer.param_groups, states, strict=True):
            if state:
                self.optimizer.state[group["params"][0]] = state

    def lone(self, k: int) -> nn.Module:
        """The model of member k with its weights as they are, in evaluation mode; valid until the next call."""
        self._model.load_state_dict(self.model.member(k), strict=False)
        return self._model.eval()

    def moments(self, k: int) -> dict[int, dict[str, Tensor]]:
        """AdamW's moments of member k as a lone run's optimizer numbers them, for its checkpoint."""
        states, sizes = self._states(k), [weight.shape[1:] for weight in self.model.weights.values()]
        whole = {name: torch.cat([state[name] for state in states]) for name in ("exp_avg", "exp_avg_sq")}
        split = {name: torch.split(values, [size.numel() for size in sizes]) for name, values in whole.items()}
        return {
            i: {"step": states[0]["step"].clone()} | {name: parts[i].view(size).clone() for name, parts in split.items()}
            for i, size in enumerate(sizes)
        }
