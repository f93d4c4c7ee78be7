"""The report: its numbers recomputed from the tables by pandas alone, and a page that stands by itself."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pbkv.analysis.report import DATA_ID, engine_notes, report_numbers, report_page, views_of, write_report
from pbkv.sim.profile import load_profile
from pbkv.sim.run import simulate
from pbkv.sim.settings import Settings
from pbkv.traces.errors import ConfigError, TraceError
from pbkv.traces.generate import generate_workload, workload_metadata
from pbkv.traces.reader import Trace
from pbkv.traces.writer import write_trace

WriteRun = Callable[..., Path]
POLICIES = ("lru", "lae", "pbkv", "infinite", "belady")
SIZES = (3000, 6000, 12_000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated run: five policies at three capacities, small enough that things are evicted."""
    base = tmp_path_factory.mktemp("report")
    write_trace(base / "hover.parquet", generate_workload("hover", 16, 1), workload_metadata("hover", 16, 1))
    profile = load_profile("2xa6000-qwen3-32b")
    settings = Settings(profile, policies=POLICIES, gpu_blocks=SIZES, concurrencies=(12,))
    simulate([Trace(base / "hover.parquet")], settings, base / "run")
    return base / "run"


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return report_page(views_of([folder]))


@pytest.fixture(scope="module")
def found(page: str) -> dict[str, Any]:
    """The numbers, out of the page itself."""
    text = re.search(rf'<script type="application/json" id="{DATA_ID}">(.*?)</script>', page, re.DOTALL)
    assert text is not None
    world: dict[str, Any] = json.loads(text[1])["worlds"][0]
    return world


@pytest.fixture(scope="module")
def tables(folder: Path) -> dict[str, pd.DataFrame]:
    names = ("calls", "workflows", "cache_events", "occupancy")
    return {name: pd.read_parquet(folder / f"{name}.parquet") for name in names}


def _focus(found: dict[str, Any], frame: pd.DataFrame, policy: str) -> pd.DataFrame:
    return frame.query(f"gpu_blocks == {found['focus']['load']['gpu_blocks']} and policy == '{policy}'")


def test_hit_ratio_and_latency_by_capacity(found: dict[str, Any], tables: dict[str, pd.DataFrame]) -> None:
    calls, flows = (tables[name].groupby(["gpu_blocks", "policy"]) for name in ("calls", "workflows"))
    tokens = calls[["num_gpu_hit_tokens", "num_evicted_tokens", "num_prompt_tokens"]].sum()
    latency = flows[["ended_at_s", "released_at_s"]].mean()
    assert len(found["settings"]) == len(POLICIES) * len(SIZES)
    for row in found["settings"]:
        mine, times = (
            tokens.loc[row["gpu_blocks"], row["policy"]],
            latency.loc[row["gpu_blocks"], row["policy"]],
        )
        assert row["gpu_hit_ratio"] == pytest.approx(mine.num_gpu_hit_tokens / mine.num_prompt_tokens)
        assert row["evicted_ratio"] == pytest.approx(mine.num_evicted_tokens / mine.num_prompt_tokens)
        assert row["jct_s"] == pytest.approx(times.ended_at_s - times.released_at_s)


def test_differences_are_paired_by_workflow(found: dict[str, Any], tables: dict[str, pd.DataFrame]) -> None:
    flows = tables["workflows"].assign(jct_s=lambda frame: frame.ended_at_s - frame.released_at_s)
    wide = flows.pivot_table(index=["gpu_blocks", "workflow_id"], columns="policy", values="jct_s")
    for row in found["settings"]:
        mine = wide.loc[row["gpu_blocks"]]
        if row["policy"] == "lru":
            assert row["jct_s_over_baseline"] is None
            continue
        ratio = mine[row["policy"]].mean() / mine.lru.mean()
        rest = mine[row["policy"]] - ratio * mine.lru
        half = 2.1314495 * rest.std() / 16**0.5 / mine.lru.mean()  # Student's t, 15 degrees of freedom
        assert row["jct_s_over_baseline"] == pytest.approx(ratio)
        assert row["jct_s_over_baseline_half"] == pytest.approx(half, rel=0.01)


def test_the_pressure_of_each_load(found: dict[str, Any], tables: dict[str, pd.DataFrame]) -> None:
    lru = tables["calls"].query("policy == 'lru'").groupby("gpu_blocks").sum(numeric_only=True)
    lost = lru.num_evicted_tokens + lru.num_host_hit_tokens + lru.num_loading_tokens
    shares = (lost / lru.num_prompt_tokens).to_dict()
    assert {row["gpu_blocks"]: row["lost_ratio"] for row in found["verdicts"]} == pytest.approx(shares)
    assert found["verdicts"][0]["word"] != "no pressure"  # the smallest cache: the test sees evictions


