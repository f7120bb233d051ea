"""One fit of an additive power law: estimate, intervals by bootstrap over runs, and a status that says whether to believe it.

Points go in, a `Fit` comes out. Two estimators stand side by side: log-Huber, which few outliers can't pull, and VPNLS (variable
projection, squared error). Without noise they are equal; with noise each should lie in the other's interval.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from harness.analysis import bootstrap, log_huber
from harness.analysis.additive import (
    LEAST_EXPONENT,
    MOST_EXPONENT,
    Form,
    Law,
    Points,
    bounds,
    constants,
    gone,
    law,
    objective,
    predicted,
    residual,
)
from harness.analysis.bootstrap import Shared
from harness.analysis.condition import WORST_CONDITION, condition_number
from harness.analysis.descent import descend
from harness.analysis.projection import project

Estimator = Literal["log-Huber", "VPNLS"]
Status = Literal["converged", "not converged", "at a bound", "not identified", "too few"]

FORMS: dict[Estimator, Form] = {"log-Huber": "log-huber", "VPNLS": "squared"}
EXPONENT_NAMES = {1: ("alpha",), 2: ("alpha", "beta")}
FACTOR_NAMES = {1: ("A",), 2: ("A", "B")}
# A term needs as many different values of its variable as it has shape: factor and exponent, and E beside them.
LEAST_VALUES = 3
# Nodes for each exponent in a replicate's grid: enough to start in the right valley.
COARSE = 10
NAN = float("nan")


@dataclass(frozen=True)
class Constant:
    """A fitted number with its percentile interval; NaN where there is none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Prediction:
    """A loss that the law expects, with the interval in which a further run should end."""

    loss: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Fit:
    """E, A, alpha (and B, beta) of one law. Where `status` is `not identified` or `too few`, all numbers are NaN.

    `objective`: the sum of Huber's loss of log residuals, or half the sum of squared residuals, each weighted (weights have mean 1).
    `n`: points; `n_runs`: runs, over which the bootstrap draws; `failed_draws`: replicates that did not settle.
    """

    estimator: Estimator
    status: Status
    reason: str
    constants: dict[str, Constant]
    objective: float
    condition: float
    n: int
    n_runs: int
    level: float
    draws: int
    failed_draws: int
    data: Points = field(repr=False)
    theta: np.ndarray = field(repr=False)
    replicates: np.ndarray = field(repr=False)

    @property
    def is_usable(self) -> bool:
        """Whether there are numbers to look at; only `converged` ones should carry a claim."""
        return bool(self.theta.size)

    @property
    def law(self) -> Law:
        """The estimate as a law."""
        return law(self.theta, self.data) if self.is_usable else law(np.full(1 + 2 * self.data.terms, NAN), self.data)

    @property
    def laws(self) -> list[Law]:
        """The replicates as laws: what else the estimate might have been."""
        return [law(theta, self.data) for theta in self.replicates]

    def predict(self, *variables: float, runs: int = 1, seed: int = 0, excess: float = 0.0) -> Prediction:
        """The mean loss of so many further runs at these values, with both the law's uncertainty and the runs' scatter.

        Args:
            excess: root of the mean square of one that those runs share (`bootstrap.Shared`), in the loss's units.
        """
        if not self.is_usable:
            return Prediction(NAN, NAN, NAN)
        x = (np.log(np.array([variables], float)) - self.data.centre).reshape(1, -1)
        expected = float(predicted(self.theta[None], x)[0, 0]) * self.data.scale
        rng, scatter = np.random.default_rng([seed, 2]), self.scatter
        noise = rng.choice(scatter, size=(len(self.replicates), runs)).mean(axis=1)
        drawn = predicted(self.replicates, x)[:, 0] * self.data.scale * np.exp(noise)
        drawn = drawn + excess / np.sqrt(3) * rng.normal(size=len(drawn)) ** 2
        low, high = _percentiles(drawn[:, None], self.level)
        return Prediction(expected, float(low[0]), float(high[0]))

    @property
    def scatter(self) -> np.ndarray:
        """Log residuals, widened for the parameters that were fitted to them."""
        free = int(self.data.free.sum())
        r = -residual(predicted(self.theta[None], self.data.x), self.data.y[None], "log-huber")[0]
        widened: np.ndarray = (r - r.mean()) * np.sqrt(self.data.n / max(self.data.n - free, 1))
        return widened


