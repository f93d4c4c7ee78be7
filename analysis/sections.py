"""The open sections of a report: the verdict, the policies, how long it takes, how much memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from pbkv.analysis.bars import differences
from pbkv.analysis.distributions import Distribution, distribution
from pbkv.analysis.figures import (
    hit_ratio_by_capacity,
    hit_ratio_by_concurrency,
    latency_by_capacity,
    latency_by_concurrency,
    policy_overview,
)
from pbkv.analysis.html import Child, Html, element
from pbkv.analysis.intervals import Interval
from pbkv.analysis.labels import distinct, shared
from pbkv.analysis.numbers import latency_quantiles, ttft_quantiles
from pbkv.analysis.parts import aside, facts, note, picture, policy_name, table
from pbkv.analysis.points import KNEE_SHARE, Point
from pbkv.analysis.summary import CellSummary
from pbkv.analysis.table import caption, text_columns
from pbkv.analysis.verdict import MAX_LOST_RATIO, MIN_GAIN, Verdict
from pbkv.analysis.view import View
from pbkv.analysis.words import headline, sentence
from pbkv.cache.named import BOUNDS

_MOST_OPEN_LOADS = 16  # a longer list of loads is folded


def verdict_section(view: View) -> list[Html]:
    """The verdict in words, a few facts, and the verdict on each load where there are several."""
    focus = view.focus
    most = "Most is gained at" if focus.word == "policy-bound" else "At"
    where = "" if len(view.verdicts) == 1 else f"{most} {_load_in_words(focus)}: "
    card = element(
        "div",
        element("strong", headline(view.verdicts)),
        element("p", f"{where}{sentence(focus)}"),
        element("p", _memory_in_words(view)) if view.knees else None,
        class_=f"verdict {_css(focus.word)}",
    )
    parts = [card, facts(_facts(view))]
    if len(view.verdicts) > 1:
        parts.append(_loads(view))
    return [*parts, aside("How the verdict is found", _rule())]


def policies_section(view: View) -> list[Html]:
    """The table of policies at the focus, against the baseline, and all settings behind it."""
    cells = view.at(view.focus)
    parts = [element("h2", "Policies"), note(_where(view)), _policy_table(view, cells), note(caption(cells))]
    rows = [
        (cell.setting.label, cell.setting.policy, pairing.ratio)
        for cell in cells
        if (pairing := view.pairings.get((cell.setting, "jct_s"))) is not None and pairing.ratio is not None
    ]
    if rows:
        draw = partial(differences, rows, baseline=view.focus.baseline)
        parts.append(picture(draw, "Change of mean workflow latency by policy, with intervals"))
    draw_overview = partial(policy_overview, view.focus_run)
    parts.append(picture(draw_overview, "Shares of prompt tokens found and missed, and latency, by policy"))
    if len(view.verdicts) > 1:
        parts.append(aside(f"All {len(view.summaries)} settings", _all_settings(view)))
    return parts


def times_section(view: View) -> list[Html]:
    """Distributions of latency and time to first token at the focus."""
    policies = [cell.setting.policy for cell in view.first_cells]
    latencies = [Distribution(policy, policy, latency_quantiles(view, policy)) for policy in policies]
    ttfts = [Distribution(policy, policy, ttft_quantiles(view, policy)) for policy in policies]
    draw_latency = partial(
        distribution, latencies, title="Workflow latency", unit="latency (s)", of="workflows"
    )
    draw_ttft = partial(
        distribution, ttfts, title="Time to first token", unit="time to first token (s)", of="calls"
    )
    return [
        element("h2", "How long it takes"),
        note(_where(view)),
        picture(draw_latency, "Share of workflows that ended within a time, by policy"),
        picture(draw_ttft, "Share of calls whose first token came within a time, by policy"),
    ]


def memory_section(view: View) -> list[Html]:
    """Hit ratio and latency by capacity and by concurrency, where the runs hold several."""
    parts: list[Html] = []
    if len({cell.setting.gpu_blocks for cell in view.along("capacity")}) > 1:
        parts += [element("h2", "How much memory"), *_by_capacity(view)]
    if len({cell.setting.concurrency for cell in view.along("concurrency")}) > 1:
        parts += [element("h2", "How many at a time"), *_by_concurrency(view)]
    return parts


def _by_capacity(view: View) -> list[Html]:
    subtitle = shared([cell.setting for cell in view.along("capacity")], besides=["gpu"])
    hits, infinite = view.lines("capacity", "gpu_hit_ratio")
    times, shortest = view.lines("capacity", "jct_s")
    best_knee = _one_knee(view)
    draw_hits = partial(
        hit_ratio_by_capacity,
        hits,
        subtitle=subtitle,
        infinite_ratio=None if infinite is None else infinite.mean,
        knee=best_knee,
    )
    draw_times = partial(
        latency_by_capacity, times, subtitle=subtitle, infinite_s=None if shortest is None else shortest.mean
    )
    return [
        element("p", _memory_in_words(view)) if view.knees else note("No knee: every step still buys hits."),
        picture(draw_hits, "GPU hit ratio over GPU capacity, one line a policy", _knee_rule(infinite)),
        picture(draw_times, "Mean workflow latency over GPU capacity, one line a policy"),
    ]


def _by_concurrency(view: View) -> list[Html]:
    subtitle = shared([cell.setting for cell in view.along("concurrency")], besides=["load"])
    hits, times = (view.lines("concurrency", measure)[0] for measure in ("gpu_hit_ratio", "jct_s"))
    draw_hits = partial(hit_ratio_by_concurrency, hits, subtitle=subtitle)
    draw_times = partial(latency_by_concurrency, times, subtitle=subtitle)
    return [
        picture(draw_hits, "GPU hit ratio over concurrent workflows, one line a policy"),
        picture(draw_times, "Mean workflow latency over concurrent workflows, one line a policy"),
    ]


def _one_knee(view: View) -> Point | None:
    """The knee to mark: the baseline's."""
    return next((point for point in view.knees if point.policy == view.baseline), None)


