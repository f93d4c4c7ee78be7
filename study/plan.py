"""`pbkv plan`: the smallest GPU and host memory with which each policy meets the targets.

Two searches a policy. First, for each host ratio, the smallest GPU tier (`pbkv.study.search`). Then, with the
smallest GPU tier of all, the smallest host tier that still does. GPU memory is thus spared first: it costs
more. Each answer's neighbours, one step below and one above, are simulated as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pbkv.study.cell import GIB, Policy, PreparedTrace, StudyCell
from pbkv.study.cells import Kept, Row, code_state
from pbkv.study.dataset import publish, table_rows
from pbkv.study.prepare import prepare
from pbkv.study.scenario import TraceSource, profile_digest
from pbkv.study.search import Search, geometric
from pbkv.study.sweep import Progress, run_cells, study_folder
from pbkv.study.targets import Target, mean_of
from pbkv.study.workers import Workers
from pbkv.traces.errors import ConfigError
from pbkv.traces.reader import Trace

if TYPE_CHECKING:
    from pbkv.sim.profile import HardwareProfile

HOST_STEP = 0.05  # of the GPU tier: the step of the search for the host tier


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked. ``most_gpu_bytes`` None: the profile's memory; sizes rise by ``step`` (a share)."""

    trace: TraceSource
    profile_name: str
    profile: HardwareProfile
    policies: Sequence[Policy]
    targets: Sequence[Target]
    host_ratios: Sequence[float] = (0.0, 1.0)
    concurrency: int | None = 48
    seeds: Sequence[int] = (0,)
    most_gpu_bytes: int | None = None
    step: float = 0.05
    write_mode: str = "write-through"
    settings: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if not 0.001 <= self.step <= 1:
            raise ConfigError("--step", self.step, "a share from 0.001 to 1")
        for name in ("targets", "seeds"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ConfigError(name, list(values), "each value once")

    @property
    def block_bytes(self) -> int:
        block_size: int = dict(self.settings).get("block_size", 16)
        return block_size * self.profile.kv_bytes_per_token

    def gib(self, blocks: int) -> float:
        return blocks * self.block_bytes / GIB


@dataclass(frozen=True, slots=True)
class Point:
    """A size that was simulated: the targets' measures, means over seeds (None: failed or undefined)."""

    gpu_blocks: int
    host_blocks: int
    values: Mapping[str, float | None]
    met: bool


@dataclass
class Line:
    """One search: rising (GPU, host) sizes of one policy, and the rows of those simulated."""

    policy: Policy
    host_ratio: float | None  # None: the search for the host tier
    sizes: Sequence[tuple[int, int]]
    search: Search = field(init=False)
    points: dict[int, Point] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.search = Search(len(self.sizes))

    def add(self, index: int, rows: Sequence[Row], targets: Sequence[Target]) -> None:
        values = {target.name: mean_of(rows, target.column) for target in targets}
        met = all(target.is_met(values[target.name]) for target in targets)
        self.points[index] = Point(*self.sizes[index], values, met)
        self.search.met[index] = met

    def neighbours(self) -> tuple[Point | None, Point | None]:
        """One step below the answer and one above; None where the line ends."""
        answer = self.search.answer()
        if answer is None:
            return None, None
        return self.points.get(answer - 1), self.points.get(answer + 1)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a policy needs: the point, the line that found its GPU tier, and the one of its host tier if any.

    ``point`` None: the targets are not met with the most memory. An infinite cache has no size to be found:
    its point says what memory without end gives, and whether any can be enough.
    """

    policy: Policy
    point: Point | None
    gpu_line: Line
    host_line: Line | None

    def exceptions(self) -> list[Point]:
        """Smaller sizes that met the targets although a larger one did not."""
        lines = [line for line in (self.gpu_line, self.host_line) if line is not None]
        return [line.points[index] for line in lines for index in line.search.exceptions()]


@dataclass(frozen=True, slots=True)
class Plan:
    """The answers, one a policy, all lines that were searched, and how many cells that took."""

    question: Question
    answers: Sequence[Answer]
    lines: Sequence[Line]
    num_cells: int


def make_plan(question: Question, out: Path, workers: Workers, progress: Progress, command: str = "") -> Plan:
    """Search, keeping every cell in folder ``out``, and publish them. Raises ConfigError or TraceError."""
    with study_folder(out) as work:
        trace = prepare(question.trace, work)
        cells = _Cells(question, trace, work, workers, progress)
        sizes = _gpu_sizes(question, trace)
        lines = [line for policy in question.policies for line in _lines(policy, sizes, question.host_ratios)]
        cells.check(lines)
        cells.settle(lines)
        answers = _answers(question, lines, cells)
        state = cells.state
        publish(
            out,
            table_rows(cells.all, cells.kept.of(cells.all), state),
            {"command": command},
            with_records=False,
        )
    host_lines = [answer.host_line for answer in answers if answer.host_line is not None]
    return Plan(question, answers, [*lines, *host_lines], len(cells.all))


class _Cells:
    """Simulates the sizes that lines ask for, each once, whatever asks."""

    def __init__(
        self, question: Question, trace: PreparedTrace, work: Path, workers: Workers, progress: Progress
    ) -> None:
        self._question, self._trace, self._work = question, trace, work
        self._workers, self._progress = workers, progress
        self.state = code_state()
        self.kept = Kept(work / "cells.jsonl", self.state)
        self._seen: dict[StudyCell, None] = {}

    @property
    def all(self) -> list[StudyCell]:
        """Every cell that was asked for, in order."""
        return list(self._seen)

    def check(self, lines: Sequence[Line]) -> None:
        """Raises ConfigError for a setting that no cell could run with."""
        for line in lines:
            for cell in self._of(line, 0):
                cell.make_settings()

    def settle(self, lines: Sequence[Line]) -> None:
        """Run until no line asks for more; the lines of a round run side by side."""
        while asked := [(line, index) for line in lines for index in line.search.wanted()]:
            groups = [(line, index, self._of(line, index)) for line, index in asked]
            new = list(dict.fromkeys(cell for _, _, group in groups for cell in group))
            self._seen |= dict.fromkeys(new)
            run_cells(new, self.kept, self._workers, self._report)
            for line, index, group in groups:
                line.add(index, self.kept.of(group), self._question.targets)

    def _of(self, line: Line, index: int) -> list[StudyCell]:
        question = self._question
        shuffle = (("shuffle", True),) if len(question.seeds) > 1 else ()
        return [
            StudyCell(
                self._trace,
                line.policy,
                question.profile_name,
                profile_digest(question.profile),
                *line.sizes[index],
                question.concurrency,
                seed,
                question.write_mode,
                (*question.settings, *shuffle),
                scratch=str(self._work.absolute()),
            )
            for seed in question.seeds
        ]

    def _report(self, num_done: int, num_all: int) -> None:
        self._progress(len(self._seen) - num_all + num_done, len(self._seen))


def _gpu_sizes(question: Question, trace: PreparedTrace) -> list[int]:
    """From the smallest tier that holds the longest call to the most memory."""
    block_size: int = dict(question.settings).get("block_size", 16)
    given_bytes = question.most_gpu_bytes
    most_bytes = question.profile.default_kv_bytes if given_bytes is None else given_bytes
    most = most_bytes // question.block_bytes
    _, _, num_tokens = Trace(trace.path).longest_call()
    least = -(-num_tokens // block_size)
    if most < least:
        expected = f"at least {question.gib(least):.2f} GiB: the longest call holds {num_tokens:,} tokens"
        raise ConfigError("--most-gpu-gib", f"{question.gib(most):.2f}", expected)
    return geometric(least, most, question.step)


def _lines(policy: Policy, sizes: Sequence[int], host_ratios: Sequence[float]) -> list[Line]:
    """A search for each host ratio; of an infinite cache, which has no size, one simulation."""
    if policy.has_no_limit:
        return [Line(policy, 0.0, [(sizes[-1], 0)])]
    return [
        Line(policy, ratio, [(size, round(size * ratio)) for size in sizes]) for ratio in sorted(host_ratios)
    ]


def _answers(question: Question, lines: Sequence[Line], cells: _Cells) -> list[Answer]:
    best = {policy: _best([line for line in lines if line.policy == policy]) for policy in question.policies}
    host_lines = {policy: host for policy, line in best.items() if (host := _host_line(line)) is not None}
    cells.settle(list(host_lines.values()))
    found = []
    for policy, line in best.items():
        last = host_lines.get(policy, line)
        index = last.search.answer()
        point = None if index is None else last.points[index]
        found.append(Answer(policy, point, line, host_lines.get(policy)))
    return found


def _best(lines: Sequence[Line]) -> Line:
    """The line with the smallest GPU tier; among equals the one with the smallest host tier."""

    def order(line: Line) -> tuple[float, float]:
        index = line.search.answer()
        return (float("inf") if index is None else line.sizes[index][0], line.host_ratio or 0.0)

    return min(lines, key=order)


def _host_line(line: Line) -> Line | None:
    """Host tiers up to the one of the line's answer; None where there is none to spare."""
    index = line.search.answer()
    if index is None or line.sizes[index][1] == 0:
        return None
    gpu_blocks, most = line.sizes[index]
    step = max(1, round(HOST_STEP * gpu_blocks))
    return Line(line.policy, None, [(gpu_blocks, size) for size in [*range(0, most, step), most]])
