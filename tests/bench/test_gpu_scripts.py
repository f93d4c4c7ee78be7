"""What waits for a GPU runs on a CPU as far as its logic goes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention.bias import causal_lower_right

from bench import generate_batch, gpu_check, gpu_copies
from bench.roofline import CASES, Ceilings, work_of
from pbkv.replay.memcpy import PageCopies
from pbkv.replay.model import RANDOM
from pbkv.replay.pool import copy_runs

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
H100 = Ceilings(3.0e12, 790e12, 50e9, 50e9)  # as the table of the roofline assumes


def run(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout


def test_without_a_step_the_steps_are_listed() -> None:
    listed = run("bash", "bench/gpu.sh")
    assert [line.split()[0] for line in listed.splitlines()[1:]] == [str(n) for n in range(1, 10)]


@pytest.mark.parametrize("step", ["0", "10", "all"])
def test_a_step_that_is_not_there_is_an_error(step: str) -> None:
    assert subprocess.run(["bash", "bench/gpu.sh", step], cwd=ROOT, capture_output=True).returncode == 2


def test_a_failed_step_says_so_with_its_time(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "bench/gpu.sh", "7"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "OUT": str(tmp_path)},
    )
    assert done.returncode == 2
    assert "run step 5 first" in done.stderr
    assert done.stdout.splitlines()[-1].endswith(" s, exit 2")


def test_each_script_of_a_step_is_there() -> None:
    run("bash", "-n", "bench/gpu.sh")
    text = (ROOT / "bench/gpu.sh").read_text()
    scripts = {word for word in text.split() if word.startswith("bench/") and word.endswith(".py")}
    assert scripts
    assert all((ROOT / script).is_file() for script in scripts)


def test_least_times_of_llama_8b_are_those_of_the_plan() -> None:
    import transformers

    family, values = RANDOM["random:llama-8b"]
    config = transformers.AutoConfig.for_model(family, **values)
    with torch.device("meta"):
        builder: Any = transformers.AutoModelForCausalLM
        model = builder.from_config(config, dtype=torch.bfloat16)
    found = [work_of(model, *case[1:4]).least_s(H100) * 1e3 for case in CASES]
    assert found == pytest.approx([5.2, 10.7, 16.5, 167, 20], rel=0.02)  # ms


def test_roofline_of_a_tiny_model(tmp_path: Path) -> None:
    run(
        *(sys.executable, "bench/roofline.py", "--model", "random:tiny", "--device", "cpu"),
        *("--scale", "0.01", "--layout", "layer-first", "-o", str(tmp_path / "out")),
    )
    found = json.loads((tmp_path / "out/roofline.json").read_text())
    assert len(found["cases"]) == 7
    assert found["layout"] == "layer-first"
    assert all(case["least_s"] > 0 and case["seconds"] > 0 for case in found["cases"])
    assert (tmp_path / "out/roofline.md").read_text().count("\n| ") == 2 + 7  # header, rule, cases


def test_the_check_of_the_runner_passes_on_a_cpu() -> None:
    said = run("env", "OMP_NUM_THREADS=1", sys.executable, "bench/gpu_check.py", "cpu")
    assert said.count("largest error") == 4
    assert said.count("\nside: ") + said.startswith("side: ") == 4


def test_pages_keep_their_bits_each_way_that_there_is(tmp_path: Path) -> None:
    said = run(
        *(sys.executable, "bench/gpu_copies.py", "--device", "cpu", "--pages", "4", "-o", str(tmp_path))
    )
    assert said.count("GB/s") == len(json.loads((tmp_path / "copies.json").read_text())["rates"]) == 12


def test_a_copy_that_loses_a_page_is_found() -> None:
    class Lossy(PageCopies):
        def enqueue(self, source: Any, target: Any, pages: Any, places: Any, stream: Any) -> None:
            copy_runs(source, target, pages[1:], places[1:])

    copier = gpu_copies.Copier(CPU, "layer-first", 8)
    assert gpu_copies.keeps_bits(copier, PageCopies(None), 8)
    assert not gpu_copies.keeps_bits(copier, Lossy(None), 8)


def test_a_step_runs_dry(tmp_path: Path) -> None:
    said = run("env", f"OUT={tmp_path}", f"PYTHON={sys.executable}", "bash", "bench/gpu.sh", "--dry", "6")
    assert (tmp_path / "peer/peer.json").is_file()
    assert said.splitlines()[-1].endswith(" s, exit 0")


def test_the_check_fails_where_pages_were_not_copied(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_check, "copy_runs", lambda *_: 0)
    assert gpu_check.check("random:tiny", CPU, torch.bfloat16, "page-first") == 1
    assert "largest error nan" in capsys.readouterr().out


def test_the_reference_of_varlen_is_causal_to_the_lower_right() -> None:
    q, k, v = (torch.randn(num, heads, 16) for num, heads in ((5, 4), (12, 2), (12, 2)))
    first, second, third = (x.transpose(0, 1)[None] for x in (q, k, v))
    expected = torch.nn.functional.scaled_dot_product_attention(
        first, second, third, attn_mask=causal_lower_right(5, 12), enable_gqa=True
    )
    torch.testing.assert_close(gpu_check.lower_right(q, k, v), expected[0].transpose(0, 1))


def test_beside_generate_batch_both_serve_every_token(tmp_path: Path) -> None:
    said = run(
        *(sys.executable, "bench/generate_batch.py", "--model", "random:tiny", "--device", "cpu"),
        *("--requests", "3", "--prompt", "40", "--output-tokens", "8", "--repeats", "1"),
        *("--peer-batch-tokens", "256", "-o", str(tmp_path)),
    )
    found = json.loads((tmp_path / "peer.json").read_text())
    assert len(found["ours_tokens_per_s"]) == len(found["generate_batch_tokens_per_s"]) == 1
    assert f"{found['ratio']:.2f}× (wanted 2.0)" in said


def test_chunks_hold_the_budget_and_every_token_once() -> None:
    prompts = np.arange(3 * 9000).reshape(3, 9000)
    batches = generate_batch.chunks(prompts, np.zeros((3, 300), np.int32))
    parts = [part for batch in batches for part in batch]
    assert np.concatenate([part.tokens for part in parts]).tolist() == list(range(3 * 9000))
    assert all(sum(len(part.tokens) for part in batch) <= 8192 for batch in batches)
    assert len(batches) == 4
