"""The minimum of a noisy bowl near its best points, with the uncertainty of where it lies.

Points (x, y) go in, a local curve and draws of its lowest point come out. The curve is a quadratic with a third- and a fourth-order term
that are shrunk to zero: bowls of loss over log learning rate are steeper towards divergence and level off where nothing is learned, and a
plain quadratic there gave intervals of 95 % that held the truth in 15 to 70 % of simulated searches (docs/log.md has this one's).
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

# The widest window takes points within this many nats of the best; narrower ones this many times the noise. Wider biases the
# minimum of an asymmetric bowl, narrower leaves it undetermined.
WINDOW_NATS = 0.25
WIDEST_NATS = 1.0
WINDOW_NOISE = 15.0
MIN_POINTS = 6
NARROWINGS = 2
UNDETERMINED = 0.4
# Prior standard deviation of the asymmetry: third-order over second-order coefficient, per unit of x (a factor e in rate).
ASYMMETRY = 0.25
# The same for the fourth-order term, per unit of x squared.
FOURTH = 0.04
# A noise that was stated, not measured, is taken to be known as from so many degrees of freedom.
STATED_DOF = 12.0
HUBER = 2.0
TINY = 1e-9
# The least noise that the shrinking assumes, as a share of the height of the window.
SHARPEST = 1e-4
NEWTON_STEPS = 8
LONGEST_STEP = 0.5


@dataclass(frozen=True)
class _Rough:
    """What a first cubic says: how far points scatter about it, which of them to trust, and how strongly it bends."""

    noise: float
    dof: float
    weights: np.ndarray
    curvature: float


@dataclass(frozen=True)
class _Fit:
    coefficients: np.ndarray
    # Columns: how the coefficients move with each loss.
    response: np.ndarray
    # Rows: how they move with each prior's pseudo-observation (in its own standard deviations).
    prior_responses: np.ndarray


@dataclass(frozen=True, eq=False)
class Bowl:
    """A quartic in (x - centre) / scale over the window [low, high]; `vertex` is its local minimum, or an infinity downhill."""

    coefficients: np.ndarray
    centre: float
    scale: float
    low: float
    high: float
    n: int
    window: float
    noise: float
    dof: float
    vertex: float
    draws: np.ndarray

    def at(self, x: float) -> float:
        """The fitted y at x; only meaningful near the window."""
        return float(np.polynomial.polynomial.polyval((x - self.centre) / self.scale, self.coefficients))

    @property
    def noise_bound(self) -> float:
        """What the noise stays below with 95 % confidence, given how few points it was measured from."""
        return self.noise * float(np.sqrt(self.dof / stats.chi2.ppf(0.05, self.dof)))

    @property
    def share(self) -> float:
        """The 95 % interval of the minimum over the window's width: 1 or more when the window says nothing."""
        width = max(self.high - self.low, TINY)
        low, high = self.interval(0.95, self.low - width, self.high + width)
        return (high - low) / width

    def interval(self, level: float, low: float, high: float) -> tuple[float, float]:
        """Bounds of the minimum, with draws outside [low, high] counted at that end."""
        tail = (1 - level) / 2
        found = np.quantile(np.clip(self.draws, low, high), [tail, 1 - tail])
        return float(found[0]), float(found[1])


def fit_bowl(x: np.ndarray, y: np.ndarray, seed: int = 0, noise: float = 0.0, noise_dof: float = STATED_DOF, n_draws: int = 2000) -> Bowl:
    """Fit the bowl around the lowest points, and draw minima by a parametric bootstrap.

    Args:
        x, y: at least five points with four different x, sorted by x.
        noise: the standard deviation of y over seeds, of which the points, having one seed, show a part only: the larger one holds.
        noise_dof: the degrees of freedom from which that is known, in place of the few that the points leave.
    """
    given = (noise, noise_dof)
    bowl = _local(x, y, WINDOW_NATS, None, seed, given, n_draws)
    for points in range(bowl.n + 1, int((y <= y.min() + WIDEST_NATS).sum()) + 1):
        # Points that huddle at the bottom, or on one side, don't show the bowl; the next ones up its sides do.
        if bowl.share <= UNDETERMINED:
            break
        higher = _local(x, y, WINDOW_NATS, None, seed, given, n_draws, points)
        # The higher up, the less a bowl is like the curve: the window that says most is kept.
        bowl = min(bowl, higher, key=lambda one: one.share)
    for _ in range(NARROWINGS):
        window = WINDOW_NOISE * bowl.noise
        if bowl.n <= MIN_POINTS or window >= bowl.window:
            break
        narrower = _local(x, y, window, bowl, seed, given, n_draws)
        # Narrowing buys less bias with a wider interval; not beyond the point where the window can't hold the interval.
        if narrower.share > UNDETERMINED:
            break
        bowl = narrower
    return bowl


