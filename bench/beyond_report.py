"""Tables and the figure of bench/beyond.py, from the cells that there are: docs/results/beyond/.

    python bench/beyond_report.py --work runs/beyond --real runs/real

Ratios are taken seed by seed (same trace); ± is Student's 95 % interval over seeds. The real sets' other
policies come from docs/results/real/cells.parquet (same cells, same draw).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that this file runs by its path, as well as by `-m`

from bench.beyond import BEGUN, CONCURRENCY, FAULTS, MAIN, NEW, SCARCE, SCARCE_MAIN  # noqa: E402
from bench.beyond_ablations import ABLATIONS  # noqa: E402
from pbkv.analysis.intervals import mean_interval  # noqa: E402
from pbkv.analysis.style import look_of, new_figure, save  # noqa: E402
from pbkv.analysis.table import markdown  # noqa: E402
from pbkv.paper.experiments import CONCURRENCIES  # noqa: E402
from pbkv.paper.published import MODEL_32B  # noqa: E402

Row = dict[str, Any]
HOSTS = ((0.0, "write-through"), (1.0, "write-through"), (1.0, "exclusive"))
ORACLES = ("belady", "belady-cost", "pbkv-oracle")
_LEAST_GAP = 0.02  # of LRU's latency: below it "of the way" is a quotient of noise


class Cells:
    """Rows that can be asked for by their fields; of equal keys the last counts."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows

    def of(self, **fields: Any) -> dict[int, Row]:
        """By seed (of the real sets: draw)."""
        wanted = {"faults": "", "noise": 0.0, "early": False, **fields}
        found = {}
        for row in self.rows:
            if all(row.get(name, value) == value for name, value in wanted.items()):
                found[row.get("seed", row.get("draw"))] = row
        return found

    def mean(self, measure: str, scale: float = 1.0, digits: int = 0, **fields: Any) -> str:
        return _interval([scale * row[measure] for row in self.of(**fields).values()], digits)

    def ratio(self, measure: str, one: Row, other: Row, digits: int = 2) -> str:
        """``one``'s measure over ``other``'s, seed by seed."""
        top, bottom = self.of(**one), self.of(**other)
        both = sorted(set(top) & set(bottom))
        return _interval([top[s][measure] / bottom[s][measure] for s in both], digits)


def _interval(values: Iterable[float], digits: int) -> str:
    found = mean_interval(np.array(list(values)))
    if found is None:
        return ""
    half = "" if found.half is None else f" ± {found.half:.{digits}f}"
    return f"{found.mean:.{digits}f}{half}"


# ---------------------------------------------------------------------- tables


def paper(cells: Cells, graph: Cells, mode: str) -> str:
    header = (
        "workload, concurrent",
        "policy",
        "latency s",
        "p95 s",
        "workflows/ks",
        "GPU hit %",
        "host hit %",
    )
    rows = []
    for workload, at in CONCURRENCY.items():
        place = {"workload": workload, "concurrency": at, "pressure": "", "write_mode": mode}
        for policy in MAIN:
            arm = {**place, "policy": policy}
            if not cells.of(**arm):
                continue
            base = {**place, "policy": "pbkv"}
            rows.append(
                (
                    f"{workload}, {at}",
                    policy,
                    cells.mean("jct_s", **arm),
                    cells.mean("jct_p95_s", **arm),
                    cells.mean("workflows_per_s", 1e3, 1, **arm),
                    cells.mean("gpu_hit_ratio", 100, 1, **arm),
                    cells.mean("host_hit_ratio", 100, 1, **arm),
                    cells.ratio("jct_s", base, arm),
                    cells.ratio("workflows_per_s", arm, base),
                    _over_graph(cells.of(**arm), graph.of(workload=workload, policy="pbkv"))
                    if mode == HOSTS[0][1]
                    else "",
                )
            )
    return markdown(
        (*header, "pbkv's latency over it", "throughput over pbkv's", "full's latency over it"), rows
    )


def _over_graph(arm: dict[int, Row], full: dict[int, Row]) -> str:
    """The paper's PBKV-full with its trained network, on the same traces."""
    return _interval([full[s]["jct_s"] / arm[s]["jct_s"] for s in sorted(set(arm) & set(full))], 2)


