"""The machine and the model of a replay, as the engine's settings and run.json know them."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import torch

from pbkv.replay.memory import free_bytes
from pbkv.replay.model import page_shape
from pbkv.replay.probe import measured_miss_costs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pbkv.cache.known import MissCosts

_MIB = 1 << 20
_CUDA_SHARE = 0.9  # of the free memory, for the GPU tier where none is given: iterations take some, too
_CPU_SHARE = 0.25  # … on a CPU, whose host tier lies in the same memory


@dataclass(frozen=True, slots=True)
class Machine:
    """A `pbkv.serve.world.Hardware`. Memory is what is free once the model is loaded."""

    name: str
    kv_bytes_per_token: int
    default_kv_bytes: int
    max_batched_tokens: int
    miss_costs: MissCosts
    device: Mapping[str, Any]

    def to_dict(self) -> dict[str, object]:
        return {
            "name": self.name,
            "kv": {"bytes_per_token": self.kv_bytes_per_token, "memory_bytes": self.default_kv_bytes},
            "engine": {"max_batched_tokens": self.max_batched_tokens},
            "miss_costs": asdict(self.miss_costs),
            "device": dict(self.device),
        }


def machine_of(model_name: str, model: Any, device: torch.device, max_batched_tokens: int) -> Machine:
    """The machine that ``model`` has been loaded on."""
    return Machine(
        name=f"{model_name} on {_device_name(device)}",
        kv_bytes_per_token=page_shape(model, 1).num_bytes,
        default_kv_bytes=default_kv_bytes(device),
        max_batched_tokens=max_batched_tokens,
        miss_costs=measured_miss_costs(model, device),
        device=_about(device),
    )


def default_kv_bytes(device: torch.device) -> int:
    """What a GPU tier takes, of what is free beside the model, where nobody says."""
    return int(free_bytes(device) * (_CUDA_SHARE if device.type == "cuda" else _CPU_SHARE))


def versions() -> dict[str, str]:
    """Of what a replay stands on, where it is installed."""
    found = {}
    for package in ("torch", "transformers", "triton"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()


def _about(device: torch.device) -> dict[str, Any]:
    """What a reader of the results must know of the device; clocks in MHz."""
    if device.type != "cuda":
        return {
            "type": "cpu",
            "name": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
        }
    facts = torch.cuda.get_device_properties(device)
    return {
        "type": "cuda",
        "name": facts.name,
        "memory_mib": facts.total_memory // _MIB,
        "num_sms": facts.multi_processor_count,
        "cuda": torch.version.cuda,
        **_clocks(device),
    }


def _clocks(device: torch.device) -> dict[str, int]:
    try:
        return {"sm_clock_mhz": torch.cuda.clock_rate(device)}
    except (ModuleNotFoundError, RuntimeError):  # needs pynvml
        return {}
