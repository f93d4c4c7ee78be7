"""What the tables of shape.py are made of: measures as text, tables as Markdown, what a trace consists of."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from pbkv.analysis.intervals import Interval
from pbkv.analysis.summary import CellSummary
from pbkv.traces.schema import Call, Workflow


def anatomy(workflows: Sequence[Workflow]) -> tuple[float, float, float, float]:
    """Private blocks of a live workflow and of an ended one, share of fixed prompts, seconds of gaps."""
    live, ended, fixed, prompts, gaps_s = list[int](), list[int](), 0, 0, 0.0
    for workflow in workflows:
        private: dict[str, int] = {}
        for call in workflow.calls:
            own = _fixed_tokens(call)
            private[call.agent] = -(-(call.num_prompt_tokens + call.num_output_tokens - own) // 16)
            live.append(sum(private.values()))
            fixed, prompts = fixed + own, prompts + call.num_prompt_tokens
            gaps_s += call.tool_gap_s or 0.0
        ended.append(live[-1])
    return sum(live) / len(live), median(ended), fixed / prompts, gaps_s / len(workflows)


def _fixed_tokens(call: Call) -> int:
    kinds = call.segment_kinds or ()
    return sum(n for n, kind in zip(call.segment_tokens, kinds, strict=True) if kind in ("system", "tools"))


def seed_range(runs: Sequence[CellSummary], joined: CellSummary) -> str:
    hits = [100 * known(run.gpu_hit_ratio).mean for run in runs if run.setting == joined.setting]
    return f"{min(hits):.1f} to {max(hits):.1f}"


def with_host(cell: CellSummary) -> str:
    host = 100 * known(cell.host_hit_ratio).mean
    return percent(cell.gpu_hit_ratio) + (f" (+ {host:.1f})" if host >= 0.05 else "")


def load(cell: CellSummary) -> int:
    return cell.setting.concurrency or 0


def known(interval: Interval | None) -> Interval:
    if interval is None:
        raise ValueError("a measure that no call defines")
    return interval


def percent(interval: Interval | None) -> str:
    found = known(interval)
    return f"{100 * found.mean:.1f}" + (f" ± {100 * found.half:.1f}" if found.half is not None else "")


def seconds(interval: Interval | None) -> str:
    mean = known(interval).mean
    return f"{mean:.0f}" if mean >= 100 else f"{mean:.1f}"