def _knee_rule(infinite: Interval | None) -> str:
    top = "the largest capacity" if infinite is None else "an infinite cache"
    share = f"{100 * (1 - KNEE_SHARE):.0f} %"
    return f"Knee: the smallest capacity from which on a policy has at least {share} of the hits of {top}."


def _memory_in_words(view: View) -> str:
    """ "Of the capacities tried, hits stop growing at (GPU blocks): pbkv 18,000, lru 27,000."."""
    found = sorted(view.knees, key=lambda point: point.x)
    if found[0].x == found[-1].x:
        return f"Of the capacities tried, hits stop growing at {found[0].x:,.0f} GPU blocks."
    named = ", ".join(f"{point.policy} {point.x:,.0f}" for point in found)
    return f"Of the capacities tried, hits stop growing at (GPU blocks): {named}."


def _facts(view: View) -> dict[str, str]:
    cells = view.at(view.focus)
    found = {
        "policies": f"{len({cell.setting.policy for cell in view.summaries}):,}",
        "loads": f"{len(view.verdicts):,}",
        "cells": f"{len(view.world.run.cells):,}",
        "workflows a cell": f"{cells[0].num_workflows // len(cells[0].seeds):,}",
        "calls a cell": f"{cells[0].num_calls // len(cells[0].seeds):,}",
    }
    seeds = {len(cell.seeds) for cell in view.summaries}
    return found if seeds == {1} else {**found, "seeds": " or ".join(map(str, sorted(seeds)))}


