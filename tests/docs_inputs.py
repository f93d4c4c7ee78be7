"""What the pages of the docs take as given: by page, the files and the commands that make it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.docs_page import ROOT

_SCENARIO = """
traces = ["my.parquet"]
policies = ["lru", "pbkv"]
profiles = ["2xa6000-qwen3-32b"]
gpu_blocks = [1000, 2000]
concurrencies = [4]
"""

_COMMANDS = {  # run in an empty folder before the page's own
    "README.md": ["traces generate hover --workflows 4 --seed 5 -o runs/demo/hover.parquet"],
    "docs/fidelity.md": ["traces import LOGS -o my.parquet"],
    "docs/own-policy.md": ["traces generate hover --workflows 4 --seed 5 -o runs/demo/hover.parquet"],
    "docs/predictors.md": ["traces generate hover --workflows 24 --seed 5 -o trace.parquet"],
    "docs/replay.md": ["traces import LOGS -o my.parquet"],
}


def inputs_of(page: str, folder: Path) -> Iterator[str]:
    """Make what ``page`` takes as given in ``folder``, the user's home; the commands that make the rest."""
    (folder / "runs/demo").mkdir(parents=True)
    shutil.copy(ROOT / "docs/results/cpu/profile.toml", folder / "machine.toml")
    (folder / "scenario.toml").write_text(_SCENARIO)
    _write_lines(folder / "LOGS", *_requests(num_jobs=24))
    _write_lines(folder / "calls.jsonl", *_requests(num_jobs=2))
    _write_lines(folder / ".claude/projects/-home-me-work/0c1d.jsonl", *_claude_session())
    yield from _COMMANDS.get(page, [])


def _write_lines(path: Path, *records: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def _requests(num_jobs: int) -> Iterator[dict[str, object]]:
    """Three calls a job, as a proxy might log them: each prompt has all that was said before."""
    system = {"role": "system", "content": "You solve one small problem after another. " * 20}
    for index in range(3 * num_jobs):
        job, turn = divmod(index, 3)
        said = [{"role": "user", "content": f"Question {job}: what is {job} times {job}? " * 9}]
        said += [{"role": "assistant", "content": f"Attempt {at} at {job}. " * 3} for at in range(turn)]
        yield {
            "messages": [system, *said],
            "choices": [{"message": {"role": "assistant", "content": f"Attempt {turn} at {job}. " * 3}}],
            "usage": {"prompt_tokens": 330, "completion_tokens": 12},
            "workflow_id": f"job-{job}",
            "agent": ("solver", "critic")[turn % 2],
            "metadata": {"job": f"job-{job}", "role": ("solver", "critic")[turn % 2]},
            "start_time": 1_760_000_000 + 10 * index,
            "end_time": 1_760_000_002 + 10 * index,
        }


def _claude_session() -> Iterator[dict[str, object]]:
    """A question, a tool call with its result, and an answer."""
    texts = [
        ("user", "count the lines"),
        ("assistant", [{"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": "wc -l"}}]),
        ("user", [{"type": "tool_result", "tool_use_id": "t1", "content": "12"}]),
        ("assistant", [{"type": "text", "text": "There are twelve."}]),
    ]
    for index, (role, content) in enumerate(texts):
        message: dict[str, object] = {"role": role, "content": content}
        if role == "assistant":
            usage = {"input_tokens": 900 + index, "output_tokens": 8}
            message |= {"id": f"m{index}", "type": "message", "model": "some-model", "usage": usage}
        yield {
            "type": role,
            "uuid": f"u{index}",
            "parentUuid": f"u{index - 1}" if index else None,
            "sessionId": "0c1d",
            "isSidechain": False,
            "timestamp": f"2026-11-25T10:00:{10 * index:02}.000Z",
            "message": message,
        }
