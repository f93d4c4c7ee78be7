"""Which engine acted on a run's decisions, and how it is said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SIMULATE, REPLAY, OPENAI = "simulate", "replay", "openai"
_WORDS = {SIMULATE: "simulated", REPLAY: "replayed", OPENAI: "sent to a server"}


def engine_of(config: Mapping[str, Any]) -> str:
    """Of run.json: simulate, replay (an engine of ours) or openai (a server); of one without it, simulate."""
    return str(config.get("engine", SIMULATE))


def engine_in_words(config: Mapping[str, Any]) -> str:
    """``simulated``, ``replayed on cpu``, ``sent to a server``."""
    engine, device = engine_of(config), config.get("device")
    where = f" on {device['type']}" if isinstance(device, dict) and device.get("type") else ""
    return f"{_WORDS.get(engine, engine)}{where}"
