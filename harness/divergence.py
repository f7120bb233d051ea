"""When a training run has left the path: rules on its own loss and gradient norm, checked before every update."""

import math
from collections.abc import Mapping
from typing import Any

# The weight of a new loss in the smoothed one: about the last twenty steps count.
SMOOTHING = 0.1
GRACE_STEPS = 100
RISE_NATS = 1.0
RISE_STEPS = 50


class DivergenceMonitor:
    """Follows one run's train loss (nats a token).

    Diverged is: loss or gradient norm not finite; the smoothed loss above both ln V (a uniform guess) and the first loss after the
    first 100 steps; or above its own minimum by 1 nat a token for 50 steps in a row.
    """

    def __init__(self, vocab_size: int) -> None:
        self.ceiling = math.log(vocab_size)
        self.smoothed: float | None = None
        self.minimum = math.inf
        self.risen_steps = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain data, exact."""
        return {"ceiling": self.ceiling, "smoothed": self.smoothed, "minimum": self.minimum, "risen_steps": self.risen_steps}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "DivergenceMonitor":
        """The monitor that `to_dict` described."""
        monitor = cls(1)
        monitor.ceiling, monitor.smoothed = data["ceiling"], data["smoothed"]
        monitor.minimum, monitor.risen_steps = data["minimum"], data["risen_steps"]
        return monitor

    def check(self, step: int, loss: float, grad_norm: float) -> str | None:
        """Take in one step; the reason why the run has diverged, or None."""
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            what = "loss" if not math.isfinite(loss) else "gradient norm"
            return f"{what} was not finite at step {step}"
        if self.smoothed is None:
            # An untrained model is often worse than a uniform guess, and at a low rate still is after the first steps: slow, not diverged.
            self.ceiling = max(self.ceiling, loss)
        self.smoothed = loss if self.smoothed is None else (1 - SMOOTHING) * self.smoothed + SMOOTHING * loss
        self.minimum = min(self.minimum, self.smoothed)
        self.risen_steps = self.risen_steps + 1 if self.smoothed > self.minimum + RISE_NATS else 0
        if step > GRACE_STEPS and self.smoothed > self.ceiling:
            worse = f"above an untrained model or a uniform guess ({self.ceiling:.2f})"
            return f"train loss {self.smoothed:.2f} nats a token at step {step}, {worse}"
        if self.risen_steps >= RISE_STEPS:
            rise = self.smoothed - self.minimum
            return f"train loss rose by {rise:.2f} nats a token over its minimum for {RISE_STEPS} steps, at step {step}"
        return None