def _local(
    x: np.ndarray,
    y: np.ndarray,
    window: float,
    wider: Bowl | None,
    seed: int,
    given: tuple[float, float],
    n_draws: int,
    points: int = MIN_POINTS,
) -> Bowl:
    near = _near(x, y, window, points)
    centre = float(x[near][np.argmin(y[near])])
    scale = max(float(np.abs(x[near] - centre).max()), TINY)
    u = (x[near] - centre) / scale
    rough = _rough(u, y[near], ASYMMETRY * scale)
    # The noise is the least over the windows: a wide one holds misfit, and the narrowest alone was picked for seeming noisy.
    least, dof = (rough.noise, rough.dof) if wider is None or rough.noise < wider.noise else (wider.noise, wider.dof)
    # The larger one holds; that it lies above the other makes it less uncertain than few points alone would. Where the points are
    # noisier than was said, the least of two windows is too little by having been picked: what both show is taken.
    both = least if wider is None else float(np.sqrt((rough.dof * rough.noise**2 + wider.dof * wider.noise**2) / (rough.dof + wider.dof)))
    noise, noise_dof = given
    sd, known = given if noise > least else (both, dof + noise_dof * (noise / both) ** 2)
    fit = _fit(u, y[near], rough, sd, scale)
    drawn = _draw(fit, sd, known, np.random.default_rng(seed), n_draws)
    minima, vertex = centre + scale * _minimum(drawn), float(centre + scale * _minimum(fit.coefficients))
    low, high = float(x[near].min()), float(x[near].max())
    return Bowl(fit.coefficients, centre, scale, low, high, near.size, window, least, dof, vertex, minima)


def shape_p_value(x: np.ndarray, y: np.ndarray) -> float:
    """How often pure noise looks as curved or tilted as this: the F test of a quadratic against a constant."""
    u = (x - x.mean()) / max(float(np.ptp(x)), TINY)
    X = np.vander(u, 3)
    residual = y - X @ np.linalg.lstsq(X, y, rcond=None)[0]
    left, whole, dof = float(residual @ residual), float(((y - y.mean()) ** 2).sum()), y.size - 3
    if whole <= y.size * TINY**2:
        return 1.0
    return float(stats.f.sf((whole - left) / 2 / max(left / dof, TINY**2), 2, dof))


def valley_p_value(y: np.ndarray, seed: int = 0, n_permutations: int = 4000) -> float:
    """How often values that don't depend on their order fall and then rise as well as these do.

    The umbrella test with unknown peak (Mack and Wolfe, 1981), by permutation: only the order of the values counts, so that it
    holds for bowls of any shape, a cliff included (infinite values are the highest). A series that only falls is a valley too.
    """
    rng = np.random.default_rng(seed)
    shuffled = rng.permuted(np.tile(y, (n_permutations, 1)), axis=1)
    observed, drawn = _valley(y[None])[0], _valley(shuffled)
    return float((1 + (drawn >= observed - TINY).sum()) / (1 + n_permutations))


def _valley(y_PN: np.ndarray) -> np.ndarray:
    """The umbrella statistic of each row: over all turning points, the largest standardised count of pairs in the valley's order."""
    n = y_PN.shape[1]
    order = np.triu(np.ones((n, n), dtype=bool), 1)
    falls_PN = ((y_PN[:, :, None] > y_PN[:, None, :]) & order).sum(1, dtype=np.int32)
    rises_PN = ((y_PN[:, :, None] < y_PN[:, None, :]) & order).sum(2, dtype=np.int32)
    # Pairs of which both are left of a turning point, and both right of it, for all n + 1 of them at once.
    none = np.zeros((y_PN.shape[0], 1), dtype=np.int32)
    left = np.concatenate([none, falls_PN.cumsum(1)], 1)
    right = np.concatenate([rises_PN[:, ::-1].cumsum(1)[:, ::-1], none], 1)
    m, k = np.arange(n + 1), n - np.arange(n + 1)
    variance = sum(size * (size - 1) * (2 * size + 5) / 72 for size in (m, k))
    expected = (m * (m - 1) + k * (k - 1)) / 4
    best: np.ndarray = ((left + right - expected) / np.sqrt(np.maximum(variance, TINY))).max(1)
    return best


def _near(x: np.ndarray, y: np.ndarray, window: float, points: int) -> np.ndarray:
    keep = max(min(points, y.size), int((y <= y.min() + window).sum()))
    near = np.sort(np.argsort(y, kind="stable")[:keep])
    # Repeats of the best rates must not leave fewer places than a curve needs.
    while np.unique(x[near]).size < 4:
        keep += 1
        near = np.sort(np.argsort(y, kind="stable")[:keep])
    return near


