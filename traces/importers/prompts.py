"""From prompts given as messages to segments: two prompts share exactly the tokens that they share.

A prompt is a path in a tree of messages. Each message is framed, as a chat template would do it: one token
before it that says its kind (none before an answer, which the model writes itself) and one after it. So no
message is the beginning of another, and only messages behind the same prefix can have tokens in common:
there, and nowhere else, messages are cut.

Tokens lie in a temporary file and are read back only where messages compete; memory is a few hundred
bytes a message, whatever its length. Text is not kept unless asked for: then it lies behind its tokens.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Sequence
from itertools import accumulate
from tempfile import TemporaryFile
from typing import NamedTuple
from weakref import finalize

import numpy as np

from pbkv.traces.importers.key_table import KeyTable, key_of
from pbkv.traces.importers.text import Tokens
from pbkv.traces.schema import KINDS

ROOT = 0
_END = np.array([2**64 - 1], np.uint64)
_HEADERS = {kind: np.array([2**64 - 2 - index], np.uint64) for index, kind in enumerate(KINDS)}
_CODE_BYTES = 8
_FIRST_READ = 32  # tokens
_UNSTORED = _UNASKED = -1
_MOST_RECENT = 200_000


class Message(NamedTuple):
    """A framed message whose tokens are stored; ``offset`` counts tokens in the temporary file."""

    digest: bytes
    kind: str
    num_tokens: int
    offset: int


class PromptTree:
    """Prompts as paths of messages. Build it with ``add``, ``seal`` it, then ask for ``segments``."""

    def __init__(self, tokens: Tokens, *, keeps_text: bool = False) -> None:
        self.tokens, self._keeps_text = tokens, keeps_text
        self._file = TemporaryFile()  # noqa: SIM115 (closed by seal, or with the tree)
        finalize(self, self._file.close)
        self._num_stored = self._num_unique = 0
        self._nodes = KeyTable()
        self._keys = array("Q", [0])
        self._parents, self._offsets, self._lengths = array("q", [ROOT]), array("q", [0]), array("q", [0])
        self._totals = array("q", [0])  # tokens of the whole prompt
        self._kinds = bytearray([0])
        self._only_child = array("q", [0])
        self._rivals: dict[int, list[int]] = {}
        self._pieces: dict[int, tuple[tuple[int, int], ...]] = {}
        self._recent: dict[int, tuple[tuple[int, int], ...]] = {}  # so that calls share their numbers
        self._num_ids = 0

    def root(self, model: str) -> int:
        """Where prompts of ``model`` begin: keys and values of different models are never shared."""
        return self._child(ROOT, Message(f"model {model}".encode(), KINDS[0], 0, _UNSTORED))

    def message(self, kind: str, text: str, num_tokens: int | None = None) -> Message:
        """``text`` as a message. ``num_tokens``: its length in the log, end token included."""
        raw = self._framed(kind, text, num_tokens)
        behind = _padded(text, num_tokens) if self._keeps_text else b""
        offset, self._num_stored = (
            self._num_stored,
            self._num_stored + (len(raw) + len(behind)) // _CODE_BYTES,
        )
        self._file.write(raw)
        self._file.write(behind)
        return Message(_digest(raw), kind, len(raw) // _CODE_BYTES, offset)

    def add_text(self, parent: int, kind: str, text: str, num_tokens: int | None = None) -> int:
        """As ``add(parent, message(…))``, but tokens that are there already are not stored again."""
        raw = self._framed(kind, text, num_tokens)
        known = self._nodes.get(self._key(parent, _digest(raw)))
        return self.add(parent, self.message(kind, text, num_tokens)) if known is None else known

    def stand_in(self, kind: str, num_tokens: int, name: str = "") -> Message:
        """A message of which only the length is known: like no other one, but those of the same ``name``."""
        self._num_unique += 1
        digest = f"stand-in {name or self._num_unique} {num_tokens}".encode()
        return Message(digest, kind, num_tokens, _UNSTORED)

    def add(self, parent: int, message: Message) -> int:
        """The node behind ``parent`` for ``message``: the same one for an equal message."""
        return self._child(parent, message)

    def num_tokens(self, node: int) -> int:
        return self._lengths[node]

    def num_prompt_tokens(self, node: int) -> int:
        """Tokens of the prompt that ends with ``node``."""
        return self._totals[node]

    def has_followers(self, node: int) -> bool:
        return self._only_child[node] != 0

    def seal(self) -> None:
        """Cut messages where those behind the same prefix part. Nothing may be added afterwards."""
        self._file.flush()
        self._nodes, self._keys = KeyTable(), array("Q")
        self._num_ids = len(self._parents)
        for rivals in self._rivals.values():
            self._cut([node for node in rivals if self._offsets[node] != _UNSTORED])
        self._rivals.clear()
        if not self._keeps_text:
            self._file.close()

    def segments(self, node: int) -> tuple[list[int], list[int], list[str]]:
        """Ids, lengths and kinds of the prompt that ends with ``node``."""
        ids: list[int] = []
        lengths: list[int] = []
        kinds: list[str] = []
        for step in self._path(node):
            for segment_id, num_tokens in self._of(step):
                ids.append(segment_id)
                lengths.append(num_tokens)
                kinds.append(KINDS[self._kinds[step]])
        return ids, lengths, kinds

    def new_texts(self, node: int, told: set[int]) -> list[tuple[int, str]] | None:
        """Id and text of segments of that prompt that are not ``told``; they are from now on. None: not kept.

        Together a prompt's texts are its messages' (where a tokenizer takes two texts for the same tokens,
        the one that is told first stands for both).
        """
        if not self._keeps_text:
            return None
        found = []
        for step in self._path(node):
            pieces = self._of(step)
            if self._offsets[step] != _UNSTORED and any(piece not in told for piece, _ in pieces):
                found += [pair for pair in self._pieces_of_text(step, pieces) if pair[0] not in told]
            told.update(piece for piece, _ in pieces)
        return found

    def only_segment(self, node: int) -> int | None:
        """The id of a message that no other one shares a part of; None if it is cut."""
        pieces = self._of(node)
        return pieces[0][0] if len(pieces) == 1 else None

    def _path(self, node: int) -> list[int]:
        path = []
        while node:
            path.append(node)
            node = self._parents[node]
        return path[::-1]

    def _pieces_of_text(self, node: int, pieces: Sequence[tuple[int, int]]) -> list[tuple[int, str]]:
        """A message's segments with what they say: frames say nothing."""
        said, num_inner = self._said(node)
        if len(pieces) == 1:
            return [(pieces[0][0], said)]
        is_headed = KINDS[self._kinds[node]] != "output"
        starts = [*([0] if is_headed else []), *self.tokens.starts(said, num_inner).tolist()]
        ends = list(accumulate(num_tokens for _, num_tokens in pieces[:-1]))
        cuts = [0, *((starts[end] if end < len(starts) else len(said)) for end in ends), len(said)]
        return [(piece, said[cuts[i] : cuts[i + 1]]) for i, (piece, _) in enumerate(pieces)]

    def _said(self, node: int) -> tuple[str, int | None]:
        """The text of a stored message, and the tokens it was asked to have without its frame."""
        start = (self._offsets[node] + self._lengths[node]) * _CODE_BYTES
        head = os.pread(self._file.fileno(), 2 * _CODE_BYTES, start)
        num_bytes, asked = np.frombuffer(head, np.int64).tolist()
        raw = os.pread(self._file.fileno(), num_bytes, start + len(head))
        return raw.decode(), None if asked == _UNASKED else asked

    def _of(self, node: int) -> tuple[tuple[int, int], ...]:
        found = self._recent.get(node)
        if found is None:
            whole = ((node, self._lengths[node]),) if self._lengths[node] else ()
            if len(self._recent) >= _MOST_RECENT:
                self._recent.clear()
            found = self._recent[node] = self._pieces.get(node, whole)
        return found

    def _framed(self, kind: str, text: str, num_tokens: int | None) -> bytes:
        parts = [self.tokens.codes(text, _inner(num_tokens)), _END]
        if kind != "output":
            parts.insert(0, _HEADERS[kind])
        return np.concatenate(parts).tobytes()

    def _key(self, parent: int, digest: bytes) -> int:
        return key_of(self._keys[parent].to_bytes(8, "little") + digest)

    def _child(self, parent: int, message: Message) -> int:
        key = self._key(parent, message.digest)
        known = self._nodes.get(key)
        if known is not None:
            return known
        node = len(self._parents)
        self._nodes.put(key, node)
        self._keys.append(key)
        self._parents.append(parent)
        self._offsets.append(message.offset)
        self._lengths.append(message.num_tokens)
        self._totals.append(self._totals[parent] + message.num_tokens)
        self._kinds.append(KINDS.index(message.kind))
        self._only_child.append(0)
        self._note_child(parent, node)
        return node

    def _note_child(self, parent: int, node: int) -> None:
        first = self._only_child[parent]
        if not first:
            self._only_child[parent] = node
        else:
            self._rivals.setdefault(parent, [first]).append(node)

    def _cut(self, rivals: list[int]) -> None:
        open_groups: list[tuple[list[int], int, tuple[tuple[int, int], ...]]] = [(rivals, 0, ())]
        while open_groups:
            group, position, pieces = open_groups.pop()
            if len(group) < 2:
                self._keep(group, position, pieces)
                continue
            num_shared = self._num_shared(group, position)
            if num_shared:
                pieces = (*pieces, (self._new_id(), num_shared))
                position += num_shared
            parts: dict[bytes, list[int]] = {}
            for node in group:
                parts.setdefault(self._read(node, position, 1), []).append(node)
            open_groups.extend((part, position, pieces) for part in parts.values())

    def _keep(self, group: list[int], position: int, pieces: tuple[tuple[int, int], ...]) -> None:
        for node in group:
            if pieces:
                self._pieces[node] = (*pieces, (self._new_id(), self._lengths[node] - position))

    def _num_shared(self, group: list[int], position: int) -> int:
        """How many tokens all of ``group`` have in common from ``position`` on."""
        num_shared, num_read = 0, _FIRST_READ
        while True:
            first = np.frombuffer(self._read(group[0], position + num_shared, num_read), np.uint64)
            common = len(first)
            for node in group[1:]:
                other = np.frombuffer(self._read(node, position + num_shared, common), np.uint64)
                differing = np.flatnonzero(first[: len(other)] != other)
                common = int(differing[0]) if differing.size else len(other)
                if not common:
                    return num_shared
            num_shared += common
            if common < num_read:
                return num_shared
            num_read *= 2

    def _read(self, node: int, position: int, num_tokens: int) -> bytes:
        num_left = min(num_tokens, self._lengths[node] - position)
        start = (self._offsets[node] + position) * _CODE_BYTES
        return os.pread(self._file.fileno(), num_left * _CODE_BYTES, start)

    def _new_id(self) -> int:
        self._num_ids += 1
        return self._num_ids - 1


def _padded(text: str, num_tokens: int | None) -> bytes:
    """Length, tokens asked for, text, and zeros up to a whole number of codes."""
    raw = text.encode("utf-8", "replace")
    inner = _inner(num_tokens)
    head = np.array([len(raw), _UNASKED if inner is None else inner], np.int64)
    return head.tobytes() + raw + bytes(-len(raw) % _CODE_BYTES)


def _inner(num_tokens: int | None) -> int | None:
    """Tokens of an answer without its end."""
    return None if num_tokens is None else max(num_tokens - 1, 0)


def _digest(raw: bytes) -> bytes:
    return hashlib.blake2b(raw, digest_size=16).digest()
