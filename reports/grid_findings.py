"""What a study that crosses sizes with budgets answers, in a sentence each: the best size at equal compute, and how fast loss falls.

Results go in; words come out, with whether the evidence decides. None where the study does not ask.
"""

from collections.abc import Sequence

from harness.analysis.fit import Constant
from harness.analysis.isoflop import Profile
from harness.results import Results
from reports.fits import fits
from reports.grid_section import size_interval
from reports.numbers import ALPHA, BETA, bounded, decimals_of, listed, power, short


def best_size(results: Results) -> tuple[str, bool] | None:
    """The size of least loss at each budget of equal compute, by a parabola."""
    found = fits(results)
    scaling = found.profiles.get("parabola")
    if scaling is None:
        return None
    middle = float(found.runs["n_params"].median())
    inside = [profile for profile in scaling.profiles if profile.status == "resolved"]
    said = [_inside(inside)] if inside else []
    for end in ("smallest", "largest"):
        past = [p for p in scaling.profiles if p.status == "edge" and (p.end < middle) == (end == "smallest")]
        said += [f"with {listed([power(p.flops) for p in past])} FLOPs at the {end} size tried or past it"] if past else []
    if not said:
        return "Which size is best at equal compute can't be told: losses over the sizes don't curve upwards.", False
    law = f" The best size grows as C^a, a = {_shown(scaling.a)}." if scaling.status == "fitted" else ""
    return f"At equal compute the loss is lowest {', '.join(said)}.{law}", bool(inside)


def _inside(profiles: Sequence[Profile]) -> str:
    return "at " + listed([f"{short(p.n_params)}{size_interval(p)} parameters with {power(p.flops)} FLOPs" for p in profiles])


def surface(results: Results) -> tuple[str, bool] | None:
    """How fast the loss falls with size and with tokens, each at a fixed value of the other."""
    found = fits(results).surface
    if found is None:
        return None
    sure = next((fit for fit in (found.log_huber, found.vpnls) if fit.status == "converged"), None)
    if sure is None:
        states = " and ".join(dict.fromkeys(fit.status for fit in (found.log_huber, found.vpnls)))
        return f"How fast the loss falls with size and with tokens can't be told: the fitted surface carries no claim ({states}).", False
    alpha, beta = (_shown(sure.constants[name]) for name in ("alpha", "beta"))
    falls = f"with parameters as N^-{ALPHA}, {ALPHA} = {alpha}, and with tokens as D^-{BETA}, {BETA} = {beta}"
    return f"The loss over its limit falls {falls}.", True


def _shown(constant: Constant) -> str:
    return bounded(constant.value, constant.low, constant.high, decimals_of((constant.high - constant.low) / 2, 2))
