"""Options as they are typed, turned into values. Errors name the option."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from pbkv.traces.errors import ConfigError

Traces = Annotated[list[Path], typer.Argument(help="Trace files, in any format that `traces import` reads.")]
Out = Annotated[Path, typer.Option("-o", "--output", help="Folder of the run; appears when it is whole.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an earlier run.")]


def split(texts: Iterable[str]) -> list[str]:
    return [part.strip() for text in texts for part in text.split(",")]


def numbers(option: str, texts: Iterable[str]) -> list[int]:
    found = []
    for part in split(texts):
        try:
            found.append(int(part))
        except ValueError:
            raise ConfigError(option, part, "whole numbers, N[,N…]") from None
    return found


def choice(option: str, value: str, *choices: str) -> str:
    if value not in choices:
        raise ConfigError(option, value, "one of " + ", ".join(choices))
    return value


def at_most_one(options: Mapping[str, object]) -> None:
    given = [(option, value) for option, value in options.items() if value is not None]
    if len(given) > 1:
        raise ConfigError(given[1][0], given[1][1], f"either this or {given[0][0]}")


def at_least_one(option: str, value: int) -> int:
    if value < 1:
        raise ConfigError(option, value, "a number ≥ 1")
    return value


def blocks(option: str, gb: float, block_bytes: int) -> int:
    if not 0 <= gb < float("inf"):
        raise ConfigError(option, gb, "a finite number ≥ 0")
    return int(gb * 1e9 // block_bytes)


def bytes_per_s(gb_per_s: float | None) -> float | None:
    return None if gb_per_s is None else gb_per_s * 1e9
