"""The call graph of a trace as a picture: agents on an ellipse, an arrow for each likely hand-over.

matplotlib is imported when it is drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import cos, hypot, pi, sin, sqrt
from typing import TYPE_CHECKING, Any

from pbkv.analysis.next_agent import END, START, Handovers
from pbkv.analysis.style import FAINT, INK, Target, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEIGHT_INCHES = 7.0
MAX_AGENTS = 14
_MIN_DRAWN, _MIN_DRAWN_OF_MANY = 0.02, 0.05  # rarer hand-overs would only blur the picture
_MANY = 10  # agents
_MIN_LABELLED = 0.05
_COLORS = ("#27548A", "#C8503A", "#3B8C5A", "#B7791F", "#7B4F9E", "#2F8F9D", "#A8457A", "#6B7A2A")

# Lengths on the picture, in units of about an inch.
_WIDTH, _HEIGHT = 2.5, 2.1  # half-axes of the ellipse
_SHIFT = -0.4  # of its middle: the names at the right are longer than START and END
_END_RADIUS = 0.11  # of START and END
_LEAST_RADIUS, _MORE_RADIUS = 0.12, 0.16
_LOOP_RADIUS = 0.2
_BEND = 0.16  # of an arrow, as a share of its length: so that both directions are seen
_LABEL_SIZE = (0.34, 0.15)
_LONGEST_NAME, _LONGEST_BESIDE = 28, 24  # characters: above or below the ellipse, beside it

Point = tuple[float, float]


def call_graph(counts: Handovers, target: Target, *, subtitle: str = "") -> None:
    """Draw hand-over probabilities as a PNG of 10 × 7 inches; ``counts`` as `handovers` gives.

    Drawn from 2 % on, or 5 % where agents are many, besides the most used way to each agent. A disc's
    area grows with the agent's share of the calls, an arrow's width with its probability. Of more than
    MAX_AGENTS agents the rarest are one node, "n others".
    """
    shown = _merged(counts)
    nodes = _placed(shown)
    least = _MIN_DRAWN if len(shown) <= _MANY else _MIN_DRAWN_OF_MANY
    arrows = _arrows(shown, nodes, least)
    with new_figure(HEIGHT_INCHES, "Call graph: which agent comes next", subtitle) as figure:
        axes = figure.subplots()
        axes.set(xlim=(-5, 5), ylim=(-3.1, 2.95), aspect="equal")
        axes.set_axis_off()
        for arrow in sorted(arrows, key=lambda arrow: arrow.probability):
            _draw_arrow(axes, arrow)
        looping = {arrow.source.name for arrow in arrows if arrow.is_loop}
        for node in nodes.values():
            _draw_node(axes, node, node.name in looping)
        _draw_probabilities(axes, arrows, list(nodes.values()))
        note = f"on arrows: probability of the next agent given the current one, mostly from {least:.0%} on"
        figure.text(
            0.01, 0.015, f"{note} · at names: share of the calls", color=FAINT, size=8.5, in_layout=False
        )
        save(figure, target)


@dataclass(frozen=True, slots=True)
class _Node:
    """An agent, START or END; ``angle`` (radians) says where on the ellipse it lies."""

    name: str
    share: float
    angle: float
    radius: float
    color: str

    @property
    def centre(self) -> Point:
        return _SHIFT + _WIDTH * cos(self.angle), _HEIGHT * sin(self.angle)

    def outwards(self, distance: float) -> Point:
        """The point ``distance`` from the centre, away from the middle of the ellipse."""
        x, y = self.centre
        across, up = _HEIGHT * cos(self.angle), _WIDTH * sin(self.angle)
        return x + distance * across / hypot(across, up), y + distance * up / hypot(across, up)


@dataclass(frozen=True, slots=True)
class _Arrow:
    """A hand-over: a curve from disc to disc, or a loop outside the ellipse."""

    source: _Node
    target: _Node
    probability: float

    @property
    def is_loop(self) -> bool:
        return self.source.name == self.target.name

    def points(self) -> list[Point]:
        """The visible part of the curve, closely sampled."""
        sampled = [self._at(step / 60) for step in range(61)]
        hidden = (self.source, self.source.radius), (self.target, self.target.radius + 0.02)
        return [
            point
            for point in sampled
            if all(_distance(point, node.centre) >= radius for node, radius in hidden)
        ]

    def _at(self, share: float) -> Point:
        if self.is_loop:
            return self._at_loop(share)
        (x0, y0), (x1, y1) = self.source.centre, self.target.centre
        middle = (x0 + x1) / 2 - _BEND * (y1 - y0), (y0 + y1) / 2 + _BEND * (x1 - x0)
        old, bent, new = (1 - share) ** 2, 2 * share * (1 - share), share**2
        return old * x0 + bent * middle[0] + new * x1, old * y0 + bent * middle[1] + new * y1

    def _at_loop(self, share: float) -> Point:
        (x, y), (outer_x, outer_y) = self.source.centre, self.source.outwards(1)
        middle = self.source.outwards(self.source.radius + 0.75 * _LOOP_RADIUS)
        turn = -2 * pi * share
        inwards = x - outer_x, y - outer_y  # of length 1
        return (
            middle[0] + _LOOP_RADIUS * (inwards[0] * cos(turn) - inwards[1] * sin(turn)),
            middle[1] + _LOOP_RADIUS * (inwards[0] * sin(turn) + inwards[1] * cos(turn)),
        )


def _merged(counts: Handovers) -> Handovers:
    """The counts with all but the most frequent agents as one."""
    calls = Counter({agent: sum(row.values()) for agent, row in counts.items() if agent != START})
    if len(calls) <= MAX_AGENTS:
        return counts
    kept = {agent for agent, _ in calls.most_common(MAX_AGENTS - 1)} | {START, END}
    others = f"{len(calls) - MAX_AGENTS + 1} others"
    merged: dict[str, Counter[str]] = {}
    for agent, row in counts.items():
        total = merged.setdefault(agent if agent in kept else others, Counter())
        for follower, count in row.items():
            total[follower if follower in kept else others] += count
    return merged


def _placed(counts: Handovers) -> dict[str, _Node]:
    """The nodes clockwise from the left: START, each agent beside a likely neighbour, END."""
    calls = {agent: sum(row.values()) for agent, row in counts.items() if agent != START}
    order = [START, *_ordered_agents(counts, calls), END]
    num_calls, most = sum(calls.values()), max(calls.values())
    nodes = {}
    for index, name in enumerate(order):
        angle = pi - 2 * pi * (index + 0.5) / len(order)
        share = calls.get(name, 0) / num_calls
        radius = _LEAST_RADIUS + _MORE_RADIUS * sqrt(calls[name] / most) if name in calls else _END_RADIUS
        color = _COLORS[(index - 1) % len(_COLORS)] if name in calls else INK
        nodes[name] = _Node(name, share, angle, radius, color)
    return nodes


def _ordered_agents(counts: Handovers, calls: Mapping[str, int]) -> list[str]:
    order: list[str] = []
    left, current = list(calls), START
    while left:
        row = counts[current]
        current = max(left, key=lambda agent: (row.get(agent, 0), calls[agent]))
        left.remove(current)
        order.append(current)
    return order


def _arrows(counts: Handovers, nodes: Mapping[str, _Node], least: float) -> list[_Arrow]:
    """The arrows of at least this probability, and the most used one into each node."""
    ways_in: dict[str, Counter[str]] = {name: Counter() for name in nodes}
    for agent, row in counts.items():
        for follower, count in row.items():
            if agent != follower:
                ways_in[follower][agent] = count
    arrows = []
    for agent, row in counts.items():
        total = sum(row.values())
        for follower, count in row.items():
            is_main = ways_in[follower].most_common(1)[:1] == [(agent, count)]
            if count / total >= least or is_main:
                arrows.append(_Arrow(nodes[agent], nodes[follower], count / total))
    return arrows


def _draw_arrow(axes: Axes, arrow: _Arrow) -> None:
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    width = 0.6 + (2.4 if arrow.is_loop else 4.2) * arrow.probability
    patch = FancyArrowPatch(
        path=Path(arrow.points()),
        arrowstyle="-|>",
        mutation_scale=(6 + 1.2 * width) if arrow.is_loop else (7 + 2.2 * width),
        lw=width,
        color=arrow.source.color,
        alpha=0.3 + 0.6 * arrow.probability,
        joinstyle="miter",
        capstyle="butt",
    )
    axes.add_patch(patch)


def _draw_node(axes: Axes, node: _Node, has_loop: bool) -> None:
    from matplotlib.patches import Circle

    face = node.color if node.name != START else "white"
    axes.add_patch(Circle(node.centre, node.radius, fc=face, ec=node.color, lw=1.5, zorder=3))
    clearance = 2 * _LOOP_RADIUS + 0.12 * abs(cos(node.angle)) if has_loop else 0.0
    x, y = node.outwards(node.radius + clearance + 0.09)
    side = cos(node.angle)
    across = "center" if abs(side) < 0.1 else "left" if side > 0 else "right"
    upright = "center" if abs(sin(node.angle)) < 0.5 else "bottom" if sin(node.angle) > 0 else "top"
    style: dict[str, Any] = {
        "ha": across,
        "va": upright,
        "size": 9,
        "color": node.color,
        "fontweight": "bold",
    }
    axes.text(x, y, _caption(node), **style, zorder=5, in_layout=False)


def _caption(node: _Node) -> str:
    """Name and share of the calls, on two lines beside the ellipse; a long name loses its middle."""
    is_beside = abs(sin(node.angle)) < 0.5
    longest = _LONGEST_BESIDE if is_beside else _LONGEST_NAME
    name = node.name
    if len(name) > longest:
        name = f"{name[: longest // 2 - 1]}…{name[-longest // 2 :]}"
    if node.name in (START, END):
        return name
    share = "<1%" if node.share < 0.01 else f"{node.share:.0%}"
    return f"{name}\n{share}" if is_beside else f"{name}  {share}"


def _draw_probabilities(axes: Axes, arrows: Sequence[_Arrow], nodes: Sequence[_Node]) -> None:
    """A percentage on each arrow that has room for one, the most probable first."""
    taken: list[Point] = []
    for arrow in sorted(arrows, key=lambda arrow: -arrow.probability):
        if arrow.probability < _MIN_LABELLED:
            break
        spot = _free_spot(arrow, taken, nodes)
        if spot is not None:
            taken.append(spot)
            style: dict[str, Any] = {"ha": "center", "va": "center", "size": 7.5, "color": arrow.source.color}
            ground = {"boxstyle": "round,pad=0.12", "fc": "white", "ec": "none", "alpha": 0.85}
            text = f"{arrow.probability:.0%}"
            axes.text(*spot, text, **style, bbox=ground, zorder=4, in_layout=False)


def _free_spot(arrow: _Arrow, taken: Sequence[Point], nodes: Sequence[_Node]) -> Point | None:
    points = arrow.points()
    shares = (0.5,) if arrow.is_loop else (0.3, 0.38, 0.24, 0.46, 0.55, 0.62, 0.18)
    for share in shares:
        x, y = points[int(share * (len(points) - 1))]
        apart = all(abs(x - a) > _LABEL_SIZE[0] or abs(y - b) > _LABEL_SIZE[1] for a, b in taken)
        if apart and all(_distance((x, y), node.centre) > node.radius + 0.1 for node in nodes):
            return x, y
    return None


def _distance(one: Point, other: Point) -> float:
    return hypot(one[0] - other[0], one[1] - other[1])
