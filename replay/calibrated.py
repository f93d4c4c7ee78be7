"""Calibrates a model on a device and writes the profile: from names and sizes to a TOML file."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from pbkv.replay.bench import ModelBench, pages_of
from pbkv.replay.calibrate import Calibration, calibrate
from pbkv.replay.machine import default_kv_bytes
from pbkv.replay.model import load_model, page_shape
from pbkv.replay.pool import Layout
from pbkv.replay.profile_file import write_profile
from pbkv.replay.shapes import Scale
from pbkv.traces.errors import ConfigError
from pbkv.traces.temporary import check_free_file

_SCALES = {  # batched tokens, context, sequences, tokens of all sequences together
    "cuda": (8192, 32_768, 256, 300_000),
    "cpu": (1024, 4096, 32, 24_576),
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to calibrate. None: bf16 on a GPU and fp32 on a CPU; sizes of `_SCALES`."""

    model: str
    device: str
    dtype: str | None = None
    page_size: int = 32
    max_batched_tokens: int | None = None
    max_context: int | None = None
    max_sequences: int | None = None
    num_repeats: int = 7
    layout: Layout = "page-first"
    compile_backend: str | None = None
    seed: int = 0
    num_threads: int | None = None  # of torch on a CPU; None: as torch has it

    def __post_init__(self) -> None:
        sizes = ("max_batched_tokens", "max_context", "max_sequences", "num_threads")
        for name in ("page_size", "num_repeats", *sizes):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(name, getattr(self, name), "a number ≥ 1")


def calibrate_to(
    path: Path,
    wanted: Wanted,
    *,
    force: bool = False,
    command: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Measure, fit, and write the profile to ``path`` (.toml). Raises ConfigError for what is not there."""
    if path.suffix != ".toml":
        raise ConfigError("output", str(path), "a path that ends in .toml")
    check_free_file(path, force)
    if wanted.num_threads is not None:
        torch.set_num_threads(wanted.num_threads)
    model = load_model(wanted.model, _device(wanted.device), _dtype(wanted.dtype))
    device = next(model.parameters()).device
    memory_bytes = default_kv_bytes(device)
    scale = _scale(wanted, model, device, memory_bytes)
    with ModelBench(
        model, scale, wanted.page_size, layout=wanted.layout, compile_backend=wanted.compile_backend
    ) as bench:
        found = calibrate(bench, scale, num_repeats=wanted.num_repeats, seed=wanted.seed, progress=progress)
    write_profile(
        path,
        found,
        kv_bytes_per_token=page_shape(model, 1).num_bytes,
        kv_memory_bytes=memory_bytes,
        max_batched_tokens=scale.max_batched_tokens,
        source=_source(wanted, model, device, scale, command),
        force=force,
    )
    return found


def _scale(wanted: Wanted, model: Any, device: torch.device, memory_bytes: int) -> Scale:
    """As wanted or as is usual on the device; within the model's context and, unless wanted, the memory."""
    tokens, context, sequences, pool_tokens = _SCALES[device.type]
    tokens = wanted.max_batched_tokens or tokens
    most_context = model.config.max_position_embeddings - tokens
    if wanted.max_context is not None and wanted.max_context > most_context:
        expected = f"at most {most_context}: the model's context less an iteration of {tokens} tokens"
        raise ConfigError("max_context", wanted.max_context, expected)
    context = wanted.max_context or min(context, most_context)
    sequences = wanted.max_sequences or min(sequences, tokens // 2)
    scale = Scale(tokens, context, sequences, max(pool_tokens, context + tokens))
    needed, page_bytes = pages_of(scale, wanted.page_size), page_shape(model, wanted.page_size).num_bytes
    if needed * page_bytes > memory_bytes:
        left = memory_bytes // page_bytes * wanted.page_size - 2 * wanted.page_size * sequences
        if left < context + tokens:
            got = f"{memory_bytes / 2**30:.2g} GiB for pages"
            raise ConfigError("memory", got, f"room for a context of {context} and {tokens} tokens more")
        scale = Scale(tokens, context, sequences, left)
    return scale


def _device(name: str) -> torch.device:
    try:
        return torch.device(name)
    except RuntimeError:
        raise ConfigError("device", name, "cuda, cuda:N or cpu") from None


def _dtype(name: str | None) -> torch.dtype | None:
    types = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
    if name is not None and name not in types:
        raise ConfigError("dtype", name, f"one of {', '.join(types)}")
    return None if name is None else types[name]


def _source(wanted: Wanted, model: Any, device: torch.device, scale: Scale, command: str) -> dict[str, str]:
    is_cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if is_cuda else f"{platform.machine()}, a CPU"
    threads = "" if is_cuda else f", {torch.get_num_threads()} threads"
    sizes = f"{scale.max_batched_tokens} tokens, context {scale.max_context}, {scale.max_sequences} sequences"
    return {
        "model": f"{wanted.model}, {str(model.dtype).removeprefix('torch.')}",
        "machine": f"{name}{threads}; torch {torch.__version__}",
        "scale": f"up to {sizes}; pages of {wanted.page_size} tokens, {wanted.layout}",
        "repeats": f"median of {wanted.num_repeats}",
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
    }
