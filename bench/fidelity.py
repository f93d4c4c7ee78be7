"""The loop closed on this machine: calibrate, simulate, replay some times, compare; into docs/results.

    python bench/fidelity.py -o docs/results/cpu              # random:tiny, ten minutes
    python bench/fidelity.py --device cuda --model random:llama-8b -o docs/results/gpu/fidelity

Nothing is fitted to the replays: the profile comes from iterations and copies measured by themselves
(`pbkv calibrate`), and the simulator predicts with it. Tool waits of the HoVer-like workload are scaled so
that the model's time is most of a workflow's: else waits would hide every error.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that this file runs by its path, as well as by `-m bench.fidelity`

from pbkv.traces.generate import generate_workload, workload_metadata  # noqa: E402 - needs the line above
from pbkv.traces.schema import Workflow  # noqa: E402
from pbkv.traces.writer import write_trace  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="random:tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="of torch on a CPU")
    parser.add_argument("--policies", default="lru,lae,pbkv-he,pbkv")
    parser.add_argument("--workflows", type=int, default=24)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--block-size", type=int, default=16)
    parser.add_argument("--gpu-blocks", default="1200,1800", help="two pressures")
    parser.add_argument("--write-mode", default="write-through")
    parser.add_argument("--max-batched-tokens", type=int, default=2048)
    parser.add_argument("--max-context", type=int, default=16384)
    parser.add_argument("--max-sequences", type=int, default=16)
    parser.add_argument("--wait-scale", type=float, default=0.02)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--profile", type=Path, help="made before: not calibrated again")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/fidelity")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    options.output.mkdir(parents=True, exist_ok=True)
    trace = options.work / "workload.parquet"
    write_workload(trace, options)
    device = ["--model", options.model, "--device", options.device]
    device += ["--threads", str(options.threads)] if options.threads else []
    batch = ["--block-size", str(options.block_size), "--max-batched-tokens", str(options.max_batched_tokens)]
    profile = options.profile or options.output / "profile.toml"
    if options.profile is None:
        limits = ["--max-context", str(options.max_context), "--max-sequences", str(options.max_sequences)]
        found = pbkv("calibrate", *device, *batch, *limits, "-o", str(profile), "--force")
        (options.output / "calibration.txt").write_text(found)
    cells = ["--policy", options.policies, "--gpu-blocks", options.gpu_blocks, *batch, "--force"]
    cells += ["--concurrency", str(options.concurrency), "--write-mode", options.write_mode]
    pbkv("simulate", str(trace), "--profile", str(profile), *cells, "-o", str(options.work / "sim"))
    replays = [options.work / f"replay-{number}" for number in range(options.repeats)]
    for replay in replays:
        pbkv("replay", str(trace), *device, *cells, "-o", str(replay))
    folders = [str(options.work / "sim"), *map(str, replays)]
    figure = ["--figure", str(options.output / "fidelity.png")]
    found = pbkv("fidelity", *folders, *figure)
    (options.output / "fidelity.md").write_text(found)


def write_workload(path: Path, options: argparse.Namespace) -> None:
    """The HoVer-like workload with its tool waits scaled."""
    metadata = workload_metadata("hover", options.workflows, options.seed)
    metadata = replace(metadata, source=f"{metadata.source}, tool waits × {options.wait_scale:g}")
    scaled = waits_scaled(generate_workload("hover", options.workflows, options.seed), options.wait_scale)
    write_trace(path, scaled, metadata, force=True)


def waits_scaled(workflows: Iterator[Workflow], scale: float) -> Iterator[Workflow]:
    for workflow in workflows:
        calls = [
            call if call.tool_gap_s is None else call._replace(tool_gap_s=call.tool_gap_s * scale)
            for call in workflow.calls
        ]
        yield replace(workflow, calls=calls)


def pbkv(*arguments: str) -> str:
    print("pbkv", *arguments, file=sys.stderr)
    done = subprocess.run(
        [sys.executable, "-m", "pbkv", *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    print(done.stdout, file=sys.stderr)
    return done.stdout


if __name__ == "__main__":
    main()
