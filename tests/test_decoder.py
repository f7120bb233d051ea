"""The decoder: the assignment's counts and its very computation, shapes solved and refused, dropout, initialisation."""

import math
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models import _layers, decoder
from models._layers import TokenDropout
from models.decoder import FAMILIES, NAMED, Family, Model, Shape
from tests.packing import packed

COUNTS = {"87k-assignment": 87_289, "557k-assignment": 556_919, "5M-assignment": 5_097_821, "10M-assignment": 10_122_749}
GPT2_SMALL = Shape(12, 768, 12, 64, 3072, norm="pre", final_norm=True, tied=True)


@pytest.mark.parametrize("name, count", COUNTS.items())
def test_the_assignments_counts(name: str, count: int) -> None:
    assert decoder.n_params(NAMED[name], 29, 150) == count
    with torch.device("meta"):
        assert sum(p.numel() for p in Model(NAMED[name], 29, 150).parameters()) == count


def test_gpt2_small_without_positions() -> None:
    groups = decoder.parameters(GPT2_SMALL, 50_257, 1024)
    assert sum(groups.values()) - groups["positions"] == 123_653_376


def by_hand(model: Model, ids_T: Tensor) -> Tensor:
    """The assignment's decoder written once more, one head and one text at a time."""
    weights, shape, T = dict(model.named_parameters()), model.shape, len(ids_T)
    x_TC = weights["embedding.weight"][ids_T] + weights["positions.weight"][:T]
    later = torch.ones(T, T).triu(1).bool()
    for i in range(shape.n_layer):
        block = {name.removeprefix(f"blocks.{i}."): w for name, w in weights.items() if name.startswith(f"blocks.{i}.")}
        q, k, v = (x_TC @ block["attention.qkv.weight"].T + block["attention.qkv.bias"]).chunk(3, dim=1)
        heads = []
        for h in range(shape.n_head):
            part = slice(h * shape.d_head, (h + 1) * shape.d_head)
            scores = (q[:, part] @ k[:, part].T / math.sqrt(shape.d_head)).masked_fill(later, -math.inf)
            heads.append(scores.softmax(1) @ v[:, part])
        attended = torch.cat(heads, 1) @ block["attention.out.weight"].T + block["attention.out.bias"]
        x_TC = F.layer_norm(x_TC + attended, (shape.d_model,), block["norm_1.weight"], block["norm_1.bias"])
        hidden = x_TC @ block["mlp.up.weight"].T + block["mlp.up.bias"]
        gelu = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        x_TC = x_TC + gelu @ block["mlp.down.weight"].T + block["mlp.down.bias"]
        x_TC = F.layer_norm(x_TC, (shape.d_model,), block["norm_2.weight"], block["norm_2.bias"])
    return x_TC @ weights["head.weight"].T + weights["head.bias"]


def test_it_computes_what_the_assignment_does() -> None:
    torch.manual_seed(0)
    model = Model(Shape(2, 8, 3, 8, 20), 29, 16).double()
    ids_BT = torch.randint(0, 29, (2, 11))
    for ids_T, logits_TV in zip(ids_BT, model(ids_BT), strict=True):
        assert (by_hand(model, ids_T) - logits_TV).abs().max() < 1e-12


@pytest.mark.parametrize("norm, positions, path", list(product(("post", "pre"), ("learned", "rotary"), ("padded", "packed"))))
def test_causality_by_gradients(norm: str, positions: str, path: str) -> None:
    torch.manual_seed(0)
    model = Model(Shape(2, 8, 2, 8, 16, norm=norm, positions=positions), 29, 16)
    lengths, ids_BT = [6, 4], torch.randint(0, 29, (2, 6))
    seen: list[Tensor] = []
    model.embedding.register_forward_hook(lambda module, given, out: seen.append(out))
    logits = model(ids_BT).flatten(0, 1) if path == "padded" else model.forward_packed(packed(ids_BT, lengths))
    for n in range(6):
        (grad_NC,) = torch.autograd.grad(logits[n].square().sum(), seen[0], retain_graph=True)
        reached = (grad_NC != 0).any(1)
        assert reached[: n + 1].all() and not reached[n + 1 :].any()


