"""The table of a run: one row a cell, units in the header, for the console and as Markdown.

Needs neither pandas nor matplotlib: it ends every `pbkv simulate`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from pbkv.analysis.intervals import Interval
from pbkv.analysis.labels import shared
from pbkv.analysis.summary import CellSummary

_NOTHING = "–"
_GAP = 2  # rich: the padding of a column and the (blank) line beside it


class _Column(NamedTuple):
    """A column: its header (a line break where the console breaks it) and its text for every row."""

    header: str
    texts: Callable[[Sequence[CellSummary]], list[str]]
    left: bool = False


class ConsoleTable:
    """What to print on a rich console: one row a cell, in one table or, where that is too wide, in two.

    Settings that all rows share stand in the title and not in columns of their own.
    """

    def __init__(self, cells: Sequence[CellSummary]) -> None:
        self._cells = cells
        self._keys = [_POLICY, *(column for column in _SETTINGS if len(set(column.texts(cells))) > 1)]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        fits = self._width([*_TIMES, *_HITS, _THROUGHPUT]) <= options.max_width
        parts = [[*_TIMES, *_HITS, _THROUGHPUT]] if fits else [[*_TIMES, _THROUGHPUT], _HITS]
        yield Text(shared([cell.setting for cell in self._cells]), style="bold")
        for part in parts:
            yield from ("", self._table(part))
        yield Text(caption(self._cells), style="dim")

    def _width(self, measures: Sequence[_Column]) -> int:
        columns = [*self._keys, *measures]
        return sum(self._column_width(column) + _GAP for column in columns) - _GAP

    def _column_width(self, column: _Column) -> int:
        return max(map(cell_len, [*column.header.split("\n"), *self._texts(column)]))

    def _texts(self, column: _Column) -> list[str]:
        return [text.replace(" ± ", "±") for text in column.texts(self._cells)]  # 80 columns must do

    def _table(self, measures: Sequence[_Column]) -> Table:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        columns = [*self._keys, *measures]
        for column in columns:
            side: Literal["left", "right"] = "left" if column.left else "right"
            table.add_column(column.header, justify=side, vertical="bottom", overflow="fold")
        for row in zip(*map(self._texts, columns), strict=True):
            table.add_row(*map(Text, row))
        return table


def markdown_table(cells: Sequence[CellSummary]) -> str:
    """The same with every setting as a column, as a Markdown table and a line on the intervals."""
    header, rows, is_left = text_columns(cells)
    return f"{markdown(header, rows, is_left)}\n\n{caption(cells)}\n"


def text_columns(
    cells: Sequence[CellSummary], *, only_differing: bool = False
) -> tuple[list[str], list[tuple[str, ...]], list[bool]]:
    """Headers, one row of texts a cell, and which columns are left-aligned.

    With ``only_differing``, settings that all rows share have no column.
    """
    settings = [c for c in _SETTINGS if not only_differing or len(set(c.texts(cells))) > 1]
    columns = [_POLICY, *settings, *_TIMES, *_HITS, _THROUGHPUT]
    header = [column.header.replace("-\n", "").replace("\n", " ") for column in columns]
    rows = zip(*(column.texts(cells) for column in columns), strict=True)
    return header, list(rows), [column.left for column in columns]


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], is_left: Sequence[bool] = ()) -> str:
    """A Markdown table; columns are right-aligned but those that ``is_left`` (default: the first)."""
    left = is_left or [index == 0 for index in range(len(header))]
    rule = ["---" if column_is_left else "---:" for column_is_left in left]
    return "\n".join(map(_markdown_row, [header, rule, *rows]))


def _markdown_row(texts: Sequence[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"


def caption(cells: Sequence[CellSummary]) -> str:
    """What the intervals are over."""
    counts = sorted({len(cell.seeds) for cell in cells})
    over = {1: "workflows"} | {count: f"{count} seeds" for count in counts if count > 1}
    by = " or ".join(over[count] for count in counts)
    return f"± half the 95 % interval over {by}; hits and misses in % of prompt tokens"


def _text_column(header: str, text: Callable[[CellSummary], str], *, left: bool = False) -> _Column:
    return _Column(header, lambda cells: [text(cell) for cell in cells], left)


def _measure_column(
    header: str, name: str, scale: float = 1.0, *, interval: bool = False, decimals: int | None = None
) -> _Column:
    """A measure times ``scale``, with ``decimals`` or what leaves its largest value about four digits."""

    def texts(cells: Sequence[CellSummary]) -> list[str]:
        found: list[Interval | None] = [getattr(cell, name) for cell in cells]
        largest = max((abs(value.mean) * scale for value in found if value), default=0.0)
        shown = _decimals(largest) if decimals is None else decimals
        return [_text(value, scale, shown, interval) for value in found]

    return _Column(header, texts)


def _text(value: Interval | None, scale: float, decimals: int, interval: bool) -> str:
    if value is None or math.isnan(value.mean):  # NaN: of a column that is not known, as of a server's tiers
        return _NOTHING
    mean = f"{value.mean * scale:,.{decimals}f}"
    if not interval or value.half is None:
        return mean
    return f"{mean} ± {value.half * scale:,.{decimals}f}"


def _decimals(largest: float) -> int:
    """Decimals that leave about four digits."""
    return 2 if largest == 0 else min(3, max(0, 3 - math.floor(math.log10(largest)) - 1))


def _write_mode(cell: CellSummary) -> str:
    return cell.setting.write_mode if cell.setting.host_blocks else "no host tier"


def _concurrency(cell: CellSummary) -> str:
    return "open loop" if cell.setting.concurrency is None else str(cell.setting.concurrency)


_POLICY = _text_column("policy", lambda cell: cell.setting.label, left=True)
_SETTINGS = (
    _text_column("GPU\nblocks", lambda cell: f"{cell.setting.gpu_blocks:,}"),
    _text_column("host\nblocks", lambda cell: f"{cell.setting.host_blocks:,}"),
    _text_column("write\nmode", _write_mode, left=True),
    _text_column("con-\ncurrent", _concurrency),
)
_TIMES = (
    _measure_column("latency\ns", "jct_s", interval=True),
    _measure_column("p95\ns", "jct_p95_s"),
    _measure_column("TTFT\ns", "ttft_s", interval=True),
    _measure_column("TPOT\nms", "tpot_s", 1e3),
)
_HITS = (
    _measure_column("GPU hit\n%", "gpu_hit_ratio", 100, interval=True, decimals=1),
    _measure_column("host\nhit %", "host_hit_ratio", 100, decimals=1),
    _measure_column("total\nhit %", "hit_ratio", 100, decimals=1),
    _measure_column("evicted\nmiss %", "evicted_ratio", 100, decimals=1),
)
_THROUGHPUT = _measure_column("work-\nflows/h", "workflows_per_s", 3600)
