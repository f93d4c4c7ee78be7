"""Pages between the pools: all pieces in one call of the driver (cuMemcpyBatchAsync), or one `copy_` a run.

    python bench/gpu_copies.py -o docs/results/gpu/copies
    python bench/gpu_copies.py --device cpu --pages 32 -o /tmp/copies    # its logic: nothing to compare with

First the bits: pages down and up again by each way, both layouts; exits 1 at a difference, and where the one
call is there but fails. Then bytes a second each way, median of 7, for runs of 1, 4 and 64 pages, with the
seconds that the calls themselves took. Which of the two the engine should use is for these numbers to say.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that this file runs by its path, as well as by `-m bench.gpu_copies`

from pbkv.replay.machine import versions  # noqa: E402 - needs the line above
from pbkv.replay.memcpy import PageCopies, batch_copy  # noqa: E402
from pbkv.replay.pool import Layout, PageShape, Pool  # noqa: E402

LLAMA_8B = PageShape(num_layers=32, page_size=32, num_kv_heads=8, head_dim=128, dtype=torch.bfloat16)
LAYOUTS: tuple[Layout, ...] = ("page-first", "layer-first")
RUNS = (1, 4, 64)  # pages in a row
REPEATS = 7
ONE_CALL = "one call"


@dataclass(frozen=True, slots=True)
class Rate:
    layout: Layout
    direction: str
    run_pages: int
    way: str
    bytes_per_s: float
    enqueued_s: float  # until the calls had returned


class Copier:
    """Two pools of a layout, and a stream between them where one is a GPU's."""

    def __init__(self, device: torch.device, layout: Layout, num_pages: int) -> None:
        is_cuda = device.type == "cuda"
        self.gpu = Pool(LLAMA_8B, 2 * num_pages, device, layout=layout)
        self.host = Pool(LLAMA_8B, 2 * num_pages, torch.device("cpu"), layout=layout, is_pinned=is_cuda)
        self._stream: Any = torch.cuda.Stream(device) if is_cuda else None  # type: ignore[no-untyped-call]

    def copy(self, copies: PageCopies, direction: str, pages: Any, places: Any) -> tuple[float, float]:
        """Seconds until the calls had returned, and until the copies were done."""
        source, target = (self.host, self.gpu) if direction == "h2d" else (self.gpu, self.host)
        started_s = perf_counter()
        with torch.cuda.stream(self._stream):
            copies.enqueue(source, target, pages, places, self._stream)
        enqueued_s = perf_counter() - started_s
        if self._stream is not None:
            self._stream.synchronize()
        return enqueued_s, perf_counter() - started_s

    def wait(self) -> None:
        """Until what other streams have been given is done."""
        if self.gpu.device.type == "cuda":
            torch.cuda.synchronize(self.gpu.device)

    def close(self) -> None:
        self.host.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--pages", type=int, default=256, help="of 4 MiB, in each copy")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    device = torch.device(options.device)
    ways = ways_on(device)
    rates: list[Rate] = []
    for layout in LAYOUTS:
        copier = Copier(device, layout, options.pages)
        for way, copies in ways.items():
            if not keeps_bits(copier, copies, options.pages):
                sys.exit(f"FAILED {layout}, {way}: pages came back changed")
            if way == ONE_CALL and not copies.has_batch:
                sys.exit(f"FAILED {layout}, {way}: see the warning")
        rates += rates_of(copier, layout, ways, options.pages)
        copier.close()
        del copier
    write(options, rates)


def ways_on(device: torch.device) -> dict[str, PageCopies]:
    ways = {"run by run": PageCopies(None)}
    batch = batch_copy() if device.type == "cuda" else None
    if batch is None:
        print("cuMemcpyBatchAsync: not there, or no GPU; run by run only")
        return ways
    return ways | {ONE_CALL: PageCopies(batch)}


def keeps_bits(copier: Copier, copies: PageCopies, num_pages: int) -> bool:
    """Half of the pages go down and up again, to other places; the rest stay as they are."""
    pages = scattered(num_pages // 2, 1)
    bits = copier.gpu.pages.view(torch.int16)
    bits.random_(-(2**15), 2**15)
    expected = bits[torch.from_numpy(pages).long()].clone()
    copier.wait()
    order = np.random.default_rng(0).permutation(len(pages)).astype(np.int32)
    copier.copy(copies, "d2h", pages, order)
    back = pages + 1  # the other half of every pair
    copier.copy(copies, "h2d", order, back)
    is_same = torch.equal(bits[torch.from_numpy(back).long()], expected)
    return is_same and torch.equal(bits[torch.from_numpy(pages).long()], expected)


def rates_of(copier: Copier, layout: Layout, ways: dict[str, PageCopies], num_pages: int) -> Iterator[Rate]:
    for direction in ("h2d", "d2h"):
        for run_pages in RUNS:
            pages = scattered(num_pages, min(run_pages, num_pages))
            for way, copies in ways.items():
                times = [copier.copy(copies, direction, pages, pages) for _ in range(REPEATS + 1)][1:]
                enqueued_s, seconds = (median(each) for each in zip(*times, strict=True))
                num_bytes = num_pages * LLAMA_8B.num_bytes
                yield Rate(layout, direction, run_pages, way, num_bytes / seconds, enqueued_s)


def scattered(num_pages: int, run_pages: int) -> Any:
    """Every other run of pages."""
    numbers = np.arange(num_pages, dtype=np.int32)
    return numbers % run_pages + 2 * run_pages * (numbers // run_pages)


def write(options: argparse.Namespace, rates: list[Rate]) -> None:
    is_cuda = options.device.startswith("cuda")
    about = {"device": torch.cuda.get_device_name() if is_cuda else "a CPU", "pages": options.pages}
    found = {**about, "versions": versions(), "rates": [asdict(rate) for rate in rates]}
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "copies.json").write_text(json.dumps(found, indent=1) + "\n")
    for rate in rates:
        said = f"{rate.layout}, {rate.direction}, runs of {rate.run_pages}, {rate.way}"
        print(f"{said}: {rate.bytes_per_s / 1e9:.1f} GB/s, {rate.enqueued_s * 1e3:.2f} ms to enqueue")


if __name__ == "__main__":
    main()
