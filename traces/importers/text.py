"""Text as tokens: by a tokenizer that the user names, or estimated as four characters a token.

Either way a text becomes an array of codes (uint64), equal where the tokens are equal. Codes of
estimated tokens are hashes of their characters, so that two texts agree exactly as far as their
four-character pieces do.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pbkv.traces.errors import ConfigError

Codes = npt.NDArray[np.uint64]

_CHARACTERS = 4
_WIDE = 64  # characters a token from which pieces are hashed one by one
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_FILLER = np.uint64(2**64 - 100)


class Tokens(Protocol):
    """What turns text into codes. ``name`` stands in the trace's metadata."""

    name: str
    is_estimate: bool

    def codes(self, text: str, num_tokens: int | None = None) -> Codes:
        """One code a token. ``num_tokens``: how many the log says (used by an estimate only)."""
        ...

    def starts(self, text: str, num_tokens: int | None = None) -> npt.NDArray[np.int64]:
        """At which character of ``text`` each token of ``codes`` begins; these places never fall."""
        ...


class Estimate:
    """Four characters a token, or as many as make up the number of tokens that the log says."""

    name = "estimated: characters/4"
    is_estimate = True

    def codes(self, text: str, num_tokens: int | None = None) -> Codes:
        if num_tokens is None:
            return _pieces(text, _CHARACTERS)
        if not num_tokens:
            return np.empty(0, np.uint64)
        found = _pieces(text, _width(text, num_tokens))
        return np.concatenate([found, np.full(num_tokens - len(found), _FILLER, np.uint64)])

    def starts(self, text: str, num_tokens: int | None = None) -> npt.NDArray[np.int64]:
        width = _CHARACTERS if num_tokens is None else _width(text, num_tokens)
        found = -(-len(text) // _CHARACTERS) if num_tokens is None else num_tokens
        return np.minimum(np.arange(found) * width, len(text))


class Named:
    """A tokenizer of the ``tokenizers`` library: a tokenizer.json, a folder with one, or a hub's name."""

    is_estimate = False

    def __init__(self, name: str) -> None:
        self.name = f"tokenizer {name}"
        self._tokenizer = _loaded(name)

    def codes(self, text: str, num_tokens: int | None = None) -> Codes:
        sound = text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates are no text
        return np.array(self._tokenizer.encode(sound, add_special_tokens=False).ids, np.uint64)

    def starts(self, text: str, num_tokens: int | None = None) -> npt.NDArray[np.int64]:
        found = self._tokenizer.encode(text, add_special_tokens=False).offsets
        return np.maximum.accumulate(np.array([start for start, _ in found], np.int64))


def tokens_of(name: str | None) -> Tokens:
    """The tokenizer of that name, or the estimate. Raises ConfigError if there is no such tokenizer."""
    return Estimate() if name is None else Named(name)


def _loaded(name: str) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        expected = "the library tokenizers (pip install 'pbkv[text]'), or no --tokenizer"
        raise ConfigError("--tokenizer", name, expected) from None
    path = Path(name)
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        return Tokenizer.from_file(str(file)) if file.exists() else Tokenizer.from_pretrained(name)
    except Exception as error:  # the library raises bare Exceptions, the hub's client its own
        expected = f"a tokenizer.json, or a name that the hub knows ({type(error).__name__})"
        raise ConfigError("--tokenizer", name, expected) from None


def _width(text: str, num_tokens: int) -> int:
    """Characters a token, so that ``text`` has ``num_tokens`` of them at most."""
    return max(-(-len(text) // max(num_tokens, 1)), 1)


def _pieces(text: str, width: int) -> Codes:
    """The codes of consecutive pieces of ``width`` characters; the last one may be shorter."""
    if width > _WIDE:
        starts = range(0, len(text), width)
        digests = [_digest(text[start : start + width]) for start in starts]
        return np.frombuffer(b"".join(digests), np.uint64)
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(
        np.uint64
    ) + np.uint64(1)
    padded = np.concatenate([points, np.zeros(-len(points) % width, np.uint64)]).reshape(-1, width)
    codes = np.zeros(len(padded), np.uint64)
    for column in range(width):
        codes = codes * _MULTIPLIER + padded[:, column]
    return codes


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
