"""Which text is for training, which for validation, which for test: the same for every run.

Source index i has its own fixed draw, whatever the study, its seeds and `data.texts`: by a share, text i belongs to the same split
however many texts are read. Training texts keep the source's order, so a budget of n texts is `train[:n]`.
By a count, the texts with the outermost draws are taken: the same for all runs of a study, though they can change with `data.texts`.
"""

import numpy as np

DATA_SEED = 2_718_281
TRAIN, VALIDATION, TEST = 0, 1, 2

Amount = float | int


def draws(n: int) -> np.ndarray:
    """The fixed uniform draw of each source index below n, in [0, 1). A larger n only adds draws at the end."""
    # The raw stream is kept by numpy across versions; Generator.random is not promised to be.
    raw = np.random.PCG64(DATA_SEED).random_raw(n)
    return np.asarray(raw >> np.uint64(11), dtype=np.float64) * 2.0**-53


def assign(index: np.ndarray, validation: Amount, test: Amount) -> np.ndarray:
    """The split of each text that is left, given its source index: an array of TRAIN, VALIDATION and TEST.

    Args:
        index: source indices, increasing.
        validation: a share below 1 (float), a number of texts (int), or 0 for none.
        test: the same; the two together must leave texts for training.
    """
    u = draws(int(index[-1]) + 1 if len(index) else 0)[index]
    split = np.full(len(index), TRAIN, dtype=np.int8)
    # Validation takes from the top and test from the bottom, so that neither's amount moves the other's texts.
    split[_lowest(1.0 - u, validation)] = VALIDATION
    split[_lowest(u, test)] = TEST
    return split


def _lowest(u: np.ndarray, amount: Amount) -> np.ndarray:
    """Places of the draws below a share, or of the `amount` smallest."""
    return np.flatnonzero(u < amount) if isinstance(amount, float) else np.argsort(u, kind="stable")[:amount]
