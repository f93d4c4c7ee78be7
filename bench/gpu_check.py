"""The kernels and the runner on a GPU, against transformers' own attention: to be run before any timing.

    python bench/gpu_check.py            # exits 1 at the first difference; needs CUDA

Chunks, extends, decodes through a CUDA graph (alone, and three in a bucket of four), a mixed iteration, runs
of decodes, pages that went to the host and came back: logits of each against a plain forward pass of the
same model; varlen attention by itself (grouped heads, causal to the lower right); and a predictor's network
on its side stream, on states that the model's stream is still computing, against numpy. Errors are of the
root mean square, in units of the logits' deviation. Unwritten pages hold NaN, and a NaN fails.

fp32 takes our own kernel throughout: FlashAttention, which long chunks go to, has no fp32.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that this file runs by its path, as well as by `-m bench.gpu_check`

from pbkv.predict.network import Network  # noqa: E402 - needs the line above
from pbkv.replay.batch import Slice  # noqa: E402
from pbkv.replay.model import load_model, page_shape  # noqa: E402
from pbkv.replay.pool import Pool, copy_runs  # noqa: E402
from pbkv.replay.runner import ModelRunner, RunnerConfig  # noqa: E402
from pbkv.replay.side import Side, side_of  # noqa: E402

PAGE, CONTEXT, CHUNK = 32, 1500, 600
MOVED = 40  # pages that go to the host and back
BOUND = {torch.float32: 1e-3, torch.bfloat16: 0.1}  # wrong attention is near 1, a wrong page above it
LEAST_EQUAL = {torch.float32: 1.0, torch.bfloat16: 0.5}  # next tokens of a run; near ties part in bf16
VARLEN_BOUND = 0.02  # bf16 has 8 bits
SIDE_BATCHES, SIDE_ROUNDS = (1, 8, 32, 1024), 50
SIDE_BOUND = 1e-5  # of a chance; fp32 both

Tokens = np.ndarray[Any, Any]
Parts = Sequence[tuple[int, int]]
Logits = tuple[str, tuple[int, torch.Tensor]]  # what: place of the last token, [vocabulary]


def main() -> None:
    device = torch.device(sys.argv[1] if len(sys.argv) > 1 else "cuda")
    names = ("random:tiny-llama", "random:tiny-qwen3") + (
        ("random:llama-8b",) if device.type == "cuda" else ()
    )
    failed = check_side(device) + (check_varlen(device) if device.type == "cuda" else 0)
    for name in names:
        dtypes = (torch.bfloat16,) if name == "random:llama-8b" else (torch.float32, torch.bfloat16)
        for dtype in dtypes if device.type == "cuda" else (torch.float32,):
            for layout in ("page-first", "layer-first"):
                failed += check(name, device, dtype, layout)
    sys.exit(1 if failed else 0)


def check(name: str, device: torch.device, dtype: torch.dtype, layout: Any) -> int:
    """1 if anything differs, after a line about it; else 0."""
    model = load_model(name, device, dtype)
    tokens = np.random.default_rng(1).integers(20, model.config.vocab_size, CONTEXT + 40)
    expected = plain_logits(model, tokens)
    num_pages = len(tokens) // PAGE + 1
    gpu = Pool(page_shape(model, PAGE), 2 * num_pages, device, layout=layout)
    gpu.pages.fill_(float("nan"))
    max_short = CHUNK if dtype == torch.float32 else RunnerConfig().max_short
    runner = ModelRunner(model, gpu, RunnerConfig(max_short=max_short))
    pages = np.arange(num_pages, dtype=np.int32)
    found = dict(in_chunks(runner, tokens, pages))
    moved = by_the_host(runner, pages)
    found |= dict(after_moving(runner, tokens, moved))
    errors = {what: error_of(logits, expected[at]) for what, (at, logits) in found.items()}
    wrong = {what: error for what, error in errors.items() if not error <= BOUND[dtype]}
    for what, error in wrong.items():
        print(f"FAILED {name} {dtype} {layout}: {what}: {error:.2e} of the logits' deviation")
    equal = equal_in_a_run(runner, tokens, moved, expected)
    largest = max(errors.values(), key=lambda error: math.inf if math.isnan(error) else error)
    print(
        f"{name} {dtype} {layout}: largest error {largest:.2e}, run of decodes: {equal:.0%} of tokens equal"
    )
    return int(bool(wrong) or equal < LEAST_EQUAL[dtype])


def plain_logits(model: Any, tokens: Tokens) -> torch.Tensor:
    """[T, vocabulary] of transformers' own pass, in fp32."""
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=torch.from_numpy(tokens)[None].to(model.device)).logits
    return logits[0].float()


