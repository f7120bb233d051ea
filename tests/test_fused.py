"""The MLP's kernels equal the plain layers in value and gradient; who takes them, and that nobody else imports triton."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models import _cuda, decoder
from models._cuda import bound_by_memory
from tests import kernels, toy

# The first whose interpreter gets on with the NumPy that is pinned here.
OLDEST = (3, 7)
ON_A_CPU = """
import sys, torch
from models import decoder
model = decoder.Model(decoder.Shape(1, 4, 1, 4, 4096), 29, 8)
for enabled in (False, True):
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
        logits = model(torch.zeros(600, 8, dtype=torch.long))
    logits.sum().backward()
print([name for name in sys.modules if name.split(".")[0] == "triton" or name == "models._fused"])
"""


def apart(*words: str, **environment: str) -> Any:
    """What a Python process of its own prints."""
    ended = subprocess.run(
        [sys.executable, *words],
        cwd=toy.ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=toy.LIMIT_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def needs_triton() -> None:
    try:
        found = version("triton")
    except PackageNotFoundError:
        pytest.skip("triton isn't installed; there are packages of it for Linux only")
    if tuple(map(int, re.findall(r"\d+", found)[:2])) < OLDEST:
        pytest.skip(f"triton {found} has an interpreter that fails on loops with this NumPy")


@pytest.fixture(scope="module")
def interpreted() -> dict[str, Any]:
    """All that Triton's interpreter has to say, by kernels that run as they are, on the CPU."""
    needs_triton()
    found: dict[str, Any] = apart("-m", "tests.kernels", TRITON_INTERPRET="1")
    return found


@pytest.mark.parametrize(("dtype", "tolerance"), [("torch.float32", 1e-5), ("torch.float64", 1e-12)])
@pytest.mark.parametrize("name", kernels.CASES)
def test_the_kernels_equal_the_plain_layers(interpreted: dict[str, Any], name: str, dtype: str, tolerance: float) -> None:
    differences = interpreted[name][dtype]
    assert len(differences) == (6 if kernels.CASES[name].bias else 4)
    assert max(differences.values()) <= tolerance, differences


def test_under_autocast_types_are_those_of_linear_layers_and_rounding_is_less(interpreted: dict[str, Any]) -> None:
    fused, plain = interpreted["autocast"]["fused"], interpreted["autocast"]["plain"]
    assert fused["types"] == plain["types"] == ["torch.float16"] + 5 * ["torch.float32"]
    assert 1e-5 < sum(fused["differences"].values()) < sum(plain["differences"].values()), (fused, plain)


@pytest.mark.parametrize("what", ["model", "crew"])
def test_whole_decoders_by_kernels_equal_those_by_plain_layers(interpreted: dict[str, Any], what: str) -> None:
    assert interpreted[what] < 1e-9


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_what_is_not_a_number_is_not_hidden(interpreted: dict[str, Any], activation: str) -> None:
    assert interpreted["nan"][activation] == [True, False]


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_kernels_compile_for_devices_that_are_not_here_and_fit_the_smaller_ones(capability: int, dtype: str, tmp_path: Path) -> None:
    """The interpreter takes what the compiler refuses. 99 KB of shared memory is the least of those with bfloat16 (8.6, 8.9)."""
    needs_triton()
    shared = apart("-m", "tests.kernels", str(capability), dtype, TRITON_CACHE_DIR=str(tmp_path))
    assert len(shared) == 3 and 0 < max(shared.values()) <= 99 * 1024


def test_a_decoder_on_a_cpu_never_imports_triton() -> None:
    assert apart("-c", ON_A_CPU) == []


@pytest.mark.parametrize(
    ("name", "expected"), [("87k-assignment", False), ("557k-assignment", False), ("5M-assignment", True), ("10M-assignment", True)]
)
def test_the_widest_shapes_of_the_assignment_are_bound_by_memory(name: str, expected: bool) -> None:
    shape = decoder.NAMED[name]
    # 32 texts of 53 tokens, with their ends.
    assert bound_by_memory(1_700, shape.d_model, shape.d_ff, torch.bfloat16) == expected
    assert not bound_by_memory(1_700, shape.d_model, shape.d_ff, torch.float32)


