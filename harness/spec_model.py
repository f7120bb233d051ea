"""The block `model` of a study file: the architecture, the ladder of sizes, and how they are parametrized."""

from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from harness import _values as v
from harness._block import Block, misfit
from harness._values import plugin, unique


class Shape(Block):
    """An explicit shape of one rung."""

    name: v.SafeName
    """Name of the rung: letters, digits, _ - and . (the first no - or .)"""
    n_layer: v.Layers
    """Blocks. 1 to 1,000."""
    d_model: v.Count
    """Width of the residual stream. At least 1."""
    n_head: v.Count
    """Attention heads. At least 1."""
    d_ff: v.Count
    """Width inside the MLP. At least 1."""
    d_head: v.CountOrNone = None
    """Width of a head. null: as the family's rule says."""


Rung = Annotated[Annotated[v.RungText, Tag("(plain)")] | Annotated[Shape, Tag("(mapping)")], Discriminator(v.kind_of)]
BaseRung = Annotated[Annotated[v.RungTextOrNone, Tag("(plain)")] | Annotated[Shape, Tag("(mapping)")], Discriminator(v.kind_of)]


def rung_name(rung: str | Shape) -> str:
    """The name of a rung, whichever way it is given."""
    return rung if isinstance(rung, str) else rung.name


class ModelSpec(Block):
    """The architecture and the ladder of sizes."""

    arch: Annotated[str, plugin("models", "architecture")] = "decoder"
    """decoder, or another file in models/."""
    family: v.Family = "assignment"
    """What all rungs share but their size, by name or as a mapping. assignment: post-norm, learned positions, biases, gelu, every head as
    wide as the model. modern: pre-norm with a final norm, rotary positions, no biases, heads that share the width, an MLP of four times
    the width. A mapping changes choices of assignment: norm (post, pre), positions (learned, rotary), activation (gelu, relu), d_head
    (d_model, split), d_ff (assignment, 4x), and final_norm, bias and tied (true, false)."""
    rungs: Annotated[tuple[Rung, ...], Field(min_length=1, max_length=v.MOST_ITEMS), unique("rung", rung_name)]
    """Model sizes: a target number of parameters (500k, 2M), a named shape (87k-, 557k-, 5M- or 10M-assignment), or a mapping with a shape
    (see below)."""
    parametrization: Literal["standard", "mup", "both"] = "standard"
    """How first weights and rates go with the width: standard (one rate for all), mup (maximal update parametrization, arXiv 2203.03466,
    Table 8: one best rate for all widths), or both (every rung both ways, the second one named with -mup)."""
    mup_base: BaseRung = None
    """mup: the model size that the widths of all rungs are compared with, given as a rung is; there both parametrizations are the same
    model. Rungs should differ from it in width alone. Required for mup and both."""

    @model_validator(mode="after")
    def _base_fits(self) -> Self:
        if self.parametrization == "standard" and self.mup_base is not None:
            raise misfit("mup_base", "only mup compares with a base: set parametrization to mup or both, or leave mup_base out")
        if self.parametrization != "standard" and self.mup_base is None:
            what = f"{self.parametrization} needs model.mup_base, a model size to compare widths with"
            raise misfit("parametrization", f"{what}, such as the smallest rung ({rung_name(self.rungs[0])})")
        return self

    @property
    def n_models(self) -> int:
        """Rungs as trained: each twice where there are two parametrizations."""
        return len(self.rungs) * (2 if self.parametrization == "both" else 1)
