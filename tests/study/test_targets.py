"""Targets as they are typed."""

from __future__ import annotations

import pytest

from pbkv.study.targets import mean_of, parse_target
from pbkv.traces.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "column", "bound", "at_most"),
    [
        ("ttft_p95=2s", "ttft_p95_s", 2.0, True),
        ("ttft_mean=500ms", "ttft_s", 0.5, True),
        ("jct_mean = 2min", "jct_s", 120.0, True),
        ("tpot_p99=0.05", "tpot_p99_s", 0.05, True),
        ("workflows_per_s=360/h", "workflows_per_s", 0.1, False),
        ("hit_ratio=90%", "hit_ratio", 0.9, False),
    ],
)
def test_a_target_is_a_bound_on_a_column(text: str, column: str, bound: float, at_most: bool) -> None:
    target = parse_target(text)
    assert (target.column, target.at_most) == (column, at_most)
    assert target.bound == pytest.approx(bound)
    assert target.is_met(bound)
    assert target.is_met(bound * 0.9) == at_most
    assert not target.is_met(None)


@pytest.mark.parametrize(
    "text",
    [
        "ttft_p95",
        "ttft_p95=",
        "ttft_p95=2m",
        "ttft_p95=0s",
        "ttft_p94=2s",
        "hit_ratio=9s",
        "hit_ratio=101%",
        "=2",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--target: got .*, expected"):
        parse_target(text)


def test_a_mean_over_seeds_needs_all_of_them() -> None:
    assert mean_of([{"x": 1.0}, {"x": 3.0}], "x") == 2.0
    assert mean_of([{"x": 1.0}, {"status": "failed"}], "x") is None