def concurrency(cells: Cells) -> str:
    header = ("policy", *(str(at) for at in CONCURRENCIES), "worst fall, %")
    rows = []
    for policy in ("lru", "pbkv", BEGUN, NEW):
        arms = [_hover(policy, at) for at in CONCURRENCIES]
        means = [np.mean([r["workflows_per_s"] for r in cells.of(**a).values()] or [np.nan]) for a in arms]
        worst = max(100 * (1 - later / earlier) for earlier, later in pairwise(means))
        rows.append((policy, *(cells.mean("workflows_per_s", 1e3, 1, **a) for a in arms), f"{worst:.1f}"))
    return markdown(header, rows)


def _hover(policy: str, at: int) -> Row:
    place = {"workload": "hover", "pressure": "", "write_mode": "write-through"}
    return {**place, "policy": policy, "concurrency": at}


def scarce(cells: Cells, policies: Sequence[str], measure: str = "jct_s") -> str:
    header = ("policy", *(f"{w}, {r:g}× {_short(m)}" for w in SCARCE for r, m in HOSTS))
    rows = []
    for policy in policies:
        places = [_place(w, r, m) for w in SCARCE for r, m in HOSTS]
        rows.append(
            (policy, *(cells.ratio(measure, {**p, "policy": policy}, {**p, "policy": "lru"}) for p in places))
        )
    return markdown(header, rows)


def _place(workload: str, ratio: float, mode: str) -> Row:
    pressure = SCARCE.get(workload, "in")
    return {"workload": workload, "pressure": pressure, "host_ratio": ratio, "write_mode": mode}


def _short(mode: str) -> str:
    return {"write-through": "wt", "exclusive": "ex"}[mode]


def ablation(cells: Cells) -> str:
    """Latency without an ingredient over latency with all of them."""
    header = ("without", *(f"{w}, paper's" for w in CONCURRENCY), *(f"{w}, scarce" for w in SCARCE))
    places = [
        {"workload": w, "concurrency": at, "pressure": "", "write_mode": "write-through"}
        for w, at in CONCURRENCY.items()
    ]
    places += [_place(w, 1.0, "write-through") for w in SCARCE]
    rows = []
    for name in ABLATIONS:
        row = [cells.ratio("jct_s", {**p, "policy": name}, {**p, "policy": NEW}, 3) for p in places]
        rows.append((name.removeprefix(f"{NEW}-without-"), *row))
    return markdown(header, rows)


def faults(cells: Cells) -> str:
    """Latency over LAE's under the same fault; and each over its own without faults."""
    header = ["fault"]
    for setting in ("paper's", "scarce"):
        header += [f"{setting}: {p} over lae" for p in ("pbkv", NEW)] + [f"{setting}: {NEW} over itself"]
    rows = []
    for name, given in FAULTS.items():
        row = [name]
        for place in (_hover("", 72), {**_place("hover", 1.0, "write-through")}):
            arms = {p: {**place, **given, "policy": p} for p in ("lae", "pbkv", NEW)}
            row += [cells.ratio("jct_s", arms[p], arms["lae"]) for p in ("pbkv", NEW)]
            row.append(cells.ratio("jct_s", arms[NEW], {**place, "policy": NEW}))
        rows.append(tuple(row))
    return markdown(header, rows)


def mixes(cells: Cells) -> str:
    header = (
        "workload",
        "setting",
        *(f"{p} over lru" for p in ("lae", "pbkv", BEGUN, NEW)),
        f"p95: {NEW} over pbkv",
    )
    rows = []
    for workload in ("drift", "mix"):
        for title, place in (
            ("paper's, 48", {"workload": workload, "pressure": "", "concurrency": 48}),
            ("scarce, in, 24", {"workload": workload, "pressure": "in", "concurrency": 24}),
        ):
            arm: Callable[[str], Row] = lambda policy, place=place: {**place, "policy": policy}  # noqa: E731
            ratios = [cells.ratio("jct_s", arm(p), arm("lru")) for p in ("lae", "pbkv", BEGUN, NEW)]
            rows.append((workload, title, *ratios, cells.ratio("jct_p95_s", arm(NEW), arm("pbkv"))))
    return markdown(header, rows)