def test_rotary_scores_depend_on_distance_only() -> None:
    torch.manual_seed(0)
    model = Model(decoder.solve(12_000, 29, 24, **vars(FAMILIES["modern"])), 29, 24).double()
    attention, x_NC = model.blocks[0].attention, torch.randn(5, model.shape.d_model, dtype=torch.float64)
    cos, sin = model._turn(24)
    q, k = attention.qkv(x_NC)[:2, : 2 * model.shape.d_head].chunk(2, dim=-1)
    scores = [decoder.rotate(q[0], cos[a], sin[a]) @ decoder.rotate(k[1], cos[b], sin[b]) for a, b in ((3, 1), (20, 18), (3, 2))]
    assert abs(scores[0] - scores[1]) < 1e-12 < abs(scores[0] - scores[2])


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("d_head", [3, 4, 10])
def test_heads_filled_up_attend_as_they_are(d_head: int, scale: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on CUDA in float32."""
    qkv = torch.randn(3, 2, 5, 7, d_head, dtype=torch.float64).unbind()
    plainly = _layers.attend(*qkv, scale)
    monkeypatch.setattr(_layers, "head_fill", lambda q: -q.shape[-1] % 4)
    seen: list[int] = []
    inner = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, *more, **given: seen.append(q.shape[-1]) or inner(q, *more, **given))
    torch.testing.assert_close(_layers.attend(*qkv, scale), plainly, rtol=1e-12, atol=1e-12)
    assert seen == [-(-d_head // 4) * 4]


def test_dropout_touches_the_summed_embedding_only_and_only_in_training() -> None:
    torch.manual_seed(0)
    ids_BT = torch.randint(0, 29, (2, 8))
    model = Model(Shape(2, 8, 2, 8, 16), 29, 16, dropout=0.5)
    assert [name for name, module in model.named_modules() if isinstance(module, TokenDropout)] == ["dropout"]
    assert not torch.equal(model(ids_BT), model(ids_BT))
    model.eval()
    assert torch.equal(model(ids_BT), model(ids_BT))


def test_a_tied_head_is_the_embedding_and_the_modern_start_is_nearly_uniform() -> None:
    torch.manual_seed(0)
    family = replace(FAMILIES["modern"], tied=True)
    model = Model(decoder.solve(200_000, 100, 64, **vars(family)), 100, 64)
    assert model.head.weight is model.embedding.weight and model.head.bias is None
    ids_BT = torch.randint(0, 100, (4, 64))
    loss = F.cross_entropy(model(ids_BT).flatten(0, 1), torch.randint(0, 100, (256,)))
    assert abs(loss.item() - math.log(100)) < 0.1
    assert model.blocks[0].mlp.down.weight.std().item() == pytest.approx(0.02 / math.sqrt(2 * model.shape.n_layer), rel=0.1)


def test_the_anchors_solve_to_the_assignments_shapes() -> None:
    for name, count in COUNTS.items():
        assert decoder.solve(count, 29, 150) == NAMED[name]


@pytest.mark.parametrize("family, vocab_size", list(product(FAMILIES, (29, 100))))
def test_ladders_grow_in_width_and_hold_their_proportions(family: str, vocab_size: int) -> None:
    targets = [round(10_000 * 1.5**i) for i in range(24)]
    shapes = [decoder.solve(target, vocab_size, 150, **vars(FAMILIES[family])) for target in targets]
    for target, shape in zip(targets, shapes, strict=True):
        assert abs(decoder.n_params(shape, vocab_size, 150) / target - 1) <= 0.02
        if family == "modern":
            assert shape.n_head * shape.d_head == shape.d_model and 8 <= shape.d_head <= 80
            assert 2.5 <= shape.d_ff / shape.d_model <= 6 and 5 <= shape.d_model / shape.n_layer <= 100
        else:
            assert shape.d_head == shape.d_model and shape.n_head == shape.n_layer in (5, 6)
    if family == "assignment":
        widths = [shape.d_model for shape in shapes]
        assert widths == sorted(widths)


@pytest.mark.parametrize(
    "family",
    [
        {"d_head": "split"},
        {"d_ff": "4x"},
        {"positions": "rotary"},
        {"tied": True, "norm": "pre"},
        {"d_ff": "4x", "d_head": "split", "bias": False},
    ],
)
def test_mixed_families_are_solved_as_well(family: dict[str, Any]) -> None:
    for target in (20_000, 300_000, 5_000_000):
        shape = decoder.solve(target, 60, 150, **family)
        assert abs(decoder.n_params(shape, 60, 150) / target - 1) <= 0.02


@pytest.mark.parametrize(
    "change, said",
    [({"norm": "middle"}, "norm: 'middle' is not one of post, pre"), ({"tied": 1}, "tied: 1"), ({"d_ff": "2x"}, "d_ff: '2x'")],
)
def test_a_family_refuses_what_it_does_not_know(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Family(**change)


def test_a_shape_refuses_what_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="n_head: 0"):
        Shape(2, 8, 0, 8, 16)
    with pytest.raises(ValueError, match="d_head: 5 is odd"):
        Shape(2, 10, 2, 5, 16, positions="rotary")
    with pytest.raises(ValueError, match="can't share"):
        decoder.explicit({"n_layer": 2, "d_model": 10, "n_head": 3, "d_ff": 16}, d_head="split")


def test_explicit_shapes_follow_the_familys_head_rule() -> None:
    sizes = {"n_layer": 2, "d_model": 12, "n_head": 3, "d_ff": 16}
    assert decoder.explicit(sizes).d_head == 12
    assert decoder.explicit(sizes, d_head="split").d_head == 4
    assert decoder.explicit(sizes | {"d_head": 7}) == Shape(2, 12, 3, 7, 16)
