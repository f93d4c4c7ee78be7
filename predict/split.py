"""Which workflows are trained on, which stop the training, which measure it: told by a hash of their ids.

A workflow stays on its side whatever else is in the trace; another seed deals anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

from pbkv.traces.errors import ConfigError

if TYPE_CHECKING:
    from pbkv.traces.schema import Workflow


@dataclass(frozen=True, slots=True)
class Split:
    """Three disjoint sets of workflows."""

    training: Sequence[Workflow]
    stopping: Sequence[Workflow]
    test: Sequence[Workflow]


def place(workflow_id: str, seed: int) -> float:
    """Where a hash puts the workflow, from 0 to 1."""
    digest = blake2b(f"{seed} {workflow_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def check_shares(shares: Sequence[float]) -> None:
    """Raises ConfigError for what are not three percentages of which the first two are above 0."""
    is_split = len(shares) == 3 and min(shares) >= 0 and abs(sum(shares) - 100) < 1e-6
    if not is_split or 0 in shares[:2]:
        raise ConfigError(
            "split", ",".join(f"{share:g}" for share in shares), "TRAINING,STOPPING,TEST that add up to 100"
        )


def split(workflows: Sequence[Workflow], shares: Sequence[float], seed: int) -> Split:
    """``shares``: per cent for training, stopping, test. Raises ConfigError if one that is not 0 got none."""
    check_shares(shares)
    sides: tuple[list[Workflow], ...] = ([], [], [])
    for workflow in workflows:
        at = 100 * place(workflow.workflow_id, seed)
        sides[0 if at < shares[0] else 1 if at < shares[0] + shares[1] else 2].append(workflow)
    for name, share, side in zip(("training", "stopping", "test"), shares, sides, strict=True):
        if share and not side:
            raise ConfigError(
                "split", f"{name}: {share:g} % of {len(workflows)} workflows", "at least one in each part"
            )
    return Split(*sides)


def folds(workflows: Sequence[Workflow], num_folds: int, seed: int) -> list[Split]:
    """Each workflow is tested once; a tenth of all, from the others, stops. Dealt in the order of hashes."""
    if not 2 <= num_folds <= len(workflows):
        raise ConfigError("folds", num_folds, f"a number from 2 to the {len(workflows)} workflows")
    dealt = sorted(workflows, key=lambda workflow: place(workflow.workflow_id, seed))
    num_stopping = max(1, round(len(dealt) / 10))
    found = []
    for fold in range(num_folds):
        rest = [workflow for index, workflow in enumerate(dealt) if index % num_folds != fold]
        rest.sort(key=lambda workflow: place(workflow.workflow_id, seed + 1))
        found.append(Split(rest[num_stopping:], rest[:num_stopping], dealt[fold::num_folds]))
    return found
