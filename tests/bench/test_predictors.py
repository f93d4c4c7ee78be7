"""The script of the predictors' tables on a handful of workflows: everything it writes is there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs torch (pip install 'pbkv[torch]')")
from bench import predictors
from bench.predictors_report import verdicts
from pbkv.predict.accuracy import Accuracy


def test_it_writes_report_figure_and_numbers(tmp_path: Path) -> None:
    predictors.main(["--sizes", "16", "4", "8", "--seeds", "1", "2", "--sets", "--out", str(tmp_path)])
    report = (tmp_path / "predictors.md").read_text()
    for name in (
        "graph",
        "rgcn",
        "TCN, large",
        "(0.889)",
        "linear probe on x",
        "kNN, k = 5, on x",
        "markov:3",
        "(0.935)",
    ):
        assert name in report
    found = json.loads((tmp_path / "predictors.json").read_text())
    assert len(found["hover"]) == 2
    assert list(found["learning_curve"]) == ["4", "8", "16"]
    assert (tmp_path / "learning_curve.png").stat().st_size > 10_000


def test_a_verdict_needs_more_than_the_spread_of_folds() -> None:
    def folds(gains: list[float]) -> list[dict[str, list[Accuracy]]]:
        return [
            {
                "graph, hash": [Accuracy(1, 100, 0.5 + gain, 0.5, 0.1, 1.0)],
                "markov:3": [Accuracy(1, 100, 0.5, 0.5, 0.1, 1.0)],
            }
            for gain in gains
        ]

    assert "the network wins" in verdicts({"x": folds([0.1, 0.11, 0.1, 0.12, 0.1])})
    assert "Markov wins" in verdicts({"x": folds([-0.1, -0.11, -0.1, -0.12, -0.1])})
    assert "no difference" in verdicts({"x": folds(list(np.linspace(-0.1, 0.12, 5)))})
