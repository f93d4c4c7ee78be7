"""Logs of any size in each format that `pbkv traces import` reads, and the memory that an import takes.

    python bench/large_logs.py claude-code otel --megabytes 1000 --folder /tmp

A log is made (seeded; words, ids and times mean nothing), imported by a child process whose peak resident
memory is printed, and deleted. Kinds: see `KINDS`; `…-one` is a log with a single workflow.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
Lines = Iterator[str]
_WORDS = 200_000
_START = datetime(2026, 1, 1)


class Source:
    """Random words, ids and times, the same ones for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        words = [
            "".join(self._random.choices("abcdefghij", k=self._random.randint(2, 9))) for _ in range(5000)
        ]
        self._pool = " ".join(self._random.choices(words, k=_WORDS))
        self._num_ids = 0

    def text(self, mean: int) -> str:
        length = self.number(mean)
        start = self._random.randrange(len(self._pool) - length)
        return self._pool[start : start + length]

    def number(self, mean: int) -> int:
        return self._random.randint(mean // 2, mean + mean // 2)

    def hashed(self) -> int:
        return self._random.getrandbits(62)

    def key(self) -> str:
        self._num_ids += 1
        return f"{self._random.getrandbits(64):016x}-{self._num_ids:016x}"


def claude_session(source: Source, session: str, num_calls: int, per_compaction: int = 36) -> Lines:
    """One tool a call; a compaction every ``per_compaction`` calls."""
    parent: str | None = None
    second = 0.0
    for call in range(num_calls):
        if call % per_compaction == 0:
            uuid, parent = source.key(), None
            yield _claude(
                "user", uuid, parent, second, session, {"role": "user", "content": source.text(400)}
            )
            parent = uuid
        second += 3
        uuid, use = source.key(), f"toolu_{source.key()}"
        tool = {"type": "tool_use", "id": use, "name": "Read", "input": {"path": source.text(60)}}
        message = {
            "id": f"msg_{source.key()}",
            "role": "assistant",
            "model": "claude",
            "content": [{"type": "text", "text": source.text(300)}, tool],
            "usage": {"input_tokens": 8000, "output_tokens": source.number(150)},
        }
        yield _claude("assistant", uuid, parent, second, session, message)
        parent, second = uuid, second + 1
        uuid = source.key()
        result = {"type": "tool_result", "tool_use_id": use, "content": source.text(3700)}
        yield _claude("user", uuid, parent, second, session, {"role": "user", "content": [result]})
        parent = uuid


def _claude(
    kind: str, uuid: str, parent: str | None, second: float, session: str, message: dict[str, Any]
) -> str:
    at = (_START + timedelta(seconds=second)).isoformat() + "Z"
    base = {"type": kind, "uuid": uuid, "parentUuid": parent, "timestamp": at, "sessionId": session}
    return json.dumps({**base, "isSidechain": False, "version": "2.1.37", "cwd": "/work", "message": message})


def openai(source: Source) -> Lines:
    """Conversations of about a dozen requests, each with all messages before."""
    second = 1.7e9
    while True:
        workflow = source.key()
        messages = [{"role": "system", "content": source.text(2000)}]
        for _ in range(source.number(12)):
            messages.append({"role": "user", "content": source.text(1500)})
            answer = {"role": "assistant", "content": source.text(800)}
            usage = {"prompt_tokens": 5000, "completion_tokens": 200}
            response = {"id": source.key(), "choices": [{"message": answer}], "usage": usage}
            second += 2
            line = {"workflow_id": workflow, "agent": "a", "model": "m", "messages": messages}
            yield json.dumps({**line, "started_at": second, "ended_at": second + 1, "response": response})
            messages.append(answer)


def _spans(source: Source) -> Iterator[dict[str, Any]]:
    nanosecond = 1_700_000_000_000_000_000
    while True:
        trace, said = source.key(), []
        for _ in range(source.number(12)):
            said.append({"role": "user", "parts": [{"type": "text", "content": source.text(1500)}]})
            answer = {"role": "assistant", "parts": [{"type": "text", "content": source.text(800)}]}
            values: dict[str, Any] = {
                "gen_ai.operation.name": "chat",
                "gen_ai.request.model": "m",
                "gen_ai.agent.name": "a",
                "gen_ai.input.messages": json.dumps(said),
                "gen_ai.output.messages": json.dumps([answer]),
            }
            attributes = [{"key": key, "value": {"stringValue": value}} for key, value in values.items()]
            attributes += [
                {"key": f"gen_ai.usage.{which}_tokens", "value": {"intValue": "200"}}
                for which in ("input", "output")
            ]
            nanosecond += 2_000_000_000
            times = {"startTimeUnixNano": str(nanosecond), "endTimeUnixNano": str(nanosecond + 10**9)}
            yield {
                "traceId": trace,
                "spanId": source.key(),
                "name": "chat",
                **times,
                "attributes": attributes,
            }
            said.append(answer)


def otel(source: Source) -> Lines:
    """One export a line, as the file exporter writes them."""
    for span in _spans(source):
        yield json.dumps(
            {"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {}, "spans": [span]}]}]}
        )


def _simulations(source: Source) -> Iterator[dict[str, Any]]:
    while True:
        second, messages = 0.0, []
        for number in range(source.number(30)):
            second += 2
            role = ("assistant", "user")[number % 2]
            usage = {"prompt_tokens": 5000, "completion_tokens": 200}
            at = (_START + timedelta(seconds=second)).isoformat()
            messages.append({"role": role, "content": source.text(1200), "usage": usage, "timestamp": at})
        yield {"id": source.key(), "task_id": "1", "trial": 0, "messages": messages}


def weka(source: Source) -> Lines:
    """A session a line: 40 requests, each with some blocks more than the last one."""
    while True:
        ids = list(range(source.number(200)))
        requests, second = [], 0.0
        for _ in range(source.number(40)):
            ids = [*ids, *range(len(ids), len(ids) + source.number(20))]
            second += 4
            request = {"t": second, "type": "n", "in": 64 * len(ids), "out": 200, "api_time": 2.0}
            requests.append({**request, "hash_ids": ids})
        session = {"id": source.key(), "block_size": 64, "hash_id_scope": "local", "requests": requests}
        yield json.dumps(session)


def _growing(
    source: Source, mean_first: int, mean_more: int, mean_calls: int
) -> Iterator[tuple[int, list[int]]]:
    """(workflow, block ids) of calls, each prompt with some blocks more than the last one."""
    workflow, unused = 0, 100
    while True:
        ids = list(range(8))
        for turn in range(source.number(mean_calls)):
            num_new = source.number(mean_more if turn else mean_first)
            ids = [*ids, *range(unused, unused + num_new)]
            unused += num_new
            yield workflow, ids
        workflow += 1


def mooncake(source: Source) -> Lines:
    """Requests as in the published traces: two dozen blocks of 512 tokens, about 400 bytes a line."""
    for number, (_, ids) in enumerate(_growing(source, 24, 8, 5)):
        request = {"timestamp": number * 30, "input_length": 512 * len(ids) - 7, "output_length": 200}
        yield json.dumps({**request, "hash_ids": ids})


def mooncake_v1(source: Source) -> Lines:
    before, last = "", -1
    for number, (workflow, ids) in enumerate(_growing(source, 200, 20, 30)):
        request_id = f"r{number}"
        request = {"request_id": request_id, "input_length": 64 * len(ids), "output_length": 200}
        waits = {"wait_for": [before], "delay": 5.0} if workflow == last else {"timestamp": number * 30}
        yield json.dumps({**request, **waits, "session_id": f"s{workflow}", "hash_ids": ids})
        before, last = request_id, workflow


def mooncake_v2(source: Source) -> Lines:
    yield json.dumps({"schema": "dynamo.agentic_mooncake", "version": 2, "block_size": 64})
    before, last = "", -1
    for number, (workflow, ids) in enumerate(_growing(source, 200, 20, 30)):
        request_id, play = f"r{number}", f"play-{workflow}"
        waits = [{"request_id": before, "trigger": "completion", "delay_ms": 5.0}] if workflow == last else []
        request = {
            "request_id": request_id,
            "play_id": play,
            "session_id": f"{play}:a",
            "dependencies": waits,
        }
        lengths = {"input_length": 64 * len(ids), "output_length": 200, "not_before_ms": number * 30}
        yield json.dumps({**request, **lengths, "hash_ids": ids})
        before, last = request_id, workflow


def lmcache(source: Source) -> Lines:
    """Lookups of about 80 chunks of 256 tokens."""
    hashes: list[int] = []
    last = -1
    for number, (workflow, ids) in enumerate(_growing(source, 30, 6, 20)):
        hashes = hashes if workflow == last else []
        hashes = [*hashes, *(source.hashed() for _ in ids[len(hashes) :])]
        lookup = {"timestamp": 1.7e9 + number, "lookup_id": source.key(), "chunk_hashes": hashes}
        yield json.dumps(lookup)
        last = workflow


def vllm_events(source: Source) -> Lines:
    """Batches of one event, 16-token blocks: a prompt of 100 blocks, then some more by each call."""
    second = 1.7e9
    while True:
        parent = None
        for turn in range(source.number(12)):
            hashes = [source.hashed() for _ in range(source.number(20 if turn else 100))]
            tokens = [source.number(50_000) for _ in range(16 * len(hashes))]
            event = {"type": "BlockStored", "block_hashes": hashes, "parent_block_hash": parent}
            second += 1
            yield json.dumps({"ts": second, "events": [{**event, "token_ids": tokens, "block_size": 16}]})
            parent = hashes[-1]


def azure(source: Source) -> Lines:
    yield "TIMESTAMP,ContextTokens,GeneratedTokens"
    at = _START
    while True:
        at += timedelta(microseconds=source.number(30_000))
        yield f"{at.isoformat(sep=' ', timespec='microseconds')}0,{source.number(2000)},{source.number(100)}"


def agent_jsonl(source: Source, mean_calls: int = 40) -> Lines:
    number = 0
    while True:
        segments = [{"id": "system", "tokens": 2000, "kind": "system"}]
        for index in range(source.number(mean_calls)):
            for kind in ("user", "output"):
                number += 1
                segments.append({"id": f"{number:012x}", "tokens": source.number(200), "kind": kind})
            parents = [index - 1] if index else []
            call = {"app": "a", "call_index": index, "agent": "a", "parent_call_indices": parents}
            times = {"arrival_s": 5.0 * index, "duration_s": 2.0, "gap_s": None}
            rest = {"output_tokens": 100, "output_id": None, "segments": segments}
            yield json.dumps({"workflow_id": f"w{number - 2 * index - 2}", **call, **times, **rest})


def _written(path: Path, lines: Lines, num_bytes: int, between: str = "\n") -> None:
    size = 0
    with path.open("w", encoding="utf-8") as file:
        for line in lines:
            size += file.write(line if not size else between + line)
            if size >= num_bytes:
                break
        file.write("\n")


def _lines_of(make: Callable[[Source], Lines], suffix: str = ".jsonl") -> Callable[[Path, int], Path]:
    def written(folder: Path, num_bytes: int) -> Path:
        path = folder / f"log{suffix}"
        _written(path, make(Source(0)), num_bytes)
        return path

    return written


def _claude_folder(folder: Path, num_bytes: int) -> Path:
    source, size = Source(0), 0
    (folder / "project").mkdir()
    while size < num_bytes:
        session = source.key()
        path = folder / "project" / f"{session}.jsonl"
        _written(path, claude_session(source, session, source.number(300)), num_bytes)
        size += path.stat().st_size
    return folder / "project"


def _claude_one(source: Source) -> Lines:
    return claude_session(source, "one", 1 << 40)


def _otel_document(folder: Path, num_bytes: int) -> Path:
    path = folder / "spans.json"
    spans = (json.dumps(span) for span in _spans(Source(0)))
    _document(path, '{"resourceSpans": [{"scopeSpans": [{"spans": [\n', spans, "\n]}]}]}", num_bytes)
    return path


def _tau2(folder: Path, num_bytes: int) -> Path:
    source, path = Source(0), folder / "results.json"
    info = {"num_trials": 1, "environment_info": {"policy": source.text(8000)}}
    info |= {"agent_info": {"llm": "a"}, "user_info": {"llm": "u", "global_simulation_guidelines": "g"}}
    head = (
        json.dumps({"info": info, "tasks": [{"id": "1", "user_scenario": "s"}]})[:-1] + ', "simulations": [\n'
    )
    _document(path, head, (json.dumps(found) for found in _simulations(source)), "\n]}", num_bytes)
    return path


def _document(path: Path, head: str, items: Lines, tail: str, num_bytes: int) -> None:
    _written(path, items, num_bytes, between=",\n")
    whole = path.with_suffix(".whole")
    with path.open("rb") as file, whole.open("wb") as out:
        out.write(head.encode())
        while block := file.read(1 << 20):
            out.write(block)
        out.write(tail.encode())
    whole.rename(path)


KINDS: dict[str, Callable[[Path, int], Path]] = {
    "claude-code": _claude_folder,
    "claude-code-one": _lines_of(_claude_one),
    "openai": _lines_of(openai),
    "otel": _lines_of(otel),
    "otel-document": _otel_document,
    "tau2": _tau2,
    "weka": _lines_of(weka),
    "mooncake": _lines_of(mooncake),
    "mooncake-v1": _lines_of(mooncake_v1),
    "mooncake-v2": _lines_of(mooncake_v2),
    "lmcache": _lines_of(lmcache),
    "vllm-events": _lines_of(vllm_events),
    "azure": _lines_of(azure, ".csv"),
    "agent-jsonl": _lines_of(agent_jsonl),
}


def _imported(log: Path, output: Path, kind: str, options: list[str]) -> tuple[str, float]:
    """What the import printed, and its peak memory in MB."""
    source = [str(log)]
    if kind == "azure":  # arrivals are laid over a small trace
        small = log.parent / "small.jsonl"
        _written(small, agent_jsonl(Source(1)), 100_000)
        source = [str(small), "--arrivals", str(log)]
    command = [
        sys.executable,
        "-m",
        "pbkv",
        "traces",
        "import",
        *source,
        "-o",
        str(output),
        "--force",
        *options,
    ]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert child.stdout is not None
    printed = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    return printed.strip() if not status else f"exit status {status}", usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--megabytes", type=float, default=1000)
    parser.add_argument("--folder", type=Path, help="where logs and traces lie for a while")
    parser.add_argument("--import", dest="options", default="", help="further options of the import")
    given = parser.parse_args()
    for kind in given.kinds or KINDS:
        with TemporaryDirectory(prefix="pbkv-", dir=given.folder) as folder:
            log = KINDS[kind](Path(folder), int(given.megabytes * 1e6))
            size = sum(file.stat().st_size for file in ([log] if log.is_file() else log.iterdir()))
            output = Path(folder) / "out.parquet"
            printed, peak = _imported(log, output, kind, given.options.split())
            trace = output.stat().st_size if output.exists() else 0
            found = printed.replace(str(output), "").lstrip(": ")
            print(
                f"{kind} | {size / 1e6:.0f} MB | {peak:.0f} MB peak | trace {trace / 1e6:.1f} MB | {found}",
                flush=True,
            )


if __name__ == "__main__":
    main()
