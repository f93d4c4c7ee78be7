"""Measures pbkv beside AISimulate on the same trace, on one core, in one run: gates A, B, C, G and H.

    python bench/peers.py --install-peer /tmp/aisimulate       # once: 1.5 GB
    python bench/peers.py --peer /tmp/aisimulate               # → docs/results/bench/peers.{md,json}

Whole processes are timed, in turns (pbkv, peer, pbkv, peer, …), after one uncounted run of each, all
pinned to one core. Ratios are taken pair by pair and their median counts: seconds do not last, ratios
do. Needs agent20k.v2.jsonl.gz and aisimulate/h100_table.yaml in one folder (--shared); without a peer
the gates that need none are measured. This process imports nothing heavy: see measure.Child.
"""

from __future__ import annotations

import argparse
import datetime
import gzip
import json
import os
import shlex
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that this file runs by its path, as well as by `-m bench.peers`

from bench import measure, peer, report  # noqa: E402 - needs the line above
from bench.gates import growth_over_linear, judge  # noqa: E402
from bench.measure import Child, Run  # noqa: E402
from bench.outcome import of_peer  # noqa: E402

TRACE = "agent20k.v2.jsonl.gz"
# bench/README.md's setting, the one that aisimulate/h100_table.yaml states.
SETTING = shlex.split(
    "--policy lru --open-loop --profile h100-llama-3.1-8b --block-size 64 --gpu-blocks 4096"
    " --host-blocks 16384 --h2d-gb-per-s 32 --d2h-gb-per-s 32 --max-batched-tokens 8192"
    " --max-sequences 256 --seed 0"
)


@dataclass(frozen=True, slots=True)
class Bench:
    """One benchmark: what is run, how often, and the scratch folder that it runs in."""

    pbkv: list[str]
    shared: Path
    work: Path
    repeats: int
    copies: int
    rival: peer.Peer | None
    scale_peer: bool

    def run(self, name: str, child: Child) -> Run:
        """Measure one process and say so; its output stays in the scratch folder."""
        result = child.run(self.work / f"{name}.log")
        peak_mb = result.peak_bytes / 1e6
        print(f"{name}: {result.wall_s:.2f} s, {result.cpu_s:.2f} s CPU, {peak_mb:.0f} MB", file=sys.stderr)
        return result

    def pbkv_child(self, *arguments: str) -> Child:
        return Child([*self.pbkv, *arguments], ROOT)

    def simulate(self, name: str, trace: str) -> dict[str, Any]:
        """One ``pbkv simulate`` of an imported trace in the common setting: measured and self-reported."""
        out = self.work / name
        run = self.run(name, self.pbkv_child("simulate", self.imported(trace), *SETTING, "-o", str(out)))
        return {**report.facts(run), **own_report(out)}

    def imported(self, trace: str) -> str:
        return str(self.work / f"{trace}.parquet")

    def import_trace(self, trace: str, source: Path) -> dict[str, Any]:
        child = self.pbkv_child("traces", "import", str(source), "-o", self.imported(trace))
        return report.facts(self.run(f"{trace}-import", child))

    def script(self, name: str, *arguments: str) -> Any:
        """What one of bench/'s own scripts prints as JSON: a process of its own, which is not measured."""
        log = self.work / f"{name}.json"
        Child([sys.executable, *arguments], ROOT).run(log)
        return json.loads(log.read_text().splitlines()[-1])


def short_trace(bench: Bench) -> dict[str, Any]:
    """A, B and G: the 20 k trace, pbkv and the peer in turns."""
    imported = bench.import_trace("short", bench.shared / TRACE)
    plain = bench.work / "short.v2.jsonl"
    with gzip.open(bench.shared / TRACE) as packed, plain.open("wb") as unpacked:
        shutil.copyfileobj(packed, unpacked)
    if bench.rival:
        bench.rival.lay_out(bench.work / "peer", plain)
    ours: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    for turn in range(bench.repeats + 1):
        ours.append(bench.simulate(f"pbkv-{turn}", "short"))
        if bench.rival:
            theirs.append(rival_run(bench, bench.rival, "peer", f"out-{turn}"))
    return {"import": imported, "pbkv": ours[1:], "peer": theirs[1:]}  # turn 0 is the warm-up


def rival_run(bench: Bench, rival: peer.Peer, folder: str, out: str) -> dict[str, Any]:
    run = bench.run(f"{folder}-{out}", rival.child(bench.work / folder, out))
    said = peer.prediction(bench.work / folder / out)
    return {
        **report.facts(run),
        "num_calls": said["completed_requests"],
        "loop_s": said["wall_time_ms"] / 1e3,
    }