# ---------------------------------------------------------------------- real sets


def real(rows: Sequence[Row]) -> str:
    """Means over draws of what is paired by draw."""
    by_place: dict[tuple[str, str, float, str], dict[tuple[str, int], Row]] = {}
    for row in rows:
        by_place.setdefault(_real_place(row), {})[row["policy"], row["draw"]] = row
    slower, later, shares, table = [0, 0], [0, 0], dict[bool, list[float]](), []
    for (dataset, pressure, host, mode), cells in by_place.items():
        draws = sorted(draw for policy, draw in cells if policy == NEW)
        if not draws:
            continue
        over_lru = {
            p: np.array([cells[p, d]["jct_s"] / cells["lru", d]["jct_s"] for d in draws])
            for p in ("pbkv", NEW, *ORACLES)
        }
        best = np.min([over_lru[oracle] for oracle in ORACLES], axis=0)
        p95 = np.array([cells[NEW, d]["jct_p95_s"] / cells["pbkv", d]["jct_p95_s"] for d in draws])
        new, gap = over_lru[NEW], 1 - best.mean()
        share = (1 - new.mean()) / gap
        if pressure == "in" and gap > _LEAST_GAP:
            shares.setdefault(mode == "exclusive", []).append(share)
        slower = [slower[0] + (new.mean() > 1.01), slower[1] + int((new > 1.01).sum())]
        later = [later[0] + (p95.mean() > 1.005), later[1] + int((p95 > 1.005).sum())]
        table.append(
            (
                dataset,
                f"{pressure}, {host:g}×" + (f" {_short(mode)}" if host else ""),
                f"{np.mean([cells['lru', d]['jct_s'] for d in draws]):.0f}",
                f"{over_lru['pbkv'].mean():.3f}",
                f"{best.mean():.3f}",
                _interval(new, 3),
                f"{new.max():.3f}" + (" **slower**" if new.max() > 1.01 else ""),
                f"{100 * share:.0f}" if gap > _LEAST_GAP else "",
                _interval(p95, 2) + (" **later**" if p95.mean() > 1.005 else ""),
            )
        )
    header = ("set", "pool, host", "LRU s", "pbkv", "best oracle", NEW, "its worst draw")
    mean = np.mean([share for group in shares.values() for share in group])
    text = (
        f"Over 1 % slower than LRU: {slower[0]} of {len(table)} means, {slower[1]} of "
        f"{len(table) * len(draws)} cells. p95 over 0.5 % later than pbkv's: {later[0]} means, {later[1]} "
        f"cells. Of the way from LRU to the best oracle, mean of the in-band cells where the oracle leads by "
        f"{100 * _LEAST_GAP:.0f} %: {100 * mean:.0f} %."
    )
    return text + "\n\n" + markdown((*header, "of the way, %", "p95 over pbkv's"), table)


def _real_place(row: Row) -> tuple[str, str, float, str]:
    return row["dataset"], row["pressure"], row["host_ratio"], row["write_mode"]


# ---------------------------------------------------------------------- figure and page


def draw(cells: Cells, by_load: Cells, target: Path) -> None:
    """Throughput by concurrency, and latency over LRU's where memory is scarce."""
    title = "When order and patience matter, and when nothing does"
    with new_figure(
        4.6,
        title,
        "left: HoVer-like, paper's engine, six running; right: scarce; wt, ex: host tier's write mode",
    ) as figure:
        left, right = figure.subplots(1, 2)
        for policy in ("lru", "pbkv", NEW):
            look = look_of(policy)
            means = [
                1e3
                * np.mean(
                    [r["workflows_per_s"] for r in by_load.of(**_hover(policy, at)).values()] or [np.nan]
                )
                for at in CONCURRENCIES
            ]
            left.plot(CONCURRENCIES, means, color=look.color, marker=look.marker, label=policy)
        left.set_xlabel("live workflows")
        left.set_ylabel("workflows per 1,000 s")
        left.set_ylim(bottom=0)
        left.grid(axis="y")
        left.legend(loc="lower left")
        _draw_scarce(cells, right)
        save(figure, target)


