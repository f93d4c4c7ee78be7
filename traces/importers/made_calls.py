"""The calls of one workflow, each made when it is asked for: a long workflow is never whole in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Protocol, overload

from pbkv.traces.schema import Call

if TYPE_CHECKING:
    from pbkv.traces.importers.calls import LoggedCall


class Prompts(Protocol):
    """Where prompts are cut to segments."""

    def segments(self, number: int) -> tuple[list[int], list[int], list[str]]:
        """Ids, lengths and kinds of a prompt."""
        ...

    def new_texts(self, number: int, told: set[int]) -> list[tuple[int, str]] | None:
        """Id and text of its segments that have one and are not ``told``, and tell them; None: not kept."""
        ...


@dataclass(frozen=True, slots=True)
class MadeCalls(Sequence[Call]):
    """``logged`` in start order with its ``gaps`` (seconds, origin) and answers' ids, as calls of a trace."""

    prompts: Prompts
    logged: Sequence[LoggedCall]
    gaps: Sequence[tuple[float | None, str | None]]
    answer_ids: Sequence[int | None]

    def __len__(self) -> int:
        return len(self.logged)

    @overload
    def __getitem__(self, index: int) -> Call: ...
    @overload
    def __getitem__(self, index: slice) -> list[Call]: ...
    def __getitem__(self, index: int | slice) -> Call | list[Call]:
        if isinstance(index, slice):
            return list(self)[index]
        return next(islice(self, range(len(self))[index], None))

    def __iter__(self) -> Iterator[Call]:
        indices = {id(call): index for index, call in enumerate(self.logged)}
        told: set[int] = set()
        for index in range(len(self.logged)):
            yield self._call(index, indices, told)

    def _call(self, index: int, indices: Mapping[int, int], told: set[int]) -> Call:
        call, (gap_s, origin) = self.logged[index], self.gaps[index]
        ids, tokens, kinds = self.prompts.segments(call.prompt)
        return Call(
            call_index=index,
            agent=call.agent,
            parent_indices=sorted({indices[id(parent)] for parent in call.parents}),
            tool_gap_s=gap_s,
            segment_ids=ids,
            segment_tokens=tokens,
            num_output_tokens=call.num_output_tokens,
            output_id=self.answer_ids[index],
            segment_kinds=kinds,
            tool_gap_origin=origin,
            new_texts=self.prompts.new_texts(call.prompt, told),
        )
