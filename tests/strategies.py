"""Random small workflows for property tests: few segments, so that prefixes are shared and diverge."""

from __future__ import annotations

from hypothesis import strategies as st

from pbkv.traces.schema import Call, Workflow

_LENGTHS = {segment_id: 1 + (segment_id * 7) % 11 for segment_id in range(8)}


@st.composite
def calls(draw: st.DrawFn, index: int = 0, num_parents: int = 0) -> Call:
    ids = draw(st.lists(st.integers(0, 7), min_size=1, max_size=5))
    parents = (
        draw(st.sets(st.integers(0, index - 1), max_size=num_parents)) if index and num_parents else set()
    )
    return Call(
        call_index=index,
        agent=draw(st.sampled_from("abc")),
        parent_indices=tuple(sorted(parents)),
        tool_gap_s=draw(st.sampled_from([None, 0.0, 0.0, 0.01, 0.5])),
        segment_ids=tuple(ids),
        segment_tokens=tuple(_LENGTHS[i] for i in ids),
        num_output_tokens=draw(st.integers(0, 12)),
        output_id=draw(st.sampled_from([None, 100 + index, 3])),
        segment_kinds=tuple("context" for _ in ids),
    )


@st.composite
def workflows(draw: st.DrawFn, max_workflows: int = 5, max_calls: int = 6) -> list[Workflow]:
    """Up to ``max_workflows`` workflows with fan-out, joins and rising arrivals.

    An answer of id 3 is as long as segment 3 only by chance: an id has one length in real traces, so
    such answers are given that length. Tool waits that are not 0 differ from call to call: two equal ones
    would make a call due at the very end of an iteration, where rounding decides which comes first.
    """
    found = []
    arrival_s = 0.0
    for number in range(draw(st.integers(1, max_workflows))):
        arrival_s += draw(st.sampled_from([0.0, 0.001, 0.2, 3.0]))
        num_calls = draw(st.integers(1, max_calls))
        drawn = [draw(calls(index, num_parents=2)) for index in range(num_calls)]
        fixed = [c._replace(num_output_tokens=_LENGTHS[3]) if c.output_id == 3 else c for c in drawn]
        apart = [
            c._replace(tool_gap_s=c.tool_gap_s + 1e-5 * (7 * number + c.call_index + 1))
            if c.tool_gap_s
            else c
            for c in fixed
        ]
        found.append(Workflow(f"w{number}", "app", arrival_s, apart))
    return found
