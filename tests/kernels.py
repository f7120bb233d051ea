"""The fused MLP beside the plain one; as a program by Triton's interpreter or its compiler, chosen before triton is imported."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

NAMES = ("output", "x", "up", "up_bias", "down", "down_bias")
Way = Callable[..., Tensor]


@dataclass(frozen=True)
class Case:
    """`programs`: by how many the device is to be filled, which decides in how many parts the width is taken."""

    d_model: int
    activation: Callable[[Tensor], Tensor]
    bias: bool
    tokens: int = 70
    d_ff: int = 150
    programs: int = 256


CASES = {
    "48, gelu": Case(48, F.gelu, True),
    "60, gelu, no bias": Case(60, F.gelu, False, tokens=64, d_ff=128),
    "48, relu, no bias": Case(48, F.relu, False),
    "60, relu": Case(60, F.relu, True),
    "a part of several tiles": Case(50, F.gelu, True, d_ff=330, programs=6),
    "the width in one part": Case(54, F.relu, True, tokens=130, programs=1),
    "one token": Case(12, F.gelu, True, tokens=1),
}


def inputs(case: Case, dtype: torch.dtype = torch.float64, device: str = "cpu") -> list[Tensor | None]:
    """x, up, its bias, down, its bias: with hidden values around 1, where activations bend."""
    torch.manual_seed(0)
    C, F_ = case.d_model, case.d_ff
    x, up, down = torch.randn(case.tokens, C), torch.randn(F_, C) / C**0.5, torch.randn(C, F_) / F_**0.5
    biases = (torch.randn(F_), torch.randn(C)) if case.bias else (None, None)
    return [None if t is None else t.to(device, dtype).requires_grad_() for t in (x, up, biases[0], down, biases[1])]


def plain(x: Tensor, up: Tensor, up_bias: Tensor | None, down: Tensor, down_bias: Tensor | None, activation: Way) -> Tensor:
    return F.linear(activation(F.linear(x, up, up_bias)), down, down_bias)


def results(way: Way, case: Case, given: list[Tensor | None]) -> dict[str, Tensor]:
    """Output and gradients of a weighted sum of it, by name."""
    y = way(*given, case.activation)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    there = {name: t for name, t in zip(NAMES[1:], given, strict=True) if t is not None}
    return {"output": y.detach()} | dict(zip(there, torch.autograd.grad(y, list(there.values()), weight), strict=True))


def differences(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, float]:
    """The largest difference of each, relative to its largest value."""
    assert ours.keys() == theirs.keys()
    return {name: float((ours[name].to(theirs[name]) - theirs[name]).abs().max() / theirs[name].abs().max()) for name in theirs}


def compare(case: Case, dtype: torch.dtype, device: str = "cpu") -> dict[str, float]:
    """The kernels against the plain layers, both in `dtype`."""
    from models import _cuda, _fused

    given = inputs(case, dtype, device)
    with patch.object(_fused, "PROGRAMS", case.programs):
        return differences(results(_cuda.fused, case, given), results(plain, case, given))


def under_autocast(case: Case, dtype: torch.dtype, device: str = "cpu") -> dict[str, Any]:
    """Types, and differences of either way under autocast from the plain layers in float64."""
    from models import _cuda

    exact = results(plain, case, inputs(case, device=device))
    found = {}
    for name, way in (("fused", _cuda.fused), ("plain", plain)):
        with torch.autocast(device, dtype=dtype):
            here = results(way, case, inputs(case, torch.float32, device))
        found[name] = {"types": [str(t.dtype) for t in here.values()], "differences": differences(here, exact)}
    return found


def model() -> float:
    """A whole decoder with all its MLPs by kernels, against the same one by plain layers, in float64."""
    from models import decoder
    from tests.packing import packed

    torch.manual_seed(0)
    net = decoder.Model(decoder.Shape(2, 12, 2, 12, 100), 29, 20).double()
    batch = packed(torch.randint(0, 29, (3, 20)), [20, 7, 3])
    decoder.plain_cpu = lambda x: False  # type: ignore[assignment]
    found = []
    for by_kernels in (True, False):
        decoder.fuses = lambda x, up, answer=by_kernels: answer  # type: ignore[assignment, misc]
        logits = net.forward_packed(batch)
        found.append([logits, *torch.autograd.grad(logits.square().sum(), list(net.parameters()))])
    return max(float((ours - theirs).abs().max().detach()) for ours, theirs in zip(*found, strict=True))


def crew() -> float:
    """Two decoders side by side with their MLPs by kernels, a member at a time, against plain layers, in float64."""
    from models import _stacked, decoder
    from tests.packing import packed

    torch.manual_seed(0)
    nets = [decoder.Model(decoder.Shape(2, 12, 2, 12, 100), 29, 20).double() for _ in range(2)]
    batch = _stacked.stack([packed(torch.randint(0, 29, (3, 20)), lengths) for lengths in ([20, 7, 3], [9, 20, 1])])
    _stacked.plain_cpu = lambda x: False  # type: ignore[assignment]
    stacked, found, fused = _stacked.StackedModel(nets), [], _stacked.fused
    asked: list[int] = []
    _stacked.fused = lambda *given: asked.append(1) or fused(*given)  # type: ignore[assignment, func-returns-value]
    for by_kernels in (True, False):
        _stacked.fuses = lambda x, up, answer=by_kernels: answer  # type: ignore[assignment, misc]
        logits = stacked.forward_packed(batch)
        stacked.backward(logits.square().sum())
        found.append([logits, stacked.gradients.clone()])
    # Two members of two layers, by kernels once.
    assert len(asked) == 4
    return max(float((ours - theirs).abs().max().detach()) for ours, theirs in zip(*found, strict=True))


def not_a_number(activation: Way) -> list[bool]:
    """Which of two tokens come out as NaN, the first of them having one inside."""
    from models import _cuda

    x, up, _, down, _ = (None if t is None else t.detach() for t in inputs(Case(12, activation, False, tokens=2), torch.float32))
    assert x is not None
    x[0, 3] = torch.nan
    return _cuda.fused(x, up, None, down, None, activation).isnan().all(1).tolist()


def interpret() -> dict[str, Any]:
    found: dict[str, Any] = {
        name: {str(dtype): compare(case, dtype) for dtype in (torch.float32, torch.float64)} for name, case in CASES.items()
    }
    # Not in bfloat16: the interpreter keeps that as integers, and its products multiply those.
    found |= {"autocast": under_autocast(CASES["48, gelu"], torch.float16), "model": model(), "crew": crew()}
    return found | {"nan": {way.__name__: not_a_number(way) for way in (F.gelu, F.relu)}}


def compiled(capability: int, dtype: torch.dtype) -> dict[str, int]:
    """Bytes of shared memory that each kernel takes on such a device, as compiled for the 5M shape of the assignment."""
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from models import _fused

    blocks = _fused.blocks(48, dtype)
    options = {"num_warps": blocks.pop("num_warps")}
    fixed = {"d_ff": 8160, "d_model": 48, "GELU": True} | blocks
    data = "*bf16" if dtype == torch.bfloat16 else "*fp32"
    kinds = dict.fromkeys(("x", "up", "down", "grad"), data) | {"n_tokens": "i32", "part": "i32"} | dict.fromkeys(fixed, "constexpr")
    found = {}
    for kernel in (_fused._forward, _fused._grad_x, _fused._grad_weights):
        signature = {name: kinds.get(name, "*fp32") for name in kernel.arg_names}
        source = ASTSource(kernel, signature, {name: value for name, value in fixed.items() if name in signature})
        found[kernel.__name__] = compile(source, target=GPUTarget("cuda", capability, 32), options=options).metadata.shared
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(compiled(int(sys.argv[1]), getattr(torch, sys.argv[2])) if len(sys.argv) > 1 else interpret()))
