"""Tables and figures of real.py: a Markdown page and a picture a set, and all cells as Parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pbkv.analysis.intervals import student_t
from pbkv.analysis.style import DPI, new_figure
from pbkv.analysis.table import markdown

Row = Mapping[str, Any]
Place = tuple[str, float, str]  # pressure, host ratio, write mode
ORACLES = ("belady", "belady-cost", "pbkv-oracle")


def write_report(rows: Sequence[Row], output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), output / "cells.parquet")
    datasets = list(dict.fromkeys(row["dataset"] for row in rows))
    pages = []
    for dataset in datasets:
        grid = Grid([row for row in rows if row["dataset"] == dataset])
        _draw(grid, dataset, output / f"{dataset}.png")
        (output / f"{dataset}.md").write_text(_page(grid, dataset), encoding="utf-8")
        num_draws = len({row["draw"] for row in grid.rows})
        pages.append(f"- [{dataset}]({dataset}.md), {num_draws} draw{'s' if num_draws > 1 else ''}")
    (output / "README.md").write_text(_index(rows, datasets, pages), encoding="utf-8")


class Grid:
    """The cells of one set, by place and policy."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self._by_key: dict[tuple[Place, str], dict[int, Row]] = {}
        for row in rows:
            place = row["pressure"], row["host_ratio"], row["write_mode"]
            self._by_key.setdefault((place, row["policy"]), {})[row["draw"]] = row
        self.places = list(dict.fromkeys(place for place, _ in self._by_key))
        self.policies = list(dict.fromkeys(policy for _, policy in self._by_key))

    def values(self, place: Place, policy: str, measure: str) -> dict[int, float]:
        return {draw: row[measure] for draw, row in self._by_key.get((place, policy), {}).items()}

    def over_lru(self, place: Place, policy: str, measure: str) -> dict[int, float]:
        """The measure as a multiple of LRU's on the same draw."""
        lru = self.values(place, "lru", measure)
        return {d: v / lru[d] for d, v in self.values(place, policy, measure).items() if lru.get(d)}

    def share(self, place: Place, policy: str) -> dict[int, float]:
        """The share of the way from LRU's latency to the best oracle's, where that is at least 2 % away."""
        lru, found = self.values(place, "lru", "jct_s"), {}
        oracles = [self.values(place, oracle, "jct_s") for oracle in ORACLES]
        for draw, value in self.values(place, policy, "jct_s").items():
            best = min((oracle[draw] for oracle in oracles if draw in oracle), default=None)
            if best is not None and draw in lru and best < 0.98 * lru[draw]:
                found[draw] = (lru[draw] - value) / (lru[draw] - best)
        return found


def _page(grid: Grid, dataset: str) -> str:
    parts = [f"# {dataset}", f"![latency over LRU's]({dataset}.png)"]
    for place in grid.places:
        header = ("policy", "latency s", "over LRU's", "TTFT over LRU's", "GPU hit %", "total hit %")
        rows = []
        for policy in grid.policies:
            cells = [
                _mean(grid.values(place, policy, "jct_s"), 1.0, 1),
                _mean(grid.over_lru(place, policy, "jct_s"), 1.0, 3),
                _mean(grid.over_lru(place, policy, "ttft_s"), 1.0, 3),
                _mean(grid.values(place, policy, "gpu_hit_ratio"), 100.0, 1),
                _mean(grid.values(place, policy, "hit_ratio"), 100.0, 1),
                _mean(grid.share(place, policy), 100.0, 0),
            ]
            rows.append((policy, *cells))
        served = _mean(grid.values(place, "lru", "num_workflows"), 1.0, 0, half=False)
        parts += [
            f"## {_title(place)}",
            f"{served} workflows a draw.",
            markdown((*header, "of the way to the best oracle, %"), rows),
        ]
    return "\n\n".join(parts) + "\n"


