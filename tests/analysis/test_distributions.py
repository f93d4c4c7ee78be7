"""Distributions, ages and bars: what is drawn is what was given, in the policy's colour."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from pbkv.analysis import bars, distributions
from pbkv.analysis.ages import SHARES, quantiles
from pbkv.analysis.bars import Row, differences, misses, prefetches
from pbkv.analysis.distributions import Distribution, age_panels, distribution
from pbkv.analysis.intervals import Interval
from pbkv.analysis.style import CLASS_COLORS, look_of
from pbkv.traces.errors import ConfigError

WriteRun = Callable[..., Path]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are drawn from here on, in place of files."""
    kept: list[Figure] = []
    for module in (bars, distributions):
        monkeypatch.setattr(module, "save", lambda figure, target: kept.append(figure))
    return kept


def test_quantiles_are_values_that_occur_and_follow_weights() -> None:
    values = np.array([3.0, 1.0, 2.0, 10.0])
    found = quantiles(values)
    assert (found[0], found[25], found[26], found[50], found[75], found[76], found[100]) == (
        1,
        1,
        2,
        2,
        3,
        10,
        10,
    )
    weighted = quantiles(values, np.array([1.0, 1.0, 1.0, 97.0]))
    assert (weighted[1], weighted[2], weighted[3], weighted[4]) == (1, 2, 3, 10)
    repeated = quantiles(np.repeat(values, [1, 1, 1, 97]))
    assert weighted.tolist() == repeated.tolist()
    assert len(quantiles(np.empty(0))) == 0


def test_a_distribution_is_a_line_of_its_quantiles(drawn: list[Figure]) -> None:
    values = quantiles(np.linspace(5, 15, 40))
    distribution(
        [Distribution("lru", "lru", values)], io.BytesIO(), title="t", unit="latency (s)", of="workflows"
    )
    axes = drawn[0].axes[0]
    line = axes.get_lines()[0]
    np.testing.assert_allclose(np.asarray(line.get_xdata()), values)
    np.testing.assert_allclose(np.asarray(line.get_ydata()), 100 * SHARES)
    assert line.get_color() == look_of("lru").color
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("latency (s)", "share of workflows (%)")
    assert axes.get_xscale() == "linear"


def test_far_spread_values_get_a_logarithmic_axis_that_shows_them(drawn: list[Figure]) -> None:
    values = quantiles(np.geomspace(0.01, 100, 200))
    distribution([Distribution("lru", "lru", values)], io.BytesIO(), title="t", unit="s", of="calls")
    axes = drawn[0].axes[0]
    assert axes.get_xscale() == "log"
    assert axes.get_xlim()[1] > 100


def test_ages_share_one_axis_and_leave_out_what_is_missing(drawn: list[Figure]) -> None:
    found = {"evicted": quantiles(np.array([30.0, 60.0])), "found": quantiles(np.array([0.0, 0.1, 8.0]))}
    age_panels({"lru": found, "pbkv": {"found": quantiles(np.array([1.0]))}}, io.BytesIO())
    panels = drawn[0].axes
    assert [axes.get_title(loc="left") for axes in panels] == [
        "evicted, unused for …",
        "found again, unused for …",
    ]
    assert {axes.get_xlim() for axes in panels} == {panels[0].get_xlim()}
    assert panels[0].get_xlim()[1] > 60
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["lru", "pbkv"]
    with pytest.raises(ConfigError):
        age_panels({"lru": {}}, io.BytesIO())


def test_differences_are_changes_in_per_cent(drawn: list[Figure]) -> None:
    differences([("pbkv (note)", "pbkv", Interval(0.8, 0.05, 9))], io.BytesIO(), baseline="lru")
    axes = drawn[0].axes[0]
    (container,) = axes.containers
    whisker = container[2][0].get_segments()[0]
    np.testing.assert_allclose(whisker[:, 0], [-25, -15])
    assert [text.get_text() for text in axes.texts] == ["−20.0 ± 5.0 %"]
    assert "lru (%)" in axes.get_xlabel()


def test_stacked_bars_have_their_parts_and_sums(drawn: list[Figure]) -> None:
    misses([Row("lru", "lru", {"evicted": 0.3, "cold": 0.1})], io.BytesIO())
    prefetches([Row("pbkv", "pbkv", {"useful": 2e9, "wasted": 5e8})], io.BytesIO())
    widths = [[bar.get_width() for bars_ in figure.axes[0].containers for bar in bars_] for figure in drawn]
    assert widths == [pytest.approx([30, 0, 10]), pytest.approx([2, 0, 0.5, 0])]
    assert [figure.axes[0].texts[0].get_text() for figure in drawn] == ["40", "2.5"]
    first = drawn[0].axes[0].containers[0][0]
    assert first.get_facecolor()[:3] == pytest.approx(
        tuple(int(CLASS_COLORS["evicted"][i : i + 2], 16) / 255 for i in (1, 3, 5))
    )


@pytest.mark.parametrize("draw", [misses, prefetches])
def test_nothing_to_draw_is_said(draw: Callable[..., None]) -> None:
    with pytest.raises(ConfigError, match="at least one policy"):
        draw([], io.BytesIO())
    with pytest.raises(ConfigError, match="at least one policy"):
        differences([], io.BytesIO(), baseline="lru")
    with pytest.raises(ConfigError, match="at least one to draw"):
        distribution([], io.BytesIO(), title="", unit="", of="")
