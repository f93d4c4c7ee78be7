"""Means and ratios with 95 % intervals: numpy alone, so that the end of a simulation stays light.

Another ``confidence`` is for who looks at several intervals at once (`pbkv.analysis.verdict`).
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

CONFIDENCE = 0.95
_LARGE = 100  # degrees of freedom from which the normal expansion is better than 1e-5


class Interval(NamedTuple):
    """An estimate ± half its interval, 95 % if nothing else is said, over ``num_values`` independent values.

    ``half`` is None where the data tell nothing of the spread (one value, or a single makespan).
    """

    mean: float
    half: float | None
    num_values: int

    @property
    def low(self) -> float | None:
        return None if self.half is None else self.mean - self.half

    @property
    def high(self) -> float | None:
        return None if self.half is None else self.mean + self.half


def mean_interval(values: FloatArray, confidence: float = CONFIDENCE) -> Interval | None:
    """Mean ± Student's t interval of ``values`` (shape (n,), finite); None if there are none."""
    count = len(values)
    if count == 0:
        return None
    mean = float(np.mean(values))
    if count == 1:
        return Interval(mean, None, 1)
    error = float(np.std(values, ddof=1)) / math.sqrt(count)
    return Interval(mean, student_t(count - 1, confidence) * error, count)


def ratio_interval(
    numerators: FloatArray, denominators: FloatArray, confidence: float = CONFIDENCE
) -> Interval | None:
    """Σ numerators / Σ denominators (both shape (n,)) with the ratio estimator's interval.

    Linearised: the residuals y − R·x take the place of the deviations (Cochran, Sampling Techniques,
    §2.11). None if the denominators sum to zero, or where a value is not known (NaN).
    """
    count, total = len(denominators), float(np.sum(denominators))
    ratio = float(np.sum(numerators)) / total if total else math.nan
    if math.isnan(ratio):
        return None
    if count == 1:
        return Interval(ratio, None, 1)
    residuals = numerators - ratio * denominators
    spread = math.sqrt(float(np.sum(residuals**2)) / (count - 1))
    error = spread * math.sqrt(count) / abs(total)
    return Interval(ratio, student_t(count - 1, confidence) * error, count)


@lru_cache(maxsize=1024)
def student_t(degrees: int, confidence: float = CONFIDENCE) -> float:
    """What Student's t with ``degrees`` ≥ 1 degrees of freedom stays within, with this probability.

    With the usual ``confidence`` that is its 97.5 % quantile.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    if degrees > _LARGE:
        return _expansion(degrees, z)
    low, high = z, 2 * z
    while _central_mass(high, degrees) < confidence:
        high *= 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _central_mass(middle, degrees) < confidence else (low, middle)
    return (low + high) / 2


def _expansion(degrees: int, z: float) -> float:
    """Abramowitz and Stegun 26.7.5, two terms beyond the normal quantile."""
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / degrees + second / degrees**2


def _central_mass(t: float, degrees: int) -> float:
    """P(|T| < t), the finite sums of Abramowitz and Stegun 26.7.3 (odd) and 26.7.4 (even)."""
    angle = math.atan2(t, math.sqrt(degrees))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = term if degrees > 1 else 0.0
    for power in range(2 + odd, degrees - 1, 2):
        term *= (power - 1) / power * cosine**2
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
