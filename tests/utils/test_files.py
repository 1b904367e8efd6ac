"""Files are whole or not there."""

import errno
import io
import os
import re
import resource
import stat
from pathlib import Path

import numpy as np
import pytest
import torch

from tmkd_lightning.lightning_compat.atomic_checkpoints import AtomicCheckpointIO
from tmkd_lightning.utils.files import atomic_write, check_writable, is_stream, temporary_prefix


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


# Links, pipes and devices


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("old")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "link").symlink_to("../data/file")
    (tmp_path / "here" / "again").symlink_to("link")
    with atomic_write(tmp_path / "here" / "again") as file:
        file.write(b"whole")
        assert (tmp_path / "data" / "file").read_text() == "old"
    assert [(tmp_path / "here" / name).is_symlink() for name in ("link", "again")] == [True, True]
    assert (tmp_path / "data" / "file").read_text() == "whole"
    assert sorted(os.listdir(tmp_path / "data") + os.listdir(tmp_path / "here")) == ["again", "file", "link"]


def test_a_link_to_what_is_not_there_yet(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "new" / "file")
    check_writable(tmp_path / "link")
    with atomic_write(tmp_path / "link") as file:
        file.write(b"whole")
    assert (tmp_path / "new" / "file").read_text() == "whole"
    assert (tmp_path / "link").is_symlink()


def test_a_pipe_gets_the_bytes_and_stays(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    check_writable(tmp_path / "pipe")
    with atomic_write(tmp_path / "pipe") as file:
        file.write(b"whole")
    assert os.read(reader, 100) == b"whole"
    os.close(reader)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_device_stays(tmp_path: Path) -> None:
    (tmp_path / "nowhere").symlink_to(os.devnull)
    for path in (Path(os.devnull), tmp_path / "nowhere"):
        check_writable(path)
        with atomic_write(path) as file:
            file.write(b"whole")
        assert stat.S_ISCHR(path.stat().st_mode)
    assert (tmp_path / "nowhere").is_symlink()


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output(capfd, name: str) -> None:
    """It is a file here, which is neither emptied nor replaced."""
    path = Path(name)
    check_writable(path)
    assert is_stream(path)
    print("before")
    with atomic_write(path) as file:
        file.write(b"whole\n")
    print("after")
    assert capfd.readouterr().out == "before\nwhole\nafter\n"


def test_what_a_process_has_open(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with atomic_write(Path(f"/dev/fd/{writer}")) as file:
        file.write(b"whole")
    os.write(writer, b", and open")
    assert os.read(reader, 100) == b"whole, and open"
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("name", ["a" * 255, "ü" * 127, "a" * 250 + ".ckpt"])
def test_names_as_long_as_can_be(tmp_path: Path, name: str) -> None:
    check_writable(tmp_path / name)
    with atomic_write(tmp_path / name) as file:
        file.write(b"whole")
        (part,) = os.listdir(tmp_path)
        assert part.startswith(temporary_prefix(tmp_path / name))
    assert os.listdir(tmp_path) == [name]
    assert temporary_prefix(tmp_path / name) != temporary_prefix(tmp_path / f"{name[:-1]}b")


# A full disk


class _Full(io.RawIOBase):
    def __init__(self, error: OSError) -> None:
        self.error = error

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        raise self.error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("write", ["write", "torch", "numpy", "fsync"])
def test_a_full_disk_is_told_with_the_name(tmp_path: Path, monkeypatch, number: int, write: str) -> None:
    """torch.save turns it into an error of its own, ``unexpected pos 704 vs 598``."""
    path = tmp_path / "last.ckpt"
    path.write_text("old")
    error = OSError(number, os.strerror(number))
    writers = {
        "write": lambda file: _Full(error).write(b"x"),
        "torch": lambda file: torch.save({"state_dict": torch.zeros(1000)}, _Full(error)),
        "numpy": lambda file: np.savez(_Full(error), a=np.zeros(9)),
        "fsync": lambda file: monkeypatch.setattr(os, "fsync", lambda _: _Full(error).write(b"x")),
    }
    message = f"{path} cannot be written: {os.strerror(number)}; a file that was"
    with pytest.raises(OSError, match=re.escape(message)) as caught:  # noqa: SIM117
        with atomic_write(path) as file:
            writers[write](file)
    assert caught.value.errno == number
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_a_checkpoint_that_finds_no_room_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"global_step": 3}, path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OSError, match=rf"{path} cannot be written: File too large; a file"):
            AtomicCheckpointIO().save_checkpoint({"weight": torch.zeros(100_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert torch.load(path, weights_only=True) == {"global_step": 3}
    assert os.listdir(tmp_path) == ["last.ckpt"]
