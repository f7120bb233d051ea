"""Additive power laws, L = E + A x^-p with one variable or E + A N^-alpha + B D^-beta with two, for many parameter vectors at once.

Runs go in as `Points`, centred and scaled so that no fit depends on units; parameters leave as `Law`s in the units of the data.
A parameter vector theta is (E, ln A_1 .. ln A_k, p_1 .. p_k) in the scaled units. Axes: R parameter vectors, N points, K parameters.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Form = Literal["squared", "log-huber"]

# Hoffmann et al. 2022: the log residual at which Huber's loss turns from quadratic to linear.
DELTA = 1e-3
LEAST_EXPONENT, MOST_EXPONENT = 0.01, 3.0
LEAST_LOG, MOST_LOG = -30.0, 10.0
# A term that is nowhere over e^-12 of the median loss, less than any measurement shows, has gone.
GONE = -12.0
TINY = 1e-300


@dataclass(frozen=True, eq=False)
class Points:
    """Runs as a fit sees them.

    `x`: (N, k) natural logarithms of the variables about `centre`. `y`: (N,) losses over `scale`. `weights`: (N,) with mean 1.
    `run`: (N,) numbers from 0, equal for points of one run. `irreducible`: a fixed E over `scale`, or None where it is free.
    """

    x: np.ndarray
    y: np.ndarray
    weights: np.ndarray
    run: np.ndarray
    centre: np.ndarray
    scale: float
    irreducible: float | None = None

    @property
    def n(self) -> int:
        """The number of points."""
        return self.y.size

    @property
    def terms(self) -> int:
        """The number of variables."""
        return int(self.x.shape[1])

    @property
    def free(self) -> np.ndarray:
        """Which parameters are free: all, but for a fixed E."""
        return np.array([self.irreducible is None] + [True] * (2 * self.terms))

    def of_rows(self, keep: np.ndarray) -> "Points":
        """Some of the points, in the same units."""
        run = np.unique(self.run[keep], return_inverse=True)[1]
        return Points(self.x[keep], self.y[keep], self.weights[keep], run, self.centre, self.scale, self.irreducible)


@dataclass(frozen=True)
class Law:
    """The constants of one law in the units of the data; `factors` and `exponents` are in the order of the variables."""

    E: float
    factors: tuple[float, ...]
    exponents: tuple[float, ...]

    def loss(self, *variables: np.ndarray | float) -> np.ndarray:
        """The loss at these values of the variables."""
        terms = [A * np.asarray(x, float) ** -p for A, p, x in zip(self.factors, self.exponents, variables, strict=True)]
        return np.asarray(self.E + sum(terms), float)


def points(
    variables: np.ndarray,
    loss: np.ndarray,
    sigma: np.ndarray | None = None,
    run: np.ndarray | None = None,
    irreducible: float | None = None,
) -> Points:
    """Runs as a fit sees them.

    Args:
        variables: (N, k), positive. loss: (N,), positive.
        sigma: standard deviation of each loss; weights are 1 / sigma^2. None weighs all alike.
        run: what names a point's run; None makes every point a run.
        irreducible: a fixed E in the units of the loss; None leaves it free.
    """
    values, y = np.asarray(variables, float).reshape(len(loss), -1), np.asarray(loss, float)
    assert np.isfinite(values).all() and (values > 0).all() and np.isfinite(y).all() and (y > 0).all(), "rows are to be checked first"
    logs, scale = np.log(values), float(np.median(y))
    centre = logs.mean(axis=0)
    weights = np.ones(y.size) if sigma is None else np.asarray(sigma, float) ** -2
    groups = np.arange(y.size) if run is None else np.unique(np.asarray(run), return_inverse=True)[1]
    fixed = None if irreducible is None else irreducible / scale
    return Points(logs - centre, y / scale, weights / weights.mean(), groups, centre, scale, fixed)


def law(theta: np.ndarray, data: Points) -> Law:
    """A parameter vector in the units of the data."""
    E, logs, exponents = theta[0], theta[1 : 1 + data.terms], theta[1 + data.terms :]
    factors = data.scale * np.exp(logs + exponents * data.centre)
    return Law(float(E * data.scale), tuple(map(float, factors)), tuple(map(float, exponents)))


def theta_of(given: Law, data: Points) -> np.ndarray:
    """A law as a parameter vector in the units of the points."""
    exponents = np.array(given.exponents)
    return np.concatenate([[given.E / data.scale], np.log(given.factors) - np.log(data.scale) - exponents * data.centre, exponents])


def constants(theta_RK: np.ndarray, data: Points) -> np.ndarray:
    """Parameter vectors in the units of the data, with A itself in place of its logarithm; infinite where it overflows."""
    k = data.terms
    exponents = theta_RK[:, 1 + k :]
    with np.errstate(over="ignore"):
        factors = data.scale * np.exp(theta_RK[:, 1 : 1 + k] + exponents * data.centre)
    return np.concatenate([theta_RK[:, :1] * data.scale, factors, exponents], axis=1)


def bounds(data: Points) -> tuple[np.ndarray, np.ndarray]:
    """The box in which parameters are searched: E between 0 and the lowest loss, exponents between LEAST_ and MOST_EXPONENT."""
    k = data.terms
    low = np.array([0.0] + [LEAST_LOG] * k + [LEAST_EXPONENT] * k)
    high = np.array([float(data.y.min())] + [MOST_LOG] * k + [MOST_EXPONENT] * k)
    if data.irreducible is not None:
        low[0] = high[0] = data.irreducible
    return low, high


def predicted(theta_RK: np.ndarray, x_Nk: np.ndarray) -> np.ndarray:
    """(R, N) losses in scaled units."""
    k = x_Nk.shape[1]
    y_RN: np.ndarray = np.repeat(theta_RK[:, :1], len(x_Nk), axis=1)
    for j in range(k):
        y_RN += np.exp(theta_RK[:, 1 + j, None] - theta_RK[:, 1 + k + j, None] * x_Nk[:, j])
    return y_RN


def jacobian(theta_RK: np.ndarray, x_Nk: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(R, N) losses and their (R, K, N) derivatives by theta."""
    k = x_Nk.shape[1]
    J_RKN = np.ones((len(theta_RK), 1 + 2 * k, len(x_Nk)))
    for j in range(k):
        term_RN = np.exp(theta_RK[:, 1 + j, None] - theta_RK[:, 1 + k + j, None] * x_Nk[:, j])
        J_RKN[:, 1 + j] = term_RN
        J_RKN[:, 1 + k + j] = -x_Nk[:, j] * term_RN
    return theta_RK[:, :1] + J_RKN[:, 1 : 1 + k].sum(axis=1), J_RKN


