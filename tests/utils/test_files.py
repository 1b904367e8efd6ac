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


def write(path: Path, content: bytes = b"whole") -> None:
    with atomic_write(path) as file:
        file.write(content)


def test_makes_folder_and_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.bin"
    with atomic_write(path) as first, atomic_write(path) as second:
        first.write(b"first")
        second.write(b"second")
        assert not path.exists()  # only under its name once complete
    assert path.read_bytes() == b"first"  # it was left last
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


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_those_of_any_new_file(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write(tmp_path / "file.bin")
        assert os.umask(umask) == umask  # and the process keeps its own
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file.bin").stat().st_mode) == mode


def test_places_that_take_no_file(tmp_path: Path) -> None:
    """Whoever asks before leaves no trace, and whoever does not leaves nothing behind."""
    (tmp_path / "file").write_text("old")
    for path in (tmp_path / "file", tmp_path / "new" / "file"):
        check_writable(path)
    assert os.listdir(tmp_path / "new") == []
    for place in (tmp_path / "file" / "below", tmp_path / "file" / "folder" / "below"):
        message = rf"^{place} cannot be written \({tmp_path}/file is a file, not a folder\): c"
        with pytest.raises(OSError, match=message):
            check_writable(place)
        with pytest.raises(OSError, match="file"):
            write(place)
    assert (tmp_path / "file").read_text() == "old"
    with pytest.raises(IsADirectoryError, match="is a folder: give the name of a file"):
        check_writable(tmp_path / "new")
    with pytest.raises(OSError):  # noqa: PT011  # which one depends on the system
        write(tmp_path / "new")
    assert sorted(os.listdir(tmp_path)) == ["file", "new"]


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    data, here = tmp_path / "data", tmp_path / "here"
    for folder in (data, here):
        folder.mkdir()
    (data / "file").write_text("old")
    for name, place in (("link", "../data/file"), ("again", "link"), ("new", data / "new" / "file")):
        (here / name).symlink_to(place)  # the last to what is not there yet
    with atomic_write(here / "again") as file:
        file.write(b"whole")
        assert (data / "file").read_text() == "old"
    check_writable(here / "new")
    write(here / "new")
    assert all((here / name).is_symlink() for name in ("link", "again", "new"))
    assert (data / "file").read_text() == (data / "new" / "file").read_text() == "whole"
    assert sorted(os.listdir(data) + os.listdir(here)) == ["again", "file", "link", "new", "new"]


def test_pipes_and_devices_stay(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "nowhere").symlink_to(os.devnull)
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    for path, kind in ((tmp_path / "pipe", "p"), (Path(os.devnull), "c"), (tmp_path / "nowhere", "c")):
        check_writable(path)
        write(path)
        assert stat.filemode(path.stat().st_mode)[0] == kind
    assert os.read(reader, 100) == b"whole"
    os.close(reader)
    assert (tmp_path / "nowhere").is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["nowhere", "pipe"]


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_what_a_process_has_open_stays_so(capfd, name: str) -> None:
    """Standard output is a file here, which is neither emptied nor replaced."""
    path = Path(name)
    check_writable(path)
    assert is_stream(path)
    print("before")
    write(path, b"whole\n")
    print("after")
    assert capfd.readouterr().out == "before\nwhole\nafter\n"
    reader, writer = os.pipe()
    write(Path(f"/dev/fd/{writer}"))
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


class _Full(io.RawIOBase):
    def __init__(self, error: OSError) -> None:
        self.error = error

    def write(self, data: object) -> int:
        raise self.error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("how", ["write", "torch", "numpy", "fsync"])
def test_a_full_disk_is_told_with_the_name(tmp_path: Path, monkeypatch, number: int, how: str) -> None:
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
            writers[how](file)
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