def _index(rows: Sequence[Row], datasets: Sequence[str], pages: Sequence[str]) -> str:
    text = (
        "# Policies on the real sets\n\n"
        "Made by `python bench/real.py` (its docstring says what a draw, a pressure and an interval are): "
        f"{len(rows):,} cells, 24 workflows at a time, closed loop, blocks of 16, "
        "`2xa6000-qwen3-32b` (derived from datasheets: ratios count, seconds do not). Unknown tool times "
        "are 1 s. Workflows with calls too long for a pool are left out there (each place says how many were "
        "served). `infinite` is the bound of a cache without end, which no policy in a finite one can "
        "reach; the best oracle is the fastest of "
        + ", ".join(ORACLES)
        + ", and shares of the way to it are "
        "means over draws in which it is at least 2 % ahead. It is no bound for policies that also order or "
        "admit requests. Policies learn while serving (Markov-3). One policy of each kind: variants "
        "(pbkv-aggressive, ttl:SECONDS, kvflow's parts, lfu, fifo, random) have one draw of "
        "six sets: [variants.md](variants.md).\n\n" + "\n".join(pages) + "\n\n"
        "Latency as a multiple of LRU's, mean over draws, host tier of ratio 1:\n\n"
    )
    header = ["policy"]
    columns = []
    for dataset in datasets:
        grid = Grid([row for row in rows if row["dataset"] == dataset])
        for mode, short in (("write-through", "wt"), ("exclusive", "ex")):
            header.append(f"{dataset} in, {short}")
            columns.append((grid, ("in", 1.0, mode)))
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    table = [
        (p, *(_mean(grid.over_lru(place, p, "jct_s"), 1.0, 2, half=False) for grid, place in columns))
        for p in policies
    ]
    return text + markdown(header, table) + "\n"


def _draw(grid: Grid, dataset: str, target: Path) -> None:
    """Latency over LRU's as a heat map: a row a policy, a column a place."""
    ratios = np.array(
        [
            [np.mean(list(grid.over_lru(place, p, "jct_s").values()) or [np.nan]) for place in grid.places]
            for p in grid.policies
        ]
    )
    height = 1.9 + 0.3 * len(grid.policies)
    title = f"{dataset}: workflow latency as a multiple of LRU's"
    with new_figure(height, title, "below 1 (blue) is faster; host ratio and write mode below") as figure:
        axes = figure.subplots()
        axes.imshow(np.clip(ratios, 0.5, 1.5), cmap="RdBu_r", vmin=0.5, vmax=1.5, aspect="auto")
        for (row, column), ratio in np.ndenumerate(ratios):
            if np.isfinite(ratio):
                color = "white" if abs(ratio - 1) > 0.3 else "black"
                axes.text(column, row, f"{ratio:.2f}", ha="center", va="center", size=8, color=color)
        labels = [f"{p}\n{ratio:g}× {_short(mode)}" for p, ratio, mode in grid.places]
        axes.set_xticks(range(len(grid.places)), labels, fontsize=8)
        axes.set_yticks(range(len(grid.policies)), grid.policies, fontsize=9)
        axes.tick_params(length=0)
        figure.savefig(target, format="png", dpi=DPI, metadata={"Software": None})


def _title(place: Place) -> str:
    pressure, ratio, mode = place
    return f"pool {pressure} the band, host {ratio:g}×" + (f", {mode}" if ratio else "")


def _short(mode: str) -> str:
    return {"write-through": "wt", "exclusive": "ex"}.get(mode, mode)


def _mean(values: Mapping[int, float], scale: float, decimals: int, half: bool = True) -> str:
    """Mean over draws ± t · standard deviation (see real.py)."""
    found = scale * np.array(list(values.values()))
    if not len(found):
        return ""
    if len(found) == 1 or not half:
        return f"{found.mean():.{decimals}f}"
    return f"{found.mean():.{decimals}f} ± {student_t(len(found) - 1) * found.std(ddof=1):.{decimals}f}"
