"""Writes a calibration as a hardware profile: the TOML file that ``simulate --profile`` takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from pbkv.replay.calibrate import Calibration
from pbkv.traces.temporary import check_free_file, replacing


def write_profile(
    path: Path,
    found: Calibration,
    *,
    kv_bytes_per_token: int,
    kv_memory_bytes: int,
    max_batched_tokens: int,
    source: Mapping[str, str],
    force: bool = False,
) -> None:
    """Write it under a temporary name and rename it. ``source`` says in words what was measured.

    Raises ConfigError if ``path`` is taken or does not end in .toml.
    """
    check_free_file(path, force)
    text = _text(found, kv_bytes_per_token, kv_memory_bytes, max_batched_tokens, source)
    with replacing(path) as file:
        file.write_text(text, encoding="utf-8")


def _text(
    found: Calibration, bytes_per_token: int, memory_bytes: int, tokens: int, source: Mapping[str, str]
) -> str:
    fit, link = found.iterations, found.link
    rates = {
        f"{way}_bytes_per_s{'_contended' if busy else ''}": rate
        for (way, busy), rate in link.bytes_per_s.items()
    }
    measured = {
        "fitted": _errors(asdict(found.fitted)),
        "held_out": _errors(asdict(found.held_out)),
        "copies": _errors(asdict(found.copies)),
    }
    cost = {name: getattr(fit, name) for name in ("t0_s", "a_p", "a_g", "a_d", "a_s")}
    tables: dict[str, Mapping[str, object]] = {
        "cost": cost | {"lin": [list(knot) for knot in fit.lin]},
        "kv": {"bytes_per_token": bytes_per_token, "memory_bytes": memory_bytes},
        "link": {"latency_s": link.latency_s} | rates,
        "engine": {"max_batched_tokens": tokens},
        "source": {**source, **measured},
    }
    return "# Calibrated: written by `pbkv calibrate`.\n" + "".join(map(_table, tables, tables.values()))


def _table(name: str, values: Mapping[str, object]) -> str:
    """Numbers, texts and lists of numbers are written alike in JSON and in TOML."""
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    return "\n".join(["", f"[{name}]", *lines, ""])


def _errors(errors: Mapping[str, float]) -> str:
    return (
        f"MAPE {errors['mape']:.2%}, p95 {errors['p95']:.2%}, bias {errors['bias']:+.2%}"
        f" over {errors['number']}"
    )
