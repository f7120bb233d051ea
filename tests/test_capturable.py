"""Steps that a graph could hold: of a run, of a crew, of decoding, they need no number of the host's and give it none."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness import captured
from harness import crew as crews
from harness.captured import CrewStep, RunStep
from harness.captured_decoding import DecodingStep
from harness.data.filled import Size
from harness.state import build_model, start
from tests import tiny


class Watch(TorchDispatchMode):
    """Notes the operators that read or write a tensor of the host's, and those that bring a number along below what shows here."""

    HIDDEN = ("aten.where.Scalar", "aten.index_put", "aten.nonzero", "aten._local_scalar_dense")

    def __init__(self) -> None:
        super().__init__()
        self.count, self.on_host = 0, set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)]
        self.count += 1
        if any(tensor.device.type == "cpu" for tensor in tensors) or str(func).startswith(self.HIDDEN):
            self.on_host.add(str(func))
        return out


@pytest.mark.parametrize("shape", [tiny.SHAPE, tiny.SHAPE | {"positions": "rotary", "norm": "pre", "tied": True}])
def test_a_step_needs_no_number_of_the_host_and_gives_it_none(shape: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """On tensors without values, which can't be looked at: a step that branched on one, or that brought one along, would raise or show."""
    spec = tiny.spec(shape=shape, grad_clip=0.5)
    state = start(spec, "cpu")
    state.model.to("meta")
    state.optimizer = torch.optim.AdamW(state.model.parameters())
    monkeypatch.setattr(state.optimizer, "step", lambda: None)
    monkeypatch.setattr(captured, "autocast", lambda *given: nullcontext())
    step = RunStep(spec, state, torch.zeros(5000, dtype=torch.int32, device="meta"), 16, "meta")
    with Watch() as watch:
        step._step(Size(1024, 16, 96, 2))
    assert watch.count > 100 and not watch.on_host


@pytest.mark.parametrize("shape", [tiny.SHAPE, tiny.SHAPE | {"positions": "rotary", "norm": "pre", "tied": True}])
def test_nor_does_a_step_of_a_crew(shape: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    specs = [tiny.spec(shape=shape, grad_clip=clip, dropout=0.1) for clip in (0.5, None)]
    states = [start(spec, "cpu") for spec in specs]
    for state in states:
        state.model.to("meta")
        if shape.get("tied"):
            # Moving there makes two of what is one.
            state.model.head.weight = state.model.embedding.weight
    monkeypatch.setattr(torch.optim, "AdamW", lambda groups, fused: torch.optim.SGD([{**group, "lr": 0.0} for group in groups]))
    monkeypatch.setattr(crews, "autocast", lambda *given: nullcontext())
    step = CrewStep(specs, states, torch.zeros(5000, dtype=torch.int32, device="meta"), 16, "meta")
    monkeypatch.setattr(step.optimizer, "step", lambda: None)
    step._draw(size := Size(1024, 16, 96, 2), [1, 2], [1000, 1024])
    with Watch() as watch:
        step._step(size)
    assert watch.count > 100 and not watch.on_host


@torch.no_grad()
@pytest.mark.parametrize("n_rules", [1, 3])
def test_nor_does_a_step_of_decoding(n_rules: int) -> None:
    model = build_model(tiny.spec()).to("meta").eval()
    step = DecodingStep(model, (4, 9, 28, 0, 27, n_rules))
    with Watch() as watch:
        step.make(model)
    assert watch.count > 40 and not watch.on_host
