"""Logs of single requests: each is a workflow of one call, and so many that only their numbers are held."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from math import isnan, nan
from pathlib import Path

import numpy as np

from pbkv.traces.importers.block_prompts import BlockPrompts
from pbkv.traces.importers.key_table import KeyTable, key_of
from pbkv.traces.importers.loose import no_calls
from pbkv.traces.schema import Call, TraceMetadata, Workflow


class Requests:
    """Requests as a log gives them. Memory: 12 bytes each, beside their prompts."""

    def __init__(self, app: str, blocks: BlockPrompts) -> None:
        self._app, self._blocks = app, blocks
        self._arrivals, self._outputs = array("d"), array("i")

    def __len__(self) -> int:
        return len(self._arrivals)

    def add(self, arrival_s: float | None, num_output_tokens: int) -> None:
        """One request for the prompt that ``blocks`` was given last."""
        self._arrivals.append(nan if arrival_s is None else arrival_s)
        self._outputs.append(num_output_tokens)

    def order(self) -> Sequence[int]:
        """By arrival, ties in log order; log order if an arrival is unknown."""
        arrivals = np.frombuffer(self._arrivals)
        if np.isnan(arrivals).any():
            return range(len(self))
        return array("i", np.argsort(arrivals, kind="stable").astype(np.int32).tobytes())

    def imported(
        self, path: Path, names: Callable[[int], str], counts: Counter[str]
    ) -> tuple[Iterator[Workflow], TraceMetadata]:
        """As `Log.imported`, for a log that is read with tolerance."""
        if not len(self):
            raise no_calls(path, self._app, counts)
        extra = {"format": self._app, "counts": counts, "block_size": self._blocks.seal(self.order())}
        metadata = TraceMetadata(path.name, generator="pbkv traces import", extra=extra)
        since_s = min((at_s for at_s in self._arrivals if not isnan(at_s)), default=0.0)
        return self.workflows(names, counts, origin="rebuilt", since_s=since_s), metadata

    def workflows(
        self, names: Callable[[int], str], counts: Counter[str], *, origin: str, since_s: float = 0.0
    ) -> Iterator[Workflow]:
        """A workflow a request, in order: ``names`` gives ids by the number in the log.

        Arrivals count from ``since_s``. A request of unknown arrival has an unknown wait, which is counted.
        """
        for number in self.order():
            arrival_s = self._arrivals[number]
            known = not isnan(arrival_s)
            if not known:
                counts["waits unknown"] += 1
            ids, tokens, kinds = self._blocks.segments(number)
            call = Call(
                call_index=0,
                agent="request",
                parent_indices=(),
                tool_gap_s=0.0 if known else None,
                segment_ids=ids,
                segment_tokens=tokens,
                num_output_tokens=self._outputs[number],
                segment_kinds=kinds,
                tool_gap_origin=origin if known else None,
            )
            yield Workflow(names(number), self._app, arrival_s - since_s if known else None, [call])


class Names:
    """Texts that must differ. Memory: their letters, and some 30 bytes each."""

    def __init__(self) -> None:
        self._letters, self._ends = bytearray(), array("q", [0])
        self._known = KeyTable()

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        return self._letters[self._ends[index] : self._ends[index + 1]].decode()

    def add(self, name: str) -> bool:
        """Whether ``name`` is new; only then it is kept."""
        raw = name.encode()
        key = key_of(raw)
        if self._known.get(key) is not None:
            return False
        self._known.put(key, len(self))
        self._letters += raw
        self._ends.append(len(self._letters))
        return True
