"""The log-Huber estimate: L-BFGS from many starts in float64, with an honest verdict on whether it converged.

Points go in; the best minimum and what speaks for it come out. An optimiser's own word is not taken: with tolerances that are too
wide for the objective it stops where it began and calls that success (Besiroglu et al. 2024 on the mean instead of the sum).
"""

from dataclasses import dataclass

import numpy as np
from scipy import optimize

from harness.analysis.additive import DELTA, Points, bounds, gone, jacobian, objective, penalty, predicted, residual
from harness.analysis.descent import descend, normal_equations
from harness.analysis.projection import starts

# Exponents of the starts; E and the factors start where they fit best for them.
EXPONENTS = (0.08, 0.2, 0.4, 0.7, 1.2)
AGREEING = 3
# Two answers are one, and an answer has left its start, within and beyond this distance in any of: E over the median loss, the
# logarithms of the terms at the centre of the data, the exponents.
SAME = 0.01
# Of the largest gradient that residuals of this size could have.
SMALL_GRADIENT = 1e-4
LEAST_RESIDUAL = 1e-6


@dataclass(frozen=True)
class Solver:
    """L-BFGS-B's settings. `factor` multiplies the sum over points, since the tolerances are about absolute sizes; 1 / N is the mean."""

    ftol: float = 1e-15
    gtol: float = 1e-12
    factor: float = 1.0
    most_steps: int = 2000


@dataclass(frozen=True, eq=False)
class Descents:
    """(S, K) starts and ends, (S,) objectives at the ends and iterations."""

    starts: np.ndarray
    ends: np.ndarray
    objective: np.ndarray
    iterations: np.ndarray

    @property
    def best(self) -> np.ndarray:
        """The end with the lowest objective."""
        end: np.ndarray = self.ends[int(np.argmin(self.objective))]
        return end


@dataclass(frozen=True)
class Verdict:
    """Whether an estimate is a minimum. `gradient` is relative; `agreeing` of `starts` came to it from elsewhere."""

    converged: bool
    reason: str
    gradient: float
    agreeing: int
    starts: int


def estimate(data: Points) -> tuple[np.ndarray, Verdict]:
    """The log-Huber estimate as a (K,) parameter vector, and whether it converged."""
    grid = np.stack(np.meshgrid(*[EXPONENTS] * data.terms, indexing="ij"), axis=-1).reshape(-1, data.terms)
    found = minimise(data, starts(data, grid))
    # L-BFGS ends where rounding hides the slope from its line search; reweighting finds the last digits.
    last = descend(found.best[None], data, data.weights[None], "log-huber", tolerance=1e-14, most_steps=1000)
    theta: np.ndarray = last.theta[0]
    return theta, verdict(theta, found, data)


def minimise(data: Points, starts_SK: np.ndarray, solver: Solver | None = None) -> Descents:
    """L-BFGS-B from each start, with the analytic gradient, in the box of possible parameters."""
    solver = solver or Solver()
    low, high = bounds(data)
    options = {"maxiter": solver.most_steps, "maxfun": 4 * solver.most_steps, "ftol": solver.ftol, "gtol": solver.gtol}

    def value(theta: np.ndarray) -> tuple[float, np.ndarray]:
        fitted_1N, J_1KN = jacobian(theta[None], data.x)
        r_1N = residual(fitted_1N, data.y[None], "log-huber")
        gradient = J_1KN[0] @ (data.weights * np.clip(r_1N[0], -DELTA, DELTA) / fitted_1N[0])
        return solver.factor * float(penalty(r_1N, data.weights[None], "log-huber")[0]), solver.factor * gradient

    begun = np.clip(starts_SK, low, high)
    ends = [
        optimize.minimize(value, start, jac=True, method="L-BFGS-B", bounds=optimize.Bounds(low, high), options=options) for start in begun
    ]
    theta = np.array([end.x for end in ends])
    return Descents(begun, theta, objective(theta, data, "log-huber"), np.array([end.nit for end in ends]))


def verdict(theta: np.ndarray, found: Descents, data: Points) -> Verdict:
    """Converged is: a small gradient at theta, several starts that ended there, and those not where they began."""
    gradient = relative_gradient(theta, data)
    there = _distance(found.ends, theta[None], data) < SAME
    left = _distance(found.starts, found.ends, data) > SAME
    n, stayed, agreeing = len(there), int((~left).sum()), int((there & left).sum())
    if gradient > SMALL_GRADIENT:
        still = f", and {stayed} of {n} starts ended where they began" if stayed else ""
        return Verdict(False, f"not converged: the gradient is {gradient:.1e} of its largest{still}", gradient, agreeing, n)
    needed = min(AGREEING, n)
    if agreeing < needed:
        why = f"not converged: {agreeing} of {n} starts came to the best answer from elsewhere, {needed} are needed"
        return Verdict(False, why, gradient, agreeing, n)
    return Verdict(True, f"{agreeing} of {n} starts agree, relative gradient {gradient:.0e}", gradient, agreeing, n)


def _distance(first: np.ndarray, second: np.ndarray, data: Points) -> np.ndarray:
    """(R,) the largest difference in any parameter, but for those of terms that have gone from both."""
    away = np.abs(first - second)
    both = gone(first, data) & gone(second, data)
    away[:, 1:] = np.where(np.concatenate([both, both], axis=1), 0.0, away[:, 1:])
    largest: np.ndarray = away.max(axis=1)
    return largest


def relative_gradient(theta: np.ndarray, data: Points) -> float:
    """The largest component of the gradient over what it would be if all residuals pulled one way; 0 where a bound holds it."""
    gradient, gram = normal_equations(theta[None], data, data.weights[None], data.y[None], "log-huber")
    low, high = bounds(data)
    held = ~data.free | ((theta <= low) & (gradient[0] > 0)) | ((theta >= high) & (gradient[0] < 0))
    r = residual(predicted(theta[None], data.x), data.y[None], "log-huber")
    # By Cauchy and Schwarz no gradient is over the root of its curvature times this.
    pull = np.sqrt(2 * penalty(np.maximum(np.abs(r), LEAST_RESIDUAL), data.weights[None], "log-huber")[0])
    return float(np.max(np.where(held, 0.0, np.abs(gradient[0]) / (np.sqrt(np.einsum("kk->k", gram[0])) * pull + 1e-300))))