def _loads(view: View) -> Html:
    """One row a load: the word, the best policy, what is lost."""
    names = distinct([verdict.load for verdict in view.verdicts], besides=["policy"])
    header = ["load", "verdict", "had left the GPU %", "best policy", "its latency against the baseline"]
    rows = [
        [
            name,
            element("span", verdict.word, class_=f"word {_css(verdict.word)}"),
            _percent(verdict.lost_ratio),
            "–" if verdict.best is None else policy_name(verdict.best.policy, verdict.best.policy),
            "–" if verdict.best is None else _change(verdict.best.ratio),
        ]
        for name, verdict in zip(names, view.verdicts, strict=True)
    ]
    made = table(header, rows, [True, True, False, True, False])
    if len(rows) > _MOST_OPEN_LOADS:
        return aside(f"The verdict on each of {len(rows)} loads", made)
    return element("div", element("h3", "By load"), made)


def _rule() -> Html:
    lost, gain = f"{100 * MAX_LOST_RATIO:.0f} %", f"{100 * MIN_GAIN:.0f} %"
    rules = {
        "no pressure": f"at most {lost} of the prompt tokens had left the GPU when they were needed again, "
        f"by the whole interval, or an infinite cache gains less than {gain}, by the whole interval.",
        "policy-bound": f"otherwise, a policy's interval lies wholly below the baseline's latency and its "
        f"mean gain is at least {gain}.",
        "capacity-bound": f"otherwise, every policy's interval says that it gains less than {gain}.",
        "undecided": "the intervals allow for more than one of these, or only one policy was run.",
    }
    return element(
        "div",
        element(
            "p",
            "Latencies are paired by workflow; with n policies compared, each interval is at 1 − 5 % / n.",
        ),
        element("ul", [element("li", element("b", word), ": ", text) for word, text in rules.items()]),
        note("Only the cache is judged: an engine short of compute is under no pressure in this sense."),
    )


def _policy_table(view: View, cells: Sequence[CellSummary]) -> Html:
    header, texts, is_left = text_columns(cells, only_differing=True)
    header.insert(2, f"against {view.focus.baseline}")
    is_left.insert(2, False)
    real = [cell for cell in cells if cell.setting.policy not in BOUNDS and cell.jct_s is not None]
    best = min(real, key=lambda cell: cell.jct_s.mean if cell.jct_s else 0.0, default=None)
    rows: list[list[Child]] = []
    classes: list[str | None] = []
    for cell, row in zip(cells, texts, strict=True):
        pairing = view.pairings.get((cell.setting, "jct_s"))
        change = "–" if pairing is None or pairing.ratio is None else _change(pairing.ratio)
        rows.append([policy_name(cell.setting.policy, cell.setting.label), row[1], change, *row[2:]])
        is_bound = cell.setting.policy in BOUNDS
        classes.append("bound" if is_bound else "best" if cell is best and len(real) > 1 else None)
    parts = [table(header, rows, is_left, classes)]
    if "bound" in classes:
        parts.append(note("In italics: bounds, which know the future or have no limit."))
    return element("div", parts)


def _all_settings(view: View) -> Html:
    header, texts, is_left = text_columns(view.summaries, only_differing=True)
    header.append("against baseline")
    rows = []
    for cell, row in zip(view.summaries, texts, strict=True):
        pairing = view.pairings.get((cell.setting, "jct_s"))
        change = "–" if pairing is None or pairing.ratio is None else _change(pairing.ratio)
        rows.append([policy_name(cell.setting.policy, row[0]), *row[1:], change])
    return table(header, rows, [*is_left, False])


def _where(view: View) -> str:
    """Which load the section shows."""
    words = _load_in_words(view.focus)
    if len(view.verdicts) == 1:
        return words
    return f"{words}: of {len(view.verdicts)} loads, that with most policies and the largest gain"


def _load_in_words(verdict: Verdict) -> str:
    return shared([verdict.load])


def _change(ratio: Interval) -> str:
    half = "" if ratio.half is None else f" ± {100 * ratio.half:.1f}"
    return f"{100 * (ratio.mean - 1):+.1f}{half} %".replace("-", "−")


def _percent(ratio: Interval | None) -> str:
    if ratio is None:
        return "–"
    return f"{100 * ratio.mean:.1f}" + ("" if ratio.half is None else f" ± {100 * ratio.half:.1f}")


def _css(word: str) -> str:
    return word.replace(" ", "-")
