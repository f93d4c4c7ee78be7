"""Results take the place of earlier ones when they are whole, and leave nothing when they are not."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from pbkv.traces.temporary import replacing


def test_a_file_or_folder_is_replaced_at_the_end(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with replacing(tmp_path / "folder") as folder:
            folder.mkdir()
            (folder / name).touch()
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["second"]


@pytest.mark.parametrize("problem", [ValueError, KeyboardInterrupt])
def test_what_was_begun_is_removed_and_the_earlier_one_stays(
    problem: type[BaseException], tmp_path: Path
) -> None:
    def broken() -> None:
        with replacing(tmp_path / "file") as file:
            file.write_text("half")
            raise problem

    (tmp_path / "file").write_text("earlier")
    with pytest.raises(problem):
        broken()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["earlier"]


def test_a_full_disk_is_named_with_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"No space left on device: '.*result'"), replacing(tmp_path / "result"):
        raise OSError(errno.ENOSPC, "Error writing bytes to file")