def test_few_tokens_and_usual_widths_are_left_to_plain_layers() -> None:
    assert not bound_by_memory(64, 48, 8160, torch.bfloat16)
    assert not bound_by_memory(100_000, 64, 4 * 64, torch.bfloat16)
    assert not bound_by_memory(100_000, 512, 32 * 512, torch.bfloat16)


def on_a_device(dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """What looks like 1,000 tokens of width 48 on a CUDA device, to those who only look."""

    class Elsewhere:
        device = torch.device("cuda:0")

        def __init__(self) -> None:
            self.dtype = dtype

        def __len__(self) -> int:
            return 1000

    return Elsewhere()  # type: ignore[return-value]


def test_the_kernels_can_be_turned_off_and_need_a_device_that_runs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    up, works = torch.empty(8160, 48, device="meta"), True
    monkeypatch.delenv(_cuda.VARIABLE, raising=False)
    monkeypatch.setattr(_cuda, "_works", lambda device: works)
    assert _cuda.fuses(on_a_device(), up) and not _cuda.fuses(on_a_device(torch.float32), up)
    assert not _cuda.fuses(torch.empty(1000, 48, dtype=torch.bfloat16), up)
    works = False
    assert not _cuda.fuses(on_a_device(), up)
    works = True
    monkeypatch.setenv(_cuda.VARIABLE, "0")
    assert not _cuda.fuses(on_a_device(), up)


def test_without_triton_or_with_one_that_fails_plain_layers_do_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    works = _cuda._works.__wrapped__
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(_cuda, "find_spec", lambda name: None)
    assert not works(torch.device("cpu"))
    monkeypatch.setattr(_cuda, "find_spec", lambda name: object())

    def fail(*given: Any) -> Tensor:
        raise RuntimeError("no C compiler")

    monkeypatch.setattr(_cuda, "fused", fail)
    with pytest.warns(UserWarning, match="no C compiler"):
        assert not works(torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", kernels.CASES)
def test_on_a_gpu_the_kernels_equal_the_plain_layers(name: str) -> None:
    needs_triton()
    assert max(kernels.compare(kernels.CASES[name], torch.float32, "cuda").values()) <= 1e-5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["5M-assignment", "10M-assignment"])
def test_on_a_gpu_the_models_own_mlp_equals_its_plain_layers_and_itself(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With GELU: of so many hidden values some are within rounding of 0, where ReLU's gradient jumps."""
    needs_triton()
    torch.manual_seed(0)
    mlp = decoder.MLP(decoder.NAMED[name]).cuda()
    x_NC = torch.randn(1_700, decoder.NAMED[name].d_model, device="cuda", requires_grad=True)
    weight_NC = torch.randn_like(x_NC)

    def found(fuses: bool) -> dict[str, Tensor]:
        monkeypatch.setattr(decoder, "fuses", lambda x, up: fuses)
        y = mlp(x_NC)
        gradients = torch.autograd.grad(y, [x_NC, *mlp.parameters()], weight_NC)
        return dict(zip(kernels.NAMES, (y.detach(), *gradients), strict=True))

    once = found(True)
    assert max(kernels.differences(once, found(False)).values()) <= 1e-5
    assert all(torch.equal(a, b) for a, b in zip(once.values(), found(True).values(), strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_wide_mlps_take_the_kernels_under_autocast_and_round_less() -> None:
    needs_triton()
    x_NC, up = torch.randn(1_700, 48, device="cuda"), torch.randn(8160, 48, device="cuda")
    assert not _cuda.fuses(x_NC, up)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert _cuda.fuses(x_NC, up)
    found = kernels.under_autocast(kernels.Case(48, F.gelu, True, tokens=1_700, d_ff=8160), torch.bfloat16, "cuda")
    assert found["fused"]["types"] == found["plain"]["types"] == ["torch.bfloat16"] + 5 * ["torch.float32"]
    assert sum(found["fused"]["differences"].values()) < sum(found["plain"]["differences"].values())
