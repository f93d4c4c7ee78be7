"""Gate I: what policies cost beside our own LRU run, and how their time grows from 20 k to 200 k calls.

    python bench/policies.py                 # → docs/results/bench/policies.md; ten minutes on one core

Policies take turns on one pinned core; the loop's own time (run.json: loop_wall_s) counts, as a ratio to
LRU's of the same turn. The setting is that of peers.py.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that this file runs by its path, as well as by `-m bench.policies`

from bench.peers import SETTING, TRACE  # noqa: E402 - needs the line above
from bench.scale import Plan, read_source, write_long  # noqa: E402
from pbkv.analysis.table import markdown  # noqa: E402

POLICIES = ("lru", "lae", "pbkv-he", "pbkv", "kvflow", "ttl", "mori", "lru+admission", "gdsf", "sieve")
SCALED = ("lru", "pbkv", "kvflow")
MUST, AHEAD = 2.0, 1.3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared/bench")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--copies", type=int, default=10)
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs/results/bench/policies.md")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {0})
    with tempfile.TemporaryDirectory(prefix="pbkv-policies-") as scratch:
        work = Path(scratch)
        small = imported(arguments.shared / TRACE, work / "small.parquet")
        long = work / "large.v2.jsonl"
        source = read_source(arguments.shared / TRACE)
        write_long(source, long, Plan(arguments.copies, source.arrivals_ms()[-1]))
        large = imported(long, work / "large.parquet")
        turns = [{p: loop_s(small, p, work) for p in POLICIES} for _ in range(arguments.repeats)]
        grown = {p: loop_s(large, p, work) for p in SCALED}
    arguments.output.write_text(report(turns, grown, arguments.copies), encoding="utf-8")


def imported(source: Path, target: Path) -> Path:
    pbkv("traces", "import", str(source), "-o", str(target))
    return target


def loop_s(trace: Path, policy: str, work: Path) -> float:
    setting = [argument if argument != "lru" else policy for argument in SETTING]
    pbkv("simulate", str(trace), *setting, "-o", str(work / "run"), "--force")
    found: float = json.loads((work / "run/run.json").read_text())["cells"][0]["loop_wall_s"]
    print(f"{trace.stem} {policy}: {found:.2f} s", file=sys.stderr)
    return found


def pbkv(*arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "pbkv", *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
    )


def report(turns: list[dict[str, float]], grown: dict[str, float], copies: int) -> str:
    rows = []
    for policy in POLICIES:
        ratios = sorted(turn[policy] / turn["lru"] for turn in turns)
        middle = median(ratios)
        verdict = "ahead" if middle <= AHEAD else "passed" if middle <= MUST else "missed"
        spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        seconds = median(turn[policy] for turn in turns)
        rows.append((policy, f"{seconds:.2f}", f"{middle:.2f}", spread, verdict if policy != "lru" else ""))
    growth = []
    for policy, seconds in grown.items():
        once = median(turn[policy] for turn in turns)
        growth.append((policy, f"{once:.2f}", f"{seconds:.1f}", f"{seconds / (copies * once):.2f}"))
    return (
        "# What policies cost\n\nMade by `python bench/policies.py`: agent20k.v2, the setting of peers.md, "
        f"{len(turns)} turns on one pinned core. Gate I: at most {MUST:g} times our own LRU run, aim "
        f"{AHEAD:g}.\n\n"
        + markdown(("policy", "loop s, median", "over LRU's", "lowest to highest turn", "gate I"), rows)
        + f"\n\n{copies} copies of the trace, one run each:\n\n"
        + markdown(("policy", "20 k calls s", f"{20 * copies} k calls s", "over linear"), growth)
        + "\n"
    )


if __name__ == "__main__":
    main()