def test_knees(found: dict[str, Any], tables: dict[str, pd.DataFrame]) -> None:
    sums = (
        tables["calls"].groupby(["policy", "gpu_blocks"])[["num_gpu_hit_tokens", "num_prompt_tokens"]].sum()
    )
    ratios = (sums.num_gpu_hit_tokens / sums.num_prompt_tokens).unstack()
    enough = 0.95 * ratios.loc["infinite"].iloc[0]
    expected = {}
    for policy, line in ratios.drop("infinite").iterrows():
        below = line[line < enough].index
        if above := [size for size in SIZES if size > below.max()] if len(below) else SIZES:
            expected[policy] = min(above)
    assert {row["policy"]: row["gpu_blocks"] for row in found["knees"]} == expected


@pytest.mark.parametrize("policy", ["lru", "pbkv"])
def test_distributions(found: dict[str, Any], tables: dict[str, pd.DataFrame], policy: str) -> None:
    flows, calls = (_focus(found, tables[name], policy) for name in ("workflows", "calls"))
    shares = np.linspace(0, 1, 101)
    jct_s = (flows.ended_at_s - flows.released_at_s).quantile(shares, interpolation="lower")
    ttft_s = (calls.first_token_at_s - calls.submitted_at_s).sort_values().to_numpy()
    lines = found["focus"]
    for drawn, values in (
        (lines["latency_s"], np.sort(flows.ended_at_s - flows.released_at_s)),
        (lines["ttft_s"], ttft_s),
    ):
        ranks = np.maximum(np.ceil(shares * len(values) - 1e-9).astype(int), 1) - 1
        assert drawn[policy] == pytest.approx(values[ranks].tolist())
    assert lines["latency_s"][policy][-1] == pytest.approx(jct_s.iloc[-1])


