"""How near the replay engine comes to what the device can do, case by case.

    python bench/roofline.py -o docs/results/gpu/roofline-llama
    python bench/roofline.py --model random:tiny --device cpu --scale 0.02 -o /tmp/roofline   # its logic

The ceilings are measured in the same run: bytes a second of a large copy on the device, FLOP a second of a
large matrix product in the model's dtype, bytes a second of one large pinned copy each way. A case's least
time is the larger of its bytes (weights once, keys and values read) and its FLOPs (2 a weight and token, of
the output layer for the last token of a sequence only, as it is run; 4 a head, place and pair of tokens) at
those rates. The load of 32 k of context goes through the engine's own pools and transfers, and back. Aims:
decode 75 %, prefill 65 %, copies 90 %.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that this file runs by its path, as well as by `-m bench.roofline`

from pbkv.analysis.table import markdown  # noqa: E402 - needs the line above
from pbkv.replay.bench import ModelBench  # noqa: E402
from pbkv.replay.machine import versions  # noqa: E402
from pbkv.replay.model import load_model, page_shape  # noqa: E402
from pbkv.replay.pool import PageShape, Pool  # noqa: E402
from pbkv.replay.shapes import Scale  # noqa: E402
from pbkv.replay.transfers import URGENT, Transfer, Transfers  # noqa: E402

REPEATS = 7
ROUNDS = 10  # launches that are waited for together, so that the wait is not measured
CASES = (  # name, sequences, new tokens of each, context before them, aim
    ("decode, 1 sequence, 4 k", 1, 1, 4096, 0.75),
    ("decode, 32, 4 k", 32, 1, 4096, 0.75),
    ("decode, 32, 8 k", 32, 1, 8192, 0.75),
    ("prefill 8,192", 1, 8192, 0, 0.65),
    ("extend 512 on 32 k", 1, 512, 32_768, 0.50),
)
COPY_AIM = 0.90
LOADED = 32_768  # tokens of context
RUN_PAGES = 4  # of them lie in a row, as nodes of the tree do


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What the device does at best, measured."""

    bytes_per_s: float
    flops_per_s: float
    h2d_bytes_per_s: float
    d2h_bytes_per_s: float


@dataclass(frozen=True, slots=True)
class Work:
    """What an iteration cannot do without: bytes read, FLOPs."""

    num_bytes: float
    flops: float

    def least_s(self, ceilings: Ceilings) -> float:
        return max(self.num_bytes / ceilings.bytes_per_s, self.flops / ceilings.flops_per_s)


@dataclass(frozen=True, slots=True)
class Found:
    """A case: its time, its least time, and their ratio."""

    case: str
    seconds: float
    least_s: float
    share: float
    aim: float


def main() -> None:
    options = parsed()
    device = torch.device(options.device)
    ceilings = measured_ceilings(device, options.scale)
    model = load_model(options.model, device)
    cases = [
        (name, num, max(1, round(q * (options.scale if q > 1 else 1))), round(c * options.scale), aim)
        for name, num, q, c, aim in CASES
    ]
    shape = page_shape(model, options.block_size)
    loads = of_load(shape, max(1, round(LOADED * options.scale)), device, options.layout, ceilings)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what is cached counts as taken when a pool is made
    with ModelBench(
        model, scale_of(cases), options.block_size, layout=options.layout, compile_backend=options.backend
    ) as bench:
        found = [of_case(bench, model, ceilings, *case) for case in cases]
    options.output.mkdir(parents=True, exist_ok=True)
    write(options, ceilings, found + loads, device)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="random:llama-8b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--block-size", type=int, default=32)
    parser.add_argument("--layout", default="page-first", choices=["page-first", "layer-first"])
    parser.add_argument("--compile", dest="backend")
    parser.add_argument("--scale", type=float, default=1.0, help="of tokens and of the ceilings' sizes")
    parser.add_argument("-o", "--output", type=Path, required=True)
    return parser.parse_args()


def scale_of(cases: Sequence[tuple[str, int, int, int, float]]) -> Scale:
    """Pages for the largest of the cases."""
    return Scale(
        max(64, *(num * q for _, num, q, _, _ in cases)),
        max(64, *(c for *_, c, _ in cases)),
        32,
        max(num * (q + c) for _, num, q, c, _ in cases) + 8192,
    )


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
    """Median seconds of a run."""

    num_rounds = ROUNDS if device.type == "cuda" else 1

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    run()
    seconds = []
    for _ in range(REPEATS):
        wait()
        started_s = perf_counter()
        for _ in range(num_rounds):
            run()
        wait()
        seconds.append((perf_counter() - started_s) / num_rounds)
    return median(seconds)


def of_case(
    bench: ModelBench, model: Any, ceilings: Ceilings, name: str, num: int, q: int, context: int, aim: float
) -> Found:
    shape = [(q, context)] * num
    bench.iteration_s(shape)
    seconds = median(bench.iteration_s(shape) for _ in range(REPEATS))
    least_s = work_of(model, num, q, context).least_s(ceilings)
    return Found(name, seconds, least_s, least_s / seconds, aim)


def work_of(model: Any, num: int, q: int, context: int) -> Work:
    """Of ``num`` sequences that compute ``q`` tokens each behind ``context``."""
    config, page = model.config, page_shape(model, 1)
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    body = sum(p.numel() for p in model.get_decoder().parameters()) - embedding.numel()
    num_bytes = (body + head.numel()) * page.dtype.itemsize + page.num_bytes * num * (context + q)
    pairs = num * q * (context + q / 2)
    flops = 2.0 * num * (q * body + head.numel())
    flops += 4.0 * config.num_hidden_layers * config.num_attention_heads * page.head_dim * pairs
    return Work(num_bytes, flops)


def of_load(
    shape: PageShape, num_tokens: int, device: torch.device, layout: Any, ceilings: Ceilings
) -> list[Found]:
    """A context from the host, and to it: ordered, copied in slices by the lane's thread, waited for."""
    num_pages = -(-num_tokens // shape.page_size)
    numbers = np.arange(num_pages, dtype=np.int32)
    pages = numbers % RUN_PAGES + 2 * RUN_PAGES * (numbers // RUN_PAGES)
    gpu = Pool(shape, int(pages[-1]) + 1, device, layout=layout)
    host = Pool(shape, gpu.num_pages, torch.device("cpu"), layout=layout, is_pinned=device.type == "cuda")
    gpu.pages.zero_()
    host.pages.zero_()
    transfers = Transfers(gpu, host)
    rates = {"h2d": ceilings.h2d_bytes_per_s, "d2h": ceilings.d2h_bytes_per_s}
    found = []
    for name, lane in (("h2d", transfers.h2d), ("d2h", transfers.d2h)):
        seconds = median([copied_s(transfers, lane, pages) for _ in range(REPEATS + 1)][1:])
        least_s = num_pages * shape.num_bytes / rates[name]
        case = f"{num_tokens:,} tokens of context, {name}"
        found.append(Found(case, seconds, least_s, least_s / seconds, COPY_AIM))
    transfers.close()
    host.close()
    return found


def copied_s(transfers: Transfers, lane: Any, pages: Any) -> float:
    transfer = Transfer(pages, pages, URGENT)
    transfers.submit(lane, transfer)
    while transfer.ended_at_s is None:
        transfers.wait(1.0)
        transfers.take_ended()
    return transfer.ended_at_s - transfer.submitted_at_s


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
