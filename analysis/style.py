"""How figures look: one colour and one mark a policy everywhere, and how a figure is written.

The colours are Okabe and Ito's and Tol's; a test simulates the three colour-vision deficiencies and
checks that the main policies stay apart. Marks differ too, so that no line depends on colour alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Target = Path | str | IO[bytes]

DPI = 160
WIDTH_INCHES = 10.0

_TITLES_INCHES = 0.68  # kept free at the top for title and subtitle

INK = "#222222"
FAINT = "#6B6B6B"
GRID = "#E4E4E4"


class Look(NamedTuple):
    """A policy's colour (hex) and mark (matplotlib's name)."""

    color: str
    marker: str


POLICY_LOOKS: Mapping[str, Look] = {
    "lru": Look("#333333", "o"),
    "lae": Look("#E69F00", "s"),
    "pbkv-he": Look("#56B4E9", "^"),
    "pbkv": Look("#0072B2", "D"),
    "pbkv-aggressive": Look("#332288", "v"),
    "kvflow": Look("#009E73", "P"),
    "ttl": Look("#CC79A7", "X"),
    "mori": Look("#D55E00", "<"),
    "belady": Look("#999933", "*"),
    "infinite": Look("#8C8C8C", "|"),
    # plain controls: seldom all in one figure
    "fifo": Look("#882255", "h"),
    "lfu": Look("#44AA99", "p"),
    "slru": Look("#AA4499", "8"),
    "random": Look("#999999", "."),
    "gdsf": Look("#CC6677", ">"),
    "s3-fifo": Look("#117733", "d"),
    "sieve": Look("#B8A038", "H"),
}
_OTHER_COLORS = ("#7A4F2B", "#5B5EA6", "#6A8D2F", "#B0546B", "#2F7F86", "#8A6FB0")
_OTHER_MARKERS = ("1", "2", "3", "4", "+", "x", "|")

# The six classes of a prompt's tokens: what was found is blue, dark to light; what was lost is red.
CLASS_COLORS: Mapping[str, str] = {
    "gpu_hit": "#27548A",
    "host_hit": "#6F9BC8",
    "loading": "#BBD3E8",
    "evicted": "#C8503A",
    "partial": "#B9B3AC",
    "cold": "#E2DED9",
}

_RC: Mapping[str, object] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture everywhere
    "font.size": 10,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "text.color": INK,
}


def look_of(policy: str) -> Look:
    """The look of a policy; one of the user's own gets one from its name, the same in every figure."""
    known = POLICY_LOOKS.get(policy)
    if known is not None:
        return known
    number = zlib.crc32(policy.encode())
    return Look(
        _OTHER_COLORS[number % len(_OTHER_COLORS)],
        _OTHER_MARKERS[number // len(_OTHER_COLORS) % len(_OTHER_MARKERS)],
    )


@contextmanager
def new_figure(height_inches: float, title: str, subtitle: str) -> Iterator[Figure]:
    """An empty figure of WIDTH_INCHES × ``height_inches``, drawn with this module's settings."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with rc_context(dict(_RC)):  # type: ignore[arg-type]  # the stub wants its own names as literals
        below_titles = ConstrainedLayoutEngine(rect=(0, 0, 1, 1 - _TITLES_INCHES / height_inches), w_pad=0.1)
        figure = Figure(figsize=(WIDTH_INCHES, height_inches), dpi=DPI, layout=below_titles)
        figure.text(0.01, 1 - 0.1 / height_inches, title, fontsize=13, fontweight="bold", va="top")
        figure.text(0.01, 1 - 0.38 / height_inches, subtitle, color=FAINT, fontsize=9.5, va="top")
        yield figure


def save(figure: Figure, target: Target) -> None:
    """Write the figure as PNG, WIDTH_INCHES · DPI pixels wide; equal figures give equal bytes."""
    figure.savefig(target, format="png", dpi=DPI, metadata={"Software": None})
