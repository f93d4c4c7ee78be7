"""What `pbkv fidelity` shows: Markdown, JSON and a figure of a comparison. Missed bars stay in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pbkv.analysis.fidelity import MEASURES, PAIRED, Compared, Fidelity, Measured, cell_in_words
from pbkv.analysis.labels import distinct, shared
from pbkv.analysis.style import FAINT, GRID, INK, Target, look_of, new_figure, save
from pbkv.analysis.table import markdown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pbkv.analysis.decision_logs import LogMatch
    from pbkv.analysis.ranking import Ranking

_NAMES = {
    "ttft_s": "TTFT",
    "ttft_p99_s": "TTFT p99",
    "tpot_s": "TPOT",
    "jct_s": "workflow latency",
    "makespan_s": "run length",
}
_MARKS = {"ttft_s": "o", "ttft_p99_s": "v", "tpot_s": "s", "jct_s": "D", "makespan_s": "P"}
_COLORS = {
    "ttft_s": "#56B4E9",
    "ttft_p99_s": "#0072B2",
    "tpot_s": "#E69F00",
    "jct_s": "#222222",
    "makespan_s": "#CC79A7",
}
_HIGHEST_SHOWN = 50.0  # per cent: errors beyond are drawn at the edge, with their number
_NOTHING = "–"


def figure_height(num_cells: int) -> float:
    """Of `draw`, in inches."""
    return 2.2 + 0.45 * num_cells


def to_markdown(found: Fidelity) -> str:
    """The comparison as tables, and in lines what is missing."""
    labels = _labels(found.cells)
    parts = [
        f"Simulated against replayed: {len(found.cells)} cells, {_repeats(found.num_repeats)}"
        f" ({shared([cell.setting for cell in found.cells])}).",
        "## Errors\n\n" + _errors(found.cells, labels),
        "## Call by call\n\n" + _calls(found.cells, labels),
    ]
    if any(cell.logs for cell in found.cells):
        parts.append("## Decisions, entry by entry\n\n" + _logs(found.cells, labels))
    if found.rankings:
        parts.append("## Ranking by workflow latency\n\n" + _rankings(found.rankings, found.baseline))
    parts.append(_verdict(found))
    parts += [f"- not compared: {words} is not in {where}" for words, where in found.unmatched]
    return "\n\n".join(parts) + "\n"


def to_dict(found: Fidelity) -> dict[str, Any]:
    """For JSON: everything, with null for what is not defined."""
    raw = {
        "num_repeats": found.num_repeats,
        "baseline": found.baseline,
        "cells": [_cell_dict(cell) for cell in found.cells],
        "rankings": [_ranking_dict(ranking) for ranking in found.rankings],
        "unmatched": [{"cell": words, "missing_in": where} for words, where in found.unmatched],
    }
    plain: dict[str, Any] = _plain(raw)
    return plain


def draw(found: Fidelity, target: Target) -> None:
    """Errors by cell beside their bars, and workflow latency in both worlds."""
    cells, labels = found.cells, _labels(found.cells)
    subtitle = f"{shared([cell.setting for cell in cells])} · {_repeats(found.num_repeats)}"
    with new_figure(figure_height(len(cells)), "The simulator held to the replay", subtitle) as figure:
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
        _draw_errors(left, cells)
        _draw_latencies(right, cells)
        left.set_yticks(range(len(cells)), labels)
        left.set_ylim(len(cells) - 0.45, -0.55)
        handles, names = left.get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower left", ncols=len(names), columnspacing=1.1)
        save(figure, target)


# ---------------------------------------------------------------------- tables


def _errors(cells: Sequence[Compared], labels: Sequence[str]) -> str:
    header = ["cell", *(f"{_NAMES[name]}, s" for name in MEASURES), "bars missed"]
    rows = [
        [label, *(_error_text(cell, name) for name in MEASURES), _missed_text(cell)]
        for cell, label in zip(cells, labels, strict=True)
    ]
    bars = ", ".join(f"{_NAMES[name]} {bar:.0%}" for name, bar in cells[0].bars.items())
    note = f"Simulated → replayed (error of the mean; ± half the spread of the repeats). Bars: {bars}."
    return f"{markdown(header, rows)}\n\n{note}"


def _error_text(cell: Compared, name: str) -> str:
    found = cell.measures[name]
    simulated, replayed = _mean(found.simulated), _mean(found.replayed)
    if not math.isfinite(simulated) or not math.isfinite(replayed):
        return _NOTHING
    spread = "" if found.spread is None else f" ± {found.spread / 2:.1%}"
    mark = " ✗" if cell.reaches(name) is False else ""
    return f"{simulated:.4g} → {replayed:.4g}{spread} ({found.error:+.1%}){mark}"


def _missed_text(cell: Compared) -> str:
    missed = [_NAMES[name] for name in MEASURES if cell.reaches(name) is False]
    stopped = [f"stopped: {cell.stopped}"] if cell.stopped else []
    return ", ".join([*missed, *stopped]) or "none"


def _calls(cells: Sequence[Compared], labels: Sequence[str]) -> str:
    header = ["cell", "calls", "unmatched", *(f"{_NAMES[name]} error" for name in PAIRED)]
    header += ["equal hits", "hit tokens"]
    rows = [
        [
            label,
            f"{cell.num_calls:,}",
            f"{cell.num_unmatched_calls:,}",
            *(_percent(cell.paired_errors[name]) for name in PAIRED),
            _percent(cell.equal_hits_share),
            " → ".join(_tokens(number) for number in cell.hit_tokens),
        ]
        for cell, label in zip(cells, labels, strict=True)
    ]
    note = "Error: Σ|simulated − replayed| / Σ replayed over calls (latency: workflows)."
    return f"{markdown(header, rows)}\n\n{note}"


def _logs(cells: Sequence[Compared], labels: Sequence[str]) -> str:
    header = ["cell", "log", "entries", "first that differs", "equal", "equal in any order", "there"]
    rows = [
        [label, name, *_log_texts(matches)]
        for cell, label in zip(cells, labels, strict=True)
        for name, matches in cell.logs.items()
    ]
    return markdown(header, rows, [True, True, False, False, False, False, True])


def _log_texts(matches: Sequence[LogMatch]) -> list[str]:
    """Of the repeat that parts first."""
    worst = min(matches, key=lambda m: math.inf if m.first_difference is None else m.first_difference)
    there = f"{worst.simulated_entry or 'end'} / {worst.replayed_entry or 'end'}"
    return [
        f"{worst.num_simulated:,} → {_mean([m.num_replayed for m in matches]):,.0f}",
        _NOTHING if worst.first_difference is None else f"{worst.first_difference:,}",
        _percent(_mean([m.equal_share for m in matches])),
        _percent(_mean([m.common_share for m in matches])),
        _NOTHING if worst.first_difference is None else there,
    ]


def _rankings(rankings: Sequence[Ranking], baseline: str) -> str:
    labels = distinct([ranking.setting for ranking in rankings], besides=["policy"])
    header = ["cells", "simulated", "replayed", "identical", "Kendall τ", "of each repeat"]
    header.append(f"speedup over {baseline}: simulated → replayed")
    rows = [
        [
            label or "all",
            " < ".join(ranking.simulated),
            " < ".join(ranking.replayed),
            "yes" if ranking.is_identical else "no ✗",
            f"{ranking.kendall_tau:.2f}",
            ", ".join(f"{tau:.2f}" for tau in ranking.repeat_taus),
            _speedup_text(ranking),
        ]
        for ranking, label in zip(rankings, labels, strict=True)
    ]
    return markdown(header, rows, [True, True, True, True, False, False, True])


def _speedup_text(ranking: Ranking) -> str:
    return ", ".join(
        f"{one.policy} {one.simulated:.3f} → {one.replayed:.3f} [{one.lowest:.3f}, {one.highest:.3f}]"
        for one in ranking.speedups
    )


def _verdict(found: Fidelity) -> str:
    reached = ", ".join(f"{_NAMES[name]} {_reached_text(found.cells, name)}" for name in MEASURES)
    identical = sum(ranking.is_identical for ranking in found.rankings)
    return f"Bars reached: {reached}; rankings identical: {identical} of {len(found.rankings)}."


def _reached_text(cells: Sequence[Compared], name: str) -> str:
    known = [cell.reaches(name) for cell in cells if cell.reaches(name) is not None]
    return f"{sum(map(bool, known))} of {len(known)}" if known else "not known"


# ---------------------------------------------------------------------- figure


def _draw_errors(axes: Axes, cells: Sequence[Compared]) -> None:
    for place, name in enumerate(MEASURES):
        label: str | None = f"{_NAMES[name]} (bar ±{cells[0].bars[name]:.0%})"
        for row, cell in enumerate(cells):
            error = 100 * cell.measures[name].error
            if math.isfinite(error):
                at = row + 0.15 * (place - 2)
                bar = 100 * cell.bars[name]
                axes.plot([-bar, bar], [at, at], color=GRID, lw=5, solid_capstyle="butt", zorder=1)
                _draw_error(axes, error, at, name, label)
                label = None
    axes.axvline(0, color=FAINT, lw=1)
    edge = 1.15 * max(12.0, *(abs(x) for x in axes.get_xlim()))
    axes.set(xlim=(-edge, edge), xlabel="error, simulated against replayed (%)")
    axes.tick_params(axis="y", length=0)


def _draw_error(axes: Axes, error: float, at: float, name: str, label: str | None) -> None:
    shown = max(-_HIGHEST_SHOWN, min(_HIGHEST_SHOWN, error))
    axes.plot([shown], [at], marker=_MARKS[name], color=_COLORS[name], ls="", ms=6, label=label, zorder=3)
    if shown != error:
        axes.annotate(f" {error:+.0f} %", (shown, at), size=8, va="center")


def _draw_latencies(axes: Axes, cells: Sequence[Compared]) -> None:
    """The replay as a bar with the range of its repeats, the simulation as a mark."""
    for row, cell in enumerate(cells):
        found = cell.measures["jct_s"]
        axes.barh(row, _mean(found.replayed), 0.6, color=look_of(cell.setting.policy).color, alpha=0.6)
        if len(found.replayed) > 1:
            axes.plot([min(found.replayed), max(found.replayed)], [row, row], color=INK, lw=2)
        axes.plot([_mean(found.simulated)], [row], marker="D", color=INK, mec="white", ms=7)
    axes.set(xlim=(0, None), xlabel="workflow latency (s)\nbar: replayed, ◆: simulated")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


# ---------------------------------------------------------------------- words and plain values


def _labels(cells: Sequence[Compared]) -> list[str]:
    labels = distinct([cell.setting for cell in cells])
    if len({cell.seed for cell in cells}) > 1:
        labels = [f"{label} · seed {cell.seed}" for label, cell in zip(labels, cells, strict=True)]
    return labels


def _repeats(number: int) -> str:
    return "one replay" if number == 1 else f"{number} replays"


def _percent(share: float) -> str:
    return f"{share:.1%}" if math.isfinite(share) else _NOTHING


def _tokens(number: float) -> str:
    return f"{number:,.0f}" if math.isfinite(number) else _NOTHING


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _cell_dict(cell: Compared) -> dict[str, Any]:
    return {
        "cell": cell_in_words(cell.setting, cell.seed),
        **asdict(cell.setting),
        "seed": cell.seed,
        "stopped": cell.stopped,
        "num_calls": cell.num_calls,
        "num_unmatched_calls": cell.num_unmatched_calls,
        "measures": {name: _measure_dict(cell, name, found) for name, found in cell.measures.items()},
        "paired_errors": dict(cell.paired_errors),
        "equal_hits_share": cell.equal_hits_share,
        "hit_tokens": {"simulated": cell.hit_tokens[0], "replayed": cell.hit_tokens[1]},
        "logs": {name: [asdict(found) for found in matches] for name, matches in cell.logs.items()},
    }


def _measure_dict(cell: Compared, name: str, found: Measured) -> dict[str, Any]:
    about = {"error": found.error, "spread": found.spread, "bar": cell.bars[name]}
    return {**asdict(found), **about, "is_reached": cell.reaches(name)}


def _ranking_dict(ranking: Ranking) -> dict[str, Any]:
    speedups = [{**asdict(one), "error": one.error} for one in ranking.speedups]
    return {**asdict(ranking), "is_identical": ranking.is_identical, "speedups": speedups}


def _plain(value: Any) -> Any:
    """The same with None for floats that JSON does not know."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
