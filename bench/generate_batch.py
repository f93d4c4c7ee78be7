"""Beside transformers' own continuous batching: the same requests, one machine, one run.

    python bench/generate_batch.py --model random:llama-8b --device cuda -o docs/results/gpu/peer
    python bench/generate_batch.py --model random:tiny --device cpu --requests 8 --prompt 200 -o /tmp/peer

Requests with prompts of their own (nothing to share: the peer keeps its prefixes in another way), all at
once. Counted are the tokens generated a second, prefill included. Wanted: at least twice the peer's. Both
are warm: caches made, graphs captured and a first round of requests served before the clock starts. The
peer's cache holds just the requests (`num_blocks`), as its attention by SDPA pays for what it could hold.
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
DECODES = 32  # iterations of pure decode that are ordered at once
PEER_BLOCK = 256  # tokens, the peer's default
WANTED = 2.0

Prompts = np.ndarray[Any, Any]  # [requests, tokens]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="random:llama-8b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--prompt", type=int, default=2048, help="tokens of each")
    parser.add_argument("--output-tokens", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer-batch-tokens", type=int, default=BUDGET, help="the peer's token budget")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    device = torch.device(options.device)
    model = load_model(options.model, device)
    shape = (options.repeats + 1, options.requests, options.prompt)
    rounds = np.random.default_rng(0).integers(20, model.config.vocab_size, shape)
    ours = ours_per_s(model, rounds, options.output_tokens, device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    theirs = peers_per_s(model, rounds, options.output_tokens, options.peer_batch_tokens)
    write(options, ours, theirs)


def ours_per_s(model: Any, rounds: Prompts, num_output: int, device: torch.device) -> list[float]:
    """Tokens a second of each round but the first."""
    _, num, length = rounds.shape
    each = -(-(length + num_output) // PAGE)
    runner = ModelRunner(model, Pool(page_shape(model, PAGE), num * each, device))
    pages = np.arange(num * each, dtype=np.int32).reshape(num, each)
    return [served_per_s(runner, pages, prompts, num_output) for prompts in rounds][1:]


def served_per_s(runner: ModelRunner, pages: Any, prompts: Prompts, num_output: int) -> float:
    """Chunks of the budget, then decodes in runs; the tokens fed are given, as in a replay."""
    num, length = prompts.shape
    fed = np.resize(prompts.T, (num_output, num))
    runner.synchronize()
    started_s = perf_counter()
    for batch in chunks(prompts, pages):
        runner.run(batch)
    for done in range(0, num_output - 1, DECODES):
        tokens = fed[done : min(done + DECODES, num_output - 1)]
        slices = [Slice(tokens[0, i : i + 1], length + done, pages[i]) for i in range(num)]
        runner.decode_run(slices, len(tokens), tokens)
    runner.synchronize()
    return float(num * num_output / (perf_counter() - started_s))


def chunks(prompts: Prompts, pages: Any) -> list[list[Slice]]:
    """Iterations filled to the budget, prompt after prompt."""
    num, length = prompts.shape
    batches: list[list[Slice]] = [[]]
    left = BUDGET
    for i in range(num):
        start = 0
        while start < length:
            end = min(start + left, length)
            batches[-1].append(Slice(prompts[i, start:end], start, pages[i]))
            left -= end - start
            start = end
            if not left:
                batches.append([])
                left = BUDGET
    return [batch for batch in batches if batch]


def peers_per_s(model: Any, rounds: Prompts, num_output: int, batch_tokens: int) -> list[float]:
    """As `ours_per_s`, by ``generate_batch`` on paged SDPA; its manager stays between the rounds."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    _, num, length = rounds.shape
    model.set_attn_implementation("paged|sdpa")
    generation = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=num_output, do_sample=False, eos_token_id=-1
    )
    batching = ContinuousBatchingConfig(
        num_blocks=num * (-(-(length + num_output) // PEER_BLOCK) + 1),
        max_batch_tokens=batch_tokens,
        allow_block_sharing=False,
    )
    try:
        return [peer_per_s(model, prompts, generation, batching) for prompts in rounds][1:]
    finally:
        model.destroy_cached_continuous_batching_manager()


def peer_per_s(model: Any, prompts: Prompts, generation: Any, batching: Any) -> float:
    inputs = [prompt.tolist() for prompt in prompts]
    started_s = perf_counter()
    outputs = model.generate_batch(
        inputs=inputs,
        generation_config=generation,
        continuous_batching_config=batching,
        persistent_manager=True,
    )
    seconds = perf_counter() - started_s
    num_tokens = sum(len(output.generated_tokens) for output in outputs.values())
    wanted = len(inputs) * generation.max_new_tokens
    if num_tokens != wanted:
        sys.exit(f"generate_batch gave {num_tokens} tokens of {wanted}: there is nothing to compare with")
    return num_tokens / seconds


def write(options: argparse.Namespace, ours: list[float], theirs: list[float]) -> None:
    ratio = median(ours) / median(theirs)
    names = ("model", "device", "requests", "prompt", "output_tokens", "peer_batch_tokens")
    found = {name: getattr(options, name) for name in names} | {
        "hardware": torch.cuda.get_device_name() if options.device.startswith("cuda") else "a CPU",
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


if __name__ == "__main__":
    main()
