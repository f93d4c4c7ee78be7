"""`pbkv replay`: the options of a run on a real engine, our own or a server's."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pbkv.cli_options import Force, Out, Traces, at_least_one, at_most_one, choice, numbers, split
from pbkv.traces.errors import ConfigError

if TYPE_CHECKING:
    from pbkv.replay.openai_client import Server
    from pbkv.replay.settings import ReplaySettings

ENGINES = ("own", "openai")


def _own(text: str, *names: str) -> Any:
    """An option of our own engine alone; the panel is what `_refuse_options_of` knows it by."""
    return typer.Option(*names, help=text, rich_help_panel="own")


def _openai(text: str, *names: str) -> Any:
    """An option of ``--engine openai`` alone."""
    return typer.Option(*names, help=f"openai: {text}", rich_help_panel="openai")


def replay(
    context: typer.Context,
    traces: Traces,
    output: Out,
    engine: Annotated[
        str, typer.Option(help="own (torch and our pages) or openai: a server that speaks OpenAI's protocol.")
    ] = "own",
    model: Annotated[
        str | None,
        typer.Option(
            help="A name on the hub, a folder, a GGUF file, or random:llama-8b, random:qwen3-8b, random:tiny "
            "[default: random:llama-8b; openai: the first that the server names]."
        ),
    ] = None,
    policy: Annotated[
        list[str],
        typer.Option(
            help="NAME[+PART…] or FILE.py:CLASS (docs/policies.md); may be repeated. "
            "Of a server this, capacities and block size are for the record."
        ),
    ] = ["lru"],  # noqa: B006
    concurrency: Annotated[
        list[str] | None, typer.Option(help="Closed loop: live workflows, N[,N…] [default: 48].")
    ] = None,
    open_loop: Annotated[
        bool, typer.Option("--open-loop", help="Release workflows at their arrivals.")
    ] = False,
    block_size: Annotated[
        int | None,
        typer.Option(help="Tokens a block, which is a page of the pools [default: 32; openai: 16]."),
    ] = None,
    gpu_blocks: Annotated[
        list[str] | None, typer.Option(help="GPU tier, N[,N…] blocks: the cap that makes pressure.")
    ] = None,
    host_blocks: Annotated[
        int | None, typer.Option(help="Host tier, in blocks [default: as --host-ratio says; openai: 0].")
    ] = None,
    seed: Annotated[list[int], typer.Option(help="May be repeated: an interval over seeds.")] = [0],  # noqa: B006
    order: Annotated[
        str, typer.Option(help="Of workflows: file or shuffled; several seeds shuffle.")
    ] = "file",
    unknown_gap_s: Annotated[float, typer.Option(help="Tool wait where the trace has none.")] = 0.0,
    device: Annotated[str, _own("cuda, cuda:N or cpu.")] = "cuda",
    dtype: Annotated[
        str | None, _own("bfloat16, float16 or float32 [default: bfloat16; cpu: float32].")
    ] = None,
    host_ratio: Annotated[float, _own("Host tier, as a multiple of the GPU tier.")] = 1.0,
    predictor: Annotated[str, _own("markov:N (learns while serving), oracle, none, or a file.")] = "markov:3",
    steps: Annotated[int, _own("K, how many calls ahead policies look.")] = 3,
    gamma: Annotated[float, _own("Discount of each call further ahead.")] = 0.7,
    write_mode: Annotated[
        str, _own("write-through, write-through-selective, write-back or exclusive.")
    ] = "write-through",
    early_offload: Annotated[
        bool, _own("Modes that copy at eviction: copy while the link is idle.", "--early-offload")
    ] = False,
    batching: Annotated[
        str, _own("mixed (vLLM) or prefill-first (SGLang): what an iteration holds.")
    ] = "mixed",
    max_batched_tokens: Annotated[int, _own("Token budget of an iteration.")] = 8192,
    max_sequences: Annotated[int, _own("Most requests at a time.")] = 256,
    layout: Annotated[str, _own("Order of the pools in memory: page-first or layer-first.")] = "page-first",
    compile_backend: Annotated[
        str | None, _own("torch.compile with this backend, e.g. inductor.", "--compile")
    ] = None,
    threads: Annotated[int | None, _own("Of torch on a CPU: 1 where others use its cores too.")] = None,
    real_time: Annotated[
        bool, _own("Wait for tools; else an idle engine's clock jumps.", "--real-time")
    ] = False,
    sample_every_s: Annotated[float, _own("Of the occupancy table.")] = 1.0,
    skip_too_long: Annotated[
        bool, _own("Leave out workflows that do not fit into the GPU tier.", "--skip-too-long")
    ] = False,
    check: Annotated[bool, _own("Debug: after each call every page is looked at.", "--check")] = False,
    record_contexts: Annotated[
        Path | None, _own("Also write the trace with the model's hidden states, for `train` (one cell).")
    ] = None,
    base_url: Annotated[str | None, _openai("the server's address, with or without /v1.")] = None,
    endpoint: Annotated[str, _openai("completions, chat, or auto: chat where only that is served.")] = "auto",
    text: Annotated[bool, _openai("send text and not token ids: needs the tokenizer.", "--text")] = False,
    tokenizer: Annotated[
        str | None, _openai("of --text: a name on the hub or a folder [default: the model].")
    ] = None,
    vocabulary: Annotated[int, _openai("token ids are below this.")] = 32_000,
    hints: Annotated[
        bool, _openai("ids and answer length as nvext in the body, too (Dynamo).", "--hints")
    ] = False,
    ignore_eos: Annotated[
        bool, _openai("answers as long as the trace's (vLLM, SGLang).", "--ignore-eos")
    ] = False,
    timeout_s: Annotated[float, _openai("longest silence of the server.")] = 300.0,
    retries: Annotated[int, _openai("of a call, after lost connections, status 429 and 5xx.")] = 4,
    force: Force = False,
) -> None:
    """Replay TRACES on a real engine: same policies, same tables as `simulate`, the machine's own seconds.

    With --engine openai the same load goes to a server in real time; of the tables what can be known.
    """
    _refuse_options_of_others(context, choice("--engine", engine, *ENGINES))
    at_most_one({"--concurrency": concurrency, "--open-loop": open_loop or None})
    load: dict[str, Any] = {
        "policies": tuple(split(policy)),
        "gpu_blocks": tuple(numbers("--gpu-blocks", gpu_blocks or [])),
        "concurrencies": (None,) if open_loop else tuple(numbers("--concurrency", concurrency or ["48"])),
        "seeds": tuple(seed),
        "shuffle": choice("--order", order, "file", "shuffled") == "shuffled",
        "unknown_gap_s": unknown_gap_s,
    }
    if engine == "openai":
        from pbkv.replay.openai_client import Server

        if base_url is None:
            raise ConfigError("--base-url", "nothing", "the address of a server, with --engine openai")
        server = Server(
            base_url,
            model,
            choice("--endpoint", endpoint, "auto", "completions", "chat"),  # type: ignore[arg-type] # checked
            text,
            hints,
            ignore_eos,
            timeout_s=timeout_s,
            max_retries=retries,
        )
        load |= {"host_blocks": host_blocks or 0, "block_size": 16 if block_size is None else block_size}
        _send(traces, load, server, output, tokenizer or model, vocabulary, force)
        return
    import torch

    from pbkv.cache.config import WriteMode
    from pbkv.cache.policy import PolicyOptions
    from pbkv.replay.machine import machine_of
    from pbkv.replay.model import load_model
    from pbkv.replay.settings import ReplaySettings
    from pbkv.serve.config import EngineConfig

    name = "random:llama-8b" if model is None else model
    try:
        place = torch.device(device)
    except RuntimeError:
        raise ConfigError("device", device, "cuda, cuda:N or cpu") from None
    if threads is not None:
        torch.set_num_threads(at_least_one("--threads", threads))
    types = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
    loaded = load_model(name, place, None if dtype is None else types[choice("--dtype", dtype, *types)])
    settings = ReplaySettings(
        profile=machine_of(name, loaded, place, max_batched_tokens),
        policy_options=PolicyOptions(predictor, steps, gamma),
        host_blocks=host_blocks,
        host_ratio=host_ratio,
        block_size=32 if block_size is None else block_size,
        write_mode=WriteMode.named(write_mode),
        early_offload=early_offload,
        engine=EngineConfig(
            max_batched_tokens,
            max_sequences,
            batching=batching,  # type: ignore[arg-type] # checked there
        ),
        sample_every_s=sample_every_s,
        skip_too_long=skip_too_long,
        layout=choice("--layout", layout, "page-first", "layer-first"),  # type: ignore[arg-type] # checked
        compile_backend=compile_backend,
        real_time=real_time,
        check=check,
        **load,
    )
    _run(traces, settings, loaded, output, record_contexts, force)


def _refuse_options_of_others(context: typer.Context, engine: str) -> None:
    """Raise ConfigError for an option that was typed and that only another engine has."""
    for option in context.command.params:
        panel = getattr(option, "rich_help_panel", None)
        source = context.get_parameter_source(option.name or "")
        if panel in ENGINES and panel != engine and source is not None and source.name == "COMMANDLINE":
            raise ConfigError(option.opts[0], context.params[option.name or ""], f"--engine {panel}")


def _run(
    traces: list[Path],
    settings: ReplaySettings,
    model: Any,
    output: Path,
    record: Path | None,
    force: bool,
) -> None:
    from pbkv.console import replay_to
    from pbkv.traces.sources import open_trace

    with ExitStack() as stack:
        opened = [stack.enter_context(open_trace(path)) for path in traces]
        replay_to(opened, settings, model, output, force, record)


def _send(
    traces: list[Path],
    load: dict[str, Any],
    server: Server,
    output: Path,
    tokenizer: str | None,
    vocabulary: int,
    force: bool,
) -> None:
    from pbkv.console import send_to
    from pbkv.replay.openai import RemoteMachine, load_tokenizer, text_prompts, token_prompts
    from pbkv.serve.settings import RunSettings
    from pbkv.traces.sources import open_trace

    settings = RunSettings(RemoteMachine(server.shown), cache_events=False, **load)
    prompts = text_prompts(load_tokenizer(tokenizer)) if server.sends_text else token_prompts(vocabulary)
    with ExitStack() as stack:
        opened = [stack.enter_context(open_trace(path)) for path in traces]
        send_to(opened, settings, server, prompts, output, force)
