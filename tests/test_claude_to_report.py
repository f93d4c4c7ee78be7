"""From a folder of Claude Code logs to a report, by two commands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.traces.test_importers_claude import _project


def pbkv(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pbkv", *arguments], check=True, capture_output=True)


def test_two_commands_from_logs_to_a_report(tmp_path: Path) -> None:
    _project(tmp_path / "logs")
    run, page = tmp_path / "run", tmp_path / "report.html"
    pbkv("simulate", str(tmp_path / "logs"), "--policy", "lru,pbkv", "--concurrency", "2", "-o", str(run))
    pbkv("report", str(run), "-o", str(page))
    text = page.read_text(encoding="utf-8")
    assert "pbkv" in text
    assert text.count("<table") > 1
    assert page.stat().st_size < 5_000_000
