"""Every command and snippet of the pages on sweeps and plans is run as it stands there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", ["sweep.md", "plan.md"])
def test_the_commands_of_a_page_run_in_their_order(page: str, tmp_path: Path) -> None:
    for text in blocks(page, "toml"):
        (tmp_path / "scenario.toml").write_text(text)
    commands = [line for block in blocks(page, "sh") for line in block.splitlines()]
    assert len(commands) == 3
    for command in commands:
        name, *arguments = shlex.split(command)
        assert name == "pbkv"
        _run(["-m", "pbkv", *arguments], tmp_path)
    for snippet in blocks(page, "python"):
        assert "ttft_p95_s" in _run(["-c", snippet], tmp_path)


def _run(arguments: list[str], folder: Path) -> str:
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    found = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=paths, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    return found.stdout
