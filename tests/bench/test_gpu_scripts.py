"""What waits for a GPU runs on a CPU as far as its logic goes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout


def test_without_a_step_the_steps_are_listed() -> None:
    listed = run("bash", "bench/gpu.sh")
    assert [line.split()[0] for line in listed.splitlines()[1:]] == [str(n) for n in range(1, 9)]


def test_each_script_of_a_step_is_there() -> None:
    text = (ROOT / "bench/gpu.sh").read_text()
    scripts = {word for word in text.split() if word.startswith("bench/") and word.endswith(".py")}
    assert scripts
    assert all((ROOT / script).is_file() for script in scripts)


def test_roofline_of_a_tiny_model(tmp_path: Path) -> None:
    run(
        *(sys.executable, "bench/roofline.py", "--model", "random:tiny", "--device", "cpu"),
        *("--scale", "0.01", "-o", str(tmp_path / "out")),
    )
    found = json.loads((tmp_path / "out/roofline.json").read_text())
    assert len(found["cases"]) == 7
    assert all(case["least_s"] > 0 and case["seconds"] > 0 for case in found["cases"])
    assert (tmp_path / "out/roofline.md").read_text().count("\n| ") == 2 + 7  # header, rule, cases


def test_the_check_of_the_runner_passes_on_a_cpu() -> None:
    assert run(sys.executable, "bench/gpu_check.py", "cpu").count("largest error") == 4
