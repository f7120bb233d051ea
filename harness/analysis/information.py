"""How well runs at given places pin a law down, to first order, and which further runs would tell most for their cost.

A law, the places of runs and the noise over seeds go in; half widths of intervals come out, by the law's Fisher information. First order
holds as long as the widths are small, and is the least that an estimator can reach: VPNLS comes close, log-Huber is up to 1.25 times as
wide (sqrt(pi / 2), as a median is against a mean). Tests hold it against studies that are simulated and fitted.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats

from harness.analysis.additive import Law, Points, jacobian, law, points, theta_of

# Below this share of its present width a narrowing is not worth a run.
LEAST_NARROWING = 0.02
STEP = 1e-5
SINGULAR = 1e-14

Quantity = Callable[[Law], float]


@dataclass(frozen=True, eq=False)
class Knowledge:
    """What runs say of a law. `noise`: standard deviation of log loss over seeds. `information`: (K, K), in the units of `frame`."""

    law: Law
    noise: float
    frame: Points
    information: np.ndarray

    def rows(self, places_Nk: np.ndarray) -> np.ndarray:
        """(N, K) derivatives of the log loss at these places, in units of its noise."""
        x = np.log(np.asarray(places_Nk, float)) - self.frame.centre
        loss_1N, J_1KN = jacobian(theta_of(self.law, self.frame)[None], x)
        rows_NK: np.ndarray = J_1KN[0].T / (loss_1N[0][:, None] * self.noise)
        return rows_NK

    def after(self, places_Nk: np.ndarray) -> "Knowledge":
        """With further runs at these places."""
        more = self.rows(places_Nk)
        return replace(self, information=self.information + more.T @ more)

    @property
    def covariance(self) -> np.ndarray:
        """(K, K) of the constants; infinite where the runs can't tell them apart."""
        size = np.sqrt(np.diag(self.information))
        scaled = self.information / np.outer(size, size)
        if np.linalg.eigvalsh(scaled)[0] < SINGULAR:
            return np.full_like(scaled, np.inf)
        found: np.ndarray = np.linalg.inv(scaled) / np.outer(size, size)
        return found

    def gradient(self, of: Quantity) -> np.ndarray:
        """(K,) derivatives of a quantity by the constants."""
        theta = theta_of(self.law, self.frame)
        steps = STEP * np.eye(theta.size)
        found = [(of(law(theta + step, self.frame)) - of(law(theta - step, self.frame))) / (2 * STEP) for step in steps]
        return np.array(found)

    def half_width(self, of: Quantity, level: float = 0.95) -> float:
        """Half the interval of a quantity."""
        slope = self.gradient(of)
        variance = float(slope @ self.covariance @ slope) if np.isfinite(self.covariance).all() else np.inf
        return float(stats.norm.ppf((1 + level) / 2) * np.sqrt(variance))


def knowledge(given: Law, places_Nk: np.ndarray, noise: float) -> Knowledge:
    """What runs at these places say of the law, whatever their losses."""
    places = np.asarray(places_Nk, float)
    frame = points(places, given.loss(*places.T))
    nothing = Knowledge(given, noise, frame, np.zeros((1 + 2 * frame.terms,) * 2))
    return nothing.after(places)


def alpha(given: Law) -> float:
    """The exponent of size."""
    return given.exponents[0]


def narrowing(known: Knowledge, of: Quantity, places_Nk: np.ndarray, seeds: int = 1) -> np.ndarray:
    """(N,) shares by which a further run at each place, with so many seeds, would narrow a quantity's interval.

    In closed form, since the information of such runs has rank one (Sherman and Morrison 1950).
    """
    slope, C, rows = known.gradient(of), known.covariance, known.rows(places_Nk)
    if not np.isfinite(C).all():
        return np.full(len(rows), np.nan)
    seen = rows @ C @ slope
    left = 1 - seen**2 / ((1 / seeds + np.einsum("nk,kl,nl->n", rows, C, rows)) * float(slope @ C @ slope))
    shares: np.ndarray = 1 - np.sqrt(np.maximum(left, 0.0))
    return shares


def next_runs(known: Knowledge, of: Quantity, candidates: pd.DataFrame, count: int = 4, seeds: int = 1) -> pd.DataFrame:
    """The runs to add, one after the other: each time the one that narrows the interval most for its cost, given those before it.

    Args:
        candidates: a column for each variable of the law, in its order, then `cost`; others are kept. A run may be chosen again.
        seeds: how many runs are made at a place at once; `cost` is of all of them.

    Returns:
        The chosen rows with `narrowing` (of this run, given those before) and `left`: what share of today's width is left with it.
    """
    places = candidates.iloc[:, : known.frame.terms].to_numpy(float)
    chosen, left = [], 1.0
    for _ in range(count if len(candidates) else 0):
        shares = narrowing(known, of, places, seeds)
        worth = np.where(shares >= LEAST_NARROWING, -np.log1p(-np.clip(shares, 0, 1 - 1e-12)) / candidates["cost"].to_numpy(float), -np.inf)
        best = int(np.argmax(worth))
        if not np.isfinite(worth[best]):
            break
        left *= 1 - shares[best]
        known = known.after(np.repeat(places[best][None], seeds, axis=0))
        chosen.append(candidates.iloc[best].to_dict() | {"narrowing": float(shares[best]), "left": left})
    return pd.DataFrame(chosen, columns=[*candidates.columns, "narrowing", "left"])