def _draw_scarce(cells: Cells, axes: Any) -> None:
    hosts = HOSTS[1:]
    labels = [f"{w} {_short(m)}" for m in (hosts[0][1], hosts[1][1]) for w in SCARCE]
    places = [_place(w, r, m) for r, m in hosts for w in SCARCE]
    for shift, policy in enumerate(("pbkv", NEW)):
        ratios = []
        for place in places:
            one, lru = cells.of(**place, policy=policy), cells.of(**place, policy="lru")
            ratios.append(
                np.mean([one[s]["jct_s"] / lru[s]["jct_s"] for s in set(one) & set(lru)] or [np.nan])
            )
        at = np.arange(len(places)) + 0.4 * (shift - 0.5)
        axes.barh(at, ratios, height=0.38, color=look_of(policy).color, label=policy)
    axes.axvline(1.0, color="#333333", linewidth=1)
    axes.set_yticks(range(len(places)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("latency over LRU's, host tier of ratio 1")
    axes.set_xlim(0, 1.35)
    axes.legend(loc="center right", fontsize=8)


def _is_main(row: Row) -> bool:
    """Whether a cell of docs/results/paper is PBKV's or LRU's as in its tables 1 and 2, at any load."""
    given = row["num_steps"], row["gamma"], row["faults"], row["noise"], row["forecast_delay_s"]
    predictor = "graph" if row["policy"] == "pbkv" else ""
    at = row["profile"], row["policy"] in ("lru", "pbkv"), row["predictor"]
    return given == (3, 0.7, "", 0.0, 0.0) and at == (MODEL_32B, True, predictor)


def load(path: Path) -> list[Row]:
    """The last row of each key."""
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return list({line["key"]: line["row"] for line in lines}.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "runs/beyond")
    parser.add_argument("--real", type=Path, default=ROOT / "runs/real")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs/results/beyond")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    rows, real_rows = load(arguments.work / "cells.jsonl"), load(arguments.real / "cells.jsonl")
    known = pq.read_table(ROOT / "docs/results/real/cells.parquet").to_pylist()
    reproduced = pq.read_table(ROOT / "docs/results/paper/cells.parquet").to_pylist()
    graph = [row for row in reproduced if _is_main(row) and row["predictor"] == "graph"]
    plain = {"pressure": "", "write_mode": "write-through"}
    hover = [{**row, **plain} for row in reproduced if _is_main(row) and row["workload"] == "hover"]
    ordered = [row for row in rows if row["policy"] in (NEW, BEGUN)]
    by_load = Cells([row for row in ordered + hover if row["seed"] == 0])  # the seed that all loads have
    full = Cells([row for row in graph if row["concurrency"] == CONCURRENCY[row["workload"]]])
    cells = Cells(rows)
    pq.write_table(pa.Table.from_pylist(rows), arguments.output / "cells.parquet")
    if real_rows:
        pq.write_table(pa.Table.from_pylist(real_rows), arguments.output / "real.parquet")
    draw(cells, by_load, arguments.output / "when.png")
    parts = {
        "The paper's setting, write-through": paper(cells, full, "write-through"),
        "The paper's setting, exclusive host tier": paper(cells, full, "exclusive"),
        "Throughput by concurrency (HoVer-like, workflows per 1,000 s; seed 0)": concurrency(by_load),
        "Memory scarce, no limit on running requests: latency over LRU's": scarce(cells, SCARCE_MAIN),
        "The same: p95 latency over LRU's": scarce(cells, SCARCE_MAIN, "jct_p95_s"),
        "Ablation: latency without an ingredient over latency with all": ablation(cells),
        "Faults (HoVer-like)": faults(cells),
        "Drift and a mix of three applications": mixes(cells),
        "Real sets, three draws: latency over LRU's under the same write mode": real([*known, *real_rows])
        if real_rows
        else "",
    }
    text = "\n\n".join(f"## {title}\n\n{table}" for title, table in parts.items())
    (arguments.output / "tables.md").write_text(f"# Cells of bench/beyond.py\n\n{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
