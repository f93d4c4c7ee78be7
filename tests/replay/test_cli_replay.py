"""`pbkv replay` as a user meets it: a run on a CPU, and what it says of bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pbkv.analysis.load import load
from pbkv.traces.generate import generate_workload, workload_metadata
from pbkv.traces.writer import write_trace

MODEL = ("--model", "random:tiny", "--device", "cpu", "--threads", "1")
SMALL = ("--gpu-blocks", "900", "--block-size", "16", "--concurrency", "3", "--max-batched-tokens", "1024")


def pbkv(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pbkv", *arguments], capture_output=True, text=True)


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trace") / "few.parquet"
    write_trace(path, generate_workload("hover", 3, 5), workload_metadata("hover", 3, 5))
    return path


def test_a_run_has_the_tables_of_a_simulation_and_its_iterations(trace: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = pbkv("replay", str(trace), *MODEL, *SMALL, "--policy", "lru,pbkv", "--check", "-o", str(out))
    assert (done.returncode, done.stderr) == (0, "")
    run = json.loads((out / "run.json").read_text())
    assert (run["engine"], run["complete"], run["device"]["type"]) == ("replay", True, "cpu")
    assert {"torch", "transformers"} <= run["versions"].keys()
    iterations = pq.read_table(out / "iterations.parquet").to_pydict()
    assert set(iterations["policy"]) == {"lru", "pbkv"}
    assert all(0 <= cpu_s <= s for cpu_s, s in zip(iterations["cpu_s"], iterations["seconds"], strict=True))
    calls = pq.read_table(out / "calls.parquet").to_pydict()
    assert len(calls["policy"]) == 2 * sum(len(w.calls) for w in generate_workload("hover", 3, 5))
    fed = sum(iterations["num_prefill_tokens"])
    hits = ("num_gpu_hit_tokens", "num_host_hit_tokens", "num_loading_tokens")
    found = sum(sum(calls[name]) for name in hits)
    assert fed == sum(calls["num_prompt_tokens"]) - found + sum(calls["num_recomputed_tokens"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--gpu-blocks", "99999999999"), "pool: got 99999999999 pages"),
        (("--gpu-blocks", "900", "--host-blocks", "99999999999"), "pool: got 99999999999 pages"),
        (
            ("--gpu-blocks", "900", "--policy", "infinite"),
            "policy: got infinite, expected a policy for memory that ends",
        ),
        (("--gpu-blocks", "900", "--compile", "nosuch"), "compile: got nosuch, expected one of"),
        (("--gpu-blocks", "20"), "expected at most the GPU tier's"),
        (("--gpu-blocks", "900", "--device", "tpu"), "device: got tpu"),
        (("--gpu-blocks", "900", "--device", "cuda"), "device: got cuda"),
        (("--gpu-blocks", "900", "--model", "random:huge"), "model: got random:huge"),
        (("--gpu-blocks", "900", "--model", "/no/such/model"), "model: got /no/such/model"),
        (("--gpu-blocks", "900", "--dtype", "int8"), "--dtype: got int8"),
        (("--gpu-blocks", "900", "--threads", "0"), "--threads: got 0"),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[str, ...], said: str, trace: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = pbkv("replay", str(trace), *MODEL, "--block-size", "16", *arguments, "-o", str(out))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_nothing_half_written(trace: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "pbkv", "replay", str(trace), *MODEL, *SMALL, "-o", str(out)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.iterdir()):
        assert running.poll() is None
        time.sleep(0.05)
    os.kill(running.pid, signal.SIGTERM)
    _, said = running.communicate(timeout=60)
    assert (running.returncode, said.splitlines()[-1]) == (130, "interrupted")
    assert list(tmp_path.iterdir()) == []


PROBLEM = "CUDA out of memory. Tried to allocate 2.00 GiB."
_RUNS_OUT = """
import torch
from pbkv.replay import {module} as module
from pbkv.cli import main

plain, num_left = module.{name}, {number}

def runs_out(*given, **named):
    global num_left
    num_left -= 1
    if num_left < 0:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\\nMore of it.")
    return plain(*given, **named)

module.{name} = runs_out
main()
"""


def out_of_memory(
    trace: Path, out: Path, module: str, name: str, number: int
) -> subprocess.CompletedProcess[str]:
    """A replay of two cells whose call ``number`` of the module's ``name`` runs out of memory."""
    program = _RUNS_OUT.format(module=module, name=name, number=number)
    arguments = ("replay", str(trace), *MODEL, *SMALL, "--policy", "lru,pbkv", "-o", str(out))
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("module", "name", "number", "stopped"),
    [
        ("runner", "ModelRunner.run", 30, [PROBLEM]),  # in the middle of the first cell
        ("world", "Pool", 2, [""]),  # the second cell's pool
    ],
)
def test_out_of_memory_stops_the_run_and_what_was_written_is_kept_and_marked(
    module: str, name: str, number: int, stopped: list[str], trace: Path, tmp_path: Path
) -> None:
    done = out_of_memory(trace, out := tmp_path / "run", module, name, number)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {out}: stopped, what was written is kept: {PROBLEM}\n"
    run = load(out)
    assert (run.config["complete"], run.config["num_planned_cells"]) == (False, 2)
    assert [cell["stopped"] for cell in run.config["cells"]] == stopped
    assert len(run.calls) == sum(cell["num_calls"] for cell in run.config["cells"])
    assert pq.read_table(out / "iterations.parquet").num_rows > 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_out_of_memory_before_anything_ran_leaves_nothing(trace: Path, tmp_path: Path) -> None:
    done = out_of_memory(trace, tmp_path / "run", "world", "Pool", 0)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: memory: got {PROBLEM}, expected room for the first cell\n"
    assert list(tmp_path.iterdir()) == []
