"""Every command and snippet in README.md and docs/ is run as it stands there, or says why it is not.

`python -m pytest tests/test_docs.py -k PAGE` runs one page. What pages take as given: `tests/docs_inputs.py`.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from pbkv.cli import main
from tests.docs_inputs import inputs_of
from tests.docs_page import PAGES, Block, blocks_of, markers_of

_APART = ("docs/own-logs.md",)  # pages whose blocks are no sequence, but each a start of its own
_NEEDS = {
    "import duckdb": "duckdb",
    "pbkv replay ": "torch",
}  # what a block that says so cannot be run without

Pbkv = Callable[[Sequence[str]], str]


def _cases() -> Iterator[object]:
    for page in PAGES:
        blocks = [block for block in blocks_of(page) if block.is_run]
        for part in [[block] for block in blocks] if page in _APART else [blocks]:
            if part:
                yield pytest.param(page, part, id=f"{page}:{part[0].line}")


@pytest.fixture
def pbkv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Pbkv]:
    """Runs a command in this process, in an empty folder that is the user's home too; what it prints."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"HOME": tmp_path, "COLUMNS": 80, "ARROW_DEFAULT_MEMORY_POOL": "system"}.items():
        monkeypatch.setenv(name, str(value))
    at_term = signal.getsignal(signal.SIGTERM)

    def run(arguments: Sequence[str]) -> str:
        monkeypatch.setattr(sys, "argv", ["pbkv", *map(os.path.expanduser, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert ended.value.code == 0, f"{shlex.join(sys.argv)}: {printed.err}"
        return printed.out

    yield run
    signal.signal(signal.SIGTERM, at_term)


@pytest.mark.parametrize(("page", "blocks"), list(_cases()))
def test_the_blocks_of_a_page_run_in_their_order_and_print_what_it_says(
    page: str,
    blocks: list[Block],
    pbkv: Pbkv,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    _skip_without(blocks, request)
    for command in inputs_of(page, tmp_path):
        pbkv(shlex.split(command))
    for block in blocks:
        if block.file:  # is there from the start
            Path(block.file).write_text(block.text, encoding="utf-8")
    names: dict[str, object] = {}
    for block in blocks:
        if block.language == "python" and not block.file:
            exec(compile(block.text, f"{page}:{block.line}", "exec"), names)
            printed = capsys.readouterr().out
        else:
            printed = "".join(_run(words, pbkv) for words in block.commands())
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
            assert block.language in ("sh", "python") or block.file, f"{page}:{block.line}"
            assert {words[0] for words in block.commands()} <= {"pbkv", "mkdir"}, f"{page}:{block.line}"


def _skip_without(blocks: Sequence[Block], request: pytest.FixtureRequest) -> None:
    """Skip what needs a package that is not here; torch gets one thread, as tests share their cores."""
    for text, package in _NEEDS.items():
        if any(text in block.text for block in blocks):
            found = pytest.importorskip(package)
            if package == "torch":
                request.addfinalizer(partial(found.set_num_threads, found.get_num_threads()))
                found.set_num_threads(1)


def _run(words: Sequence[str], pbkv: Pbkv) -> str:
    if words[0] == "pbkv":
        return pbkv(words[1:])
    assert words[:2] == ["mkdir", "-p"]
    for name in words[2:]:
        Path(name).mkdir(parents=True, exist_ok=True)
    return ""


def _words(text: str) -> list[list[str]]:
    """By line: column widths are the business of the libraries that print them."""
    return [words for line in text.splitlines() if (words := line.split())]
