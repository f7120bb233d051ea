"""Simulated searches with a known optimum: bowls of several shapes, tried where the real samplers place their trials."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.bowl import STATED_DOF
from harness.analysis.learning_rate import Optimum, optimum, stated_noise
from harness.search import Trial, suggest
from harness.spec import Search

LOW, HIGH = 1e-5, 3e-2
X_LOW, X_HIGH = math.log(LOW), math.log(HIGH)
BEST = 1.9
# The loss of a model that has learned nothing of use.
CEILING = 2.62
# A noise that is known, not measured.
KNOWN_DOF = 1000.0
Shape = Callable[[float], float]


def _saturated(height: float) -> float:
    """A bowl ends at what an untrained model scores."""
    return 1.2 * (1 - math.exp(-height / 1.2))


def _linex(distance: float, curvature: float) -> float:
    """Linear below the optimum, exponential above it: a bowl that steepens towards divergence."""
    return 2 * curvature / 0.64 * (math.expm1(0.8 * distance) - 0.8 * distance)


# Loss over the best, by the distance in log rate from the optimum; infinite: diverged.
SHAPES: Mapping[str, Shape] = {
    "symmetric": lambda d: 0.03 * d * d,
    "deep": lambda d: _saturated(0.1 * d * d),
    "lopsided": lambda d: _linex(d, 0.05),
    "lopsided and saturated": lambda d: _saturated(_linex(d, 0.08)) if d < 0 else _linex(d, 0.08),
    "collapse": lambda d: _saturated(0.08 * d * d) if d < 1.2 else CEILING - BEST,
    "divergence": lambda d: _saturated(0.08 * d * d) if d < 1.5 else math.inf,
    "flat": lambda d: 0.0,
}


def searched(shape: str, x0: float, noise: float, settings: Search, seed: int) -> pd.DataFrame:
    """All trials of one search around the optimum `x0` (log rate), batch by batch, as `optimum` reads them.

    With a pruner, a trial that ends above the median of those before its batch was pruned on the way there.
    """
    rng = np.random.default_rng([11, seed])
    trials: list[Trial] = []
    while len(trials) < settings.trials:
        count = min(settings.batch, settings.trials - len(trials))
        points = suggest(settings, str(seed), shape, trials, count)
        done = [trial.value for trial in trials if trial.status == "completed" and trial.value is not None]
        for number, point in enumerate(points, len(trials)):
            loss = BEST + SHAPES[shape](math.log(point.lr) - x0) + noise * rng.normal()
            pruned = settings.pruner != "none" and len(done) >= 4 and loss > np.median(done)
            status = "diverged" if math.isinf(loss) else "pruned" if pruned else "completed"
            value = {"diverged": None, "pruned": loss + 0.3, "completed": loss}[status]
            trials.append(Trial(number, point.lr, status, value, () if value is None else ((10, value),)))
    rows: list[dict[str, Any]] = [{"lr": t.lr, "val_loss": t.value, "status": t.status} for t in trials]
    return pd.DataFrame(rows).astype({"val_loss": float})


def repeated(
    shape: str, noise: float, times: int, where: tuple[float, float] = (X_LOW + 2, X_HIGH - 2), given: float | None = 0.0, **search: Any
) -> list[tuple[float, Optimum]]:
    """(log of the true optimum, what was found) in so many searches, with the truth drawn from `where`.

    `given`: what the analysis is told of the noise over seeds; None: what the harness states until it is measured.
    """
    settings = Search.model_validate(search)
    found = []
    for seed in range(times):
        x0 = float(np.random.default_rng([13, seed]).uniform(*where))
        trials = searched(shape, x0, noise, settings, seed)
        told, dof = (stated_noise(trials), STATED_DOF) if given is None else (given, KNOWN_DOF)
        found.append((x0, optimum(trials, LOW, HIGH, noise=told, noise_dof=dof, ceiling=CEILING)))
    return found


def coverage(found: list[tuple[float, Optimum]]) -> tuple[float, float]:
    """The share of intervals that hold the truth, and the share of searches that gave one."""
    given = [(x, one) for x, one in found if np.isfinite(one.fitted_low)]
    return float(np.mean([one.fitted_low <= math.exp(x) <= one.fitted_high for x, one in given])), len(given) / len(found)
