"""Variable projection: search the exponents on a grid, and at each node solve E, A, B linearly, none of them negative.

Points and weights go in, the best node of each row of weights comes out, as a start for the last digits. Squared error only: there
the linear part has a closed form, so that a grid over both exponents costs less than one descent.
"""

from collections.abc import Iterator
from itertools import chain, combinations

import numpy as np

from harness.analysis.additive import LEAST_EXPONENT, LEAST_LOG, MOST_EXPONENT, TINY, Points

# Nodes for each exponent with two variables, and with one.
NODES = {2: 32, 1: 96}
BLOCK = 400_000
# A column is taken as a combination of the others when less than this share of it is its own.
DEPENDENT = 1e-12


def project(data: Points, weights_RN: np.ndarray, y_RN: np.ndarray | None = None, n_nodes: int | None = None) -> np.ndarray:
    """(R, K) best nodes of the grid, each with its own weights, and its own losses where `y_RN` is given (in scaled units)."""
    nodes = np.geomspace(LEAST_EXPONENT, MOST_EXPONENT, n_nodes or NODES[data.terms])
    grid_Gk = np.stack(np.meshgrid(*[nodes] * data.terms, indexing="ij"), axis=-1).reshape(-1, data.terms)
    block = max(1, BLOCK // len(grid_Gk))
    products = _products(data, grid_Gk)
    starts = []
    for first in range(0, len(weights_RN), block):
        w = weights_RN[first : first + block]
        y = np.broadcast_to(data.y, w.shape) if y_RN is None else y_RN[first : first + block]
        error, solved = at(data, grid_Gk, w, y, products)
        best = error.argmin(axis=1)
        starts.append(_theta(solved[np.arange(len(w)), best], grid_Gk[best], data))
    return np.concatenate(starts)


def at(
    data: Points, grid_Gk: np.ndarray, w_RN: np.ndarray, y_RN: np.ndarray, products: dict[tuple[int, int], np.ndarray] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Squared errors (R, G) at these exponents, and the (R, G, 1 + k) values of E and the factors that attain them."""
    products = _products(data, grid_Gk) if products is None else products
    fixed = data.irreducible or 0.0
    target = w_RN * (y_RN - fixed)
    first = 0 if data.irreducible is None else 1
    columns = range(first, 1 + data.terms)
    gram = {(a, b): w_RN @ products[a, b] for a in columns for b in columns if a <= b}
    moment = {a: target @ products[0, a] for a in columns}
    total = (target * (y_RN - fixed)).sum(axis=1)[:, None]
    error = np.full((len(w_RN), len(grid_Gk)), np.inf)
    solved = np.zeros((*error.shape, 1 + data.terms))
    for chosen in _subsets(list(columns)):
        values, possible = _solve([[gram[min(a, b), max(a, b)] for b in chosen] for a in chosen], [moment[a] for a in chosen])
        left = total - sum(v * moment[a] for v, a in zip(values, chosen, strict=True))
        better = possible & (left < error)
        error = np.where(better, left, error)
        full = np.zeros_like(solved)
        for v, a in zip(values, chosen, strict=True):
            full[..., a] = v
        solved = np.where(better[..., None], full, solved)
    solved[..., 0] += fixed
    return error, solved


def starts(data: Points, exponents: np.ndarray) -> np.ndarray:
    """(G, K) parameter vectors with these (G, k) exponents and the best linear part for each."""
    _, solved = at(data, exponents, data.weights[None], data.y[None])
    return _theta(solved[0], exponents, data)


def _products(data: Points, grid_Gk: np.ndarray) -> dict[tuple[int, int], np.ndarray]:
    """(N, G) products of each two columns of the linear problem: ones, and each variable to its exponent."""
    columns = [np.ones((data.n, len(grid_Gk))), *(np.exp(-np.outer(data.x[:, j], grid_Gk[:, j])) for j in range(data.terms))]
    return {(a, b): columns[a] * columns[b] for a in range(len(columns)) for b in range(a, len(columns))}


def _subsets(columns: list[int]) -> Iterator[tuple[int, ...]]:
    """The minimum under signs is the best of the minima with some columns left out that has no negative value."""
    return chain.from_iterable(combinations(columns, size) for size in range(1, len(columns) + 1))


def _solve(gram: list[list[np.ndarray]], moment: list[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """Solve many small symmetric systems by elimination; `possible` where they have a solution without negative values."""
    m = len(moment)
    a, b = [list(row) for row in gram], list(moment)
    possible = np.ones(b[0].shape, bool)
    for i in range(m):
        possible &= a[i][i] > DEPENDENT * gram[i][i]
        pivot = np.where(a[i][i] > 0, a[i][i], 1.0)
        for r in range(i + 1, m):
            factor = a[r][i] / pivot
            a[r] = [a[r][c] - factor * a[i][c] for c in range(m)]
            b[r] = b[r] - factor * b[i]
        a[i][i] = pivot
    values: list[np.ndarray] = [np.zeros(())] * m
    for i in reversed(range(m)):
        values[i] = (b[i] - sum(a[i][c] * values[c] for c in range(i + 1, m))) / a[i][i]
        possible = possible & (values[i] >= 0)
    return values, possible


def _theta(solved: np.ndarray, exponents: np.ndarray, data: Points) -> np.ndarray:
    logs = np.maximum(np.log(np.maximum(solved[:, 1:], TINY)), LEAST_LOG)
    return np.concatenate([solved[:, :1], logs, exponents], axis=1)
