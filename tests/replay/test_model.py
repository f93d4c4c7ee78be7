"""Which models can be replayed, where they come from, and what is said of the others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pbkv.replay.model import RANDOM, check_supported, load_model, page_shape
from pbkv.traces.errors import ConfigError
from tests.replay.world import CPU, FAMILIES


@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_model_is_loaded_from_its_folder(name: str, tmp_path: Path) -> None:
    saved = load_model(name, CPU)
    saved.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), CPU)
    ids = torch.arange(20)[None]
    assert torch.equal(loaded(ids).logits, saved(ids).logits)


def test_random_weights_are_the_same_each_time_and_as_wide_as_said() -> None:
    one, two = (load_model("random:tiny-qwen2", CPU) for _ in range(2))
    weights = one.model.layers[0].mlp.up_proj.weight
    assert torch.equal(weights, two.model.layers[0].mlp.up_proj.weight)
    assert weights.std() == pytest.approx(0.02, rel=0.05)  # of 8,192 draws
    assert one.model.layers[0].self_attn.q_proj.bias.abs().max() > 0
    assert torch.equal(one.model.norm.weight, torch.ones(64))


@pytest.mark.parametrize(
    ("name", "num_layers", "billions"), [("random:llama-8b", 32, 8.0), ("random:qwen3-8b", 36, 8.2)]
)
def test_the_8b_shapes_have_8b_parameters(name: str, num_layers: int, billions: float) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    family, values = RANDOM[name]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **values))  # type: ignore[no-untyped-call]
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count / 1e9 == pytest.approx(billions, abs=0.05)
    assert page_shape(model, 32).num_layers == num_layers


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"kv_lora_rank": 512}, "multi-head latent attention"),
        ({"num_experts": 8}, "mixture of experts"),
        ({"num_local_experts": 8}, "mixture of experts"),
        ({"attn_logit_softcapping": 50.0}, "softcap"),
        ({"attention_chunk_size": 8192}, "chunked attention"),
        ({"sliding_window": 4096}, "sliding window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding window"),
        ({"layer_types": ["linear_attention"]}, "linear_attention"),
        ({"model_type": "gpt_oss"}, "attention sinks"),
        ({"model_type": "bloom"}, "a decoder of llama, qwen2, qwen3"),
    ],
)
def test_what_the_pages_cannot_serve_is_refused_by_name(fields: dict[str, object], said: str) -> None:
    config = SimpleNamespace(**{"model_type": "llama"} | fields)
    with pytest.raises(ConfigError, match=said):
        check_supported(config, "some/model")


def test_a_window_that_is_switched_off_is_no_window() -> None:
    check_supported(
        SimpleNamespace(model_type="qwen2", sliding_window=4096, use_sliding_window=False), "Qwen/Qwen2.5-7B"
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("random:huge", "expected one of random:llama-8b"),
        ("/no/such/folder", "a folder that exists"),
        ("./no-such.gguf", "a GGUF file that exists"),
        ("", "a folder with a config.json"),
        ("no such", "a model that can be loaded"),
    ],
)
def test_a_model_that_is_not_there_is_one_line(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        load_model(name, CPU)
    assert "\n" not in str(error.value)


def test_a_name_the_hub_does_not_give_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        ConfigError, match="model: got nobody/nothing, expected a model that can be loaded"
    ) as error:
        load_model("nobody/nothing", CPU)
    assert "\n" not in str(error.value)


_WITHOUT_WAITING = "import sys, time; time.sleep = lambda s: None; from pbkv.cli import main; main()"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model", "nobody/nothing"), "model: got nobody/nothing, expected a model that can be loaded: "),
        (
            ("--engine", "openai", "--base-url", "http://x", "--text", "--model", "nobody/nothing"),
            "tokenizer: got nobody/nothing, expected one that can be loaded: ",
        ),
    ],
)
def test_a_name_without_a_network_is_one_line_and_nothing_beside_it(
    arguments: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    device = () if "openai" in arguments else ("--device", "cpu")
    command = [sys.executable, "-c", _WITHOUT_WAITING, "replay", "none.parquet", *arguments, *device]
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **nowhere},
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert said in done.stderr


def test_a_model_that_the_device_does_not_hold_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def runs_out(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 16.00 GiB")

    monkeypatch.setattr("pbkv.replay.model._fill", runs_out)
    with pytest.raises(ConfigError, match="expected a model that fits into what is free of cpu"):
        load_model("random:tiny", CPU)


def test_a_folder_with_a_broken_checkpoint_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="a model that can be loaded"):
        load_model(str(tmp_path), CPU)
    load_model("random:tiny", CPU).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ConfigError, match="a model that can be loaded"):
        load_model(str(tmp_path), CPU)


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    model = load_model("random:tiny", CPU)
    state = {name: value for name, value in model.state_dict().items() if "layers.1.mlp.up" not in name}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ConfigError, match=r"1 are missing, as model.layers.1.mlp.up_proj.weight"):
        load_model(str(tmp_path), CPU)


def test_no_cuda_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="device: got cuda, expected a CUDA device: torch sees none"):
        load_model("random:tiny", torch.device("cuda"))
    with pytest.raises(ConfigError, match="expected cpu or cuda"):
        load_model("random:tiny", torch.device("meta"))


def test_a_gpu_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="device: got cuda:7, expected one of the 1 that torch sees"):
        load_model("random:tiny", torch.device("cuda:7"))
