"""Beside transformers' own continuous batching: the same requests, one machine, one run.

    python bench/generate_batch.py --model random:llama-8b --device cuda -o docs/results/gpu/peer
    python bench/generate_batch.py --model random:tiny --device cpu --requests 8 --prompt 200 -o /tmp/peer

Requests with prompts of their own (nothing to share: the peer keeps its prefixes in another way), all at
once. Counted are the tokens generated a second, prefill included. Wanted: at least twice the peer's. The
peer makes its cache anew in each call: long outputs make that small, and it is said where it is not.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that this file runs by its path, as well as by `-m bench.generate_batch`

from pbkv.replay.batch import Slice  # noqa: E402 - needs the line above
from pbkv.replay.machine import versions  # noqa: E402
from pbkv.replay.model import load_model, page_shape  # noqa: E402
from pbkv.replay.pool import Pool  # noqa: E402
from pbkv.replay.runner import ModelRunner  # noqa: E402

PAGE, BUDGET = 32, 8192
WANTED = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="random:llama-8b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--prompt", type=int, default=2048, help="tokens of each")
    parser.add_argument("--output-tokens", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    device = torch.device(options.device)
    model = load_model(options.model, device)
    rng = np.random.default_rng(0)
    prompts = rng.integers(20, model.config.vocab_size, (options.requests, options.prompt))
    ours = [of_ours(model, prompts, options.output_tokens, device) for _ in range(options.repeats + 1)][1:]
    theirs = [of_peer(model, prompts, options.output_tokens) for _ in range(options.repeats + 1)][1:]
    ratio = median(ours) / median(theirs)
    found = {
        **{
            name: getattr(options, name)
            for name in ("model", "device", "requests", "prompt", "output_tokens")
        },
        "versions": versions(),
        "ours_tokens_per_s": ours,
        "generate_batch_tokens_per_s": theirs,
        "ratio": ratio,
        "wanted": WANTED,
    }
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "peer.json").write_text(json.dumps(found, indent=1) + "\n")
    said = f"ours {median(ours):,.1f}, generate_batch {median(theirs):,.1f} tokens/s"
    print(f"{said}: {ratio:.2f}× (wanted {WANTED})")


def of_ours(model: Any, prompts: np.ndarray[Any, Any], num_output: int, device: torch.device) -> float:
    """Tokens a second of our runner: chunks of the budget, then decodes in runs of 32."""
    num, length = prompts.shape
    each = -(-(length + num_output) // PAGE)
    pool = Pool(page_shape(model, PAGE), num * each, device)
    runner = ModelRunner(model, pool)
    pages = np.arange(num * each, dtype=np.int32).reshape(num, each)
    runner.synchronize()
    started_s = perf_counter()
    parts = [(i, at, min(at + BUDGET, length)) for i in range(num) for at in range(0, length, BUDGET)]
    batch: list[Slice] = []
    for i, start, end in parts:
        if sum(len(part.tokens) for part in batch) + end - start > BUDGET:
            runner.run(batch)
            batch = []
        batch.append(Slice(prompts[i, start:end], start, pages[i]))
    runner.run(batch)
    fed = prompts[:, :num_output].T.copy() if length >= num_output else np.full((num_output, num), 20)
    for done in range(0, num_output - 1, 32):
        tokens = fed[done : min(done + 32, num_output - 1)]
        slices = [Slice(tokens[0, i : i + 1], length + done, pages[i]) for i in range(num)]
        runner.decode_run(slices, len(tokens), tokens)
    runner.synchronize()
    return num * num_output / (perf_counter() - started_s)


def of_peer(model: Any, prompts: np.ndarray[Any, Any], num_output: int) -> float:
    """Tokens a second of ``generate_batch`` on its paged attention."""
    from transformers import GenerationConfig

    model.set_attn_implementation("paged|sdpa")
    config = GenerationConfig(max_new_tokens=num_output, min_new_tokens=num_output, do_sample=False)
    started_s = perf_counter()
    outputs = model.generate_batch(
        inputs=[prompt.tolist() for prompt in prompts], generation_config=config, progress_bar=False
    )
    seconds = perf_counter() - started_s
    return sum(len(output.generated_tokens) for output in outputs.values()) / seconds


if __name__ == "__main__":
    main()
