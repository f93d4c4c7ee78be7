"""Replays traces against an OpenAI-compatible server: the same load, and of the records what can be known.

A call is sent when its parents have ended and its tool wait is over, in the closed loop or at the
workflows' arrivals. The server writes its own answers: where a later prompt of the trace repeats an
answer, the server sees it for the first time, and finds less in its cache than the trace's own engine did.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

from pbkv.cache.known import MissCosts
from pbkv.replay.openai_answer import Answer
from pbkv.replay.openai_client import Ask, Client, Server, ServerError
from pbkv.replay.quiet import quiet
from pbkv.replay.tokens import tokens_of
from pbkv.serve.cell import CellResult, PrefetchUse
from pbkv.serve.run import run_cells
from pbkv.serve.workload import workflows_of
from pbkv.traces.errors import ConfigError

if TYPE_CHECKING:
    from pbkv.serve.settings import Cell, RunSettings
    from pbkv.traces.reader import Trace
    from pbkv.traces.run_folder import RunFolder
    from pbkv.traces.schema import Call, Workflow

Progress = Callable[["Cell", int], None]
_T = TypeVar("_T")
Prompts = Callable[[int, "Call"], str | list[int]]  # of a call in a namespace
_UNKNOWN_TOKENS = 1 << 40  # stands for a capacity that nobody has told
_NAMESPACE_STEP = 0x5851F42D4C957F2D  # odd and large: equal ids of two traces become different ones


class RemoteMachine:
    """A `pbkv.serve.world.Hardware` of which nothing is known but its name."""

    kv_bytes_per_token = 1
    default_kv_bytes = _UNKNOWN_TOKENS
    max_batched_tokens = 8192
    miss_costs = MissCosts(1e-5, 0.0, 1e-5, 1e-6)  # asked by policies only, and here none decides

    def __init__(self, name: str) -> None:
        self.name = name

    def to_dict(self) -> dict[str, object]:
        return {"name": self.name}


def replay_openai(
    traces: Sequence[Trace],
    settings: RunSettings,
    server: Server,
    out: Path,
    *,
    prompts: Prompts,
    force: bool = False,
    command: str = "",
    progress: Progress | None = None,
) -> list[CellResult]:
    """Send every cell's load to ``server`` and write the run folder ``out``.

    ``settings.policies`` and capacities say, for the record, how the server is set. Raises ConfigError if
    no server answers (``out`` is then not made), StoppedError if it fails later: what was written is kept.
    """
    for name in ("policies", "gpu_blocks"):
        if len(given := getattr(settings, name)) > 1:
            raise ConfigError(name, list(given), "one: the server has its own")
    facts: dict[str, Any] = {}
    server = replace(server, model=_run(_checked(server)))
    about = {"engine": "openai", "server": asdict(server) | {"base_url": server.shown}, "answers": facts}

    def run(cell: Cell, folder: RunFolder) -> CellResult:
        found = _Cell(traces, settings, cell, folder, prompts, progress)
        _run(found.play(server))
        for name, count in found.counts.items():
            facts[name] = facts.get(name, 0) + count
        return found.result()

    return run_cells(traces, settings, out, run, about, force=force, command=command)


def token_prompts(vocabulary: int) -> Prompts:
    """Prompts as token ids below ``vocabulary``; equal segments of one trace give equal tokens."""

    def prompt(namespace: int, call: Call) -> list[int]:
        ids = [_moved(segment_id, namespace) for segment_id in call.segment_ids]
        found: list[int] = tokens_of(ids, call.segment_tokens, vocabulary).tolist()
        return found

    return prompt


def text_prompts(tokenizer: Any) -> Prompts:
    """Prompts as the text of such ids by a tokenizer of transformers; it may count them otherwise again."""
    tokens = token_prompts(len(tokenizer))

    def prompt(namespace: int, call: Call) -> str:
        return str(tokenizer.decode(tokens(namespace, call), skip_special_tokens=True))

    return prompt


def load_tokenizer(name: str | None) -> Any:
    """A tokenizer of transformers. Raises ConfigError if there is none of that name."""
    if name is None:
        raise ConfigError("tokenizer", "none", "the name or folder of one, to send text (or --model)")
    try:
        from transformers import AutoTokenizer
    except ModuleNotFoundError:
        raise ConfigError("tokenizer", name, "transformers (pip install 'pbkv[torch]')") from None
    try:
        with quiet():
            return AutoTokenizer.from_pretrained(name)
    except Exception as error:  # whatever the reader of some format raises over a file that is none
        problem = str(error).strip().partition("\n")[0]
        raise ConfigError("tokenizer", name, f"one that can be loaded: {problem}") from None


def _run(main: Coroutine[Any, Any, _T]) -> _T:
    """asyncio.run, which cancels what runs at an interrupt; here also where the process is to end."""
    if threading.current_thread() is not threading.main_thread():
        return asyncio.run(main)
    before = signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    try:
        return asyncio.run(main)
    finally:
        signal.signal(signal.SIGTERM, before)


async def _checked(server: Server) -> str:
    async with Client(server, 1) as client:
        try:
            await client.check()
        except ServerError as error:
            raise ConfigError("base-url", server.shown, f"a server that can be used ({error})") from None
        return str(client.model)


class _Cell:
    """One cell in progress; instants are seconds since its start."""

    def __init__(
        self,
        traces: Sequence[Trace],
        settings: RunSettings,
        cell: Cell,
        folder: RunFolder,
        prompts: Prompts,
        progress: Progress | None,
    ) -> None:
        self._settings, self._cell, self._folder = settings, cell, folder
        self._prompts, self._progress = prompts, progress
        self._workflows = workflows_of(traces, settings, cell)
        self._started_s, self._written_s = perf_counter(), folder.wall_s
        self._num_workflows = 0
        self._last_end_s = 0.0
        self._stopped = ""
        self.counts = {"num_calls": 0, "num_retries": 0, "num_shorter": 0, "num_cached_known": 0}
        folder.start_cell(cell.cell, cell.policy, cell.gpu_blocks, cell.host_blocks, cell.seed)

    async def play(self, server: Server) -> None:
        """Send the load. An error of the server ends it; what is in flight is given up."""
        async with Client(server, self._cell.concurrency and 4 * self._cell.concurrency) as client:
            self._client = client
            self._started_s = perf_counter()
            try:
                if self._cell.concurrency is None:
                    await self._open_loop()
                else:
                    await self._closed_loop(self._cell.concurrency)
            except* ServerError as errors:
                self._stopped = str(_first(errors))
            self.counts["num_retries"] = client.num_retries
        self._folder.end_cell()

    def result(self) -> CellResult:
        written_s = self._folder.wall_s - self._written_s
        return CellResult(
            self._cell,
            self.counts["num_calls"],
            self._num_workflows,
            "",
            self._last_end_s,
            0,
            0,
            0,
            PrefetchUse(0, 0, 0, 0, 0, 0, 0.0),
            None,
            {},
            perf_counter() - self._started_s - written_s,
            written_s,
            self._stopped,
        )

    # ------------------------------------------------------------------ loops

    async def _closed_loop(self, concurrency: int) -> None:
        async with asyncio.TaskGroup() as slots:
            for _ in range(concurrency):
                slots.create_task(self._slot(self._workflows))

    async def _slot(self, workflows: Iterator[tuple[int, Workflow]]) -> None:
        """One workflow after the other, from an iterator that all slots share."""
        for namespace, workflow in workflows:
            await self._play(namespace, workflow)

    async def _open_loop(self) -> None:
        async with asyncio.TaskGroup() as live:
            for namespace, workflow in self._workflows:
                await asyncio.sleep(max(0.0, (workflow.arrival_s or 0.0) - self._now_s))
                live.create_task(self._play(namespace, workflow))

    async def _play(self, namespace: int, workflow: Workflow) -> None:
        """A call begins when its parents have ended and its tool wait is over."""
        released_at_s = self._now_s
        ended = [asyncio.Event() for _ in workflow.calls]

        async def play_call(call: Call) -> None:
            for parent in call.parent_indices:
                await ended[parent].wait()
            gap_s = self._settings.unknown_gap_s if call.tool_gap_s is None else call.tool_gap_s
            await asyncio.sleep(max(0.0, gap_s))
            await self._call(namespace, workflow, call)
            ended[call.call_index].set()

        async with asyncio.TaskGroup() as calls:
            for call in workflow.calls:
                calls.create_task(play_call(call))
        self._num_workflows += 1
        self._last_end_s = self._now_s
        row = (workflow.workflow_id, workflow.app, released_at_s, self._last_end_s, len(workflow.calls))
        self._folder.add("workflows", row)

    async def _call(self, namespace: int, workflow: Workflow, call: Call) -> None:
        prompt = self._prompts(namespace, call)
        ask = Ask(workflow.workflow_id, call.agent, call.call_index, prompt, call.num_output_tokens)
        submitted_at_s = self._now_s
        answer = await self._client.ask(ask)
        self._folder.add("calls", self._row(workflow, call, submitted_at_s, answer))
        self.counts["num_calls"] += 1
        self.counts["num_shorter"] += answer.num_output_tokens < call.num_output_tokens
        self.counts["num_cached_known"] += answer.num_cached_tokens is not None
        if self._progress is not None:
            self._progress(self._cell, self.counts["num_calls"])

    # ------------------------------------------------------------------ records

    def _row(self, workflow: Workflow, call: Call, submitted_at_s: float, answer: Answer) -> tuple[Any, ...]:
        """None where only the server knows. What it calls cached may lie in any of its tiers."""
        first_s, prompt_tokens = answer.first_token_at_s, answer.num_prompt_tokens
        return (
            workflow.workflow_id,
            workflow.app,
            call.call_index,
            call.agent,
            submitted_at_s,
            None,
            None if first_s is None else first_s - self._started_s,
            answer.ended_at_s - self._started_s,
            None,
            call.num_prompt_tokens if prompt_tokens is None else prompt_tokens,
            answer.num_output_tokens,
            answer.num_cached_tokens,
            *(None if answer.num_cached_tokens is None else 0 for _ in ("host hit", "loading")),
            *(None for _ in ("evicted", "partial", "cold")),
            None,
            None,
            None,
            None,
        )

    @property
    def _now_s(self) -> float:
        return perf_counter() - self._started_s


def _moved(segment_id: int, namespace: int) -> int:
    """Within 64 bits."""
    moved = (segment_id + namespace * _NAMESPACE_STEP) % (1 << 64)
    return moved - (1 << 64) if moved >= 1 << 63 else moved


def _first(errors: BaseExceptionGroup[ServerError]) -> ServerError:
    found: BaseException = errors
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, ServerError)
    return found
