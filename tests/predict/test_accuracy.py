"""Accuracy, Brier score and calibration error against numbers worked out by hand."""

from __future__ import annotations

from math import log

import numpy as np
import pytest

from pbkv.predict.accuracy import accuracies, calibration_error, measured
from pbkv.predict.examples import Targets
from pbkv.predict.markov import Markov
from tests.predict.twin import workflow


def test_by_hand() -> None:
    """Three calls, agents a and b and END; the third's workflow had ended before step 2."""
    rows = np.array(
        [
            [[0.7, 0.2, 0.1], [0.0, 0.5, 0.5]],
            [[0.1, 0.8, 0.1], [0.6, 0.2, 0.2]],
            [[0.0, 0.4, 0.6], [0.0, 0.0, 1.0]],
        ]
    )
    outcomes = np.array([[0, 1], [0, 2], [2, 0]])
    is_alive = np.array([[True, True], [True, True], [True, False]])
    first, second = accuracies(rows, Targets(outcomes, is_alive))
    assert (first.num_calls, second.num_calls) == (3, 2)
    assert first.top1 == pytest.approx(2 / 3)
    assert second.top1 == pytest.approx(1 / 2)  # of equal chances the first column counts
    briers = [0.09 + 0.04 + 0.01, 0.81 + 0.64 + 0.01, 0.16 + 0.16]
    assert first.brier == pytest.approx(sum(briers) / 3)
    assert first.nll == pytest.approx(-(log(0.7) + log(0.1) + log(0.6)) / 3)
    assert first.calibration_error == pytest.approx((abs(0.7 - 1) + abs(0.8 - 0) + abs(0.6 - 1)) / 3)


def test_calibration_pools_the_calls_of_a_bin() -> None:
    """Two of three right at .62, .65, .68 in one bin; one wrong at .05, one right at 1."""
    found = calibration_error(
        np.array([0.62, 0.65, 0.68, 0.05, 1.0]), np.array([True, False, True, False, True])
    )
    assert found == pytest.approx((abs(1.95 - 2) + 0.05 + 0.0) / 5)


def test_an_agent_without_a_column_is_a_miss() -> None:
    markov = Markov(1, 1, learns_online=False)
    markov.learn([workflow("ab")])
    (found,) = measured(markov, [workflow("az")], 1)
    assert (found.num_calls, found.top1) == (2, 0.0)
    assert found.brier == pytest.approx((2 + (0.5**2 + 0.5**2 - 2 * 0.5 + 1)) / 2)  # b for sure; b or END


def test_a_step_that_nothing_reached_has_no_accuracy() -> None:
    markov = Markov(1, 3, learns_online=False)
    markov.learn([workflow("a")])
    found = measured(markov, [workflow("a")], 3)
    assert [step.num_calls for step in found] == [1, 0, 0]
    assert np.isnan(found[2].top1)
