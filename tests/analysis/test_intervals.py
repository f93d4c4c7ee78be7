"""Intervals against tables, numerical integration and repeated draws."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbkv.analysis.intervals import Interval, mean_interval, ratio_interval, student_t

# Printed in any table of Student's t, column 0.975.
TABLE = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 9: 2.2622, 30: 2.0423, 60: 2.0003, 120: 1.9799}


@pytest.mark.parametrize("degrees", TABLE)
def test_quantile_agrees_with_the_printed_table(degrees: int) -> None:
    assert student_t(degrees) == pytest.approx(TABLE[degrees], abs=5e-5)


@pytest.mark.parametrize("degrees", [1, 2, 5, 8, 37, 100, 101, 400, 5000])
def test_density_integrates_to_95_percent_between_the_quantiles(degrees: int) -> None:
    t = np.linspace(0, student_t(degrees), 200_001)
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(math.pi * degrees)
    density = scale * (1 + t**2 / degrees) ** (-(degrees + 1) / 2)
    mass = 2 * float(np.sum(density[1:] + density[:-1]) / 2 * (t[1] - t[0]))
    assert mass == pytest.approx(0.95, abs=1e-6)


def test_mean_interval_by_hand() -> None:
    # 1, 2, 3, 4: mean 2.5, variance 5/3, three degrees of freedom
    interval = mean_interval(np.array([1.0, 2.0, 3.0, 4.0]))
    assert interval is not None
    assert interval.mean == 2.5
    assert interval.half == pytest.approx(3.1824463 * math.sqrt(5 / 3 / 4))
    assert interval.low == pytest.approx(2.5 - 3.1824463 * math.sqrt(5 / 3 / 4))
    assert interval.high == pytest.approx(2.5 + 3.1824463 * math.sqrt(5 / 3 / 4))


def test_one_value_has_a_mean_and_no_interval() -> None:
    alone = Interval(7.0, None, 1)
    assert mean_interval(np.array([7.0])) == alone
    assert ratio_interval(np.array([14.0]), np.array([2.0])) == alone
    assert alone.low is None
    assert alone.high is None


def test_nothing_has_no_mean() -> None:
    assert mean_interval(np.array([])) is None
    assert ratio_interval(np.array([]), np.array([])) is None
    assert ratio_interval(np.array([1.0, 2.0]), np.array([0.0, 0.0])) is None


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30))
def test_ratio_to_ones_is_the_mean(values: list[float]) -> None:
    mean, ratio = mean_interval(np.array(values)), ratio_interval(np.array(values), np.ones(len(values)))
    assert mean is not None
    assert ratio is not None
    assert ratio.mean == pytest.approx(mean.mean, abs=1e-9)
    assert ratio.half == pytest.approx(mean.half, abs=1e-9)


def test_a_constant_ratio_is_certain_however_the_weights_vary() -> None:
    weights = np.array([1.0, 10.0, 100.0, 1000.0])
    interval = ratio_interval(0.3 * weights, weights)
    assert interval is not None
    assert interval.mean == pytest.approx(0.3)
    assert interval.half == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("size", [10, 60])
def test_intervals_cover_the_truth_about_95_times_in_100(size: int) -> None:
    rng = np.random.default_rng(3)
    covered = {"mean": 0, "ratio": 0}
    for _ in range(1500):
        weights = rng.uniform(500, 1500, size)
        ratios = rng.normal(0.4, 0.1, size)
        mean, ratio = mean_interval(ratios), ratio_interval(ratios * weights, weights)
        assert mean is not None
        assert ratio is not None
        covered["mean"] += abs(mean.mean - 0.4) <= (mean.half or 0)
        covered["ratio"] += abs(ratio.mean - 0.4) <= (ratio.half or 0)
    # three standard errors of a share of 0.95 among 1,500 draws; the ratio's is approximate: 2 points more
    assert covered["mean"] / 1500 == pytest.approx(0.95, abs=0.017)
    assert covered["ratio"] / 1500 == pytest.approx(0.95, abs=0.037)


@pytest.mark.parametrize(
    ("degrees", "confidence", "expected"),
    [(2, 0.99, 9.924843), (1, 0.999, 636.6192), (30, 0.9, 1.697261), (1000, 0.99, 2.580755)],
)
def test_student_t_of_other_confidences(degrees: int, confidence: float, expected: float) -> None:
    assert student_t(degrees, confidence) == pytest.approx(expected, rel=1e-5)
