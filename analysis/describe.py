"""What a trace holds, in numbers: sizes, how open the next agent is, what an infinite cache would reuse."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from rich.table import Table
from rich.text import Text

from pbkv.analysis.next_agent import Handovers, conditional_entropy_bits, handovers, markov_accuracy
from pbkv.traces.reader import Trace
from pbkv.traces.schema import Call, TraceMetadata, Workflow


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Of calls or tokens. A quantile is a value that occurs: that with this share of the values before it."""

    min: int
    p10: int
    median: int
    p90: int
    max: int

    @classmethod
    def of(cls, values: Sequence[int]) -> Quantiles:
        ordered = sorted(values)
        p10, median, p90 = (ordered[len(ordered) * tenths // 10] for tenths in (1, 5, 9))
        return cls(ordered[0], p10, median, p90, ordered[-1])


@dataclass(frozen=True, slots=True)
class Description:
    """The facts of one trace.

    The two reuse ratios are shares of all prompt tokens: those that a cache without limits would have
    from an earlier prompt (answers are not counted) of the same, or of any, workflow, by whole segments
    and in file order. ``known_gap_ratio`` is over the calls with parents, None if there is none. The
    Markov accuracies are None for fewer than five workflows, and for a single agent.
    """

    metadata: TraceMetadata
    num_workflows: int
    num_calls: int
    num_agents: int
    num_prompt_tokens: int
    num_output_tokens: int
    calls_per_workflow: Quantiles
    prompt_tokens: Quantiles
    output_tokens: Quantiles
    same_workflow_reuse_ratio: float
    reuse_ratio: float
    next_agent_entropy_bits: float
    markov_1_accuracy: float | None
    markov_3_accuracy: float | None
    num_distinct_sequences: int
    num_arrivals: int
    known_gap_ratio: float | None
    handovers: Handovers

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {**asdict(self), "metadata": _metadata(self.metadata)}


def describe(trace: Trace) -> Description:
    """Read all of ``trace``. Memory: its distinct segment chains and a few numbers a call."""
    tally = _Tally()
    for workflow in trace.workflows():
        tally.add(workflow)
    return tally.description(trace.metadata)


@dataclass(slots=True)
class _Tally:
    """Everything counted while the workflows pass by."""

    sequences: list[tuple[str, ...]] = field(default_factory=list)
    prompt_tokens: array[int] = field(default_factory=lambda: array("q"))
    output_tokens: array[int] = field(default_factory=lambda: array("q"))
    num_arrivals: int = 0
    num_with_parents: int = 0
    num_known_gaps: int = 0
    reuse: _Reuse = field(default_factory=lambda: _Reuse())

    def add(self, workflow: Workflow) -> None:
        self.num_arrivals += workflow.arrival_s is not None
        for call in workflow.calls:
            self.prompt_tokens.append(call.num_prompt_tokens)
            self.output_tokens.append(call.num_output_tokens)
            self.num_with_parents += bool(call.parent_indices)
            self.num_known_gaps += bool(call.parent_indices) and call.tool_gap_s is not None
            self.reuse.add(len(self.sequences), call)
        self.sequences.append(tuple(call.agent for call in workflow.calls))

    def description(self, metadata: TraceMetadata) -> Description:
        counts = handovers(self.sequences)
        agents = {agent for sequence in self.sequences for agent in sequence}
        num_prompt_tokens = sum(self.prompt_tokens)
        guessable = len(agents) > 1
        return Description(
            metadata=metadata,
            num_workflows=len(self.sequences),
            num_calls=len(self.prompt_tokens),
            num_agents=len(agents),
            num_prompt_tokens=num_prompt_tokens,
            num_output_tokens=sum(self.output_tokens),
            calls_per_workflow=Quantiles.of([len(sequence) for sequence in self.sequences]),
            prompt_tokens=Quantiles.of(self.prompt_tokens),
            output_tokens=Quantiles.of(self.output_tokens),
            same_workflow_reuse_ratio=_ratio(self.reuse.num_same_workflow_tokens, num_prompt_tokens) or 0.0,
            reuse_ratio=_ratio(self.reuse.num_tokens, num_prompt_tokens) or 0.0,
            next_agent_entropy_bits=conditional_entropy_bits(counts),
            markov_1_accuracy=markov_accuracy(self.sequences, 1) if guessable else None,
            markov_3_accuracy=markov_accuracy(self.sequences, 3) if guessable else None,
            num_distinct_sequences=len(set(self.sequences)),
            num_arrivals=self.num_arrivals,
            known_gap_ratio=_ratio(self.num_known_gaps, self.num_with_parents),
            handovers=counts,
        )


class _Reuse:
    """What an infinite cache of whole segments would have had of each prompt."""

    def __init__(self) -> None:
        self.num_tokens = 0
        self.num_same_workflow_tokens = 0
        self._chains: dict[tuple[int, int], int] = {}
        self._last_workflow: list[int] = [0]  # by chain: the workflow that went through it last

    def add(self, workflow: int, call: Call) -> None:
        chain = 0
        for segment_id, num_tokens in zip(call.segment_ids, call.segment_tokens, strict=True):
            link = (chain, segment_id)
            chain = self._chains.setdefault(link, len(self._chains) + 1)
            if chain == len(self._last_workflow):
                self._last_workflow.append(workflow)
                continue
            self.num_tokens += num_tokens
            if self._last_workflow[chain] == workflow:
                self.num_same_workflow_tokens += num_tokens
            self._last_workflow[chain] = workflow


def as_table(description: Description) -> Table:
    """The description for a console: a name and a value a row."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _lines(description):
        table.add_row(name, Text(value))
    return table


def _lines(description: Description) -> Iterator[tuple[str, str]]:
    d = description
    yield "source", f"{d.metadata.source} · licence {d.metadata.licence}"
    yield "workflows", f"{d.num_workflows:,} ({_arrivals(d)})"
    yield "calls", f"{d.num_calls:,} · a workflow: {_three(d.calls_per_workflow)}"
    yield "agents", f"{d.num_agents:,} in {d.num_distinct_sequences:,} distinct sequences"
    yield "next agent", _predictability(d)
    yield "prompt tokens", f"{d.num_prompt_tokens:,} · a call: {_four(d.prompt_tokens)}"
    yield "output tokens", f"{d.num_output_tokens:,} · a call: {_four(d.output_tokens)}"
    reuse = f"{d.same_workflow_reuse_ratio:.1%} within a workflow, {d.reuse_ratio:.1%} from any"
    yield "infinite cache", f"{reuse} (prompt tokens, whole segments)"
    if d.known_gap_ratio is not None:
        yield "gaps known", f"{d.known_gap_ratio:.1%} of the calls with parents"
    yield from _provenance(d.metadata)


def _arrivals(d: Description) -> str:
    if not d.num_arrivals:
        return "no arrival times"
    return (
        "all with arrival times" if d.num_arrivals == d.num_workflows else f"{d.num_arrivals:,} with arrival"
    )


def _predictability(d: Description) -> str:
    entropy = f"{d.next_agent_entropy_bits:.2f} bits open given the current one"
    if d.markov_1_accuracy is None or d.markov_3_accuracy is None:
        return entropy
    return (
        f"{entropy} · Markov top-1: {d.markov_1_accuracy:.2f} (order 1), {d.markov_3_accuracy:.2f} (order 3)"
    )


def _three(q: Quantiles) -> str:
    return f"min {q.min:,}, median {q.median:,}, max {q.max:,}"


def _four(q: Quantiles) -> str:
    return f"p10 {q.p10:,}, median {q.median:,}, p90 {q.p90:,}, max {q.max:,}"


def _provenance(metadata: TraceMetadata) -> Iterator[tuple[str, str]]:
    if metadata.generator:
        seed = "" if metadata.seed is None else f", seed {metadata.seed}"
        yield "made by", f"{metadata.generator}{seed}"
    for name, value in metadata.extra.items():
        if isinstance(value, str | int | float):
            yield name.removeprefix("num_").replace("_", " "), str(value)
    yield "digest", metadata.digest[:16] or "unknown"


def _metadata(metadata: TraceMetadata) -> Mapping[str, object]:
    known = {name: value for name, value in asdict(metadata).items() if name != "extra"}
    return {**known, **metadata.extra}


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
