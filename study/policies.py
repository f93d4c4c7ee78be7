"""Policies of a study: their names, their options, and the files of the user's own that they stand on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from pbkv.cache.options_used import options_used
from pbkv.cache.policy import PolicyOptions
from pbkv.study.cell import Policy
from pbkv.study.toml_table import TEXT, TomlTable, named_as
from pbkv.traces.errors import ConfigError

_OPTIONS = tuple(item.name for item in fields(PolicyOptions) if item.name != "prefill_cost")


def make_policy(name: str, variant: str, options: Mapping[str, Any], folder: Path = Path()) -> Policy:
    """A policy whose files, if it has any, are found from ``folder``. Its name is checked later."""
    file, separator, class_name = name.partition(".py:")
    digests = []
    if separator:
        file_path = folder / f"{file}.py"
        name = f"{file_path}:{class_name}"
        digests.append(_file_digest(file_path))
    predictor = options.get("predictor")
    if isinstance(predictor, str) and (folder / predictor.partition(".py:")[0]).with_suffix(".py").is_file():
        digests.append(_file_digest((folder / predictor.partition(".py:")[0]).with_suffix(".py")))
        options = {**options, "predictor": str(folder / predictor)}
    elif isinstance(predictor, str) and (folder / predictor).is_file():
        digests.append(_file_digest(folder / predictor))
        options = {**options, "predictor": str(folder / predictor)}
    return Policy(name, variant, tuple(sorted(options.items())), "".join(digests))


def read_shared_options(table: TomlTable, folder: Path) -> dict[str, Any]:
    """Options of all policies, which a policy's own override."""
    where = table.field("policy_options")
    inner = TomlTable(table.raw("policy_options") if table.has("policy_options") else {}, where)
    found = {name: inner.raw(name) for name in _OPTIONS if inner.has(name)}
    inner.finish()
    _check_options(found, where)
    return found


def read_policies(table: TomlTable, folder: Path, shared: Mapping[str, Any]) -> list[Policy]:
    words = "a policy's name, or a table of name, variant and its options"
    found: list[Policy] = []
    for index, item in enumerate(table.items("policies", words, ("lru",))):
        where = f"{table.field('policies')}[{index}]"
        inner = TomlTable({"name": item} if isinstance(item, str) else item, where)
        name = inner.take("name", TEXT)
        if name is None:
            raise ConfigError(inner.field("name"), "nothing", "a policy's name")
        own = {option: inner.raw(option) for option in _OPTIONS if inner.has(option)}
        variant = inner.take("variant", TEXT, ",".join(f"{key}={value}" for key, value in own.items()))
        inner.finish()
        _check_options(own, where)
        policy = make_policy(name, variant, {**shared, **own}, folder)
        if (policy.name, policy.variant) in [(other.name, other.variant) for other in found]:
            raise ConfigError(where, policy.label, "a variant of its own for each policy of one name")
        found.append(policy)
    return found


def unused_options(policies: Sequence[Policy]) -> list[str]:
    """Options that are given and that none of the policies they are given to uses."""
    given: dict[str, list[Policy]] = {}
    for policy in policies:
        for name, _ in policy.options:
            given.setdefault(name, []).append(policy)
    return [name for name, them in given.items() if not any(name in options_used(p.name) for p in them)]


def _check_options(options: Mapping[str, Any], where: str) -> None:
    defaults = PolicyOptions()
    for name, value in options.items():
        default = getattr(defaults, name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        expected = {str: "a text", int: "a whole number", float: "a number"}[type(default)]
        if not (is_number if isinstance(default, float) else type(value) is type(default)):
            raise ConfigError(f"{where}.{name}", value, expected)
        with named_as(f"{where}.{name}"):
            PolicyOptions(**{name: value})


def _file_digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError:
        return ""  # the policy's own check says that the file is not there
