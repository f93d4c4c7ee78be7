"""The paper's tables and plots as Markdown tables: ours with its interval, the paper's, the difference."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from pbkv.analysis.intervals import Interval, mean_interval
from pbkv.analysis.table import markdown
from pbkv.paper import published
from pbkv.paper.experiments import CONCURRENCIES, FAULTS, FAULTY_POLICIES, Arm, arm_of, faulty_arm
from pbkv.paper.published import APPLICATIONS, END_TO_END, HOVER, MODEL_32B
from pbkv.paper.run import Results
from pbkv.study.cells import Row


def end_to_end(results: Results, model: str) -> str:
    """Table 1 or 2: hits, and latency and TTFT as multiples of LRU's. ``model`` may be NAME@MS (`Arm`)."""
    rows = []
    for app in APPLICATIONS:
        papers = END_TO_END[model.partition("@")[0]][app.workload]
        lru = results.of(_arm(app.workload, model, app.concurrency, "lru"))
        if not lru:
            continue
        for policy, paper in papers.items():
            ours = results.of(_arm(app.workload, model, app.concurrency, policy))
            if not ours:
                continue
            hit = _mean(100 * row["gpu_hit_ratio"] for row in ours)
            latency = _speedup(lru, ours, "jct_s")
            ttft = _speedup(lru, ours, "ttft_s")
            rows.append(
                (
                    f"{app.title}, {app.concurrency}",
                    policy,
                    _text(hit, 1),
                    f"{paper.hit:.1f}",
                    _difference(hit, paper.hit),
                    _text(_mean(row["jct_s"] for row in ours), 0),
                    _text(latency, 2),
                    f"{papers['lru'].latency_s / paper.latency_s:.2f}",
                    _text(ttft, 2),
                    f"{papers['lru'].ttft_s / paper.ttft_s:.2f}",
                )
            )
    hits = ("workload, concurrent", "policy", "GPU hit %", "paper", "difference")
    times = ("latency s", "LRU's latency over it", "paper", "LRU's TTFT over it", "paper")
    return markdown((*hits, *times), rows)


def over_kvflow(results: Results) -> str:
    """On the static workload: KVFlow's latency over full's."""
    rows = []
    for model, papers in END_TO_END.items():
        app = published.FINANCE
        kvflow, full = (results.of(_arm(app.workload, model, app.concurrency, p)) for p in ("kvflow", "pbkv"))
        if kvflow and full:
            paper = papers[app.workload]["kvflow"].latency_s / papers[app.workload]["pbkv"].latency_s
            rows.append((model, _text(_speedup(kvflow, full, "jct_s"), 2), f"{paper:.2f}"))
    return markdown(("Finance-like, 48", "KVFlow's latency over full's", "paper"), rows)


def accuracy(results: Results) -> str:
    """Table 3, the rows that we have."""
    rows = []
    for kind, paper in published.ACCURACY.items():
        for trained in results.accuracy:
            cells = [f"{trained[kind][step]:.3f} ({paper[step]:.3f})" for step in range(3)]
            rows.append((kind, *cells))
    return markdown(("top-1 accuracy (paper)", "step 1", "step 2", "step 3"), rows)


def learning_curve(results: Results) -> str:
    rows = []
    for size, trained in sorted(results.learning_curve.items()):
        first, second, third = (f"{trained[0][step]:.3f}" for step in range(3))
        papers = [f" ({accuracy:.3f})" for accuracy in published.BY_SIZE.get(size, ())] or ["", ""]
        rows.append((f"{size:,}", first + papers[0], second, third + papers[1]))
    return markdown(("training workflows (paper)", "step 1", "step 2", "step 3"), rows)


def overheads(results: Results) -> str:
    """Table 4: ours is Python on this machine's CPU, the paper's SGLang with a GPU beside it."""
    rows = []
    for kind, (mean_s, p99_s) in published.OVERHEADS_S.items():
        ours = results.overheads.get(kind, {})
        found = [f"{1e3 * ours[name]:.4f}" if ours.get(name) else "" for name in ("mean_s", "p99_s")]
        num = f"{ours['num']:,}" if ours else ""
        rows.append((kind, num, *found, f"{1e3 * mean_s:.4f}", f"{1e3 * p99_s:.4f}"))
    return markdown(("ms", "decisions", "mean", "p99", "paper, mean", "paper, p99"), rows)


