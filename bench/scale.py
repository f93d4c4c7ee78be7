"""Makes a long agentic Mooncake v2 trace out of a short one: the same workflows several times over.

    python bench/scale.py agent20k.v2.jsonl.gz -o agent200k.v2.jsonl --copies 10 --period-s 2400

Copy 0 is the source itself. Each later copy holds every workflow once more: block ids that two or
more workflows of the source share (agents' fixed prefixes) stay what they are, so that they are shared
by all copies; a block of one workflow only gets a fresh id; ids of workflows, sessions and requests
get the copy's name. A copy arrives after the one before it, at the source's own instants (so the
load stays what it was), its workflows dealt to those instants in a seeded random order. Prints as
JSON what source and result hold.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import IO, Any

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Source:
    """A trace in memory: its header and its workflows' rows, in file order."""

    header: Row
    workflows: list[list[Row]]

    def shared_ids(self) -> frozenset[int]:
        """Block ids that more than one workflow uses."""
        once: set[int] = set()
        twice: set[int] = set()
        for rows in self.workflows:
            own = {block for row in rows for block in row["hash_ids"]}
            twice |= own & once
            once |= own
        return frozenset(twice)

    def arrivals_ms(self) -> list[float]:
        return [rows[0]["not_before_ms"] for rows in self.workflows]

    def num_ids(self) -> int:
        """One more than the largest block id."""
        return 1 + max(max(row["hash_ids"], default=-1) for rows in self.workflows for row in rows)


def read_source(path: Path) -> Source:
    with _open(path) as lines:
        header = json.loads(next(lines))
        rows = map(json.loads, lines)
        return Source(header, [list(group) for _, group in groupby(rows, key=lambda row: row["play_id"])])


@dataclass(frozen=True, slots=True)
class Plan:
    """How often, how far apart (at least the source's last arrival), and by which seed."""

    num_copies: int
    period_ms: float
    seed: int = 0


def copies(source: Source, plan: Plan) -> Iterator[list[Row]]:
    """The workflows of the long trace in order of arrival; see the module's docstring."""
    shared, num_ids, arrivals = source.shared_ids(), source.num_ids(), source.arrivals_ms()
    order = list(source.workflows)
    randomness = random.Random(plan.seed)
    yield from order
    for copy in range(1, plan.num_copies):
        randomness.shuffle(order)
        for rows, arrival_ms in zip(order, arrivals, strict=True):
            at_ms = round(arrival_ms + copy * plan.period_ms, 3)
            yield [_copied(row, copy, at_ms, copy * num_ids, shared) for row in rows]


def _copied(row: Row, copy: int, at_ms: float, offset: int, shared: frozenset[int]) -> Row:
    """One call of a later copy. Only roots wait for the arrival; the rest wait for their parents."""
    return {
        **row,
        "request_id": f"c{copy}.{row['request_id']}",
        "play_id": f"c{copy}.{row['play_id']}",
        "session_id": f"c{copy}.{row['session_id']}",
        "hash_ids": [block if block in shared else block + offset for block in row["hash_ids"]],
        "not_before_ms": row["not_before_ms"] if row["dependencies"] else at_ms,
        "dependencies": [
            {**parent, "request_id": f"c{copy}.{parent['request_id']}"} for parent in row["dependencies"]
        ],
    }


def counts(workflows: Iterable[list[Row]]) -> dict[str, int]:
    num_workflows = num_calls = num_references = 0
    for rows in workflows:
        num_workflows += 1
        num_calls += len(rows)
        num_references += sum(len(row["hash_ids"]) for row in rows)
    return {"num_workflows": num_workflows, "num_calls": num_calls, "num_block_references": num_references}


def write_long(source: Source, out: Path, plan: Plan) -> dict[str, int]:
    """Write the long trace as plain JSONL and return its counts."""

    def written(sink: IO[str]) -> Iterator[list[Row]]:
        for rows in copies(source, plan):
            sink.writelines(json.dumps(row) + "\n" for row in rows)
            yield rows

    how = f"{plan.num_copies} copies, {plan.period_ms / 1e3:g} s apart, seed {plan.seed}, bench/scale.py"
    origin = {**source.header["source"], "scaled": how}
    with out.open("w") as sink:
        sink.write(json.dumps({**source.header, "source": origin}) + "\n")
        return counts(written(sink))


def _open(path: Path) -> IO[str]:
    return gzip.open(path, "rt") if path.suffix == ".gz" else path.open()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--copies", type=int, default=10)
    parser.add_argument("--period-s", type=float, help="from copy to copy; default: the last arrival")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    source = read_source(options.source)
    last_ms = source.arrivals_ms()[-1]
    period_ms = last_ms if options.period_s is None else options.period_s * 1e3
    if options.copies < 1 or period_ms < last_ms:
        parser.error(f"expected at least 1 copy and a period of at least {last_ms / 1e3:g} s (last arrival)")
    result = write_long(source, options.out, Plan(options.copies, period_ms, options.seed))
    print(json.dumps({"source": counts(source.workflows), "result": result}))


if __name__ == "__main__":
    main()