@pytest.mark.parametrize("policy", ["lru", "pbkv"])
def test_ages(found: dict[str, Any], tables: dict[str, pd.DataFrame], policy: str) -> None:
    events, calls = (_focus(found, tables[name], policy) for name in ("cache_events", "calls"))
    gone = events[events.kind.isin(["evict", "drop"])]
    ages = np.sort(np.repeat(gone.age_s.to_numpy(float), gone.num_blocks))
    drawn = found["focus"]["ages_s"][policy]
    assert drawn["evicted"][50] == pytest.approx(ages[(len(ages) - 1) // 2])
    assert drawn["missed"][-1] == pytest.approx(calls.evicted_ago_s.max())
    hits = calls[["num_gpu_hit_tokens", "num_host_hit_tokens", "num_loading_tokens"]].sum(axis=1) > 0
    pairs = calls[hits].merge(
        calls[["workflow_id", "ended_at_s"]], on="workflow_id", suffixes=("", "_before")
    )
    gaps = pairs.assign(idle_s=pairs.admitted_at_s - pairs.ended_at_s_before).query("idle_s >= 0")
    idle = gaps.groupby(["workflow_id", "call_index"]).idle_s.min().tolist()
    assert drawn["found"][-1] == pytest.approx(max(idle))
    assert drawn["found"][50] == pytest.approx(sorted(idle)[(len(idle) - 1) // 2])


def test_course_and_prefetch(found: dict[str, Any], tables: dict[str, pd.DataFrame], folder: Path) -> None:
    samples = _focus(found, tables["occupancy"], "pbkv")
    course = found["focus"]["course"]["pbkv"]
    width = (samples.at_s.iloc[-1] - samples.at_s.iloc[0]) / len(course["middles_s"])
    for column, drawn in (("h2d_busy_s", "h2d_ratio"), ("d2h_busy_s", "d2h_ratio")):
        copied_s = samples[column].iloc[-1] - samples[column].iloc[0]
        assert sum(course[drawn]) * width == pytest.approx(copied_s)
    entries = json.loads((folder / "run.json").read_text())["cells"]
    size = found["focus"]["load"]["gpu_blocks"]
    (entry,) = [e for e in entries if e["policy"] == "pbkv" and e["gpu_blocks"] == size]
    parts = found["focus"]["prefetch_bytes"].get("pbkv", {})
    assert sum(parts.values()) == sum(
        entry["prefetch"][f"{part}_bytes"] for part in ("useful", "late", "wasted", "cancelled")
    )


def test_the_next_agent(found: dict[str, Any], tables: dict[str, pd.DataFrame]) -> None:
    calls = tables["calls"].query("cell == 0").sort_values(["workflow_id", "call_index"])
    following = calls.groupby("workflow_id").agent.shift(-1).fillna("END")
    counts = pd.crosstab(calls.agent, following)
    drawn = found["next_agent"]["handovers"]
    for agent, row in counts.iterrows():
        assert drawn[str(agent)] == {name: count for name, count in row.items() if count}
    assert 0 < found["next_agent"]["markov_1_accuracy"] <= 1


class _Page(HTMLParser):
    """Collects tags, what they link to, and texts."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [
            value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")
        ]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _parsed(text: str) -> _Page:
    parser = _Page()
    parser.feed(text)
    assert not parser.open  # every element is closed, in order
    return parser


def test_the_page_needs_nothing_from_elsewhere_and_is_small(page: str) -> None:
    parsed = _parsed(page)
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in parsed.links)
    assert parsed.tags.count("img") >= 9
    assert "link" not in parsed.tags
    assert not re.search(r"url\(|@import|https?://", page)
    assert len(page.encode()) < 5e6


def test_every_picture_has_a_text(page: str) -> None:
    assert len(re.findall(r'<img [^>]*alt="[^"]{20,}"', page)) == page.count("<img ")


def test_the_page_says_what_was_run(page: str, folder: Path) -> None:
    config = json.loads((folder / "run.json").read_text())
    for text in (config["trace"][0]["digest"], "2xa6000-qwen3-32b", config["versions"]["simpy"], *POLICIES):
        assert text in page


def test_names_cannot_break_the_page(write_run: WriteRun) -> None:
    evil = '<script>alert(1)</script>"&'

    def rename(tables: dict[str, list[dict[str, Any]]]) -> None:
        for rows in tables.values():
            for row in rows:
                for name in ("workflow_id", "agent", "app"):
                    if name in row:
                        row[name] = f"{row[name]}{evil}"

    text = report_page(views_of([write_run([{"policy": f"lru{evil}"}, {"policy": "lae"}], edit=rename)]))
    assert _parsed(text).tags.count("script") == 1
    assert "alert(1)</script>" not in text


def test_a_report_of_one_cell_without_events_or_samples(write_run: WriteRun) -> None:
    folder = write_run([{"policy": "pbkv"}], edit=lambda tables: tables["occupancy"].clear())
    views = views_of([folder])
    (world,) = report_numbers(views)["worlds"]
    assert world["focus"]["course"] == {"pbkv": None}
    assert "evicted" not in world["focus"]["ages_s"]["pbkv"]
    assert "Course of the run" not in report_page(views)


def test_simulated_against_replayed(write_run: WriteRun) -> None:
    def later(tables: dict[str, list[dict[str, Any]]]) -> None:
        for row in tables["workflows"]:
            row["ended_at_s"] += 3

    simulated = write_run([{"policy": "lru"}], "simulated")
    replayed = write_run([{"policy": "lru"}], "replayed", edit=later)
    config = json.loads((replayed / "run.json").read_text()) | {"engine": "replay"}
    (replayed / "run.json").write_text(json.dumps(config))
    views = views_of([simulated, replayed])
    (row,) = report_numbers(views)["replayed_against_simulated"]
    assert row["jct_s_replayed"] == pytest.approx(row["jct_s_simulated"] + 3)
    assert row["jct_s_ratio"] == pytest.approx(row["jct_s_replayed"] / row["jct_s_simulated"])
    assert row["hit_ratio_ratio"] == pytest.approx(1)
    assert "Simulated against replayed" in report_page(views)
    assert not report_numbers(views_of([simulated]))["replayed_against_simulated"]


def _as_replay(folder: Path, **more: Any) -> Path:
    config = json.loads((folder / "run.json").read_text()) | {"engine": "replay", **more}
    (folder / "run.json").write_text(json.dumps(config))
    return folder


def test_engines_side_by_side_without_a_cell_in_common_are_said(write_run: WriteRun) -> None:
    simulated = write_run([{"gpu_blocks": 512}], "simulated")
    same, other = (_as_replay(write_run([{"gpu_blocks": n}], f"r{n}")) for n in (512, 256))
    assert not engine_notes(views_of([simulated, same]))
    assert not engine_notes(views_of([same, other]))
    (said,) = engine_notes(views_of([simulated, other]))
    assert said.startswith("runs of several engines (simulated, replayed) stand side by side")
    assert "their numbers are not to be compared" in report_page(views_of([simulated, other]))


def test_a_server_that_says_nothing_of_its_cache(write_run: WriteRun) -> None:
    """No verdict of no pressure, no bar of no misses: neither is known."""

    def forget(tables: dict[str, list[dict[str, Any]]]) -> None:
        tables["occupancy"].clear()
        for row in tables["calls"]:
            names = ("gpu_hit", "host_hit", "loading", "evicted", "partial", "cold")
            row.update({f"num_{name}_tokens": None for name in names})

    views = views_of([_as_replay(write_run([{}], edit=forget), engine="openai")])
    page = report_page(views)
    assert views[0].focus.word == "undecided"
    assert "Nothing is known of the prompts" in page
    assert "What was missed" not in page
    assert report_numbers(views)["worlds"][0]["settings"][0]["gpu_hit_ratio"] is None


def test_what_cannot_be_reported_is_said(write_run: WriteRun, tmp_path: Path) -> None:
    folder = write_run([{"policy": "lru"}])
    with pytest.raises(ConfigError, match="baseline: got mori, expected a policy of the runs: lru"):
        views_of([folder], "mori")
    with pytest.raises(TraceError, match="a folder written by"):
        views_of([tmp_path / "nothing"])
    with pytest.raises(ConfigError, match="a file in an existing folder"):
        write_report([folder], tmp_path / "no" / "report.html")
    assert not list(tmp_path.glob("*.html"))