def own_report(folder: Path) -> dict[str, Any]:
    """What pbkv says of its own run, and what it wrote. A part that run.json does not name is null."""
    cell = json.loads((folder / "run.json").read_text())["cells"][0]
    files = {path.name: path.stat().st_size for path in sorted(folder.glob("*.parquet"))}
    return {
        "num_calls": cell.get("num_calls"),
        "loop_s": cell.get("loop_wall_s"),
        "records_s": cell.get("records_wall_s"),
        "record_bytes": files,
    }


def long_trace(bench: Bench, makespan_s: float) -> dict[str, Any]:
    """C: the same workflows ten times over, each copy after the last one has drained."""
    plain = bench.work / "long.v2.jsonl"
    flags = ["--copies", str(bench.copies), "--period-s", str(makespan_s), "--seed", "0"]
    holds = bench.script("scale", "bench/scale.py", str(bench.shared / TRACE), "-o", str(plain), *flags)
    imported = bench.import_trace("long", plain)
    ours = bench.simulate("pbkv-long", "long")
    theirs = None
    if bench.rival and bench.scale_peer:
        bench.rival.lay_out(bench.work / "peer-long", plain)
        theirs = rival_run(bench, bench.rival, "peer-long", "out")
    traces = {"period_s": makespan_s, "copies": bench.copies, **holds}
    return {"trace": traces, "import": imported, "pbkv": ours, "peer": theirs}


def start_up(bench: Bench, num_runs: int = 10) -> dict[str, list[float] | None]:
    """H: wall seconds of ``--help``, as a module and as the installed program (null: not installed)."""
    program = Path(sys.executable).with_name("pbkv")
    result: dict[str, list[float] | None] = {"module": _walls(bench, bench.pbkv_child("--help"), num_runs)}
    installed = Child([str(program), "--help"], ROOT)
    result["script"] = _walls(bench, installed, num_runs) if program.is_file() else None
    return result


def _walls(bench: Bench, child: Child, num_runs: int) -> list[float]:
    """Wall seconds of ``num_runs`` runs after an uncounted one."""
    return [child.run(bench.work / "help.log").wall_s for _ in range(num_runs + 1)][1:]


def outcomes(bench: Bench) -> dict[str, Any]:
    """What both simulated in their last runs of the short trace: not a gate, a check on the comparison."""
    last = bench.work / f"pbkv-{bench.repeats}"
    result: dict[str, Any] = {"pbkv": bench.script("outcome", "bench/outcome.py", str(last))}
    if bench.rival:
        folder = bench.work / "peer"
        bench.rival.child(folder, "details", "--capture-per-request").run(bench.work / "details.log")
        said = peer.prediction(folder / f"out-{bench.repeats}")
        result["peer"] = of_peer(said, folder / "details" / "requests.jsonl")
    return result


def profile(bench: Bench, num_lines: int = 25) -> str:
    """Where one (unmeasured) pbkv run spends its time, by cProfile: tottime per function."""
    import io
    import pstats

    statistics, out = str(bench.work / "profile.bin"), str(bench.work / "pbkv-profile")
    command = [sys.executable, "-m", "cProfile", "-o", statistics, *bench.pbkv[1:], "simulate"]
    child = Child([*command, bench.imported("short"), *SETTING, "-o", out], ROOT)
    child.run(bench.work / "profile.log")
    text = io.StringIO()
    pstats.Stats(statistics, stream=text).strip_dirs().sort_stats("tottime").print_stats(num_lines)
    return text.getvalue().strip()


def values(result: dict[str, Any]) -> dict[str, float | None]:
    """Each gate's number out of the measurements (None: not measured). Keys are those of gates.LIMITS."""
    short, long, help_s = result["short"], result["long"], result["help_s"]
    ours, theirs = short["pbkv"], short["peer"]
    found: dict[str, float | None] = {
        "a_time": _paired(ours, theirs, "wall_s"),
        "a_memory": _paired(ours, theirs, "peak_bytes"),
        "b_loop": _median([run["num_calls"] / run["loop_s"] for run in ours if run["loop_s"]]),
        "b_beside": _paired(theirs, ours, "loop_s"),
        "g_size": _median([sum(run["record_bytes"].values()) / 1e6 for run in ours]),
        "g_time": _median([run["records_s"] for run in ours if run["records_s"] is not None]),
        "h_module": _median(help_s["module"] or []),
        "h_script": _median(help_s["script"] or []),
    }
    if long:
        source, scaled = long["trace"]["source"], long["trace"]["result"]
        numbers = source["num_calls"], scaled["num_calls"]
        wall_s, peak = median(run["wall_s"] for run in ours), median(run["peak_bytes"] for run in ours)
        found["c_time"] = growth_over_linear(wall_s, long["pbkv"]["wall_s"], *numbers)
        found["c_memory"] = growth_over_linear(peak, long["pbkv"]["peak_bytes"], *numbers)
        found["c_per_reference"] = long["pbkv"]["peak_bytes"] / scaled["num_block_references"]
    return found


