"""The long trace is the short one several times over, private blocks fresh, shared ones kept."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from bench.scale import Plan, Row, Source, copies, counts, read_source, write_long

HEADER = {"schema": "dynamo.agentic_mooncake", "version": 2, "block_size": 64, "source": {"digest": "d"}}


def row(name: str, blocks: list[int], *, parents: tuple[str, ...] = (), at_ms: float = 0.0) -> Row:
    play = name.partition(".")[0]
    return {
        "request_id": name,
        "play_id": play,
        "session_id": f"{play}:root",
        "input_length": 64 * len(blocks),
        "output_length": 5,
        "hash_ids": blocks,
        "not_before_ms": at_ms,
        "dependencies": [{"request_id": parent, "trigger": "completion"} for parent in parents],
    }


@pytest.fixture
def source() -> Source:
    """Three workflows, all beginning with blocks 0 and 1; w1 and w2 share block 2 as well."""
    return Source(
        HEADER,
        [
            [row("w0.a", [0, 1, 3], at_ms=10.0), row("w0.b", [0, 1, 3, 4], parents=("w0.a",))],
            [row("w1.a", [0, 1, 2, 5], at_ms=20.0)],
            [row("w2.a", [0, 1, 2, 6], at_ms=40.0)],
        ],
    )


def reuse(workflows: list[list[Row]]) -> list[int]:
    """Blocks of each workflow that an earlier workflow or call had, sorted: an infinite cache's hits."""
    seen: set[int] = set()
    hits = []
    for rows in workflows:
        hits.append(0)
        for call in rows:
            hits[-1] += len(seen.intersection(call["hash_ids"]))
            seen.update(call["hash_ids"])
    return hits


def test_ids_of_two_or_more_workflows_are_shared(source: Source) -> None:
    assert source.shared_ids() == {0, 1, 2}


def test_the_first_copy_is_the_source_itself(source: Source) -> None:
    assert list(copies(source, Plan(3, 100.0)))[:3] == source.workflows


def test_later_copies_keep_shared_blocks_and_renew_private_ones(source: Source) -> None:
    long = list(copies(source, Plan(3, 100.0)))
    blocks = [
        {block for rows in long[at : at + 3] for call in rows for block in call["hash_ids"]}
        for at in (0, 3, 6)
    ]
    assert blocks[0] & blocks[1] == blocks[1] & blocks[2] == {0, 1, 2}
    assert [len(ids) for ids in blocks] == [7, 7, 7]


def test_a_copy_reuses_what_its_source_reuses_and_the_shared_prefixes_on_top(source: Source) -> None:
    long = list(copies(source, Plan(2, 100.0, seed=4)))
    assert reuse(long[:3]) == [3, 2, 3]
    assert sorted(reuse(long)[3:]) == [3, 3, 5]  # w1, w2: blocks 0, 1, 2; w0: 0, 1 and then 0, 1, 3


def test_copies_arrive_one_after_the_other_at_the_sources_instants(source: Source) -> None:
    roots = [rows[0]["not_before_ms"] for rows in copies(source, Plan(3, 100.0, seed=1))]
    assert roots == [10.0, 20.0, 40.0, 110.0, 120.0, 140.0, 210.0, 220.0, 240.0]


def test_parents_are_of_the_same_copy_and_only_roots_wait_for_the_arrival(source: Source) -> None:
    for rows in list(copies(source, Plan(2, 100.0)))[3:]:
        names = {call["request_id"] for call in rows}
        for call in rows:
            assert {parent["request_id"] for parent in call["dependencies"]} <= names
            assert (call["not_before_ms"] == 0.0) == bool(call["dependencies"])


def test_names_are_unique_over_the_copies(source: Source) -> None:
    names = [call["request_id"] for rows in copies(source, Plan(4, 100.0)) for call in rows]
    assert len(set(names)) == len(names) == 16


def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(source: Source, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_long(source, tmp_path / name, Plan(6, 100.0, seed))
    texts = [(tmp_path / name).read_text().partition("\n")[2] for name in "abc"]
    assert texts[0] == texts[1] != texts[2]


def test_what_is_written_is_read_back_and_counted(source: Source, tmp_path: Path) -> None:
    told = write_long(source, tmp_path / "long.jsonl", Plan(3, 100.0))
    read = read_source(tmp_path / "long.jsonl")
    assert told == counts(read.workflows) == {"num_workflows": 9, "num_calls": 12, "num_block_references": 45}
    assert read.header["source"]["digest"] == "d"
    assert "3 copies" in read.header["source"]["scaled"]


def test_a_packed_source_is_read_like_an_unpacked_one(source: Source, tmp_path: Path) -> None:
    lines = [HEADER, *(call for rows in source.workflows for call in rows)]
    with gzip.open(tmp_path / "t.jsonl.gz", "wt") as sink:
        sink.writelines(json.dumps(line) + "\n" for line in lines)
    assert read_source(tmp_path / "t.jsonl.gz") == source
