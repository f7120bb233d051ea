"""Shapes of the decoder: what a family fixes, what a shape counts and costs, and the shape for a number of parameters.

Numbers only: nothing is built here, so that a plan of a hundred million parameters costs nothing. `models.decoder` hands it all on.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

CHOICES: dict[str, tuple[Any, ...]] = {
    "norm": ("post", "pre"),
    "final_norm": (False, True),
    "positions": ("learned", "rotary"),
    "bias": (True, False),
    "tied": (False, True),
    "activation": ("gelu", "relu"),
    "d_head": ("d_model", "split"),
    "d_ff": ("assignment", "4x"),
}


def _check(value: "Family | Shape", names: Iterable[str]) -> None:
    for name in names:
        given, choices = getattr(value, name), CHOICES[name]
        if not any(given == choice and type(given) is type(choice) for choice in choices):
            raise ValueError(f"{name}: {given!r} is not one of {', '.join(map(str, choices))}")


@dataclass(frozen=True)
class Family:
    """What makes rungs comparable: everything of a shape but its size."""

    norm: str = "post"
    """post: x = LN(x + f(x)); pre: x = x + f(LN(x))."""
    final_norm: bool = False
    positions: str = "learned"
    bias: bool = True
    """Biases in linear layers, in norms, and in the output layer (never in a tied one)."""
    tied: bool = False
    """The output layer's weights are the token embedding's."""
    d_head: str = "d_model"
    """d_model: every head is as wide as the model; split: heads share the model's width."""
    d_ff: str = "assignment"
    """assignment: width and depth follow the assignment's four shapes, the MLP takes the rest; 4x: an MLP about 4 d_model wide."""
    activation: str = "gelu"

    def __post_init__(self) -> None:
        _check(self, CHOICES)


FAMILIES = {
    "assignment": Family(),
    "modern": Family(norm="pre", final_norm=True, positions="rotary", bias=False, d_head="split", d_ff="4x"),
}


