"""The cache alone: order of calls, what is kept, what is counted."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbkv.sim.curve import Curve, hit_curve
from pbkv.traces.errors import ConfigError
from pbkv.traces.reader import Trace
from pbkv.traces.schema import Call, TraceMetadata, Workflow
from pbkv.traces.writer import write_trace
from tests.cache.twin import KEYS, NaiveCache, tokens_of
from tests.strategies import workflows

B = 4


def call(index: int, prompt: dict[int, int], answer: tuple[int, int] | None = None) -> Call:
    output_id, num_tokens = answer or (None, 5)
    return Call(
        index,
        "a",
        (index - 1,) if index else (),
        None,
        tuple(prompt),
        tuple(prompt.values()),
        num_tokens,
        output_id,
    )


def curve_of(tmp_path: Path, trace: list[Workflow], **options: object) -> Curve:
    write_trace(tmp_path / "t.parquet", trace, TraceMetadata("test"), force=True)
    options = {"policies": ["lru"], "gpu_blocks": [100], "block_size": B, **options}
    return hit_curve(Trace(tmp_path / "t.parquet"), **options)  # type: ignore[arg-type]


def test_slots_take_turns_and_a_freed_one_takes_the_next_workflow(tmp_path: Path) -> None:
    """Two slots, a cache of one prompt: w0 and w1 alternate and miss; w2 comes when w1's slot is free."""
    trace = [
        Workflow("w0", "app", None, [call(0, {1: 9}), call(1, {1: 9}), call(2, {1: 9})]),
        Workflow("w1", "app", None, [call(0, {2: 9})]),
        Workflow("w2", "app", None, [call(0, {1: 9})]),
    ]
    assert curve_of(tmp_path, trace, gpu_blocks=[2], concurrency=1).points[0].hit_blocks == 2 + 2
    # w0.0 w1.0 w0.1 w2.0 w0.2: a miss after w1, then hits
    assert curve_of(tmp_path, trace, gpu_blocks=[2], concurrency=2).points[0].hit_blocks == 0 + 2 + 2
    assert curve_of(tmp_path, trace, gpu_blocks=[2], order="file").points[0].hit_blocks == 2 + 2


def test_prompt_and_named_answer_are_kept(tmp_path: Path) -> None:
    named = [Workflow("w", "app", None, [call(0, {1: 6}, (2, 6)), call(1, {1: 6, 2: 6, 3: 4})])]
    unnamed = [Workflow("w", "app", None, [call(0, {1: 6}), call(1, {1: 6, 2: 6, 3: 4})])]
    assert curve_of(tmp_path, named).points[0].hit_blocks == 3
    assert curve_of(tmp_path, unnamed).points[0].hit_blocks == 1


def test_the_last_token_is_never_a_hit(tmp_path: Path) -> None:
    trace = [Workflow("w", "app", None, [call(0, {1: 8}), call(1, {1: 8})])]
    assert curve_of(tmp_path, trace).points[0].hit_blocks == 1


def test_warm_up_calls_fill_the_cache_uncounted(tmp_path: Path) -> None:
    trace = [Workflow("w", "app", None, [call(0, {1: 9}), call(1, {1: 9})])]
    found = curve_of(tmp_path, trace, warm_up_calls=1)
    assert (found.num_calls, found.num_prompt_tokens, found.points[0].hit_ratio) == (1, 9, 8 / 9)


def test_the_infinite_cache_is_a_policy_of_any_size(tmp_path: Path) -> None:
    loop = [call(i, {1 + i % 3: 9}) for i in range(9)]
    found = curve_of(
        tmp_path, [Workflow("w", "app", None, loop)], policies=["lru", "infinite"], gpu_blocks=[2]
    )
    assert [point.hit_blocks for point in found.points] == [0, found.infinite_hit_blocks]
    assert [point.gpu_blocks for point in found.points] == [2, 2]


@given(trace=workflows(), sizes=st.lists(st.integers(1, 25), min_size=1, max_size=3, unique=True))
@settings(max_examples=40, deadline=None)
def test_every_point_is_the_twins_and_below_the_infinite_cache(
    tmp_path_factory: pytest.TempPathFactory, trace: list[Workflow], sizes: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("curve")
    found = curve_of(folder, trace, policies=list(KEYS), gpu_blocks=sizes, order="file")
    for point in found.points:
        twin = NaiveCache(point.policy, point.gpu_blocks, B)
        calls = [each for workflow in trace for each in workflow.calls]
        hits = [twin.serve(tokens_of(each), _answer(each), float(now)) for now, each in enumerate(calls)]
        assert point.hit_blocks == sum(hits)
        assert point.hit_blocks <= found.infinite_hit_blocks


def _answer(each: Call) -> list[int]:
    if each.output_id is None:
        return []
    return [each.output_id * 1000 + position for position in range(each.num_output_tokens)]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"gpu_blocks": [0]}, "gpu_blocks"),
        ({"gpu_blocks": []}, "gpu_blocks"),
        ({"concurrency": 0}, "concurrency"),
        ({"warm_up_calls": -1}, "warm_up_calls"),
        ({"policies": ["nope"]}, "policy"),
    ],
)
def test_bad_options_are_refused(tmp_path: Path, options: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        curve_of(tmp_path, [Workflow("w", "app", None, [call(0, {1: 9})])], **options)
