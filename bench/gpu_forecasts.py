"""Forecasts from the model's own hidden state, beside it: recorded, learnt from, and timed in a replay.

    python bench/gpu_forecasts.py -o docs/results/gpu/forecasts
    python bench/gpu_forecasts.py --model random:tiny --device cpu --workflows 6 --gpu-blocks 500 \\
        --block-size 16 --concurrency 3 --epochs 2 -o /tmp/forecasts         # its logic

A HoVer-like workload is replayed under LRU with `--record-contexts`, a predictor is trained on the record,
and the workload is replayed under PBKV with it. Written: how long a forecast took from the hidden state to
its rows on the host, how late the policy was told, and what it took of the engine's own thread, beside the
paper's 1.18 ms (p99 1.68). Random weights: the forecasts' accuracy says nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that this file runs by its path, as well as by `-m bench.gpu_forecasts`

from bench.fidelity import pbkv, write_workload  # noqa: E402 - needs the line above

PAPER_S = {"mean_s": 1.18e-3, "p99_s": 1.68e-3}
TIMES = ("seconds", "late_s", "engine_s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="random:llama-8b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--threads", type=int, help="of torch on a CPU")
    parser.add_argument("--workflows", type=int, default=30)
    parser.add_argument("--concurrency", type=int, default=24)
    parser.add_argument("--block-size", type=int, default=32)
    parser.add_argument("--gpu-blocks", default="3000")
    parser.add_argument("--max-batched-tokens", type=int, default=8192)
    parser.add_argument("--wait-scale", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--work", type=Path, default=ROOT / "runs/gpu-forecasts")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    write(options.output, told_in(options))


def told_in(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of the replay's table ``forecasts``."""
    work = options.work
    trace, record, predictor = (work / name for name in ("few.parquet", "seen.parquet", "next.safetensors"))
    write_workload(trace, options)
    cells = ["--model", options.model, "--device", options.device, "--block-size", str(options.block_size)]
    cells += ["--gpu-blocks", options.gpu_blocks, "--concurrency", str(options.concurrency), "--force"]
    cells += ["--max-batched-tokens", str(options.max_batched_tokens)]
    cells += ["--threads", str(options.threads)] if options.threads else []
    recorded = ["--policy", "lru", "--record-contexts", str(record), "-o", str(work / "record")]
    pbkv("replay", str(trace), *cells, *recorded)
    training = ["--epochs", str(options.epochs), "--split", "50,25,25", "--force"]  # of few workflows
    pbkv("train", str(record), *training, "-o", str(predictor))
    live = ["--policy", "pbkv", "--predictor", str(predictor), "-o", str(work / "live")]
    pbkv("replay", str(trace), *cells, *live)
    rows: list[dict[str, Any]] = pq.read_table(work / "live/forecasts.parquet").to_pylist()
    about = json.loads((work / "live/run.json").read_text())
    if len(rows) != about["cells"][0]["num_calls"]:
        sys.exit(f"{len(rows)} forecasts of {about['cells'][0]['num_calls']} calls")
    (work / "about.json").write_text(json.dumps({key: about[key] for key in ("device", "versions")}))
    return rows


def write(output: Path, rows: list[dict[str, Any]]) -> None:
    found: dict[str, Any] = {"num": len(rows), "paper": PAPER_S}
    for name in TIMES:
        times = [row[name] for row in rows]
        found[name] = {"mean_s": float(np.mean(times)), "p99_s": float(np.quantile(times, 0.99))}
        said = f"mean {found[name]['mean_s'] * 1e3:.3f} ms, p99 {found[name]['p99_s'] * 1e3:.3f} ms"
        print(f"{name}: {said} of {len(rows)} forecasts (the paper's prediction: 1.18, 1.68)")
    output.mkdir(parents=True, exist_ok=True)
    (output / "forecasts.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
