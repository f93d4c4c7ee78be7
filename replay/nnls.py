"""Least squares with coefficients ≥ 0: Lawson and Hanson's active sets, for a few dozen columns.

numpy has none, and scipy would be a dependency for this alone.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
_TOLERANCE = 1e-10  # of the gradient: columns are scaled to length 1, and the target to about 1 a row


def nnls(matrix: Floats, target: Floats) -> Floats:
    """x ≥ 0, shape (columns,), that makes |matrix · x − target| smallest. A column of zeros gets 0."""
    lengths = np.linalg.norm(matrix, axis=0)
    scaled = matrix / np.where(lengths > 0, lengths, 1)
    solution = np.zeros(matrix.shape[1])
    is_free = np.zeros(matrix.shape[1], bool)
    limit = _TOLERANCE * max(float(np.linalg.norm(target)), 1e-300)
    for _ in range(30 * matrix.shape[1]):  # 3 a column are usual; cycles are possible by rounding only
        gradient = scaled.T @ (target - scaled @ solution)
        candidates = np.where(is_free, -np.inf, gradient)
        best = int(np.argmax(candidates))
        if candidates[best] <= limit:
            break
        is_free[best] = True
        solution = _step(scaled, target, solution, is_free)
    result: Floats = solution / np.where(lengths > 0, lengths, 1)
    return result


def _step(matrix: Floats, target: Floats, solution: Floats, is_free: npt.NDArray[np.bool_]) -> Floats:
    """The best of the free columns, going back to where the first of them would fall below 0."""
    while is_free.any():
        wanted = np.zeros_like(solution)
        wanted[is_free] = np.linalg.lstsq(matrix[:, is_free], target, rcond=None)[0]
        below = is_free & (wanted <= 0)
        if not below.any():
            return wanted
        shares = solution[below] / (solution[below] - wanted[below])
        solution = solution + float(shares.min()) * (wanted - solution)
        is_free &= solution > 1e-15
        solution = np.where(is_free, solution, 0.0)
    return solution
