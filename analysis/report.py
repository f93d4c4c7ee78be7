"""The report: runs in, one page out that needs nothing from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pbkv
from pbkv.analysis.agreement import agreements
from pbkv.analysis.engines import engine_in_words
from pbkv.analysis.folded import agreement_section, folded_sections
from pbkv.analysis.html import Child, Html, element, script_data
from pbkv.analysis.numbers import clean, numbers
from pbkv.analysis.page_style import CSS
from pbkv.analysis.parts import note
from pbkv.analysis.sections import memory_section, policies_section, times_section, verdict_section
from pbkv.analysis.view import View, view_of
from pbkv.analysis.words import headline
from pbkv.analysis.worlds import worlds_of
from pbkv.traces.errors import ConfigError
from pbkv.traces.temporary import replacing

DATA_ID = "pbkv-report"


def views_of(paths: Sequence[Path], baseline: str | None = None) -> list[View]:
    """The worlds of the runs at or below ``paths``, looked at.

    Raises TraceError for what is no run, ConfigError for a ``baseline`` that no run has.
    """
    worlds = worlds_of(paths)
    policies = sorted({cell.setting.policy for world in worlds for cell in world.run.cells})
    if baseline is not None and baseline not in policies:
        raise ConfigError("baseline", baseline, f"a policy of the runs: {', '.join(policies)}")
    return [view_of(world, baseline) for world in worlds]


def report_numbers(views: Sequence[View]) -> dict[str, Any]:
    """What the page says, as JSON (`pbkv.analysis.numbers`)."""
    return {
        "pbkv_version": pbkv.__version__,
        "worlds": [numbers(view) for view in views],
        "replayed_against_simulated": [clean(found.to_dict()) for found in agreements(views)],
    }


def report_page(views: Sequence[View], made_at: datetime | None = None) -> str:
    """The whole page; its numbers stand in a data block called DATA_ID."""
    title = views[0].world.name if len(views) == 1 else f"{len(views)} workloads"
    made = f"{made_at or datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        element("title", f"{title} · pbkv report"),
        element("style", CSS),
    )
    sections = [
        element("section", _world(view, len(views) > 1), class_="world", id=f"world-{at}")
        for at, view in enumerate(views)
    ]
    body = element(
        "body",
        element("p", f"pbkv {pbkv.__version__} · report · {made}", class_="kicker"),
        element("h1", title),
        _contents(views),
        sections,
        agreement_section(agreements(views)),
        script_data(json.dumps(report_numbers(views)), DATA_ID),
    )
    return "<!doctype html>\n" + element("html", head, body, lang="en") + "\n"


def write_report(paths: Sequence[Path], output: Path, baseline: str | None = None) -> list[View]:
    """Write the page of the runs at or below ``paths`` to ``output``, which is replaced when it is whole."""
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise ConfigError("output", str(output), "a file in an existing folder")
    views = views_of(paths, baseline)
    page = report_page(views)
    with replacing(output) as file:
        file.write_text(page, encoding="utf-8")
    return views


def _contents(views: Sequence[View]) -> Html | None:
    """Where there are several worlds, the verdict of each."""
    if len(views) == 1:
        return None
    lines = [
        element("li", element("a", view.world.name, href=f"#world-{at}"), f": {headline(view.verdicts)}")
        for at, view in enumerate(views)
    ]
    return element("nav", element("ul", lines), [note(text) for text in engine_notes(views)])


def engine_notes(views: Sequence[View]) -> list[str]:
    """What to say where runs of several engines stand side by side without a cell in common."""
    engines = dict.fromkeys(engine_in_words(view.world.configs[0]) for view in views)
    if len(engines) < 2 or agreements(views):
        return []
    return [
        f"runs of several engines ({', '.join(engines)}) stand side by side, and no cell is in two of them: "
        "their numbers are not to be compared (`pbkv fidelity` wants the same trace, sizes and load)"
    ]


def _world(view: View, is_one_of_many: bool) -> list[Child]:
    return [
        element("h1", view.world.name) if is_one_of_many else None,
        verdict_section(view),
        policies_section(view),
        memory_section(view),
        times_section(view),
        folded_sections(view),
    ]
