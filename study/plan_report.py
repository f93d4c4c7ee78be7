"""A plan for people: the table of answers with their neighbours, the curve, and the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pbkv.analysis.style import FAINT, INK, look_of, new_figure, save
from pbkv.analysis.table import markdown
from pbkv.cache.named import BOUNDS
from pbkv.study.plan import Answer, Line, Plan, Point, Question
from pbkv.study.targets import Target
from pbkv.traces.temporary import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HEIGHT_INCHES = 3.4
_STYLES = ("-", "--", ":", "-.")


def write_plan(plan: Plan, out: Path) -> None:
    """``plan.md``, ``plan.json`` and ``plan.png`` in the study's folder."""
    for name, text in (("plan.md", plan_text(plan)), ("plan.json", json.dumps(_facts(plan), indent=1))):
        with replacing(out / name) as file:
            file.write_text(text + "\n", encoding="utf-8")
    with replacing(out / "plan.png") as file:
        draw(plan, file)


def plan_text(plan: Plan) -> str:
    """Markdown: what each policy needs, the curve, and what was not as expected."""
    question = plan.question
    load = "open loop" if question.concurrency is None else f"{question.concurrency} workflows at a time"
    goal = " and ".join(target.text() for target in question.targets)
    where = f"{question.trace.name}, {question.profile_name}, {load}"
    head = f"**{goal}** on {where}: {plan.num_cells:,} simulations."
    rows = [_answer_row(question, answer) for answer in plan.answers]
    header = ["policy", "GPU GiB", "blocks", "host GiB", "blocks"]
    header += [target.name for target in question.targets]
    header += ["one step less GPU", "one more", "one step less host", "one more"]
    notes = [note for answer in plan.answers for note in _notes(question, answer)]
    curve_header = ["policy", "host", "GPU GiB", "blocks", "host GiB", "blocks"]
    curve_header += [*(target.name for target in question.targets), "met"]
    curve = markdown(curve_header, [row for line in plan.lines for row in _curve_rows(question, line)])
    return "\n\n".join([head, markdown(header, rows), *notes, "Every size that was simulated:", curve])


def draw(plan: Plan, path: Path) -> None:
    """A panel a target: the measure by GPU memory, a line a policy and host ratio, the answers ringed."""
    question = plan.question
    height = 1.2 + _HEIGHT_INCHES * len(question.targets)
    load = "open loop" if question.concurrency is None else f"{question.concurrency} concurrent"
    subtitle = f"{question.trace.name} · {question.profile_name} · {load}"
    with new_figure(height, "What GPU memory buys", subtitle) as figure:
        panels = figure.subplots(len(question.targets), 1, sharex=True, squeeze=False)[:, 0]
        for axes, target in zip(panels, question.targets, strict=True):
            _panel(axes, plan, target)
        panels[-1].set_xlabel("GPU memory for KV (GiB)")
        panels[0].legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)
        save(figure, path)


def _panel(axes: Axes, plan: Plan, target: Target) -> None:
    ratios = sorted(set(plan.question.host_ratios))
    for line in plan.lines:
        if line.policy.has_no_limit:
            _draw_bound(axes, line, target)
        elif line.host_ratio is not None:
            style = _STYLES[ratios.index(line.host_ratio) % len(_STYLES)]
            name = (
                f"{line.policy.label} · host {line.host_ratio:g}×" if len(ratios) > 1 else line.policy.label
            )
            _draw_line(axes, plan.question, line, target, style, name)
    axes.axhline(target.bound, color=INK, lw=1, ls=(0, (5, 3)), label="target")
    for answer in plan.answers:
        if answer.policy.has_no_limit:
            continue
        if answer.point is not None and (value := answer.point.values[target.name]) is not None:
            x = plan.question.gib(answer.point.gpu_blocks)
            color = look_of(answer.policy.name).color
            axes.plot([x], [value], "o", ms=13, mfc="none", mec=color, mew=2, zorder=5)
    axes.set_ylabel(f"{target.name}{' (s)' if target.at_most else ''}")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(color=FAINT, alpha=0.25)
    _limit(axes, plan, target)


def _limit(axes: Axes, plan: Plan, target: Target) -> None:
    """A few times the target at most: where latency explodes, how far is of no interest."""
    values = [value for line in plan.lines for p in line.points.values() if (value := p.values[target.name])]
    if target.at_most and values and max(values) > 6 * target.bound:
        axes.set_ylim(0, 6 * target.bound)
    else:
        axes.set_ylim(bottom=0)


def _draw_bound(axes: Axes, line: Line, target: Target) -> None:
    """What an infinite cache gives, whatever the memory."""
    value = line.points[0].values[target.name]
    if value is not None:
        axes.axhline(
            value, color=look_of(line.policy.name).color, ls=":", label=f"{line.policy.label}: a bound"
        )


def _draw_line(axes: Axes, question: Question, line: Line, target: Target, style: str, name: str) -> None:
    points = [line.points[index] for index in sorted(line.points)]
    known = [(question.gib(p.gpu_blocks), v) for p in points if (v := p.values[target.name]) is not None]
    if known:
        look = look_of(line.policy.name)
        xs, ys = zip(*known, strict=True)
        axes.plot(xs, ys, ls=style, color=look.color, marker=look.marker, ms=4, label=name)


