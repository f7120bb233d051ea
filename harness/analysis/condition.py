"""Can the constants of L = E + A/N^alpha + B/D^beta be told apart at all, with runs at these sizes and budgets?

Sizes and budgets go in, the condition number of the column-normalised Jacobian comes out: it depends on the exponents, but not on
E, A and B. With tokens in one ratio to parameters both terms are one function, and no number of runs can part them.
"""

from collections.abc import Sequence

import numpy as np

# Exponents of a published surface (Besiroglu et al. 2024), to judge a design before there is a fit.
PLAUSIBLE = (0.34781, 0.36585)
WORST_CONDITION = 1e4


def condition_number(variables_Nk: np.ndarray, exponents: Sequence[float] | None = None, free_irreducible: bool = True) -> float:
    """Ratio of the largest to the smallest singular value of the Jacobian of L, its columns brought to length 1; may be infinite."""
    k = variables_Nk.shape[1]
    columns = [np.ones(len(variables_Nk))] if free_irreducible else []
    for j, p in enumerate(PLAUSIBLE[:k] if exponents is None else exponents):
        term = variables_Nk[:, j] ** -p
        columns += [term, -term * np.log(variables_Nk[:, j])]
    J = np.column_stack(columns)
    if len(J) < J.shape[1]:
        return float("inf")
    lengths = np.linalg.norm(J, axis=0)
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        return float("inf")
    singular = np.linalg.svd(J / lengths, compute_uv=False)
    return float(singular[0] / singular[-1]) if singular[-1] > 0 else float("inf")