@dataclass(frozen=True)
class Shape:
    """One decoder, whole but for its vocabulary and seq_len."""

    n_layer: int
    d_model: int
    n_head: int
    d_head: int
    d_ff: int
    norm: str = "post"
    final_norm: bool = False
    positions: str = "learned"
    bias: bool = True
    tied: bool = False
    activation: str = "gelu"

    def __post_init__(self) -> None:
        for name in ("n_layer", "d_model", "n_head", "d_head", "d_ff"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not a whole number above 0")
        _check(self, (f.name for f in fields(self) if f.name in CHOICES and f.name not in ("d_head", "d_ff")))
        if self.positions == "rotary" and self.d_head % 2:
            raise ValueError(f"d_head: {self.d_head} is odd; rotary positions need an even one")


NAMED = {
    "87k-assignment": Shape(5, 20, 5, 20, 200),
    "557k-assignment": Shape(5, 30, 5, 30, 1500),
    "5M-assignment": Shape(6, 48, 6, 48, 8160),
    "10M-assignment": Shape(6, 60, 6, 60, 13200),
}


def parameters(shape: Shape, vocab_size: int, seq_len: int = 150) -> dict[str, int]:
    """Parameters by group; every group is there, and together they are all."""
    s, bias = shape, int(shape.bias)
    inner, n_norms = s.n_head * s.d_head, 2 * s.n_layer + int(s.final_norm)
    return {
        "embedding": vocab_size * s.d_model,
        "positions": seq_len * s.d_model if s.positions == "learned" else 0,
        "attention": s.n_layer * (4 * s.d_model * inner + bias * (3 * inner + s.d_model)),
        "mlp": s.n_layer * (2 * s.d_model * s.d_ff + bias * (s.d_ff + s.d_model)),
        "norm": n_norms * s.d_model * (1 + bias),
        "head": 0 if s.tied else vocab_size * (s.d_model + bias),
    }


def n_params(shape: Shape, vocab_size: int, seq_len: int = 150) -> int:
    """All parameters. A learned position table has seq_len rows."""
    return sum(parameters(shape, vocab_size, seq_len).values())


def forward_flops(shape: Shape, vocab_size: int, lengths: Sequence[int]) -> int:
    """Matrix products of one forward pass over texts of these lengths; attention reads the whole text at every position.

    A weight costs 2 FLOPs a token (the output layer's too, tied or not); scores and their weighted sum 2 x 2 x H x D x T a token.
    """
    inner = shape.n_head * shape.d_head
    weights = shape.n_layer * (4 * shape.d_model * inner + 2 * shape.d_model * shape.d_ff) + vocab_size * shape.d_model
    return 2 * weights * sum(lengths) + 4 * shape.n_layer * inner * sum(length * length for length in lengths)


def activations(shape: Shape, vocab_size: int, n_tokens: int) -> int:
    """Values that one training step keeps for its backward pass, to some 20 %: inputs of products, norms and activations.

    The padded layout of attention is taken for 1.6 times the tokens, as with newswire headlines.
    """
    a_layer = round((1.6 * 4 + 1) * shape.n_head * shape.d_head) + 2 * shape.d_ff + 4 * shape.d_model
    return n_tokens * (shape.n_layer * a_layer + 2 * shape.d_model + 2 * vocab_size)


ANCHORS = ((20_000, 10), (87_289, 20), (556_919, 30), (5_097_821, 48), (10_122_749, 60))


def explicit(sizes: Mapping[str, int], **family: Any) -> Shape:
    """A shape given outright: n_layer, d_model, n_head, d_ff, and d_head where it is not as the family's rule says."""
    chosen = Family(**family)
    if "d_head" not in sizes and chosen.d_head == "split" and sizes["d_model"] % sizes["n_head"]:
        raise ValueError(f"n_head: {sizes['n_head']} heads can't share d_model {sizes['d_model']} evenly; give d_head, or another n_head")
    d_head = sizes.get("d_head") or _d_head(sizes["d_model"], sizes["n_head"], chosen)
    return Shape(sizes["n_layer"], sizes["d_model"], sizes["n_head"], d_head, sizes["d_ff"], **_rest(chosen))


def _d_head(d_model: int, n_head: int, family: Family) -> int:
    return d_model if family.d_head == "d_model" else max(1, d_model // n_head)


def _rest(family: Family) -> dict[str, Any]:
    """What a shape takes over from its family as it is."""
    return {name: value for name, value in asdict(family).items() if name not in ("d_head", "d_ff")}


def solve(target_params: int, vocab_size: int, seq_len: int, **family: Any) -> Shape:
    """The family's shape for a number of parameters, within 2 % of it; a few integers decide, so it is mostly far closer.

    d_ff `assignment`: d_model is interpolated in log N through ANCHORS (four of them the assignment's), 5 layers below 2M parameters and 6
    from there, and d_ff takes what is left. d_ff `4x`: of all depths and widths, the one nearest to d_model / n_layer = 10 (N / 10,000)^0.2
    (10 at 10k, 25 at 1M, 63 at 100M) with d_ff nearest to 4 d_model. Heads: as many as layers where they are as wide as the model, else
    about max(16, min(64, 2 sqrt(d_model))) wide.
    """
    chosen = Family(**family)
    if target_params < 1:
        raise ValueError(f"a model can't have {target_params:,} parameters")
    built = [_with_d_ff(target_params, vocab_size, seq_len, *size, chosen) for size in _sizes(target_params, vocab_size, seq_len, chosen)]
    errors = [abs(n_params(shape, vocab_size, seq_len) / target_params - 1) for shape in built]
    good = [shape for shape, error in zip(built, errors, strict=True) if error <= 0.02]
    if not good:
        nearest = n_params(built[errors.index(min(errors))], vocab_size, seq_len)
        raise ValueError(f"no decoder of this family has {target_params:,} parameters within 2 %; the nearest has {nearest:,}")
    return min(good, key=lambda shape: _oddness(shape, target_params, chosen))


def _sizes(target_params: int, vocab_size: int, seq_len: int, family: Family) -> list[tuple[int, int]]:
    """The (n_layer, d_model) that the family's rule looks at; never empty."""
    step = 2 if family.positions == "rotary" else 1
    if family.d_ff == "4x":
        depths = range(1, 33)
        return [(n_layer, d_model) for n_layer in depths for d_model in _widths_4x(target_params, vocab_size, seq_len, n_layer, family)]
    n_layer = 5 if target_params < 2_000_000 else 6
    return [(n_layer, d_model) for d_model in range(step, 2 * math.ceil(_assignment_width(target_params)) + 1, step)]


def _widths_4x(target_params: int, vocab_size: int, seq_len: int, n_layer: int, family: Family) -> range:
    """Even widths around the root of blocks d^2 + tables d = N, in steps of about 1 %."""
    blocks = n_layer * (8 + 4 * (n_layer if family.d_head == "d_model" else 1))
    tables = vocab_size * (1 if family.tied else 2) + (seq_len if family.positions == "learned" else 0)
    width = (math.sqrt(tables**2 + 4 * blocks * target_params) - tables) / (2 * blocks)
    return range(max(2, 2 * round(0.35 * width)), 2 * round(0.65 * width) + 3, 2 * max(1, round(width / 200)))


def _assignment_width(target_params: int) -> float:
    """Straight lines in (log N, log d_model) through ANCHORS, the outer two going on."""
    upper = next((i for i in range(1, len(ANCHORS) - 1) if target_params < ANCHORS[i][0]), len(ANCHORS) - 1)
    (n0, width0), (n1, width1) = ANCHORS[upper - 1 : upper + 1]
    return width0 * math.exp(math.log(width1 / width0) * math.log(target_params / n0) / math.log(n1 / n0))


def _with_d_ff(target_params: int, vocab_size: int, seq_len: int, n_layer: int, d_model: int, family: Family) -> Shape:
    """The shape of this depth and width whose d_ff comes nearest to the target."""
    heads = n_layer if family.d_head == "d_model" else max(1, round(d_model / max(16, min(64, 2 * math.sqrt(d_model)))))
    d_head = _d_head(d_model, heads, family)
    # An odd width can't turn in pairs: such a candidate counts as uneven, and loses.
    d_head += d_head % 2 if family.positions == "rotary" else 0
    one = Shape(n_layer, d_model, heads, d_head, 1, **_rest(family))
    a_unit = n_layer * (2 * d_model + int(family.bias))
    return replace(one, d_ff=max(1, 1 + round((target_params - n_params(one, vocab_size, seq_len)) / a_unit)))


def _oddness(shape: Shape, target_params: int, family: Family) -> float:
    """How far a shape is from its family's proportions, in logarithms; 0 is exactly as the rule says."""
    uneven = 1.0 if family.d_head == "split" and shape.n_head * shape.d_head != shape.d_model else 0.0
    if family.d_ff == "4x":
        aspect = 10 * (target_params / 10_000) ** 0.2
        return uneven + abs(math.log(shape.d_model / shape.n_layer / aspect)) + 2 * abs(math.log(shape.d_ff / (4 * shape.d_model)))
    starved = 1.0 if shape.d_ff < shape.d_model else 0.0
    return uneven + starved + abs(math.log(shape.d_model / _assignment_width(target_params)))
