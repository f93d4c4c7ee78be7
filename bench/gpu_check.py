"""The kernels and the runner on a GPU, against transformers' own attention: to be run before any timing.

    python bench/gpu_check.py            # exits 1 at the first difference; needs CUDA

Paged prefill, chunked prefill, extends that share a prefix, decodes through a CUDA graph and runs of
decodes, a page that went to the host and came back: logits of each against a plain forward pass of the same
model, in fp32 within 1e-3 and in bf16 by the share of equal next tokens. Unwritten pages hold NaN.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that this file runs by its path, as well as by `-m bench.gpu_check`

from pbkv.replay.batch import Slice  # noqa: E402 - needs the line above
from pbkv.replay.model import load_model, page_shape  # noqa: E402
from pbkv.replay.pool import Pool, copy_runs  # noqa: E402
from pbkv.replay.runner import ModelRunner, RunnerConfig  # noqa: E402

PAGE, CONTEXT, CHUNK = 32, 1500, 600
BOUND = {torch.float32: 1e-3, torch.bfloat16: 0.15}  # of logits of standard deviation about 1


def main() -> None:
    device = torch.device(sys.argv[1] if len(sys.argv) > 1 else "cuda")
    names = ("random:tiny-llama", "random:tiny-qwen3") + (
        ("random:llama-8b",) if device.type == "cuda" else ()
    )
    failed = 0
    for name in names:
        dtypes = (torch.bfloat16,) if name == "random:llama-8b" else (torch.float32, torch.bfloat16)
        for dtype in dtypes if device.type == "cuda" else (torch.float32,):
            for layout in ("page-first", "layer-first"):
                failed += check(name, device, dtype, layout)
    sys.exit(1 if failed else 0)


def check(name: str, device: torch.device, dtype: torch.dtype, layout: Any) -> int:
    model = load_model(name, device, dtype)
    tokens = np.random.default_rng(1).integers(20, model.config.vocab_size, CONTEXT + 40)
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        expected = model(input_ids=torch.from_numpy(tokens)[None].to(device)).logits[0].float()
    gpu = Pool(page_shape(model, PAGE), 2 * (len(tokens) // PAGE + 2), device, layout=layout)
    gpu.pages.fill_(float("nan"))
    runner = ModelRunner(model, gpu, RunnerConfig())
    pages = np.arange(len(tokens) // PAGE + 1, dtype=np.int32)
    found = {}
    for start in range(0, CONTEXT, CHUNK):
        end = min(start + CHUNK, CONTEXT)
        out = runner.run([Slice(tokens[start:end], start, pages)], want_logits=True)
        found[f"chunk to {end}"] = (end - 1, out.logits)
    host = Pool(gpu.shape, len(pages), torch.device("cpu"), layout=layout, is_pinned=device.type == "cuda")
    back = pages + len(pages)
    runner.synchronize()
    copy_runs(gpu, host, pages[:40], pages[:40])
    runner.synchronize()
    copy_runs(host, gpu, pages[:40], back[:40])
    moved = np.concatenate((back[:40], pages[40:]))
    out = runner.run([Slice(tokens[CONTEXT : CONTEXT + 20], CONTEXT, moved)], want_logits=True)
    found["extend on pages that were on the host"] = (CONTEXT + 19, out.logits)
    for step in range(3):
        at = CONTEXT + 20 + step
        out = runner.run([Slice(tokens[at : at + 1], at, moved)], want_logits=True)
        found[f"decode {step}"] = (at, out.logits)
        runner.synchronize()
    worst = 0.0
    for what, (at, logits) in found.items():
        error = float((logits[0].float() - expected[at]).abs().max() / expected[at].std())
        worst = max(worst, error)
        if not error <= BOUND[dtype]:
            print(f"FAILED {name} {dtype} {layout}: {what}: {error:.2e} of the logits' deviation")
    start = CONTEXT + 23
    run = tokens[start : start + 8].reshape(8, 1)
    many = runner.decode_run([Slice(run[0], start, moved)], 8, run).next_tokens
    runner.synchronize()
    equal = float((many[:, 0] == expected[start : start + 8].argmax(-1)).float().mean())
    print(f"{name} {dtype} {layout}: largest error {worst:.2e}, run of decodes: {equal:.0%} of tokens equal")
    host.close()
    return int(not worst <= BOUND[dtype] or (dtype == torch.float32 and equal < 1))


if __name__ == "__main__":
    main()