def _answer_row(question: Question, answer: Answer) -> list[str]:
    point = answer.point
    if answer.policy.has_no_limit:
        values = [_value(target, answer.gpu_line.points[0]) for target in question.targets]
        return [f"{answer.policy.label} (a bound)", "no limit", "", "", "", *values, "", "", "", ""]
    if point is None:
        most = answer.gpu_line.sizes[-1][0]
        row = [answer.policy.label, f"more than {question.gib(most):.2f}", f"> {most:,}", "", ""]
        return [*row, *("" for _ in question.targets), "", "", "", ""]
    sizes = [point.gpu_blocks, point.host_blocks]
    row = [
        answer.policy.label,
        *(text for size in sizes for text in (f"{question.gib(size):.2f}", f"{size:,}")),
    ]
    row += [_value(target, point) for target in question.targets]
    for line in (answer.gpu_line, answer.host_line):
        row += [_verdict(question, neighbour) for neighbour in (line.neighbours() if line else (None, None))]
    return row


def _verdict(question: Question, point: Point | None) -> str:
    """Whether the targets are met there, with the first measure that misses."""
    if point is None:
        return ""
    missed = [target for target in question.targets if not target.is_met(point.values[target.name])]
    shown = missed[0] if missed else question.targets[0]
    return f"{'missed' if missed else 'met'}: {_value(shown, point)}"


def _value(target: Target, point: Point) -> str:
    value = point.values[target.name]
    return "failed" if value is None else f"{value:.5g}{' s' if target.at_most else ''}"


def _curve_rows(question: Question, line: Line) -> list[list[str]]:
    if line.policy.has_no_limit:
        point = line.points[0]
        values = (_value(target, point) for target in question.targets)
        return [[line.policy.label, "", "no limit", "", "", "", *values, "yes" if point.met else "no"]]
    host = "searched" if line.host_ratio is None else f"{line.host_ratio:g}×"
    return [
        [
            line.policy.label,
            host,
            f"{question.gib(point.gpu_blocks):.2f}",
            f"{point.gpu_blocks:,}",
            f"{question.gib(point.host_blocks):.2f}",
            f"{point.host_blocks:,}",
            *(_value(target, point) for target in question.targets),
            "yes" if point.met else "no",
        ]
        for _, point in sorted(line.points.items())
    ]


def _notes(question: Question, answer: Answer) -> list[str]:
    """What the reader has to know of an answer beside its numbers."""
    if answer.policy.has_no_limit:
        end = (
            "meets it" if answer.point else "misses it: no size can do, admit fewer at a time or ask for less"
        )
        return [f"{answer.policy.label}: memory without end, which nobody has, {end}."]
    notes = []
    if answer.policy.name in BOUNDS:
        notes.append(f"{answer.policy.label}: a bound: it knows the future, as nobody does.")
    if answer.exceptions():
        where = ", ".join(
            f"{question.gib(point.gpu_blocks):.2f} GiB (host {question.gib(point.host_blocks):.2f})"
            for point in answer.exceptions()
        )
        notes.append(f"{answer.policy.label}: not monotone. {where} met the target, a larger size did not.")
    if answer.point is not None and answer.gpu_line.search.answer() == 0:
        notes.append(f"{answer.policy.label}: the smallest GPU tier that holds the longest call is enough.")
    return notes


def _facts(plan: Plan) -> dict[str, Any]:
    question = plan.question
    return {
        "trace": str(question.trace.path),
        "profile": question.profile_name,
        "concurrency": question.concurrency,
        "seeds": list(question.seeds),
        "targets": [target.text() for target in question.targets],
        "num_cells": plan.num_cells,
        "block_bytes": question.block_bytes,
        "answers": [_answer_facts(question, answer) for answer in plan.answers],
    }


def _answer_facts(question: Question, answer: Answer) -> dict[str, Any]:
    lines: Sequence[tuple[str, Line | None]] = (("gpu", answer.gpu_line), ("host", answer.host_line))
    if answer.policy.has_no_limit:
        point = answer.gpu_line.points[0]
        return {"policy": answer.policy.label, "has_no_limit": True, "met": point.met, **point.values}
    found: dict[str, Any] = {"policy": answer.policy.label, **_point_facts(question, answer.point)}
    for name, line in lines:
        below, above = line.neighbours() if line else (None, None)
        found[f"one_step_less_{name}"] = _point_facts(question, below) or None
        found[f"one_step_more_{name}"] = _point_facts(question, above) or None
    found["exceptions"] = [_point_facts(question, point) for point in answer.exceptions()]
    return found


def _point_facts(question: Question, point: Point | None) -> dict[str, Any]:
    if point is None:
        return {}
    return {
        "gpu_blocks": point.gpu_blocks,
        "gpu_gib": question.gib(point.gpu_blocks),
        "host_blocks": point.host_blocks,
        "host_gib": question.gib(point.host_blocks),
        "met": point.met,
        **point.values,
    }
