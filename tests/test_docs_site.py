"""The pages hold together: every page in the site's order, every link to something, every policy named."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pbkv.cache.named import BOUNDS, PARTS, POLICIES, make_policy
from tests.docs_page import ROOT

DOCS = ROOT / "docs"
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_COLUMNS = ("name", "GPU order", "host order", "prefetch", "admission", "request order", "source")


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def rows(header: str) -> Iterator[list[str]]:
    """The cells of each row of the table of docs/policies.md that begins with ``header``."""
    text = (DOCS / "policies.md").read_text(encoding="utf-8")
    for line in text.split(header + "\n", 1)[1].splitlines()[1:]:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.strip("|").split("|")]


def test_every_page_has_its_place_in_the_site() -> None:
    named = re.findall(r"(?m)^ +- .+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(named) == sorted(str(page.relative_to(DOCS)) for page in pages()[1:])


def test_the_entry_page_links_to_every_page_of_its_folder() -> None:
    linked = set(_LINK.findall((DOCS / "README.md").read_text(encoding="utf-8")))
    assert {page.name for page in DOCS.glob("*.md")} - linked == {"README.md"}


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_to_a_heading_of_it(page: Path) -> None:
    for link in _LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name) if name else page
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


def headings(page: Path) -> set[str]:
    """As GitHub and the site name them."""
    titles = re.findall(r"(?m)^#+ (.+)$", page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_policy_is_in_the_docs_with_its_parts_and_its_source() -> None:
    named = {}
    for row in rows("| " + " | ".join(_COLUMNS) + " |"):
        for name in re.findall(r"`([^`]+)`", row[0]):
            named[name] = dict(zip(_COLUMNS, row, strict=True))
    assert named.pop("ttl:SECONDS")
    assert sorted(named) == sorted(POLICIES)
    for name, told in named.items():
        assert told["GPU order"], name
        assert told["host order"], name
        assert told["source"], name
        assert told["source"].startswith("a bound") == (name in BOUNDS), name
        said = tuple(part for part in ("prefetch", "admission", "request order") if told[part])
        assert said == make_policy(name).other_parts, name


def test_every_part_is_in_the_docs() -> None:
    assert sorted(row[0] for row in rows("| part | |")) == sorted(f"`+{part}`" for part in PARTS)


def test_what_a_policy_of_ones_own_may_have_is_what_is_looked_for() -> None:
    """Each method that the plug asks for by name stands in its docs, and so does each of a follower's."""
    code = (ROOT / "cache/plugin.py").read_text(encoding="utf-8")
    told = re.search(r"_TOLD = \(([^)]+)\)", code)
    changes = re.search(r"_CHANGES = \(([^)]+)\)", code)
    assert told
    assert changes
    asked = {*re.findall(r'"(\w+)"', told[1] + changes[1]), *re.findall(r'code\.has\("(\w+)"\)', code)}
    text = (DOCS / "own-policy.md").read_text(encoding="utf-8")
    assert [name for name in sorted(asked) if name not in text] == []
