"""Every command and snippet in README.md and docs/ is run as it stands there, or says why it is not.

`python -m tests.test_docs PAGE` prints what the blocks of a page print, to be put behind them.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pbkv.cli import main
from tests.docs_inputs import inputs_of
from tests.docs_page import PAGES, Block, blocks_of, markers_of

_NEEDS = {"import duckdb": "duckdb", "pbkv replay ": "torch"}  # what a page that says so cannot be run without


@pytest.fixture(name="folder")
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder, which is the user's home and where commands run: 80 columns, one thread of torch."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"HOME": tmp_path, "COLUMNS": 80, "ARROW_DEFAULT_MEMORY_POOL": "system"}.items():
        monkeypatch.setenv(name, str(value))
    at_term = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, at_term)


@pytest.mark.parametrize("page", [page for page in PAGES if any(block.is_run for block in blocks_of(page))])
def test_the_blocks_of_a_page_run_in_their_order_and_print_what_it_says(
    page: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = [block for block in blocks_of(page) if block.is_run]
    _skip_without(blocks)
    for command in inputs_of(page, folder):
        _pbkv(shlex.split(command), monkeypatch, capsys)
    for block, printed in _played(page, blocks, monkeypatch, capsys):
        if block.prints:
            assert _words(printed) == _words(block.prints), f"{page}:{block.line}"


@pytest.mark.parametrize("page", PAGES)
def test_what_is_not_run_says_why(page: str) -> None:
    """Each marker stands before a block that it means; each other block is something that can be run."""
    blocks = blocks_of(page)
    assert sum(len(block.exemptions) for block in blocks) == markers_of(page)
    for block in blocks:
        assert not block.stale(), f"{page}:{block.line}"
        if block.is_run:
            assert block.language in ("sh", "python", "toml"), f"{page}:{block.line}"
            assert block.language != "toml" or block.file, f"{page}:{block.line}"
            programs = {words[0] for words in block.commands()} if block.language == "sh" else set()
            assert programs <= {"pbkv", "mkdir"}, f"{page}:{block.line}"


def _skip_without(blocks: list[Block]) -> None:
    for text, package in _NEEDS.items():
        if any(text in block.text for block in blocks):
            pytest.importorskip(package)


def _played(
    page: str, blocks: list[Block], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[tuple[Block, str]]:
    """The blocks in their order, and what each printed. Files are there from the start."""
    for block in blocks:
        if block.file:
            Path(block.file).write_text(block.text, encoding="utf-8")
    names: dict[str, object] = {}
    for block in blocks:
        if block.file:
            continue
        if block.language == "python":
            exec(compile(block.text, f"{page}:{block.line}", "exec"), names)
            yield block, capsys.readouterr().out
        else:
            yield block, "".join(_command(words, monkeypatch, capsys) for words in block.commands())


def _command(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    if words[:2] == ["mkdir", "-p"]:
        for name in words[2:]:
            Path(name).mkdir(parents=True, exist_ok=True)
        return ""
    assert words[0] == "pbkv"
    return _pbkv([os.path.expanduser(word) for word in words[1:]], monkeypatch, capsys)


def _pbkv(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """What ``pbkv ARGUMENTS`` prints. In this process, as a user's command in any other way."""
    monkeypatch.setattr(sys, "argv", ["pbkv", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr()
    assert ended.value.code == 0, printed.err
    return printed.out


def _words(text: str) -> list[list[str]]:
    """By line: column widths are the business of the libraries that print them."""
    return [words for line in text.splitlines() if (words := line.split())]
