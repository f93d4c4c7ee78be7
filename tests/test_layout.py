"""The folder `x/` is the package `pbkv.x`: links and folders stay equal."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_each_package_folder_has_its_link() -> None:
    folders = {file.parent.name for file in ROOT.glob("*/__init__.py")} - {"pbkv", "tests"}
    links = {entry.name for entry in (ROOT / "pbkv").iterdir() if entry.is_symlink()}
    assert links == folders


def test_each_link_points_to_the_folder_of_its_name() -> None:
    links = [entry for entry in (ROOT / "pbkv").iterdir() if entry.is_symlink()]
    assert links
    assert all(entry.resolve() == ROOT / entry.name for entry in links)
