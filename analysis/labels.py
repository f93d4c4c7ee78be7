"""Words for settings: what all cells share stands in a title, what differs names each cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pbkv.analysis.load import Setting


def _host(setting: Setting) -> str:
    if setting.host_blocks == 0:
        return "no host tier"
    return f"host {setting.host_blocks:,} blocks, {setting.write_mode}"


def _load(setting: Setting) -> str:
    return "open loop" if setting.concurrency is None else f"{setting.concurrency} concurrent"


_ASPECTS: Mapping[str, Callable[[Setting], str]] = {
    "policy": lambda setting: setting.label,
    "gpu": lambda setting: f"GPU {setting.gpu_blocks:,} blocks",
    "host": _host,
    "load": _load,
    "block": lambda setting: f"{setting.block_size}-token blocks",
}


def shared(settings: Sequence[Setting], *, besides: Sequence[str] = ()) -> str:
    """What all settings have in common, in words, without the aspects in ``besides``.

    The policy is never part of it: it names the cell.
    """
    names = [name for name in _ASPECTS if name != "policy" and name not in besides]
    values = [{_ASPECTS[name](setting) for setting in settings} for name in names]
    return " · ".join(next(iter(found)) for found in values if len(found) == 1)


def distinct(settings: Sequence[Setting], *, besides: Sequence[str] = ()) -> list[str]:
    """For each setting, in few words, what tells it from the others, without the aspects in ``besides``.

    The policy is always named unless it is in ``besides``.
    """
    differing = [name for name, text in _ASPECTS.items() if len(set(map(text, settings))) > 1]
    names = [name for name in dict.fromkeys(["policy", *differing]) if name not in besides]
    return [
        " · ".join(_ASPECTS[name](setting).replace(" blocks", "") for name in names) for setting in settings
    ]
