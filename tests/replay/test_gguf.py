"""A Llama in a GGUF file of the test's own: read, replayed, and what is said where it cannot be."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pbkv.replay.model import load_model
from pbkv.traces.errors import ConfigError
from pbkv.traces.generate import generate_workload, workload_metadata
from pbkv.traces.writer import write_trace
from tests.replay.world import CPU

_MODULES = {  # of a layer: in transformers, in GGUF
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`random:tiny` as GGUF, its weights as they are (fp32)."""
    gguf: Any = pytest.importorskip("gguf")
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    model = load_model("random:tiny", CPU)
    config, writer = model.config, gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for name, weights in model.state_dict().items():
        module = gguf_name(name)
        num_heads = heads.get(module.split(".")[-1])
        written = weights if num_heads is None else with_pairs_beside(weights, num_heads)
        writer.add_tensor(f"{module}.weight", written.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gguf_name(name: str) -> str:
    name = name.removesuffix(".weight")
    if name in _OUTER:
        return _OUTER[name]
    _, _, number, module = name.split(".", 3)
    return f"blk.{number}.{_MODULES[module]}"


def with_pairs_beside(weights: torch.Tensor, num_heads: int) -> torch.Tensor:
    """llama.cpp turns neighbours by one angle where transformers turns a half and the other half."""
    heads = weights.reshape(num_heads, 2, -1, weights.shape[-1])
    return heads.transpose(1, 2).reshape(weights.shape)


def test_it_is_the_model_that_was_written(file: Path) -> None:
    ids = torch.arange(40)[None]
    found, expected = (load_model(name, CPU) for name in (str(file), "random:tiny"))
    assert torch.equal(found(ids).logits, expected(ids).logits)


def test_it_is_replayed(file: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.parquet"
    write_trace(trace, generate_workload("hover", 1, 5), workload_metadata("hover", 1, 5))
    sizes = ("--gpu-blocks", "900", "--block-size", "16", "--concurrency", "2")
    done = replay(trace, file, tmp_path / "run", *sizes)
    assert (done.returncode, done.stderr) == (0, "")
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["complete"]
    assert str(file) in run["profile"]["name"]


@pytest.mark.parametrize("package", ["gguf", "accelerate"])
def test_without_a_package_that_reads_it_it_is_one_line(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    said = rf"model: got .*tiny.gguf, expected {package} to be installed, .*pip install {package}\)"
    with pytest.raises(ConfigError, match=said) as error:
        load_model(str(tmp_path / "tiny.gguf"), CPU)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"no model at all" * 100])
def test_a_broken_file_is_one_line_and_nothing_beside_it(
    content: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gguf")
    (tmp_path / "broken.gguf").write_bytes(content)
    with pytest.raises(ConfigError, match="expected a model that can be loaded") as error:
        load_model(str(tmp_path / "broken.gguf"), CPU)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def replay(trace: Path, model: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = ["replay", str(trace), "--model", str(model), "--device", "cpu", "--threads", "1", *options]
    return subprocess.run(
        [sys.executable, "-m", "pbkv", *command, "-o", str(out)], capture_output=True, text=True, check=False
    )
