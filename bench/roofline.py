"""How near the replay engine comes to what the device can do, case by case.

    python bench/roofline.py -o docs/results/gpu/roofline-llama
    python bench/roofline.py --model random:tiny --device cpu --scale 0.02 -o /tmp/roofline   # its logic

The ceilings are measured in the same run: bytes a second of a large copy on the device, FLOP a second of a
large matrix product in the model's dtype, bytes a second of one large pinned copy each way. A case's least
time is the larger of its bytes (weights once, keys and values read) and its FLOPs (2 a weight and token, 4
a head, place and pair of tokens) at those rates. Aims: decode 75 %, prefill 65 %, copies 90 %.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that this file runs by its path, as well as by `-m bench.roofline`

from pbkv.analysis.table import markdown  # noqa: E402 - needs the line above
from pbkv.replay.bench import ModelBench  # noqa: E402
from pbkv.replay.machine import versions  # noqa: E402
from pbkv.replay.model import load_model, page_shape  # noqa: E402
from pbkv.replay.shapes import Scale  # noqa: E402

REPEATS = 7
CASES = (  # name, sequences, new tokens of each, context before them, aim
    ("decode, 1 sequence, 4 k", 1, 1, 4096, 0.75),
    ("decode, 32, 4 k", 32, 1, 4096, 0.75),
    ("decode, 32, 8 k", 32, 1, 8192, 0.75),
    ("prefill 8,192", 1, 8192, 0, 0.65),
    ("extend 512 on 32 k", 1, 512, 32_768, 0.50),
)
COPY_AIM = 0.90


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What the device does at best, measured."""

    bytes_per_s: float
    flops_per_s: float
    h2d_bytes_per_s: float
    d2h_bytes_per_s: float


@dataclass(frozen=True, slots=True)
class Found:
    """A case: its time, its least time, and their ratio."""

    case: str
    seconds: float
    least_s: float
    share: float
    aim: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="random:llama-8b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--block-size", type=int, default=32)
    parser.add_argument("--layout", default="page-first", choices=["page-first", "layer-first"])
    parser.add_argument("--compile", dest="backend")
    parser.add_argument("--scale", type=float, default=1.0, help="of tokens and of the ceilings' sizes")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    device = torch.device(options.device)
    ceilings = measured_ceilings(device, options.scale)
    model = load_model(options.model, device)
    cases = [
        (name, num, max(1, round(q * (options.scale if q > 1 else 1))), round(c * options.scale), aim)
        for name, num, q, c, aim in CASES
    ]
    scale = Scale(
        max(64, *(num * q for _, num, q, _, _ in cases)),
        max(64, *(c for *_, c, _ in cases)),
        32,
        max(num * (q + c) for _, num, q, c, _ in cases) + 8192,
    )
    with ModelBench(
        model, scale, options.block_size, layout=options.layout, compile_backend=options.backend
    ) as bench:
        found = [of_case(bench, model, ceilings, *case) for case in cases]
        found += [of_copy(bench, ceilings, direction) for direction in ("h2d", "d2h")]
    options.output.mkdir(parents=True, exist_ok=True)
    write(options, ceilings, found, device)


def measured_ceilings(device: torch.device, scale: float) -> Ceilings:
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    size = max(256, int(8192 * min(1.0, scale * 4)))
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    matmul_s = timed(lambda: a @ b, device)
    num_bytes = max(1 << 22, int((2 << 30) * scale))
    source = torch.empty(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy_s = timed(lambda: target.copy_(source), device)
    host = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=device.type == "cuda")
    up_s = timed(lambda: source.copy_(host, non_blocking=True), device)
    down_s = timed(lambda: host.copy_(source, non_blocking=True), device)
    return Ceilings(2 * num_bytes / copy_s, 2 * size**3 / matmul_s, num_bytes / up_s, num_bytes / down_s)


def timed(run: Callable[[], Any], device: torch.device) -> float:
    """Median seconds of a run that is waited for."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    run()
    seconds = []
    for _ in range(REPEATS):
        wait()
        started_s = perf_counter()
        run()
        wait()
        seconds.append(perf_counter() - started_s)
    return median(seconds)


def of_case(
    bench: ModelBench, model: Any, ceilings: Ceilings, name: str, num: int, q: int, context: int, aim: float
) -> Found:
    shape = [(q, context)] * num
    bench.iteration_s(shape)
    seconds = median(bench.iteration_s(shape) for _ in range(REPEATS))
    config = model.config
    weights = sum(p.numel() for n, p in model.named_parameters() if "embed_tokens" not in n)
    width = next(model.parameters()).element_size()
    kv_bytes = page_shape(model, 1).num_bytes * num * (context + q)
    pairs = num * q * (context + q / 2)
    head_dim = page_shape(model, 1).head_dim
    flops = 2.0 * weights * num * q
    flops += 4.0 * config.num_hidden_layers * config.num_attention_heads * head_dim * pairs
    least_s = max((weights * width + kv_bytes) / ceilings.bytes_per_s, flops / ceilings.flops_per_s)
    return Found(name, seconds, least_s, least_s / seconds, aim)


def of_copy(bench: ModelBench, ceilings: Ceilings, direction: Any) -> Found:
    num_pages = bench.max_copy_pages
    seconds = median(bench.copy_s(num_pages, direction, False) for _ in range(REPEATS))
    per_s = ceilings.h2d_bytes_per_s if direction == "h2d" else ceilings.d2h_bytes_per_s
    least_s = num_pages * bench.page_bytes / per_s
    return Found(f"copy of {num_pages} pages, {direction}", seconds, least_s, least_s / seconds, COPY_AIM)


def write(options: argparse.Namespace, ceilings: Ceilings, found: list[Found], device: torch.device) -> None:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU"
    about = {"model": options.model, "device": name, "layout": options.layout, "versions": versions()}
    record = {**about, "ceilings": asdict(ceilings), "cases": [asdict(each) for each in found]}
    (options.output / "roofline.json").write_text(json.dumps(record, indent=1) + "\n")
    rows = [
        (f.case, f"{f.seconds * 1e3:.3f}", f"{f.least_s * 1e3:.3f}", f"{f.share:.0%}", f"{f.aim:.0%}")
        for f in found
    ]
    head = ("case", "ms, median of 7", "least ms", "share of the roofline", "aim")
    text = f"# Roofline: {options.model} on {name}, {options.layout}\n\nMade by `python bench/roofline.py`. "
    text += (
        f"Ceilings measured in the same run: {ceilings.bytes_per_s / 1e9:,.0f} GB/s, "
        f"{ceilings.flops_per_s / 1e12:,.2f} TFLOP/s, {ceilings.h2d_bytes_per_s / 1e9:.1f} GB/s up, "
        f"{ceilings.d2h_bytes_per_s / 1e9:.1f} GB/s down.\n\n"
    )
    text += markdown(head, rows)
    (options.output / "roofline.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