def iteration(runner: ModelRunner, tokens: Tokens, pages: Any, parts: Parts, what: str) -> Iterator[Logits]:
    """Runs the slices (first token, tokens) and names each one's logits."""
    batch = [Slice(tokens[at : at + num], at, pages) for at, num in parts]
    logits = runner.run(batch, want_logits=True).logits
    runner.synchronize()
    assert logits is not None
    for i, (at, num) in enumerate(parts):
        yield f"{what}, {num} at {at}", (at + num - 1, logits[i])


def in_chunks(runner: ModelRunner, tokens: Tokens, pages: Any) -> Iterator[Logits]:
    for start in range(0, CONTEXT, CHUNK):
        yield from iteration(runner, tokens, pages, [(start, min(CHUNK, CONTEXT - start))], "chunk")


def by_the_host(runner: ModelRunner, pages: Any) -> Any:
    """Copies all but the last pages to the host and back to other pages; returns where they are now."""
    gpu = runner.pool
    is_cuda = gpu.device.type == "cuda"
    host = Pool(gpu.shape, len(pages), torch.device("cpu"), layout=gpu.layout, is_pinned=is_cuda)
    back = pages + len(pages)
    copy_runs(gpu, host, pages[:MOVED], pages[:MOVED])
    runner.synchronize()
    copy_runs(host, gpu, pages[:MOVED], back[:MOVED])
    runner.synchronize()
    host.close()
    return np.concatenate((back[:MOVED], pages[MOVED:]))


def after_moving(runner: ModelRunner, tokens: Tokens, pages: Any) -> Iterator[Logits]:
    """Slices of one iteration write to pages of their own, what is there already."""
    yield from iteration(runner, tokens, pages, [(CONTEXT, 20)], "extend on pages from the host")
    for at in range(CONTEXT + 20, CONTEXT + 23):
        yield from iteration(runner, tokens, pages, [(at, 1)], "decode")
    last = (CONTEXT + 22, 1)
    yield from iteration(runner, tokens, pages, [(640, 1), (960, 1), last], "three decodes")
    yield from iteration(runner, tokens, pages, [last, (1024, 100), (0, 512)], "mixed")


def equal_in_a_run(runner: ModelRunner, tokens: Tokens, pages: Any, expected: torch.Tensor) -> float:
    """Share of equal next tokens in eight decodes back to back."""
    start = CONTEXT + 23
    run = tokens[start : start + 8].reshape(8, 1)
    many = runner.decode_run([Slice(run[0], start, pages)], 8, run).next_tokens
    runner.synchronize()
    return float((many[:, 0] == expected[start : start + 8].argmax(-1)).float().mean())


