"""A map of 64-bit keys to small numbers in twelve bytes a slot; a dict takes ten times that."""

from __future__ import annotations

from array import array
from hashlib import blake2b

_FIRST_SLOTS = 1 << 10
_FREE = 0  # no key is 0
_WORD = (1 << 64) - 1


def mixed(one: int, other: int) -> int:
    """A key for a pair of numbers. (Equal for two pairs by chance only: 10⁻⁶ with five million of them.)"""
    value = (one * 0x9E3779B97F4A7C15 + other * 0xD1B54A32D192ED03) & _WORD
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _WORD
    return (value ^ (value >> 31)) or 1


def key_of(raw: bytes) -> int:
    """A key for some bytes."""
    return int.from_bytes(blake2b(raw, digest_size=8).digest(), "big") or 1


class KeyTable:
    """Open addressing with linear probing, at most two thirds full. Keys are well mixed already."""

    def __init__(self) -> None:
        self._keys, self._values = array("Q", [_FREE]) * _FIRST_SLOTS, array("i", [0]) * _FIRST_SLOTS
        self._num_keys = 0

    def get(self, key: int) -> int | None:
        slot = self._slot(key)
        return None if self._keys[slot] == _FREE else self._values[slot]

    def put(self, key: int, value: int) -> None:
        """Set what ``key`` stands for, known or not."""
        slot = self._slot(key)
        if self._keys[slot] == _FREE:
            self._num_keys += 1
        self._keys[slot], self._values[slot] = key, value
        if 3 * self._num_keys > 2 * len(self._keys):
            self._grow()

    def _slot(self, key: int) -> int:
        keys, last = self._keys, len(self._keys) - 1
        slot = key & last
        while keys[slot] not in (_FREE, key):
            slot = (slot + 1) & last
        return slot

    def _grow(self) -> None:
        old_keys, old_values = self._keys, self._values
        num_slots = 2 * len(old_keys)
        self._keys, self._values = array("Q", [_FREE]) * num_slots, array("i", [0]) * num_slots
        for index, key in enumerate(old_keys):
            if key != _FREE:
                slot = self._slot(key)
                self._keys[slot], self._values[slot] = key, old_values[index]
