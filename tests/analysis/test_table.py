"""What the tables say, and that nothing is lost on a narrow console."""

import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pbkv.analysis.summary import CellSummary, summarise
from pbkv.analysis.table import ConsoleTable, markdown_table

WriteRun = Callable[..., Path]


def _printed(cells: Sequence[CellSummary], width: int) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(ConsoleTable(cells))
    return console.export_text().splitlines()


def _markdown(cells: Sequence[CellSummary]) -> list[dict[str, str]]:
    header, _, *rows = [line for line in markdown_table(cells).splitlines() if line.startswith("|")]
    names = _fields(header)
    return [dict(zip(names, _fields(row), strict=True)) for row in rows]


def _fields(line: str) -> list[str]:
    return [field.strip() for field in line.strip("|").split("|")]


def test_markdown_has_the_settings_and_the_measures_with_units(write_run: WriteRun) -> None:
    cells = summarise(write_run([{"policy": "lru"}, {"policy": "lae", "gpu_blocks": 2048, "host_blocks": 0}]))
    rows = _markdown(cells)
    assert list(rows[0]) == [
        "policy", "GPU blocks", "host blocks", "write mode", "concurrent",
        "latency s", "p95 s", "TTFT s", "TPOT ms",
        "GPU hit %", "host hit %", "total hit %", "evicted miss %", "workflows/h",
    ]  # fmt: skip
    assert [row["policy"] for row in rows] == ["lru", "lae"]
    assert [row["GPU blocks"] for row in rows] == ["512", "2,048"]
    assert [row["write mode"] for row in rows] == ["write-through", "no host tier"]
    assert "± half the 95 % interval over workflows" in markdown_table(cells)


def test_numbers_are_the_summaries_in_the_units_of_the_header(write_run: WriteRun) -> None:
    cells = summarise(write_run([{"policy": "lru"}, {"policy": "lae"}]))
    scales = {"latency s": ("jct_s", 1.0), "p95 s": ("jct_p95_s", 1.0), "TTFT s": ("ttft_s", 1.0)}
    scales |= {"TPOT ms": ("tpot_s", 1e3), "workflows/h": ("workflows_per_s", 3600.0)}
    scales |= {"GPU hit %": ("gpu_hit_ratio", 100.0), "host hit %": ("host_hit_ratio", 100.0)}
    scales |= {"total hit %": ("hit_ratio", 100.0), "evicted miss %": ("evicted_ratio", 100.0)}
    for row, cell in zip(_markdown(cells), cells, strict=True):
        for header, (name, scale) in scales.items():
            mean, _, half = row[header].replace(",", "").partition(" ± ")
            interval = getattr(cell, name)
            assert float(mean) == pytest.approx(interval.mean * scale, rel=1e-2)
            assert not half or float(half) == pytest.approx(interval.half * scale, rel=5e-2)
        assert "±" in row["latency s"]
        assert "±" in row["TTFT s"]


@pytest.mark.parametrize("width", [60, 80, 100, 200])
@pytest.mark.parametrize(
    "cells",
    [
        [{"policy": "lru"}, {"policy": "pbkv"}],
        [{"policy": "lru", "gpu_blocks": blocks, "host_blocks": 0} for blocks in (4096, 131072)],
    ],
)
def test_no_number_is_lost_on_any_console(
    write_run: WriteRun, cells: list[dict[str, Any]], width: int
) -> None:
    summaries = summarise(write_run(cells))
    lines = _printed(summaries, width)
    assert max(map(len, lines)) <= width
    words = {word for line in lines for word in line.split()}
    for row in _markdown(summaries):
        for header in (
            "latency s",
            "p95 s",
            "TTFT s",
            "TPOT ms",
            "GPU hit %",
            "evicted miss %",
            "workflows/h",
        ):
            assert row[header].replace(" ", "") in words


def test_shared_settings_stand_above_the_table_and_differing_ones_in_it(write_run: WriteRun) -> None:
    modes = ("write-through", "write-back")
    same = _printed(summarise(write_run([{"policy": "lru"}, {"policy": "lae"}], "same")), 100)
    assert (
        same[0].strip()
        == "GPU 512 blocks · host 1,024 blocks, write-through · 8 concurrent · 16-token blocks"
    )
    assert not any("mode" in line for line in same)
    mixed = _printed(summarise(write_run([{"write_mode": mode} for mode in modes], "mixed")), 100)
    assert "write" not in mixed[0]
    assert [mode for line in mixed for mode in re.findall(r"write-\w+", line)] == list(modes)


def test_the_caption_says_over_what_the_intervals_are(write_run: WriteRun) -> None:
    cells = [{"policy": "lru", "seed": seed} for seed in range(3)]
    assert "over 3 seeds;" in markdown_table(summarise(write_run(cells, "seeds")))
    mixed = markdown_table(summarise(write_run([*cells, {"policy": "lae"}], "mixed")))
    assert "over workflows or 3 seeds;" in mixed


def test_an_undefined_measure_is_a_dash_and_a_policy_is_no_markup(write_run: WriteRun) -> None:
    def one_token(tables: dict[str, list[dict[str, Any]]]) -> None:
        for row in tables["calls"]:
            row["num_output_tokens"] = 1

    cells = summarise(write_run([{"policy": "[bold]mine|yours"}], edit=one_token))
    assert "[bold]mine|yours" in "\n".join(_printed(cells, 120))
    assert "| [bold]mine\\|yours |" in markdown_table(cells)
    assert re.search(r"\| – \|", markdown_table(cells))
