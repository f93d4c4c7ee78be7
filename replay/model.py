"""The decoder: loaded from a checkpoint, or built in and filled with random weights."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from pbkv.replay.pool import PageShape
from pbkv.replay.quiet import quiet
from pbkv.traces.errors import ConfigError

FAMILIES = ("llama", "qwen2", "qwen3")
SEED = 20261125
SCALE = 0.02  # standard deviation of random weights

_LLAMA: dict[str, Any] = {"rms_norm_eps": 1e-5, "tie_word_embeddings": False}
_LLAMA |= {"rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0}}
_QWEN: dict[str, Any] = {"rms_norm_eps": 1e-6, "tie_word_embeddings": False}
_QWEN |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0}}
_TINY = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 131_072,
}
_8B = {
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
}
RANDOM: dict[str, tuple[str, dict[str, Any]]] = {  # name: family, configuration
    "random:llama-8b": (
        "llama",
        _8B
        | _LLAMA
        | {
            "vocab_size": 128_256,
            "intermediate_size": 14_336,
            "num_hidden_layers": 32,
            "max_position_embeddings": 131_072,
        },
    ),
    "random:qwen3-8b": (
        "qwen3",
        _8B
        | _QWEN
        | {
            "vocab_size": 151_936,
            "intermediate_size": 12_288,
            "num_hidden_layers": 36,
            "max_position_embeddings": 40_960,
        },
    ),
    "random:tiny": ("llama", _TINY | _LLAMA),
    "random:tiny-llama": ("llama", _TINY | _LLAMA),
    "random:tiny-qwen2": ("qwen2", _TINY | _QWEN),
    "random:tiny-qwen3": ("qwen3", _TINY | _QWEN),
}
# What a configuration says when its attention is more than causal over everything before: field, name.
_UNSUPPORTED = (
    ("kv_lora_rank", "multi-head latent attention"),
    ("num_experts", "mixture of experts"),
    ("num_local_experts", "mixture of experts"),
    ("n_routed_experts", "mixture of experts"),
    ("attn_logit_softcapping", "softcap of attention scores"),
    ("final_logit_softcapping", "softcap of logits"),
    ("attention_chunk_size", "chunked attention"),
    ("cross_attention_layers", "cross attention"),
    ("encoder_layers", "an encoder"),
    ("vision_config", "images"),
)


def load_model(name: str, device: torch.device, dtype: torch.dtype | None = None) -> Any:
    """A transformers decoder for `replay`, in ``dtype`` (bf16 on CUDA, fp32 on a CPU if not given).

    ``name``: one of `RANDOM`, a folder, a GGUF file or a name on the hub. Raises ConfigError if it is not
    there, its attention is not supported (named), or the device is not there.
    """
    check_device(device)
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    try:
        model = _random(name, device, dtype) if name.startswith("random:") else _loaded(name, dtype)
        return model.to(device).eval().requires_grad_(False)
    except torch.OutOfMemoryError:
        raise ConfigError("model", name, f"a model that fits into what is free of {device}") from None


def check_device(device: torch.device) -> None:
    if device.type not in ("cpu", "cuda"):
        raise ConfigError("device", str(device), "cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device", str(device), "a CUDA device: torch sees none here (try --device cpu)")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            "device", str(device), f"one of the {torch.cuda.device_count()} that torch sees here"
        )


def page_shape(model: Any, page_size: int) -> PageShape:
    """The pages that hold the keys and values of ``model``."""
    config = model.config
    heads = config.num_attention_heads
    return PageShape(
        num_layers=config.num_hidden_layers,
        page_size=page_size,
        num_kv_heads=config.num_key_value_heads or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        dtype=model.dtype,
    )


def check_supported(config: Any, name: str) -> None:
    """Raises ConfigError that names what the paged attention cannot do for this configuration."""
    for field, feature in _UNSUPPORTED:
        if getattr(config, field, None):
            raise ConfigError("model", name, f"a dense decoder with plain attention, not {feature} ({field})")
    others = sorted(set(getattr(config, "layer_types", None) or ()) - {"full_attention"})
    if _slides(config) or "sliding_attention" in others:
        raise ConfigError("model", name, "attention to everything before, not a sliding window")
    if others:
        raise ConfigError("model", name, f"attention to everything before, not {others[0]}")
    if config.model_type == "gpt_oss":
        raise ConfigError("model", name, "plain softmax, not attention sinks")
    if config.model_type not in FAMILIES:
        raise ConfigError("model", f"{name} ({config.model_type})", f"a decoder of {', '.join(FAMILIES)}")


def _slides(config: Any) -> bool:
    """Without a list of layer types, a window is on unless the family has a switch and it is off."""
    has_window = bool(getattr(config, "sliding_window", None))
    return has_window and not hasattr(config, "layer_types") and getattr(config, "use_sliding_window", True)


def _random(name: str, device: torch.device, dtype: torch.dtype) -> Any:
    import transformers

    if name not in RANDOM:
        raise ConfigError("model", name, f"one of {', '.join(RANDOM)}")
    family, values = RANDOM[name]
    config = transformers.AutoConfig.for_model(family, **values)
    builder: Any = transformers.AutoModelForCausalLM
    with torch.device(device):
        model = builder.from_config(config, dtype=dtype)
    _fill(model, device)
    return model


@torch.no_grad()
def _fill(model: Any, device: torch.device) -> None:
    """Matrices and biases normal with `SCALE`, in place and on the device; norms stay one."""
    generator = torch.Generator(device).manual_seed(SEED)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 or name.endswith("bias"):
            parameter.normal_(0.0, SCALE, generator=generator)


def _loaded(name: str, dtype: torch.dtype) -> Any:
    import transformers

    where, kwargs = _place(name)
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    loader: Any = transformers.AutoModelForCausalLM
    try:
        with quiet():
            config = transformers.AutoConfig.from_pretrained(where, **kwargs)
            check_supported(config, name)
            model, info = loader.from_pretrained(where, dtype=dtype, output_loading_info=True, **kwargs)
    except (ConfigError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever the reader of some format raises over a file that is none
        raise ConfigError("model", name, f"a model that can be loaded: {_first_line(error)}") from error
    if missing := sorted(info["missing_keys"]):
        raise ConfigError(
            "model", name, f"weights for all of it: {len(missing)} are missing, as {missing[0]}"
        )
    return model


def _place(name: str) -> tuple[str, dict[str, str]]:
    """What transformers calls the place and the file of a checkpoint."""
    path = Path(name)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ConfigError("model", name, "a GGUF file that exists")
        if missing := [package for package in ("gguf", "accelerate") if find_spec(package) is None]:
            needed = " ".join(missing)
            raise ConfigError("model", name, f"{needed} to be installed, to read GGUF (pip install {needed})")
        return str(path.parent), {"gguf_file": path.name}
    if path.is_dir() and not (path / "config.json").is_file():
        raise ConfigError("model", name, "a folder with a config.json")
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
    if looks_local and not path.is_dir():
        raise ConfigError("model", name, "a folder that exists, a name on the hub or random:…")
    return str(path) if path.is_dir() else name, {}


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
