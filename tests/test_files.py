"""Files are whole or not there."""

import os
import stat
from pathlib import Path

import pytest

from tmkd_lightning.files import atomic_write, check_writable


def test_makes_folder_and_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.bin"
    with atomic_write(path) as file:
        file.write(b"whole")
        assert not path.exists()  # only under its name once complete
    assert path.read_bytes() == b"whole"
    assert os.listdir(path.parent) == ["file.bin"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def interrupted() -> None:
        with atomic_write(path) as file:
            file.write(b"half of the new")
            raise error

    with pytest.raises(error):
        interrupted()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file.bin"]


def test_the_last_of_two_writers_wins(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    with atomic_write(path) as first, atomic_write(path) as second:
        first.write(b"first")
        second.write(b"second")
    assert path.read_bytes() == b"first"  # it was left last
    assert os.listdir(tmp_path) == ["file.bin"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_those_of_any_new_file(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        with atomic_write(tmp_path / "file.bin") as file:
            file.write(b"whole")
        assert os.umask(umask) == umask  # and the process keeps its own
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file.bin").stat().st_mode) == mode


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"), atomic_write(tmp_path / "file" / "below"):
        pass


def test_nothing_stays_behind_where_the_name_is_a_folders(tmp_path: Path) -> None:
    (tmp_path / "name").mkdir()
    with pytest.raises(OSError), atomic_write(tmp_path / "name") as file:  # noqa: PT011  # which one depends on the system
        file.write(b"x")
    assert os.listdir(tmp_path) == ["name"]


def test_a_place_is_tried_without_a_trace(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    check_writable(tmp_path / "file")
    check_writable(tmp_path / "new" / "file")
    assert (tmp_path / "file").read_text() == "old"
    assert os.listdir(tmp_path / "new") == []


def test_places_that_take_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for below in ("below", "folder/below"):
        place = tmp_path / "file" / below
        with pytest.raises(
            OSError, match=rf"^{place} cannot be written \({tmp_path}/file is a file, not a folder\): c"
        ):
            check_writable(place)
    assert (tmp_path / "file").read_text() == "in the way"
    with pytest.raises(IsADirectoryError, match="is a folder: give the name of a file"):
        check_writable(tmp_path)