def fit(
    data: Points,
    estimator: Estimator,
    n_draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    shared: Shared | None = None,
) -> Fit:
    """Fit the law by one estimator.

    Args:
        n_draws: bootstrap replicates over runs; 0 for none, then the bounds are NaN.
        shared: an excess of the losses that points of one group share, such as that of a learning rate which isn't quite the best.
    """
    lacking = _too_few(data)
    if lacking:
        return _without(data, estimator, "too few", lacking, NAN, level)
    form = FORMS[estimator]
    condition = condition_number(np.exp(data.x + data.centre), free_irreducible=data.irreducible is None)
    if condition > WORST_CONDITION:
        return _without(data, estimator, "not identified", _unidentified(condition), condition, level)
    theta, status, reason = _estimate(data, estimator)
    if status == "converged":
        condition = max(condition, condition_number(np.exp(data.x + data.centre), law(theta, data).exponents, data.irreducible is None))
        if condition > WORST_CONDITION:
            return _without(data, estimator, "not identified", f"at the fitted exponents, {_unidentified(condition)}", condition, level)
    drawn, failed = _bootstrap(theta, data, form, n_draws, seed, shared)
    value = float(objective(theta[None], data, form)[0]) * (data.scale * data.scale if form == "squared" else 1.0)
    runs = int(data.run.max()) + 1
    found = _named(theta, drawn, data, level)
    return Fit(estimator, status, reason, found, value, condition, data.n, runs, level, n_draws, failed, data, theta, drawn)


def _estimate(data: Points, estimator: Estimator) -> tuple[np.ndarray, Status, str]:
    if estimator == "log-Huber":
        theta, verdict = log_huber.estimate(data)
        converged, reason = verdict.converged, verdict.reason
    else:
        found = descend(project(data, data.weights[None]), data, data.weights[None], "squared", tolerance=1e-14)
        theta, converged = found.theta[0], bool(found.ended[0])
        reason = "the best node of the grid, refined" if converged else "not converged: the last digits still moved"
    # Past a bound a descent may creep for ever, squared error along the bound itself; what matters is then the bound.
    bound = _bound(theta, data) if converged or estimator == "VPNLS" else ""
    if bound:
        return theta, "at a bound", bound
    return theta, "converged" if converged else "not converged", reason


def _bound(theta: np.ndarray, data: Points) -> str:
    """What says that the data want a law outside the box."""
    k, vanished = data.terms, gone(theta[None], data)[0]
    found = []
    if data.irreducible is None and theta[0] <= 0:
        found.append("E is 0: a law without an irreducible loss fits as well")
    for j, (factor, exponent) in enumerate(zip(FACTOR_NAMES[k], EXPONENT_NAMES[k], strict=True)):
        if vanished[j]:
            found.append(f"{factor} is 0: the loss does not fall with this variable")
        elif theta[1 + k + j] <= LEAST_EXPONENT or theta[1 + k + j] >= MOST_EXPONENT:
            found.append(f"{exponent} is at the end of its range, {theta[1 + k + j]:g}")
    return "; ".join(found)


def _bootstrap(theta: np.ndarray, data: Points, form: Form, n_draws: int, seed: int, shared: Shared | None) -> tuple[np.ndarray, int]:
    """(R, K) replicates of the estimate, calibrated, within the box, and how many did not settle."""
    if not n_draws:
        return np.empty((0, theta.size)), 0
    w, y = bootstrap.replicates(data, n_draws, seed), bootstrap.shaken(data, shared, n_draws, seed)
    # Squared error is searched over a grid again; log-Huber, whose minima agree from many starts, from the estimate on.
    start = project(data, w, y, COARSE) if form == "squared" else np.repeat(theta[None], n_draws, axis=0)
    found = descend(start, data, w, form, y)
    low, high = bounds(data)
    return np.clip(bootstrap.calibrated(theta, found.theta, data, form), low, high), int((~found.ended).sum())


def _named(theta: np.ndarray, drawn: np.ndarray, data: Points, level: float) -> dict[str, Constant]:
    names = ("E", *FACTOR_NAMES[data.terms], *EXPONENT_NAMES[data.terms])
    values = constants(theta[None], data)[0]
    low, high = _percentiles(constants(drawn, data), level) if len(drawn) else (np.full(values.size, NAN),) * 2
    return {n: Constant(float(v), float(a), float(b)) for n, v, a, b in zip(names, values, low, high, strict=True)}


def _percentiles(drawn: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def _too_few(data: Points) -> str:
    free = int(data.free.sum())
    places = len(np.unique(data.x.round(9), axis=0))
    values = [len(np.unique(data.x[:, j].round(9))) for j in range(data.terms)]
    needed = LEAST_VALUES if data.irreducible is None else LEAST_VALUES - 1
    if min(values) < needed:
        which = int(np.argmin(values))
        return f"{EXPONENT_NAMES[data.terms][which]} needs {needed} different values of its variable; there are {values[which]}"
    if places <= free:
        return f"{free} constants need more than {free} different points; there are {places}"
    return ""


def _unidentified(condition: float) -> str:
    return (
        f"condition number {condition:.1e}, over {WORST_CONDITION:.0e}: the runs can't tell the constants from each other; "
        "add runs at other ratios of the variables"
    )


def _without(data: Points, estimator: Estimator, status: Status, reason: str, condition: float, level: float) -> Fit:
    names = ("E", *FACTOR_NAMES[data.terms], *EXPONENT_NAMES[data.terms])
    nothing = dict.fromkeys(names, Constant(NAN, NAN, NAN))
    runs, none = len(np.unique(data.run)), np.empty(0)
    return Fit(estimator, status, reason, nothing, NAN, condition, data.n, runs, level, 0, 0, data, none, none)
