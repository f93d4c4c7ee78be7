"""`pbkv replay`: the options of a run on a real engine."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from pbkv.cli_options import Force, Out, Traces, at_least_one, choice, numbers, split


def replay(
    traces: Traces,
    output: Out,
    model: Annotated[
        str,
        typer.Option(
            help="A name on the hub, a folder, a GGUF file, or random:llama-8b, random:qwen3-8b, random:tiny."
        ),
    ] = "random:llama-8b",
    device: Annotated[str, typer.Option(help="cuda, cuda:N or cpu.")] = "cuda",
    dtype: Annotated[
        str | None, typer.Option(help="bfloat16, float16 or float32 [default: bfloat16; cpu: float32].")
    ] = None,
    policy: Annotated[
        list[str], typer.Option(help="NAME[+PART…] or FILE.py:CLASS (docs/policies.md); may be repeated.")
    ] = ["lru"],  # noqa: B006
    concurrency: Annotated[
        list[str] | None, typer.Option(help="Closed loop: live workflows, N[,N…] [default: 48].")
    ] = None,
    open_loop: Annotated[
        bool, typer.Option("--open-loop", help="Release workflows at their arrivals.")
    ] = False,
    block_size: Annotated[int, typer.Option(help="Tokens a block, which is a page of the pools.")] = 32,
    gpu_blocks: Annotated[
        list[str] | None, typer.Option(help="GPU tier, N[,N…] blocks: the cap that makes pressure.")
    ] = None,
    host_blocks: Annotated[int | None, typer.Option(help="Host tier, in blocks.")] = None,
    host_ratio: Annotated[float, typer.Option(help="… or as a multiple of the GPU tier.")] = 1.0,
    seed: Annotated[list[int], typer.Option(help="May be repeated: an interval over seeds.")] = [0],  # noqa: B006
    order: Annotated[
        str, typer.Option(help="Of workflows: file or shuffled; several seeds shuffle.")
    ] = "file",
    predictor: Annotated[
        str, typer.Option(help="markov:N (learns while serving), oracle, none, or a file.")
    ] = "markov:3",
    steps: Annotated[int, typer.Option(help="K, how many calls ahead policies look.")] = 3,
    gamma: Annotated[float, typer.Option(help="Discount of each call further ahead.")] = 0.7,
    write_mode: Annotated[
        str, typer.Option(help="write-through, write-through-selective, write-back or exclusive.")
    ] = "write-through",
    early_offload: Annotated[
        bool,
        typer.Option("--early-offload", help="Modes that copy at eviction: copy while the link is idle."),
    ] = False,
    batching: Annotated[
        str, typer.Option(help="mixed (vLLM) or prefill-first (SGLang): what an iteration holds.")
    ] = "mixed",
    max_batched_tokens: Annotated[int, typer.Option(help="Token budget of an iteration.")] = 8192,
    max_sequences: Annotated[int, typer.Option(help="Most requests at a time.")] = 256,
    layout: Annotated[
        str, typer.Option(help="Order of the pools in memory: page-first or layer-first.")
    ] = "page-first",
    compile_backend: Annotated[
        str | None, typer.Option("--compile", help="torch.compile with this backend, e.g. inductor.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Of torch on a CPU: 1 where others use its cores too.")
    ] = None,
    unknown_gap_s: Annotated[float, typer.Option(help="Tool wait where the trace has none.")] = 0.0,
    real_time: Annotated[
        bool, typer.Option("--real-time", help="Wait for tools; else an idle engine's clock jumps.")
    ] = False,
    sample_every_s: Annotated[float, typer.Option(help="Of the occupancy table.")] = 1.0,
    skip_too_long: Annotated[
        bool, typer.Option("--skip-too-long", help="Leave out workflows that do not fit into the GPU tier.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Debug: after each call every page is looked at.")
    ] = False,
    record_contexts: Annotated[
        Path | None,
        typer.Option(help="Also write the trace with the model's hidden states, for `train` (one cell)."),
    ] = None,
    force: Force = False,
) -> None:
    """Replay TRACES on a real engine: same policies, same tables as `simulate`, the machine's own seconds."""
    import torch

    from pbkv.cache.config import WriteMode
    from pbkv.cache.policy import PolicyOptions
    from pbkv.console import replay_to
    from pbkv.replay.machine import machine_of
    from pbkv.replay.model import load_model
    from pbkv.replay.settings import ReplaySettings
    from pbkv.serve.config import EngineConfig
    from pbkv.traces.errors import ConfigError
    from pbkv.traces.sources import open_trace

    try:
        place = torch.device(device)
    except RuntimeError:
        raise ConfigError("device", device, "cuda, cuda:N or cpu") from None
    if threads is not None:
        torch.set_num_threads(at_least_one("--threads", threads))
    types = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
    loaded = load_model(model, place, None if dtype is None else types[choice("--dtype", dtype, *types)])
    settings = ReplaySettings(
        profile=machine_of(model, loaded, place, max_batched_tokens),
        policies=tuple(split(policy)),
        policy_options=PolicyOptions(predictor, steps, gamma),
        gpu_blocks=tuple(numbers("--gpu-blocks", gpu_blocks or [])),
        host_blocks=host_blocks,
        host_ratio=host_ratio,
        concurrencies=(None,) if open_loop else tuple(numbers("--concurrency", concurrency or ["48"])),
        seeds=tuple(seed),
        shuffle=choice("--order", order, "file", "shuffled") == "shuffled",
        block_size=block_size,
        write_mode=WriteMode.named(write_mode),
        early_offload=early_offload,
        engine=EngineConfig(
            max_batched_tokens,
            max_sequences,
            batching=batching,  # type: ignore[arg-type] # checked there
        ),
        unknown_gap_s=unknown_gap_s,
        sample_every_s=sample_every_s,
        skip_too_long=skip_too_long,
        layout=choice("--layout", layout, "page-first", "layer-first"),  # type: ignore[arg-type] # checked
        compile_backend=compile_backend,
        real_time=real_time,
        check=check,
    )
    with ExitStack() as stack:
        opened = [stack.enter_context(open_trace(path)) for path in traces]
        replay_to(opened, settings, loaded, output, force, record_contexts)
