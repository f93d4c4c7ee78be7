"""Two logs of a cache's decisions, entry by entry: where they part, and how much of them is equal.

An entry is what was decided (kind, blocks, whose, for whom, why) and not when: seconds differ between a
simulated and a replayed run even where every decision is the same. Evictions and copies are logs of their
own, because a copy stands in the log where it has ended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

LOGS = {"evictions": ("evict", "demote", "drop"), "copies": ("offload", "load")}
_FIELDS = ["kind", "num_blocks", "workflow_id", "by_workflow_id", "reason"]

Entry = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class LogMatch:
    """``first_difference`` is the index of the first entry that differs, None where none does.

    ``equal_share``: entries that are equal at the same index, of the longer log's. ``common_share``: the
    same without regard to order. Both are 1 for two empty logs.
    """

    num_simulated: int
    num_replayed: int
    first_difference: int | None
    equal_share: float
    common_share: float
    simulated_entry: str = ""  # at the first difference; empty where that log has ended
    replayed_entry: str = ""


def entries_of(events: pd.DataFrame, log: str) -> list[Entry]:
    """The entries of one cell's ``log`` (of LOGS), in the order in which they were written."""
    rows = events.loc[events["kind"].isin(LOGS[log]), _FIELDS].astype(object)
    return list(rows.where(rows.notna(), None).itertuples(index=False, name=None))


def match(simulated: Sequence[Entry], replayed: Sequence[Entry]) -> LogMatch:
    """Compare two logs entry by entry."""
    longest = max(len(simulated), len(replayed))
    equal = [one == other for one, other in zip(simulated, replayed, strict=False)]
    first = equal.index(False) if False in equal else len(equal) if len(equal) < longest else None
    common = sum((Counter(simulated) & Counter(replayed)).values())
    return LogMatch(
        len(simulated),
        len(replayed),
        first,
        sum(equal) / longest if longest else 1.0,
        common / longest if longest else 1.0,
        _text(simulated, first),
        _text(replayed, first),
    )


def _text(log: Sequence[Entry], index: int | None) -> str:
    if index is None or index >= len(log):
        return ""
    kind, num_blocks, whose, by, reason = log[index]
    return f"{kind} {num_blocks} blocks of {whose} for {by} ({reason})"
