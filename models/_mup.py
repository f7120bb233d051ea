"""Maximal update parametrization (muP) of the decoder: by what its first weights, its rates and its products are scaled, from a base shape.

Yang et al. 2022 (Tensor Programs V, arXiv 2203.03466): Table 8, the formulation that allows tied embeddings, in the columns for Adam, and
the 1/d attention of Definition 4.1. Its "fan_in" stands here as fan_in over the base's: at the base every factor is 1, and the model is the
standard one to the last bit. Parameters are known by their names in `models.decoder.Model`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import groupby

from torch import nn

# The matrices whose two sides both grow with the width, by the dimension that they sum over.
FAN_IN = {"attention.qkv": "d_model", "attention.out": "inner", "mlp.up": "d_model", "mlp.down": "d_ff"}


@dataclass(frozen=True)
class Base:
    """The widths of the shape that is scaled from; its depth and all else are the model's own."""

    d_model: int
    n_head: int
    d_head: int
    d_ff: int

    @classmethod
    def of(cls, shape: object) -> "Base":
        """The widths of a shape."""
        return cls(**{f.name: getattr(shape, f.name) for f in fields(cls)})


@dataclass(frozen=True)
class Scaling:
    """How many times as wide as its base a model is, by dimension; `inner` is n_head x d_head. All 1: the standard parametrization.

    `scores`: the factor of queries times keys; None for d_head^(-1/2).
    """

    d_model: float = 1.0
    inner: float = 1.0
    d_ff: float = 1.0
    scores: float | None = None

    @classmethod
    def of(cls, widths: Base, base: Base | None) -> "Scaling":
        """From the base to these widths. Scores have 1/d (Definition 4.1), with the constant that gives the base its d^(-1/2)."""
        if base is None:
            return cls()
        inner = widths.n_head * widths.d_head / (base.n_head * base.d_head)
        scores = widths.d_head**-0.5 * (base.d_head / widths.d_head) ** 0.5
        return cls(widths.d_model / base.d_model, inner, widths.d_ff / base.d_ff, None if widths.d_head == base.d_head else scores)

    def fan_in(self, name: str) -> float:
        """By how much the sum of the layer that a parameter belongs to has grown: 1 for embeddings and norms."""
        layer = name.rpartition(".")[0]
        own = "d_model" if layer == "head" else next((size for part, size in FAN_IN.items() if layer.endswith(part)), None)
        return 1.0 if own is None else float(getattr(self, own))

    def rate(self, name: str) -> float:
        """By what a parameter's learning rate is multiplied (Table 8, Adam LR): 1/fan_in for hidden matrices, 1 for all else.

        The output layer's is 1 since its product is divided by d_model instead (Table 8, Multiplier).
        """
        return 1 / self.fan_in(name) if is_hidden(name) else 1.0

    def spread(self, name: str, by_fan_in: bool) -> float:
        """By what a parameter's first values are multiplied (Table 8, Init. Var.): variance 1/fan_in if hidden, else one for all widths.

        Args:
            by_fan_in: the standard first values have variance 1/fan_in already, biases and output layer too, as PyTorch's linear layers
                have; else one variance for all.
        """
        if is_hidden(name):
            return 1.0 if by_fan_in else self.fan_in(name) ** -0.5
        return self.fan_in(name) ** 0.5 if by_fan_in else 1.0


def is_hidden(name: str) -> bool:
    """Whether a parameter is a matrix both of whose sides grow with the width."""
    return name.endswith(tuple(f"{part}.weight" for part in FAN_IN))


def by_rate(model: nn.Module) -> list[tuple[float, dict[str, nn.Parameter]]]:
    """A model's parameters in groups that share the factor of their rate, highest factor first, each in the model's own order.

    One group holds all where no factor differs: under the standard parametrization, and for architectures that have no other.
    """
    scaling = vars(model).get("mup", Scaling())
    named = sorted(((scaling.rate(name), name, p) for name, p in model.named_parameters()), key=lambda one: -one[0])
    return [(factor, {name: p for _, name, p in group}) for factor, group in groupby(named, key=lambda one: one[0])]


def initial(model: nn.Module, by_fan_in: bool) -> Iterator[tuple[nn.Parameter, float]]:
    """The parameters whose first values muP scales, and by what."""
    scaling: Scaling = vars(model)["mup"]
    for name, parameter in model.named_parameters():
        factor = scaling.spread(name, by_fan_in)
        if factor != 1.0:
            yield parameter, factor
