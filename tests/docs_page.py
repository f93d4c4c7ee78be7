"""The blocks of a page of the docs: what is to be run in order, what it prints, and what is not run, and why.

- Commands are fenced ``sh`` or ``bash`` blocks, or indented ones in which a line begins with a program.
- A block whose first line is a comment with a file's name (``# mine.py``) is that file.
- A ``text`` block behind a block is what it prints.
- ``<!-- not run: REASON -->`` before a block says that it is not run; with a quoted beginning of lines,
  ``<!-- not run "pip ": REASON -->``, that these lines of it are not.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]

_SHELL = ("sh", "bash")
_PROGRAM = re.compile(r"(pbkv|pip|python|make|for|bench/\S+)\s")
_FILE = re.compile(r"# (\S+\.(?:py|toml))\b")
_NOT_RUN = re.compile(r'<!-- not run(?: "([^"]+)")?: (.+) -->')


@dataclass(frozen=True, slots=True)
class Exemption:
    """Lines that begin with ``start`` are not run; all of the block where it is empty."""

    start: str
    reason: str


@dataclass(frozen=True, slots=True)
class Block:
    """One block. ``language`` is ``sh``, ``python``, or that of a file; ``prints`` what stands behind it."""

    line: int
    language: str
    text: str
    exemptions: tuple[Exemption, ...] = ()
    prints: str = ""

    @property
    def file(self) -> str:
        """The name of the file that it is, or nothing."""
        found = _FILE.match(self.text)
        return found[1] if found else ""

    @property
    def is_run(self) -> bool:
        return not any(not exemption.start for exemption in self.exemptions)

    def commands(self) -> list[list[str]]:
        """The words of each command that is to be run."""
        if self.language != "sh":
            return []
        lines = re.sub(r"\\\n\s*", "", self.text).splitlines()
        skipped = tuple(exemption.start for exemption in self.exemptions)
        kept = [line for line in lines if not line.startswith(skipped)] if skipped else lines
        return [words for line in kept if (words := shlex.split(line, comments=True))]

    def stale(self) -> list[str]:
        """Exemptions that no line of the block answers to."""
        lines = self.text.splitlines()
        starts = [exemption.start for exemption in self.exemptions]
        return [start for start in starts if not any(line.startswith(start) for line in lines)]


def blocks_of(page: str) -> list[Block]:
    """What ``page``, a path below the root, has to run or to say why not, in its order."""
    found: list[Block] = []
    for block in _all_blocks((ROOT / page).read_text(encoding="utf-8").splitlines()):
        if block.language == "text":
            if found and not found[-1].prints and _follows(found[-1], block):
                found[-1] = replace(found[-1], prints=block.text)
        else:
            found.append(block)
    return found


def markers_of(page: str) -> int:
    """How many times something on ``page`` says that it is not run, well or badly."""
    return (ROOT / page).read_text(encoding="utf-8").count("<!-- not run")


def _follows(block: Block, output: Block) -> bool:
    return output.line == block.line + len(block.text.splitlines()) + 2  # the two fences between


def _all_blocks(lines: Sequence[str]) -> Iterator[Block]:
    exemptions: list[Exemption] = []
    at = 0
    while at < len(lines):
        start, line = at, lines[at]
        if marker := _NOT_RUN.fullmatch(line):
            exemptions.append(Exemption(marker[1] or "", marker[2]))
        elif line.startswith("```"):
            at = lines.index("```", at + 1)
            language = line.removeprefix("```") or "text"
            language = "sh" if language in _SHELL else language
            yield _block(start, language, lines[start + 1 : at], exemptions)
            exemptions = []
        elif line.startswith("    "):
            while at + 1 < len(lines) and lines[at + 1].startswith("    "):
                at += 1
            text = [line[4:] for line in lines[start : at + 1]]
            if any(_PROGRAM.match(line) for line in text):
                yield _block(start, "sh", text, exemptions)
                exemptions = []
        elif line:
            exemptions = []
        at += 1


def _block(line: int, language: str, text: Sequence[str], exemptions: Sequence[Exemption]) -> Block:
    return Block(line + 1, language, "\n".join(text) + "\n", tuple(exemptions))
