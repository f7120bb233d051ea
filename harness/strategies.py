"""How the tokens of sampled texts are drawn, and the sets of texts that a study asks for. No torch: reports name what decoding does."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

# What a set has beside its temperature where the tail of its distribution is cut off.
CUTS = ("top_k", "top_p")


@dataclass(frozen=True)
class Strategy:
    """From the softmax at a temperature; of its tokens the `top_k` likeliest, or the fewest likeliest whose mass is at least `top_p`.

    None: all. Of both, top_k comes first, and top_p is a share of what it leaves (Holtzman et al. 2019, arXiv:1904.09751).
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature {self.temperature} is below 0")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k {self.top_k} is below 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p} is not above 0 and at most 1")

    @property
    def facts(self) -> dict[str, Any]:
        """As fields of the record: a cut only where there is one."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def strategies(samples: Mapping[str, Any]) -> list[Strategy]:
    """The sets of texts at the end of a run, by the block `samples` of a study or of a record, which may be older than cuts are."""
    cut = [Strategy(top_k=k) for k in samples.get("top_k", ())] + [Strategy(top_p=p) for p in samples.get("top_p", ())]
    return [Strategy(temperature) for temperature in samples["temperatures"]] + cut


def cut_in_words(of: Mapping[str, Any]) -> str:
    """`top-k 5` or `top-p 0.9`, of a set's fields or its row in a table; empty where nothing is cut off."""
    known = {name: of[name] for name in CUTS if of.get(name) is not None and of[name] == of[name]}
    words = {"top_k": "top-k {:.0f}", "top_p": "top-p {:g}"}
    return ", ".join(words[name].format(value) for name, value in known.items())
