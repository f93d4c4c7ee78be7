"""docs/reading-results.md does what it says: its blocks run in order, and their outputs are those printed."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reading-results.md"
_BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```\n(?:```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    language: str
    code: str
    output: str


def blocks() -> list[Block]:
    return [
        Block(*(part or "" for part in found)) for found in _BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    ]


def test_every_block_runs_and_prints_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("duckdb")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    found = blocks()
    assert len(found) >= 7
    for block in found:
        printed = _shell(block.code) if block.language == "bash" else _python(block.code, names)
        if block.output:
            assert _lines(printed) == _lines(block.output), block.code
    assert {"report.html", "trace.json"} <= {file.name for file in tmp_path.iterdir()}


def _shell(code: str) -> str:
    """The commands one by one, each must succeed; 80 columns, as in a plain terminal."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    printed = []
    for command in filter(None, code.splitlines()):
        program, *arguments = shlex.split(command)
        assert program == "pbkv"
        done = subprocess.run(
            [sys.executable, "-m", "pbkv", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    return "".join(printed)


def _python(code: str, names: dict[str, object]) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, str(PAGE), "exec"), names)
    return printed.getvalue()


def _lines(text: str) -> list[list[str]]:
    """Words by line: column widths are the business of the libraries that print them."""
    return [words for line in text.splitlines() if (words := line.split())]


if __name__ == "__main__":  # prints the outputs for the page
    os.chdir(sys.argv[1])
    everything: dict[str, object] = {}
    for each in blocks():
        print(f"--- {each.code}")
        print(_shell(each.code) if each.language == "bash" else _python(each.code, everything))