def gone(theta_RK: np.ndarray, data: Points) -> np.ndarray:
    """(R, k) whether each term is nowhere large enough to see; its exponent then means nothing."""
    k = data.terms
    largest = np.stack([-theta_RK[:, 1 + k + j, None] * data.x[:, j] for j in range(k)], axis=1).max(axis=2)
    too_small: np.ndarray = theta_RK[:, 1 : 1 + k] + largest < GONE
    return too_small


def residual(fitted_RN: np.ndarray, y_RN: np.ndarray, form: Form) -> np.ndarray:
    """What a loss form penalises: differences of losses, or of their logarithms."""
    left: np.ndarray = fitted_RN - y_RN if form == "squared" else np.log(np.maximum(fitted_RN, TINY) / y_RN)
    return left


def penalty(residual_RN: np.ndarray, weights_RN: np.ndarray, form: Form) -> np.ndarray:
    """(R,) the objective: half the weighted sum of squares, or the weighted sum (not mean) of Huber's loss."""
    if form == "squared":
        each = 0.5 * residual_RN**2
    else:
        size = np.abs(residual_RN)
        each = np.where(size <= DELTA, 0.5 * residual_RN**2, DELTA * (size - 0.5 * DELTA))
    total: np.ndarray = (weights_RN * each).sum(axis=-1)
    return total


def objective(theta_RK: np.ndarray, data: Points, form: Form) -> np.ndarray:
    """(R,) the objective of each parameter vector on the data; squared errors are in units of `scale`."""
    return penalty(residual(predicted(theta_RK, data.x), data.y[None], form), data.weights[None], form)
