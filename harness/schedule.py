"""Step -> learning rate: pure functions of numbers, plotted and tested without a model."""

import math


def lr_at(step: int, steps: int, peak: float, schedule: str, warmup_steps: int = 0, min_fraction: float = 0.0) -> float:
    """The rate used by optimizer step `step` (1 to `steps`).

    Linear warm-up over `warmup_steps` up to `peak`, then `constant`, or `cosine` or `linear` decay that ends at
    `min_fraction * peak` on the last step.
    """
    if step <= warmup_steps:
        return peak * step / warmup_steps
    if schedule == "constant":
        return peak
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    shape = 0.5 * (1 + math.cos(math.pi * progress)) if schedule == "cosine" else 1 - progress
    return peak * (min_fraction + (1 - min_fraction) * shape)


def evaluation_steps(steps: int, evaluations: int | str, steps_per_epoch: int) -> tuple[int, ...]:
    """The steps after which a run is evaluated: equally spaced with the last at the end, or after every epoch and at the end."""
    if evaluations == "every_epoch":
        chosen = {*range(steps_per_epoch, steps + 1, steps_per_epoch), steps}
    else:
        assert isinstance(evaluations, int)
        chosen = {math.ceil(steps * i / evaluations) for i in range(1, evaluations + 1)}
    return tuple(sorted(chosen))
