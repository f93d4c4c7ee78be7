"""The folded sections of a report: the course, misses, prefetch, the next agent, what was run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from pbkv.analysis.ages import ages
from pbkv.analysis.agreement import Agreement, agreement_figure
from pbkv.analysis.bars import Row, misses, prefetches
from pbkv.analysis.call_graph import call_graph
from pbkv.analysis.distributions import age_panels
from pbkv.analysis.figures import course_of_run
from pbkv.analysis.html import Child, Html, element
from pbkv.analysis.labels import shared
from pbkv.analysis.metrics import MISS_REASONS
from pbkv.analysis.numbers import next_agent, own_evictions, prefetch_of
from pbkv.analysis.parts import folded, note, picture, table
from pbkv.analysis.summary import CellSummary
from pbkv.analysis.view import View
from pbkv.analysis.worlds import traces_of
from pbkv.traces.errors import ConfigError


def folded_sections(view: View) -> Html:
    """All that a world has, each under its title."""
    found = [_course(view), _misses(view), _prefetch(view), _next_agent(view), _what_was_run(view)]
    return element("div", [part for part in found if part is not None], class_="folded")


def agreement_section(found: Sequence[Agreement]) -> list[Html]:
    """Simulated against replayed; nothing where no cell was both."""
    if not found:
        return []
    header = ["policy", "GPU blocks", "of", "latency simulated s", "replayed s", "replayed / simulated"]
    header += ["TTFT, ratio", "hit ratio, ratio"]
    return [
        element("h2", "Simulated against replayed"),
        table(header, [_agreement_row(agreement) for agreement in found], [True, False, True] + [False] * 5),
        note("Ratios are paired by workflow, ± half the 95 % interval; 1 is full agreement."),
        picture(partial(agreement_figure, found), "Latency of each workflow, replayed over simulated"),
    ]


def _agreement_row(agreement: Agreement) -> list[Child]:
    setting, (simulated, replayed) = agreement.simulated.setting, agreement.means["jct_s"]
    ratios: list[Child] = []
    for measure in ("jct_s", "ttft_s", "hit_ratio"):
        ratio = agreement.ratios[measure]
        half = "" if ratio is None or ratio.half is None else f" ± {ratio.half:.3f}"
        ratios.append("–" if ratio is None else f"{ratio.mean:.3f}{half}")
    texts = [
        setting.label,
        f"{setting.gpu_blocks:,}",
        agreement.name,
        f"{simulated:,.2f}",
        f"{replayed:,.2f}",
    ]
    return [*texts, *ratios]


def _course(view: View) -> Html | None:
    numbers = [cell.cell for cell in view.first_cells]
    draw = partial(course_of_run, view.world.run, cells=numbers)
    try:
        drawn = picture(draw, "Hit ratio, occupancy and use of the link over simulated time")
    except ConfigError:  # a run without samples
        return None
    return folded("Course of the run", "hit ratio, occupancy, link", drawn)


def _misses(view: View) -> Html | None:
    rows = [
        Row(cell.setting.label, cell.setting.policy, missed)
        for cell in view.at(view.focus)
        if (missed := _missed(cell))
    ]
    where = shared([view.focus.load])
    alt = "Shares of prompt tokens missed, by reason and policy"
    drawn: list[Child] = [picture(partial(misses, rows, subtitle=where), alt)] if rows else []
    found = {cell.setting.policy: ages(view.world.run, cell) for cell in view.first_cells}
    if any(found.values()):
        alt = "Ages of cached prefixes when evicted, when found and when missed, by policy"
        drawn.append(picture(partial(age_panels, found, subtitle=where), alt, _AGES))
    own = {policy: share for policy in found if (share := own_evictions(view, policy)) is not None}
    if own:
        listed = ", ".join(f"{policy} {100 * share:.0f} %" for policy, share in own.items())
        drawn.append(
            note(f"Evicted for the need of the same workflow, of the calls that missed so: {listed}.")
        )
    if not drawn:  # a server says nothing of what it evicted
        return None
    return folded("What was missed, and why", "reasons, ages of what was evicted and found", drawn)


_AGES = (
    "Evicted: blocks as their last copy went, since their last use. Found: calls that found something, "
    "since their workflow's last call ended. Missed: calls that missed something evicted, since it went. "
    "Young entries among the evicted are no fault as such (LRU always takes the oldest): what counts is how "
    "much is missed, and how soon after."
)


def _missed(cell: CellSummary) -> dict[str, float]:
    """Of the prompt tokens, the share of each reason; empty where one is not known."""
    ratios = {name: getattr(cell, f"{name}_ratio") for name in MISS_REASONS}
    return {} if None in ratios.values() else {name: ratio.mean for name, ratio in ratios.items()}


def _prefetch(view: View) -> Html | None:
    uses = {cell.setting.policy: prefetch_of(view, cell.setting.policy) for cell in view.first_cells}
    rows = [Row(policy, policy, use) for policy, use in uses.items() if use]
    if not rows:
        return None
    draw = partial(prefetches, rows, subtitle=shared([view.focus.load]))
    drawn = picture(draw, "Bytes of prefetches that were useful, late, wasted or cancelled")
    return folded("Prefetch", "useful, late and wasted copies ahead of need", drawn)


def _next_agent(view: View) -> Html:
    found = next_agent(view)
    drawn = picture(
        partial(call_graph, found["handovers"], subtitle=view.world.name), "Probabilities of the next agent"
    )
    return folded(
        "Who calls next", "call graph, and how predictable it is", element("p", _accuracy(found)), drawn
    )


def _accuracy(found: Mapping[str, Any]) -> str:
    entropy = f"Given the current agent, {found['entropy_bits']:.2f} bits of the next one are open."
    if found["markov_3_accuracy"] is None:
        return f"{entropy} Too few workflows, or one agent alone: no accuracy is given."
    first, third = 100 * found["markov_1_accuracy"], 100 * found["markov_3_accuracy"]
    accuracy = f"A Markov predictor names the next agent in {first:.0f} % of cases (order 1) or {third:.0f} %"
    used = f" Policies that predict used {found['predictor']}." if found["predictor"] else ""
    return f"{entropy} {accuracy} (order 3), tested on workflows that it did not learn from.{used}"


def _what_was_run(view: View) -> Html:
    config, world = view.world.configs[0], view.world
    rows: list[tuple[str, Child]] = [("runs", ", ".join(map(str, world.paths)))]
    rows += [("trace", _trace_in_words(trace)) for trace in traces_of(config)]
    rows += [("engine", world.engine), ("pbkv", str(config.get("pbkv_version", "unknown")))]
    versions = config.get("versions")
    if isinstance(versions, dict):
        rows.append(("versions", ", ".join(f"{name} {version}" for name, version in versions.items())))
    rows += [("command", str(run["command"])) for run in world.configs if run.get("command")]
    rows += [("made", str(run["created_at"])) for run in world.configs if run.get("created_at")]
    if any(run.get("complete") is False for run in world.configs):
        rows.append(("note", "at least one run was interrupted: only its whole cells are here"))
    if world.num_repeated:
        rows.append(("note", f"{world.num_repeated} cells were there more than once: the last counts"))
    whole = {name: config[name] for name in ("settings", "profile") if isinstance(config.get(name), dict)}
    return folded(
        "What was run",
        "trace, versions, commands, settings, hardware profile",
        _table_of_text(rows),
        [[element("h3", name.capitalize()), _listed(value)] for name, value in whole.items()],
    )


def _trace_in_words(trace: Mapping[str, Any]) -> str:
    return f"{trace.get('path')} · digest {trace.get('digest') or 'unknown'}"


def _table_of_text(rows: Sequence[tuple[str, Child]]) -> Html:
    body = [
        element("tr", element("td", name, class_="left"), element("td", value, class_="left text"))
        for name, value in rows
    ]
    return element("div", element("table", element("tbody", body)), class_="wide")


def _listed(values: Mapping[str, Any]) -> Html:
    """Every setting with its value, in columns."""
    pairs = [
        element("div", element("dt", name.replace("_", " ")), element("dd", text))
        for name, text in _flat(values).items()
    ]
    return element("dl", pairs, class_="listed")


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{before}{name}: ")
        elif isinstance(value, list):
            flat[before + name] = ", ".join(map(str, value)) or "–"
        else:
            flat[before + name] = "–" if value is None else str(value)
    return flat
