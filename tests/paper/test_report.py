"""The report of the paper's experiments, from made-up cells: tables, figures, nothing half-written."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pbkv.paper import tables
from pbkv.paper.experiments import EXPERIMENTS, Arm, arm_of
from pbkv.paper.published import MODEL_32B
from pbkv.paper.report import check_output, write_report
from pbkv.paper.run import Results
from pbkv.sim import Settings, load_profile, simulate
from pbkv.traces.errors import ConfigError
from pbkv.traces.reader import Trace

TRACE = Path(__file__).parents[1] / "data" / "hover-30.parquet"
MEASURES = {"gpu_hit_ratio": 0.5, "ttft_s": 2.0, "num_pure_decodes": 9, "num_iterations": 10}
BYTES = dict.fromkeys(
    [f"{kind}_bytes" for kind in ("started", "useful", "late", "wasted", "cancelled")]
    + ["num_delayed_loads"],
    1e9,
)


def row(arm: Arm, seed: int, jct_s: float = 100.0) -> dict[str, Any]:
    return {**asdict(arm), "seed": seed, "jct_s": jct_s, **MEASURES, **BYTES}


def results(rows: list[dict[str, Any]], course: Path = Path("none")) -> Results:
    accuracy = {kind: [0.9, 0.8, 0.7] for kind in ("graph", "markov:1", "markov:2", "markov:3")}
    return Results((0, 1), rows, [accuracy], {100: [[0.8, 0.7, 0.6]]}, {}, course)


def test_ratios_are_taken_seed_by_seed() -> None:
    """Twice as fast in both seeds is exactly twice as fast, however the seeds differ."""
    slow, fast = arm_of(policy="lru"), arm_of(policy="pbkv")
    made = [row(slow, 0, 100.0), row(slow, 1, 300.0), row(fast, 0, 50.0), row(fast, 1, 150.0)]
    (line,) = [
        line for line in tables.end_to_end(results(made), MODEL_32B).splitlines() if "| pbkv |" in line
    ]
    assert "| 2.00 ± 0.00 | 1.85 |" in line
    assert "| 50.0 ± 0.0 | 69.1 | -19.1 |" in line


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("course") / "run"
    settings = Settings(load_profile("a6000-qwen3-14b"), gpu_blocks=(2400,), concurrencies=(12,))
    simulate([Trace(TRACE)], settings, out)
    return out


def test_everything_is_written_at_once_and_notes_are_kept(tmp_path: Path, course: Path) -> None:
    arms = dict.fromkeys(arm for experiment in EXPERIMENTS.values() for arm in experiment())
    made = results([row(arm, seed) for arm in arms for seed in (0, 1)], course)
    output = tmp_path / "paper"
    output.mkdir()
    (output / "notes.md").write_text("why")
    write_report(made, list(EXPERIMENTS), "pbkv reproduce", output)
    names = {path.name for path in output.iterdir()}
    figures = {"concurrency.png", "steps_gamma.png", "noise_rho.png", "course.png"}
    assert names == {"paper.md", "notes.md", "cells.parquet", *figures}
    assert (output / "notes.md").read_text() == "why"
    assert pq.read_table(output / "cells.parquet").num_rows == len(arms) * 2
    text = (output / "paper.md").read_text()
    for title in ("Table 1", "Table 2", "Table 3", "Table 4", "Concurrency", "Noise", "Faults"):
        assert f"## {title}" in text
    assert list(tmp_path.iterdir()) == [output]


def test_part_of_it_has_part_of_the_tables(tmp_path: Path, course: Path) -> None:
    made = results([row(arm, 0) for arm in EXPERIMENTS["steps"]()], course)
    write_report(made, ["steps"], "pbkv reproduce --only steps", tmp_path / "paper")
    text = (tmp_path / "paper" / "paper.md").read_text()
    assert "## Steps K" in text
    assert "## Table 1" not in text


def test_only_an_earlier_report_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("years")
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "new")
    for name in ("thesis", "file", "link"):
        with pytest.raises(ConfigError, match="expected a new folder, or that of an earlier report"):
            write_report(results([]), [], "", tmp_path / name)
    assert (tmp_path / "thesis" / "thesis.txt").read_text() == "years"
    check_output(tmp_path / "new")