def _rough(u: np.ndarray, y: np.ndarray, asymmetry: float) -> _Rough:
    """Huber's M-estimate of a cubic by reweighting, with the third-order term shrunk by one pseudo-observation of zero."""
    n, X, weights = y.size, np.vander(u, 4, increasing=True), np.ones(y.size)
    # Without its level the loss keeps all its digits, so that a constant added to it changes nothing.
    offset = float(y.min())
    quadratic = np.linalg.lstsq(X[:, :3], y - offset, rcond=None)[0]
    rest = y - offset - X[:, :3] @ quadratic
    noise, prior = max(float(np.sqrt(rest @ rest / max(n - 3, 1))), TINY), max(asymmetry * abs(quadratic[2]), TINY)
    for _ in range(50):
        gram = (X.T * weights) @ X
        gram[3, 3] += (noise / prior) ** 2
        response = np.linalg.inv(gram) @ (X.T * weights)
        coefficients = response @ (y - offset)
        residual = y - offset - X @ coefficients
        dof = max(float(weights.sum() - np.einsum("ij,ji->", X, response)), 0.5)
        found = max(float(np.sqrt((weights * residual**2).sum() / dof)), TINY)
        # A fit passes through about as many points as it has coefficients: their residuals say nothing of the noise.
        typical = float(np.median(np.sort(np.abs(residual))[min(round(n - dof), n - 2) :]))
        limit = HUBER * max(1.4826 * typical, TINY)
        reweighted = np.minimum(1.0, limit / np.maximum(np.abs(residual), TINY**2))
        if abs(found - noise) < 1e-4 * noise and np.abs(reweighted - weights).max() < 1e-4:
            break
        weights, noise, prior = reweighted, found, max(asymmetry * abs(float(coefficients[2])), TINY)
    return _Rough(found, dof, weights, abs(float(coefficients[2])))


def _fit(u: np.ndarray, y: np.ndarray, rough: _Rough, noise: float, scale: float) -> _Fit:
    """The quartic through points of that noise, with its third- and fourth-order terms shrunk by a pseudo-observation of zero each."""
    X, offset = np.vander(u, 5, increasing=True), float(y.min())
    priors = np.maximum(rough.curvature * np.array([ASYMMETRY * scale, FOURTH * scale**2]), TINY)
    # Without any noise a fit through four places would not be determined.
    precisions = (np.maximum(noise, SHARPEST * np.ptp(y)) / priors) ** 2
    inverse = np.linalg.inv((X.T * rough.weights) @ X + np.diag([0.0, 0.0, 0.0, *precisions]))
    response = inverse @ (X.T * rough.weights)
    coefficients = response @ (y - offset) + np.array([offset, 0.0, 0.0, 0.0, 0.0])
    return _Fit(coefficients, response, inverse[:, 3:].T * (precisions * priors)[:, None])


def _draw(fit: _Fit, noise: float, dof: float, rng: np.random.Generator, n_draws: int) -> np.ndarray:
    """Coefficients as they might have come out, given that the noise itself is known from few degrees of freedom (chi-square)."""
    errors = noise * rng.normal(size=(n_draws, fit.response.shape[1])) @ fit.response.T
    inflated = errors * np.sqrt(dof / rng.chisquare(dof, (n_draws, 1)))
    drawn: np.ndarray = fit.coefficients + inflated + rng.normal(size=(n_draws, 2)) @ fit.prior_responses
    return drawn


def _minimum(coefficients: np.ndarray) -> np.ndarray:
    """The local minimum of a + b u + c u^2 + d u^3 + e u^4; where there is none, the infinity on the side that falls.

    The cubic's is exact, and Newton's steps lead from there to the quartic's; where they find none, the cubic's stands.
    """
    _, b, c, d, e = np.moveaxis(coefficients, -1, 0)
    discriminant = 4 * c * c - 12 * b * d
    exists = (discriminant > 0) & (c > 0)
    # This form of the root stays exact as the third-order term goes to zero.
    below = np.where(exists, -2 * c - np.sqrt(np.maximum(discriminant, 0)), 1.0)
    cubic = np.where(exists, 2 * b / below, 0.0)
    u = cubic
    for _ in range(NEWTON_STEPS):
        slope, bend = b + u * (2 * c + u * (3 * d + 4 * e * u)), 2 * c + u * (6 * d + 12 * e * u)
        u = u - np.clip(slope / np.where(bend > 0, bend, np.inf), -LONGEST_STEP, LONGEST_STEP)
    slope, bend = b + u * (2 * c + u * (3 * d + 4 * e * u)), 2 * c + u * (6 * d + 12 * e * u)
    settled = (bend > 0) & (np.abs(slope) <= 1e-6 * bend)
    found: np.ndarray = np.where(settled, u, np.where(exists, cubic, np.where(b < 0, np.inf, -np.inf)))
    return found