def by_concurrency(results: Results) -> str:
    rows = []
    for at in CONCURRENCIES:
        cells = []
        for policy, paper in published.BY_CONCURRENCY.items():
            hit = _hit(results, arm_of(concurrency=at, policy=policy))
            cells += [_text(hit, 1), f"{paper[at]:.1f}" if at in paper else "out of memory"]
        rows.append((str(at), *cells))
    header = [name for policy in published.BY_CONCURRENCY for name in (policy, "paper")]
    return markdown(("concurrent", *header), rows)


def by_value(results: Results, arms: Iterable[tuple[str, Arm, float]], name: str) -> str:
    """One row an arm: its hits beside the paper's, and its latency over the first arm's."""
    rows, first = [], None
    for label, arm, paper in arms:
        ours = results.of(arm)
        first = first or ours
        hit = _hit(results, arm)
        times = _text(_speedup(first, ours, "jct_s"), 3) if ours else ""
        rows.append((label, _text(hit, 1), f"{paper:.1f}", _difference(hit, paper), times))
    header = (name, "GPU hit %", "paper", "difference", f"latency: that of {rows[0][0]} over it")
    return markdown(header, rows)


def by_predictor(results: Results) -> str:
    rows = []
    lru = results.of(arm_of(policy="lru"))
    arms = [("lae", ""), *((p, who) for who in ("markov:3", "graph", "oracle") for p in ("pbkv-he", "pbkv"))]
    for policy, who in arms:
        ours = results.of(arm_of(policy=policy, predictor=who or "graph"))
        ratios = _mean(
            row["gpu_hit_ratio"] / base["gpu_hit_ratio"] for base, row in zip(lru, ours, strict=True)
        )
        paper = published.BY_PREDICTOR.get((policy, who))
        rows.append((policy, who, _text(ratios, 2), "" if paper is None else f"{paper:.2f}"))
    return markdown(("policy", "predictor", "GPU hits over LRU's", "paper"), rows)


def by_faults(results: Results) -> str:
    """Latency under each fault as a multiple of the same policy's without.

    Unknown tool times are no row: no policy reads what the client says of them (TTL and MORI measure).
    """
    rows = []
    for name in FAULTS:
        cells = []
        for policy in FAULTY_POLICIES:
            sound, faulty = (results.of(faulty_arm(policy, fault)) for fault in ("none", name))
            cells.append(_text(_speedup(faulty, sound, "jct_s"), 3))
        rows.append((name, *cells))
    return markdown(("latency over that without faults", *FAULTY_POLICIES), rows)


def prefetches(results: Results) -> str:
    """What became of the bytes that full and aggressive copied up ahead."""
    rows = []
    arms = [
        (f"{app.title}, {app.concurrency}, full", _arm(app.workload, MODEL_32B, app.concurrency, "pbkv"))
        for app in APPLICATIONS
    ]
    arms.append((f"{HOVER.title}, {HOVER.concurrency}, aggressive", arm_of(policy="pbkv-aggressive")))
    for label, arm in arms:
        if ours := results.of(arm):
            cells = [
                _text(_mean(row[f"{kind}_bytes"] / 1e9 for row in ours), 2)
                for kind in ("started", "useful", "late", "wasted", "cancelled")
            ]
            pure = _mean(100 * row["num_pure_decodes"] / row["num_iterations"] for row in ours)
            delayed = _mean(row["num_delayed_loads"] for row in ours)
            rows.append((label, *cells, _text(delayed, 1), _text(pure, 0)))
    header = ("GB a run", "started", "useful", "late", "wasted", "cancelled")
    return markdown((*header, "loads delayed", "pure decode, % of iterations"), rows)


def _arm(workload: str, model: str, concurrency: int, policy: str) -> Arm:
    return arm_of(workload=workload, profile=model, concurrency=concurrency, policy=policy)


def _hit(results: Results, arm: Arm) -> Interval | None:
    return _mean(100 * row["gpu_hit_ratio"] for row in results.of(arm))


def _speedup(base: Sequence[Row], ours: Sequence[Row], name: str) -> Interval | None:
    """``base`` over ``ours``, seed by seed."""
    return _mean(one[name] / other[name] for one, other in zip(base, ours, strict=True))


def _mean(values: Iterable[float]) -> Interval | None:
    return mean_interval(np.array(list(values)))


def _text(interval: Interval | None, decimals: int) -> str:
    if interval is None:
        return ""
    half = "" if interval.half is None else f" ± {interval.half:.{decimals}f}"
    return f"{interval.mean:.{decimals}f}{half}"


def _difference(interval: Interval | None, paper: float) -> str:
    return "" if interval is None else f"{interval.mean - paper:+.1f}"