def error_of(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Root mean square of the difference, in standard deviations of what is expected."""
    return float((found.float() - expected).square().mean().sqrt() / expected.std())


def check_varlen(device: torch.device) -> int:
    """Fewer queries than keys, four query heads to a key head, against fp32."""
    from pbkv.replay.cuda_attention import varlen

    num_q, num_keys, dim = 500, 1700, 128
    q, k, v = (
        torch.randn(num, heads, dim, device=device, dtype=torch.bfloat16)
        for num, heads in ((num_q, 32), (num_keys, 8), (num_keys, 8))
    )
    q_bounds = torch.tensor([0, num_q], dtype=torch.int32, device=device)
    kv_bounds = torch.tensor([0, num_keys], dtype=torch.int32, device=device)
    found = varlen(q, k, v, q_bounds, kv_bounds, num_q, num_keys, dim**-0.5)
    error = error_of(found, lower_right(q, k, v))
    is_right = error <= VARLEN_BOUND
    print(f"{'varlen' if is_right else 'FAILED varlen'}: error {error:.2e} of the values' deviation")
    return int(not is_right)


def check_side(device: torch.device) -> int:
    """Batches of 1 to 1,024 calls, started before their states are computed; how long each takes, too."""
    network = random_network(np.random.default_rng(3))
    side, failed = side_of(network, device), 0
    for num in SIDE_BATCHES:
        error, times = beside(network, side, num, device)
        is_right = error <= SIDE_BOUND
        failed += not is_right
        said = f"{'side' if is_right else 'FAILED side'}: {num} calls: error {error:.2e}"
        mean_s, p99_s = float(np.mean(times)), float(np.quantile(times, 0.99))
        print(f"{said}, mean {mean_s * 1e3:.3f} ms, p99 {p99_s * 1e3:.3f} ms (the paper: 1.18, 1.68)")
    side.close()
    return int(failed > 0)


def beside(network: Network, side: Side, num: int, device: torch.device) -> tuple[float, list[float]]:
    """The largest difference of a chance in ``SIDE_ROUNDS`` batches, and the batches' seconds."""
    rng, largest, times = np.random.default_rng(num), 0.0, []
    noise = torch.randn(2048, 2048, device=device)
    for _ in range(SIDE_ROUNDS):
        current = rng.integers(0, network.num_agents + 1, num)
        history = rng.integers(0, 3, (num, network.width)).astype(np.float64)
        drawn = torch.from_numpy(rng.standard_normal((num, network.num_dims), np.float32)).to(device)
        states = torch.zeros_like(drawn)
        busy = noise @ noise  # the model's stream is behind when the side is asked
        states.copy_(drawn + 0.0 * busy[0, 0])
        pending = side.start(network.known(current, history), list(states))
        logits, seconds = pending.result()
        expected = network.forecasts(current, history, drawn.cpu().numpy())
        largest = max(largest, float(abs(network.rows_of(logits) - expected).max()))
        times.append(seconds)
    return largest, times


def random_network(rng: np.random.Generator) -> Network:
    """Of the paper's sizes: six agents, three steps, 64 everywhere, |x| = 4,096."""
    agents, size, steps, dims = 6, 64, 3, 4096
    shapes: dict[str, tuple[int, ...]] = {
        "embedding": (agents, size),
        "layer_1": (size, 2 * size),
        "layer_2": (size, 2 * size),
        "query": (size, size),
        "text": (size, dims),
        "hidden_weight": (size, 3 * size),
        "hidden_bias": (size,),
        "output_weight": (steps * (agents + 1), size),
        "output_bias": (steps * (agents + 1),),
        "context_mean": (dims,),
    }
    drawn = {name: rng.standard_normal(shape) / shape[-1] ** 0.5 for name, shape in shapes.items()}
    drawn["context_scale"] = rng.uniform(0.5, 2.0, dims)
    drawn["transitions"] = rng.dirichlet(np.ones(agents), agents)
    drawn["frequencies"] = rng.dirichlet(np.ones(agents))
    return Network({name: array.astype(np.float32) for name, array in drawn.items()}, steps)


def lower_right(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """[q, Hq, D] in fp32: query i of q sees the keys up to i + keys − q."""
    group = q.shape[1] // k.shape[1]
    q, k, v = (x.float().transpose(0, 1) for x in (q, k, v))
    k, v = (x.repeat_interleave(group, 0) for x in (k, v))
    unseen = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool, device=q.device)
    unseen = unseen.triu(k.shape[1] - q.shape[1] + 1)
    scores = (q @ k.transpose(1, 2) * q.shape[2] ** -0.5).masked_fill(unseen, -math.inf)
    result: torch.Tensor = scores.softmax(-1) @ v
    return result.transpose(0, 1)


if __name__ == "__main__":
    main()
