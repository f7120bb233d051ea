"""The law of the learning rate over the rungs of a study, as the figures and the findings use it."""

import math

import pandas as pd

from harness.analysis.learning_rate_ladder import LadderLaw, ladder_law
from harness.results import Results
from reports import numbers
from reports.numbers import power
from reports.summary import chosen

# How a sentence on sizes goes on where both parametrizations were trained.
IN_WORDS = {"standard": " of the standard parametrization", "mup": " under muP"}


def rates(results: Results, parametrization: str = "standard") -> LadderLaw:
    """The optima of all searches again, with the ladder's seed noise, and their law along one ladder."""
    runs = results.runs
    trials = runs[runs["stage"] == "search"][["rung", "lr", "val_loss", "status"]]
    among = list(one_ladder(results.searches, parametrization)["rung"])
    return ladder_law(results.searches, trials, chosen(results)[["rung", "val_loss"]], ceiling(results), among=among)


def one_ladder(searches: pd.DataFrame, parametrization: str = "standard") -> pd.DataFrame:
    """The searches of one parametrization, since a size has a best rate in each; all where there are none of it."""
    own = searches[(searches["parametrization"] == "mup") == (parametrization == "mup")]
    return own if len(own) else searches


def which_ladder(searches: pd.DataFrame, parametrization: str = "standard") -> str:
    """Words for the parametrization that `one_ladder` takes, where there are two."""
    return IN_WORDS[parametrization] if len(one_ladder(searches, parametrization)) < len(searches) else ""


def ceiling(results: Results) -> float:
    """What a model scores that has learned the frequency of tokens, or, if that isn't known, nothing (nats per token)."""
    return float(results.data.get("unigram_entropy") or math.log(results.data.get("vocab_size") or math.inf))


def law_in_words(found: LadderLaw, n_resolved: int) -> str:
    """The exponent with its interval, and the check on the largest rung; empty without a law. `n_resolved`: rungs whose search resolved."""
    law = found.law
    if law.status != "fitted":
        return ""
    interval = f"[{numbers.fixed(law.p_low, 2)}, {numbers.fixed(law.p_high, 2)}]"
    through = f"{law.n_rungs} rungs"
    if law.n_rungs < n_resolved:
        through = f"the {law.n_rungs} of them whose optimum is resolved at the noise of the ladder's seeds as well"
    said = f" A power law through {through} has lr* proportional to N^-p with p = {numbers.fixed(law.p, 2)} {interval}."
    held = law.held_out
    if held is None:
        return said
    ends = f"predict {power(held.predicted.lr)} for the largest, where {power(held.found)} was found"
    cost = f"; the prediction would cost {numbers.fixed(held.cost, 3)} nats per token there" if math.isfinite(held.cost) else ""
    return f"{said} The smaller rungs alone {ends}{'' if held.agrees else ', outside of both intervals'}{cost}."
