"""The two sides of a comparison: whether they are a pair at all, and in what they differ unasked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pbkv.analysis.engines import SIMULATE, engine_in_words, engine_of
from pbkv.analysis.load import Run
from pbkv.analysis.worlds import flat_rules, traces_of
from pbkv.traces.errors import TraceError

_MOST_NAMED = 6  # of settings that differ


def check_same_traces(one: Run, other: Run) -> None:
    """Raises TraceError for runs of different traces; one whose run.json names none passes."""
    expected, found = (_digests(run) for run in (one, other))
    if expected and found and expected != found:
        raise TraceError(
            other.path, "trace", ", ".join(found), f"the trace of {one.path}: {', '.join(expected)}"
        )


def differing_engines(a: Run, b: Run) -> str:
    """ "A was simulated, B replayed on cpu"; empty where one engine acted on both."""
    if engine_of(a.config) == engine_of(b.config):
        return ""
    return f"A was {engine_in_words(a.config)}, B {engine_in_words(b.config)}"


def notes(a: Run, b: Run) -> list[str]:
    """What a reader of the comparison has to know: other engines, hardware and rules."""
    found = []
    if engines := differing_engines(a, b):
        error = (
            "the simulator's error" if SIMULATE in map(engine_of, (a.config, b.config)) else "the engines'"
        )
        found.append(f"{engines}: a difference may be {error} (`pbkv fidelity` measures it)")
    if differing := _differing_rules(a, b):
        more = f" and {len(differing) - _MOST_NAMED} more" if len(differing) > _MOST_NAMED else ""
        found.append(f"A and B differ in {', '.join(differing[:_MOST_NAMED])}{more}")
    return found


def _differing_rules(a: Run, b: Run) -> list[str]:
    """Settings that both have with different values, and the hardware: ``unknown_gap_s 0 / 1``."""
    mine, theirs = (_rules(run.config) for run in (a, b))
    return [
        f"{name} {mine[name]} / {theirs[name]}" for name in mine if theirs.get(name, mine[name]) != mine[name]
    ]


def _rules(config: Mapping[str, Any]) -> dict[str, Any]:
    profile = config.get("profile")
    name = profile.get("name") if isinstance(profile, dict) else None
    return {**flat_rules(config), **({} if name is None else {"profile": name})}


def _digests(run: Run) -> list[str]:
    return sorted(str(trace["digest"])[:12] for trace in traces_of(run.config) if trace.get("digest"))
