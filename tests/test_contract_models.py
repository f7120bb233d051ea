"""The contract of models/__init__.py over every architecture and every family of it: a new file is tested by existing."""

from dataclasses import asdict
from types import ModuleType
from typing import Any

import pytest
import torch

from harness import plugins
from tests.packing import packed, real

SEQ_LEN = 24
TARGETS = (12_000, 87_000, 600_000, 6_000_000, 100_000_000)
CASES = [
    pytest.param(module, asdict(family), id=f"{name}-{family_name}")
    for name in plugins.names("models")
    for module in [plugins.load("models", name, "architecture")]
    for family_name, family in module.FAMILIES.items()
]


def small(arch: ModuleType, family: dict[str, Any]) -> torch.nn.Module:
    torch.manual_seed(0)
    model = arch.Model(arch.solve(12_000, 29, SEQ_LEN, **family), 29, SEQ_LEN).double()
    # At initialisation some logits hardly depend on the text; larger weights make every leak visible.
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("arch, family", CASES)
@pytest.mark.parametrize("vocab_size", [29, 100])
def test_solve_hits_its_target_and_the_formula_equals_the_module(arch: ModuleType, family: dict[str, Any], vocab_size: int) -> None:
    for target in TARGETS:
        shape = arch.solve(target, vocab_size, 150, **family)
        with torch.device("meta"):
            model = arch.Model(shape, vocab_size, 150)
        built = sum(parameter.numel() for parameter in model.parameters())
        assert arch.n_params(shape, vocab_size, 150) == built == sum(arch.parameters(shape, vocab_size, 150).values())
        assert abs(built / target - 1) <= 0.02
        assert arch.Shape(**asdict(shape)) == shape


@pytest.mark.parametrize("arch, family", CASES)
def test_an_impossible_target_names_the_nearest_count(arch: ModuleType, family: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"nearest has \d"):
        arch.solve(50, 29, 150, **family)


@pytest.mark.parametrize("arch, family", CASES)
def test_named_shapes_can_be_built(arch: ModuleType, family: dict[str, Any]) -> None:
    for shape in arch.NAMED.values():
        with torch.device("meta"):
            model = arch.Model(shape, 29, 150)
        assert arch.n_params(shape, 29, 150) == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("arch, family", CASES)
def test_no_logit_depends_on_a_later_token_or_another_text(arch: ModuleType, family: dict[str, Any]) -> None:
    model, lengths = small(arch, family), [7, 3, 5]
    ids_BT = torch.randint(0, 29, (3, 7))
    plain_BTV, packed_NV = model(ids_BT), model.forward_packed(packed(ids_BT, lengths))
    for row, length in enumerate(lengths):
        for position in range(length):
            changed = ids_BT.clone()
            changed[row, position] = (changed[row, position] + 1) % 29
            plain_moved = (model(changed) != plain_BTV).any(-1)
            packed_moved = (model.forward_packed(packed(changed, lengths)) != packed_NV).any(-1)
            reachable = torch.zeros(3, 7, dtype=torch.bool)
            reachable[row, position:] = True
            assert torch.equal(plain_moved, reachable)
            assert torch.equal(packed_moved, real(reachable, lengths))


@pytest.mark.parametrize("arch, family", CASES)
def test_packed_and_padded_agree_in_logits_and_gradients(arch: ModuleType, family: dict[str, Any]) -> None:
    model, lengths = small(arch, family), [9, 1, 5, 9]
    ids_BT = torch.randint(0, 29, (4, 9))
    padded_NV, packed_NV = real(model(ids_BT), lengths), model.forward_packed(packed(ids_BT, lengths))
    assert padded_NV.shape == packed_NV.shape == (24, 29)
    assert (padded_NV - packed_NV).abs().max() < 1e-12
    weight_NV, parameters = torch.randn_like(padded_NV), list(model.parameters())
    by_padded = torch.autograd.grad((padded_NV * weight_NV).sum(), parameters, allow_unused=True)
    by_packed = torch.autograd.grad((packed_NV * weight_NV).sum(), parameters, allow_unused=True)
    for a, b in zip(by_padded, by_packed, strict=True):
        assert a is not None and b is not None and (a - b).abs().max() < 1e-11


@pytest.mark.parametrize("arch, family", CASES)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@torch.no_grad()
def test_decoding_step_by_step_equals_the_whole_text(
    arch: ModuleType, family: dict[str, Any], dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    model = arch.Model(arch.solve(12_000, 29, SEQ_LEN, **family), 29, SEQ_LEN).to(dtype)
    ids_BT = torch.randint(0, 29, (4, SEQ_LEN))
    whole_BTV, cache = model(ids_BT), model.init_cache(4, SEQ_LEN)
    rows = torch.arange(4)
    for t in range(SEQ_LEN):
        if t == 10:
            rows = torch.tensor([3, 1])
            cache.keep(rows)
        assert (model.step(ids_BT[rows, t], cache) - whole_BTV[rows, t]).abs().max() < tolerance


@pytest.mark.parametrize("arch, family", CASES)
def test_flops_grow_with_the_text_and_more_than_the_parameters_alone_say(arch: ModuleType, family: dict[str, Any]) -> None:
    shape = arch.solve(87_000, 29, 150, **family)
    one, two, both = (arch.forward_flops(shape, 29, lengths) for lengths in ([10], [20], [10, 20]))
    assert both == one + two and two >= 2 * one > 0
    assert arch.activations(shape, 29, 200) == 2 * arch.activations(shape, 29, 100) > 0