def _paired(these: list[dict[str, Any]], others: list[dict[str, Any]], name: str) -> float | None:
    """Median of these / others, pair by pair; None without pairs, or where a run does not tell ``name``."""
    pairs = zip(these, others, strict=False)  # without a peer one of the two is empty
    return _median([one[name] / other[name] for one, other in pairs if one[name] and other[name]])


def _median(numbers: list[float]) -> float | None:
    return median(numbers) if numbers else None


def check_same_work(result: dict[str, Any]) -> None:
    """Both sides must have simulated every call, or the ratio means nothing. Raises ChildError."""
    runs = [*result["short"]["pbkv"], *result["short"]["peer"]]
    sizes = {run["num_calls"] for run in runs if run["num_calls"] is not None}
    if len(sizes) > 1:
        raise measure.ChildError(f"the runs simulated different numbers of calls: {sorted(sizes)}")


def measure_all(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    from pbkv import __version__

    pinned = measure.pin(options.core)
    result: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {**measure.machine(), "pinned_to_core": options.core if pinned else None},
        "versions": {"pbkv": __version__, "aisimulate": bench.rival.version() if bench.rival else None},
        "setting": shlex.join(SETTING),
        "help_s": start_up(bench),
        "short": short_trace(bench),
    }
    check_same_work(result)
    result["outcomes"] = outcomes(bench)
    makespan_s = result["outcomes"]["pbkv"]["makespan_s"]
    result["long"] = long_trace(bench, makespan_s) if bench.copies > 1 else None
    result["profile"] = profile(bench) if options.profile else None
    result["machine"]["load_after"] = [round(load, 2) for load in os.getloadavg()]
    result["gates"] = report.gate_facts(judge(values(result)))
    return result


def path_names(bench: Bench) -> list[tuple[Path, str]]:
    """This machine's folders and what a reader is told instead."""
    names = [(bench.work, "$WORK"), (bench.shared, "$SHARED"), (ROOT, ".")]
    return [*names, (bench.rival.program.parent, "$PEER")] if bench.rival else names


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flag = parser.add_argument
    flag("--shared", type=Path, default=ROOT.parent / "shared" / "bench", help="folder of the traces")
    flag("--peer", type=Path, help="an environment (or its program) with AISimulate")
    flag("--install-peer", type=Path, metavar="FOLDER", help="make that environment first, and use it")
    flag("--peer-python", default="python3.11", help="what --install-peer makes it with")
    flag("--pbkv", default=f"{sys.executable} -m pbkv", help="how pbkv is called")
    flag("--repeats", type=int, default=5, help="counted pairs of runs")
    flag("--copies", type=int, default=10, help="length of the long trace in copies of the short; 1: none")
    flag("--scale-peer", action="store_true", help="run the peer on the long trace, too")
    flag("--profile", action="store_true", help="add where one run's time goes, by function")
    flag("--core", type=int, default=0, help="the core that everything is pinned to")
    flag("--out", type=Path, default=ROOT / "docs" / "results" / "bench" / "peers", help="without suffix")
    options = parser.parse_args()
    for needed in (TRACE, peer.CONFIG):
        if not (options.shared / needed).is_file():
            parser.error(f"--shared {options.shared}: no {needed} there")
    if options.repeats < 1 or options.copies < 1:
        parser.error("--repeats and --copies: expected at least 1")
    return options


def main() -> None:
    options = parse()
    if options.install_peer:
        peer.install(options.install_peer, options.peer_python)
    place = options.peer or options.install_peer
    try:
        rival = peer.find(place, options.shared / peer.CONFIG) if place else None
        with tempfile.TemporaryDirectory(prefix="pbkv-bench-") as work:
            bench = Bench(
                pbkv=shlex.split(options.pbkv),
                shared=options.shared.resolve(),
                work=Path(work).resolve(),
                repeats=options.repeats,
                copies=options.copies,
                rival=rival,
                scale_peer=options.scale_peer,
            )
            result = report.without_paths(measure_all(bench, options), path_names(bench))
    except (measure.ChildError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    text = report.markdown(result)
    options.out.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
