"""Figures: the file is a PNG of the announced size, and what is drawn is what the records say."""

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation

from pbkv.analysis import figures
from pbkv.analysis.figures import (
    course_of_run,
    hit_ratio_by_capacity,
    hit_ratio_by_concurrency,
    latency_by_capacity,
    overview_height,
    policy_overview,
)
from pbkv.analysis.intervals import Interval
from pbkv.analysis.load import load
from pbkv.analysis.points import Point, capacity_points, concurrency_points, knee
from pbkv.analysis.style import DPI, WIDTH_INCHES, look_of
from pbkv.analysis.summary import summarise
from pbkv.traces.errors import ConfigError

WriteRun = Callable[..., Path]
POLICIES = [{"policy": "lru"}, {"policy": "lae"}, {"policy": "pbkv"}]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are drawn from here on, in place of files."""
    kept: list[Figure] = []
    monkeypatch.setattr(figures, "save", lambda figure, target: kept.append(figure))
    return kept


def _size(png: bytes) -> tuple[Any, ...]:
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", png[16:24])


def _labels(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def _bars(axes: Axes) -> list[list[float]]:
    """The lengths of the bars, row by row, from left to right."""
    rows: dict[int, list[float]] = {}
    for bars in axes.containers:
        for bar in bars:
            rows.setdefault(round(bar.get_y() + bar.get_height() / 2), []).append(bar.get_width())
    return [rows[row] for row in sorted(rows)]


def _lines(axes: Axes) -> list[Line2D]:
    """The lines with intervals, without the whiskers."""
    return [container.lines[0] for container in axes.containers if isinstance(container, ErrorbarContainer)]


def _curve(policy: str, *ratios: float) -> list[Point]:
    return [Point(policy, 1000 * 2**i, Interval(ratio, None, 1)) for i, ratio in enumerate(ratios)]


@pytest.mark.parametrize("num_cells", [1, 3])
def test_overview_is_a_png_of_the_announced_size(write_run: WriteRun, tmp_path: Path, num_cells: int) -> None:
    target = tmp_path / "overview.png"
    policy_overview(load(write_run(POLICIES[:num_cells])), target)
    assert _size(target.read_bytes()) == (WIDTH_INCHES * DPI, int(overview_height(num_cells) * DPI))


def test_every_figure_can_go_to_a_file_in_memory(write_run: WriteRun) -> None:
    run = load(write_run(POLICIES))
    overview, course, capacity, concurrency = (io.BytesIO() for _ in range(4))
    policy_overview(run, overview)
    course_of_run(run, course)
    hit_ratio_by_capacity(_curve("lru", 0.2, 0.4), capacity)
    hit_ratio_by_concurrency(concurrency_points(summarise(run.path)), concurrency)
    assert _size(course.getvalue()) == (WIDTH_INCHES * DPI, figures.COURSE_HEIGHT * DPI)
    assert _size(capacity.getvalue()) == (WIDTH_INCHES * DPI, figures.LINES_HEIGHT * DPI)
    assert _size(concurrency.getvalue()) == (WIDTH_INCHES * DPI, figures.LINES_HEIGHT * DPI)
    assert len(overview.getvalue()) > 10_000


def test_the_same_run_gives_the_same_bytes(write_run: WriteRun) -> None:
    run = load(write_run(POLICIES))
    first, second = io.BytesIO(), io.BytesIO()
    policy_overview(run, first)
    policy_overview(run, second)
    assert first.getvalue() == second.getvalue()


def test_overview_draws_the_records(write_run: WriteRun, drawn: list[Figure]) -> None:
    run = load(write_run(POLICIES))
    policy_overview(run, io.BytesIO())
    shares, latencies = drawn[0].axes
    names = ["gpu_hit", "host_hit", "loading", "evicted", "partial", "cold"]
    tokens = run.calls.groupby("cell")[[f"num_{name}_tokens" for name in names]].sum()
    np.testing.assert_allclose(_bars(shares), 100 * tokens.div(tokens.sum(axis=1), axis=0))
    spans = run.workflows.assign(jct_s=run.workflows.ended_at_s - run.workflows.released_at_s)
    np.testing.assert_allclose(np.ravel(_bars(latencies)), spans.groupby("cell").jct_s.mean())
    assert _labels(shares) == ["lru", "lae", "pbkv"]
    assert "%" in shares.get_xlabel()
    assert "(s" in latencies.get_xlabel()


def test_overview_names_what_tells_cells_apart(write_run: WriteRun, drawn: list[Figure]) -> None:
    policy_overview(load(write_run([{"write_mode": "write-back"}, {"host_blocks": 0}])), io.BytesIO())
    assert _labels(drawn[0].axes[0]) == ["lru · host 1,024, write-back", "lru · no host tier"]
    assert drawn[0].texts[1].get_text() == "GPU 512 blocks · 8 concurrent · 16-token blocks"


def test_a_line_a_policy_the_best_first_and_in_its_own_colour(drawn: list[Figure]) -> None:
    points = _curve("lru", 0.1, 0.2, 0.3, 0.4) + _curve("belady", 0.3, 0.5, 0.6, 0.6)
    hit_ratio_by_capacity(points, io.BytesIO(), infinite_ratio=0.61)
    axes = drawn[0].axes[0]
    belady, lru, infinite = axes.get_lines()
    assert [line.get_color() for line in (belady, lru)] == [look_of("belady").color, look_of("lru").color]
    np.testing.assert_allclose(np.asarray(lru.get_xydata()), [[1000, 10], [2000, 20], [4000, 30], [8000, 40]])
    np.testing.assert_allclose(np.asarray(infinite.get_ydata()), 61)
    assert axes.get_xscale() == "log"
    assert axes.get_ylim()[0] == 0
    legend = axes.get_legend()
    assert legend is not None
    assert {text.get_text() for text in legend.get_texts()} == {"belady", "lru", "infinite cache"}


def test_points_of_a_run_over_capacity_keep_the_host_ratio_apart(write_run: WriteRun) -> None:
    sizes = [(gpu, ratio) for ratio in (0, 1, 2) for gpu in (256, 512)]
    cells = summarise(write_run([{"gpu_blocks": gpu, "host_blocks": gpu * ratio} for gpu, ratio in sizes]))
    points = capacity_points(cells)
    assert [point.x for point in points] == [256, 512] * 3
    assert [point.variant for point in points[::2]] == [
        "no host tier",
        "host 1× GPU, write-through",
        "host 2× GPU, write-through",
    ]
    assert [point.value for point in points] == [cell.gpu_hit_ratio for cell in cells]


def test_points_of_a_run_over_capacity_may_have_one_host_size(write_run: WriteRun) -> None:
    cells = summarise(write_run([{"gpu_blocks": gpu, "host_blocks": 512} for gpu in (256, 512)]))
    assert [point.variant for point in capacity_points(cells)] == ["", ""]


def test_points_over_concurrency_leave_the_open_loop_out(write_run: WriteRun, drawn: list[Figure]) -> None:
    cells = [{"policy": p, "concurrency": c} for p in ("lru", "lae") for c in (4, 8)]
    folder = write_run([*cells, {"policy": "lru", "concurrency": None, "open_loop": True}])
    points = concurrency_points(summarise(folder))
    assert [(point.policy, point.x, point.variant) for point in points] == [
        ("lru", 4, ""),
        ("lru", 8, ""),
        ("lae", 4, ""),
        ("lae", 8, ""),
    ]
    hit_ratio_by_concurrency(points, io.BytesIO())
    calls = pd.read_parquet(folder / "calls.parquet").groupby("cell").sum(numeric_only=True)
    expected = 100 * calls.num_gpu_hit_tokens / calls.num_prompt_tokens
    lines = {line.get_color(): np.asarray(line.get_ydata(), float) for line in _lines(drawn[0].axes[0])}
    np.testing.assert_allclose(lines[look_of("lru").color], expected[[0, 1]])
    np.testing.assert_allclose(lines[look_of("lae").color], expected[[2, 3]])


def test_nothing_to_draw_is_said() -> None:
    with pytest.raises(ConfigError, match="expected at least one value"):
        hit_ratio_by_capacity([], io.BytesIO())


def test_course_shows_hit_ratio_a_window_and_used_blocks(write_run: WriteRun, drawn: list[Figure]) -> None:
    run = load(write_run(POLICIES))
    course_of_run(run, io.BytesIO(), num_windows=7)
    upper, lower = drawn[0].axes
    samples = run.occupancy[run.occupancy.cell == 1]  # one every 2 s for 98 s: seven samples a window
    ends = samples.iloc[[0, 7, 14, 21, 28, 35, 42, 49]]
    expected = 100 * ends.num_hit_tokens.diff() / ends.num_seen_prompt_tokens.diff()
    line = upper.get_lines()[1]
    np.testing.assert_allclose(np.asarray(line.get_ydata()), expected.iloc[1:])
    np.testing.assert_allclose(np.asarray(line.get_xdata()), np.arange(7, 98, 14))
    gpu, host = lower.get_lines()[2:4]
    np.testing.assert_allclose(np.asarray(gpu.get_ydata()), 100 * samples.gpu_used_blocks / 512)
    np.testing.assert_allclose(np.asarray(host.get_ydata()), 100 * samples.host_used_blocks / 1024)
    assert {line.get_color() for line in (upper.get_lines()[1], gpu, host)} == {look_of("lae").color}


def test_course_takes_the_first_cell_of_each_policy_or_those_asked_for(
    write_run: WriteRun, drawn: list[Figure]
) -> None:
    run = load(write_run([{"policy": p, "concurrency": c} for c in (4, 8) for p in ("lru", "lae")]))
    course_of_run(run, io.BytesIO())
    course_of_run(run, io.BytesIO(), cells=[3, 1])
    labels = [[line.get_label() for line in figure.axes[0].get_lines()] for figure in drawn]
    assert labels == [["lru", "lae"], ["lae · 8 concurrent", "lae · 4 concurrent"]]
    with pytest.raises(ConfigError, match="cell: got 9, expected a cell of the run: 0, 1, 2, 3"):
        course_of_run(run, io.BytesIO(), cells=[9])


def test_course_without_samples_is_said(write_run: WriteRun) -> None:
    run = load(write_run([{}], edit=lambda tables: tables["occupancy"].clear()))
    with pytest.raises(ConfigError, match="expected a cell with occupancy samples"):
        course_of_run(run, io.BytesIO())


def test_one_sample_draws_no_hit_ratio(write_run: WriteRun, drawn: list[Figure]) -> None:
    run = load(write_run([{}], edit=lambda tables: tables["occupancy"].__delitem__(slice(1, None))))
    course_of_run(run, io.BytesIO())
    assert np.isnan(np.asarray(drawn[0].axes[0].get_lines()[0].get_ydata())).all()


def test_course_shows_the_link_where_copies_cross_it(write_run: WriteRun, drawn: list[Figure]) -> None:
    def copy(tables: dict[str, list[dict[str, Any]]]) -> None:
        for row in tables["occupancy"]:
            row["d2h_busy_s"] = 0.25 * row["at_s"]

    course_of_run(load(write_run([{}], edit=copy)), io.BytesIO(), num_windows=7)
    link = drawn[0].axes[2]
    h2d, d2h = link.get_lines()
    np.testing.assert_allclose(np.asarray(h2d.get_ydata()), 0)
    np.testing.assert_allclose(np.asarray(d2h.get_ydata()), 25)
    assert "%" in link.get_ylabel()
    assert drawn[0].get_size_inches()[1] == figures.COURSE_HEIGHT + figures.LINK_HEIGHT


def test_latency_by_capacity_has_its_bound_and_the_fastest_first(drawn: list[Figure]) -> None:
    latency_by_capacity(_curve("lru", 9, 7) + _curve("pbkv", 8, 5), io.BytesIO(), infinite_s=4)
    axes = drawn[0].axes[0]
    pbkv, lru, bound = axes.get_lines()
    assert [line.get_color() for line in (pbkv, lru)] == [look_of("pbkv").color, look_of("lru").color]
    np.testing.assert_allclose(np.asarray(lru.get_ydata(), float), [9, 7])
    np.testing.assert_allclose(np.asarray(bound.get_ydata(), float), 4)
    assert axes.get_ylim()[0] == 0


def test_a_knee_is_marked(drawn: list[Figure]) -> None:
    points = _curve("lru", 0.1, 0.5, 0.6, 0.61)
    hit_ratio_by_capacity(points, io.BytesIO(), knee=points[2])
    (note,) = drawn[0].axes[0].texts
    assert isinstance(note, Annotation)
    assert note.get_text() == "knee"
    assert note.xy == pytest.approx((4000, 60))


@pytest.mark.parametrize(
    ("ratios", "top", "x"),
    [
        ((0.1, 0.5, 0.6, 0.61), None, 4000),
        ((0.1, 0.5, 0.6, 0.61), 0.9, None),  # more memory would still buy hits
        ((0.1, 0.5, 0.6, 0.61), 0.5, 2000),
        ((0.6, 0.6, 0.6), None, 1000),
        ((0.6, 0.5, 0.6), None, 4000),  # from which on: the dip counts
        ((0.1, 0.6), None, None),  # two points have no knee
    ],
)
def test_the_knee_is_where_hits_stop_growing(
    ratios: tuple[float, ...], top: float | None, x: float | None
) -> None:
    found = knee(_curve("lru", *ratios), top)
    assert (None if found is None else found.x) == x
