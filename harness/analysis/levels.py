"""Values that differ by little are one level of a design: seeds shuffle texts differently, so that tokens and FLOPs are never equal."""

import numpy as np

# Values this close to their neighbour, as a factor, are one level.
SAME = 1.05


def levels(values: np.ndarray, same: float = SAME) -> np.ndarray:
    """A number from 0 for each positive value, in order of size and equal for values within a factor `same` of their neighbour."""
    order = np.argsort(values, kind="stable")
    step = np.concatenate([[0], np.cumsum(np.diff(np.log(values[order])) > np.log(same))])
    found = np.empty(values.size, int)
    found[order] = step
    return found
