"""Damped Gauss-Newton for many fits of one law at once: bootstrap replicates, simulated studies, the last digits of an estimate.

Starts, points and weights go in, local minima come out. Log-Huber is minimised by reweighting: each residual beyond delta counts as
a square of weight delta / |r|, whose gradient is Huber's own, so that a fixed point is a stationary point of the objective.
"""

from dataclasses import dataclass

import numpy as np

from harness.analysis.additive import DELTA, TINY, Form, Points, bounds, jacobian, penalty, predicted, residual

# Values a block holds at once, so that its arrays stay in the cache.
BLOCK = 250_000
LONGEST_STEP = 1.0
STUCK = 1e10


@dataclass(frozen=True, eq=False)
class Minima:
    """(R, K) parameters, (R,) objectives, and whether each descent ended at a stationary point rather than at its last step."""

    theta: np.ndarray
    objective: np.ndarray
    ended: np.ndarray


def descend(
    theta_RK: np.ndarray,
    data: Points,
    weights_RN: np.ndarray,
    form: Form,
    y_RN: np.ndarray | None = None,
    tolerance: float = 1e-9,
    most_steps: int = 200,
) -> Minima:
    """Local minima from R starts, each with its own weights, and its own losses where `y_RN` is given (in scaled units)."""
    block = max(1, BLOCK // (data.n * theta_RK.shape[1]))
    parts = []
    for first in range(0, len(theta_RK), block):
        rows = slice(first, first + block)
        y = np.broadcast_to(data.y, weights_RN[rows].shape) if y_RN is None else y_RN[rows]
        parts.append(_descend(theta_RK[rows], data, weights_RN[rows], y, form, tolerance, most_steps))
    return Minima(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("theta", "objective", "ended")))


def _descend(
    start_RK: np.ndarray, data: Points, w_RN: np.ndarray, y_RN: np.ndarray, form: Form, tolerance: float, most_steps: int
) -> Minima:
    low, high = bounds(data)
    theta = np.clip(start_RK, low, high)
    value = penalty(residual(predicted(theta, data.x), y_RN, form), w_RN, form)
    damping, ended, calm = np.full(len(theta), 1e-3), np.zeros(len(theta), bool), np.zeros(len(theta), int)
    for _ in range(most_steps):
        i = np.flatnonzero(~ended)
        if not i.size:
            break
        step = _step(theta[i], data, w_RN[i], y_RN[i], form, damping[i], low, high)
        tried = np.clip(theta[i] + step, low, high)
        found = penalty(residual(predicted(tried, data.x), y_RN[i], form), w_RN[i], form)
        better = found < value[i]
        # Without noise the objective falls to the last bit, so a fall is also judged against what a double holds.
        small = (value[i] - found <= tolerance * value[i]) & (np.abs(tried - theta[i]).max(axis=1) < np.sqrt(tolerance))
        calm[i] = np.where(small, calm[i] + 1, 0)
        ended[i] = (calm[i] >= 3) | (damping[i] > STUCK)
        theta[i[better]], value[i[better]] = tried[better], found[better]
        damping[i] = np.where(better, damping[i] / 5, damping[i] * 4)
    return Minima(theta, value, ended)


def _step(
    theta: np.ndarray, data: Points, w_RN: np.ndarray, y_RN: np.ndarray, form: Form, damping: np.ndarray, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    gradient, gram = normal_equations(theta, data, w_RN, y_RN, form)
    held = (~data.free) | ((theta <= low) & (gradient > 0)) | ((theta >= high) & (gradient < 0))
    gradient = np.where(held, 0.0, gradient)
    gram = np.where(held[:, :, None] | held[:, None, :], 0.0, gram)
    diagonal = np.einsum("rkk->rk", gram)
    diagonal[...] = np.where(held, 1.0, diagonal * (1 + damping[:, None]) + 1e-14 * diagonal.max(axis=1, keepdims=True) + TINY)
    step: np.ndarray = -np.linalg.solve(gram, gradient[:, :, None])[:, :, 0]
    clipped: np.ndarray = np.clip(step, -LONGEST_STEP, LONGEST_STEP)
    return clipped


def normal_equations(theta_RK: np.ndarray, data: Points, w_RN: np.ndarray, y_RN: np.ndarray, form: Form) -> tuple[np.ndarray, np.ndarray]:
    """(R, K) gradients of the objective, and (R, K, K) Gauss-Newton approximations of its curvature."""
    fitted, J_RKN = jacobian(theta_RK, data.x)
    r_RN, v_RN = residual(fitted, y_RN, form), w_RN
    if form == "log-huber":
        J_RKN /= fitted[:, None, :]
        v_RN = w_RN * (DELTA / np.maximum(np.abs(r_RN), DELTA))
    gradient: np.ndarray = (J_RKN @ (v_RN * r_RN)[:, :, None])[:, :, 0]
    return gradient, (J_RKN * v_RN[:, None, :]) @ J_RKN.transpose(0, 2, 1)
