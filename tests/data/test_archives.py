"""Archives, good and hostile, and the way from whatever is there to an unpacked dataset."""

from __future__ import annotations

import errno
import io
import multiprocessing
import os
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers.fake_datasets import Server, pack, serve
from tmkd_lightning.data import DataError
from tmkd_lightning.data.archives import Archive, unpack
from tmkd_lightning.data.prepare import prepare

Member = tuple[str, bytes | str]  # a file's content, or where a link leads


def write_tar(path: Path, *members: Member, kind: bytes = tarfile.SYMTYPE, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = kind, content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def everything(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


# Unpacking


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_what_is_wanted_is_taken_and_the_rest_dropped(root: Path, mode: str) -> None:
    members = [("./birds/deep/1.jpg", b"one"), ("./birds/2.jpg", b"two"), ("attributes.txt", b"x"), ("list.txt", b"y")]
    unpack(write_tar(root / "a.tar", *members, mode=mode), root, ["birds", "list.txt"])
    assert everything(root) == ["a.tar", "birds", "birds/2.jpg", "birds/deep", "birds/deep/1.jpg", "list.txt"]
    assert (root / "birds/deep/1.jpg").read_bytes() == b"one"


@pytest.mark.parametrize(
    ("member", "kind", "message"),
    [
        (("../evil.txt", b"x"), b"", r"member \.\./evil.txt would lie outside"),
        (("birds/../../evil.txt", b"x"), b"", "would lie outside"),
        (("birds/..", b""), b"", "would lie outside"),
        (("/tmp/evil.txt", b"x"), b"", "member /tmp/evil.txt would lie outside"),
        (("birds/link", "/etc/passwd"), tarfile.SYMTYPE, "member birds/link is a link or a device"),
        (("birds/link", "1.jpg"), tarfile.SYMTYPE, "is a link"),  # even one that stays inside
        (("birds/link", "birds/1.jpg"), tarfile.LNKTYPE, "is a link"),
        (("birds/pipe", ""), tarfile.FIFOTYPE, "is a link or a device"),
        (("birds/null", ""), tarfile.CHRTYPE, "is a link or a device"),
    ],
)
def test_hostile_members_are_refused_before_anything_is_written(
    root: Path, monkeypatch: pytest.MonkeyPatch, member: Member, kind: bytes, message: str
) -> None:
    monkeypatch.setattr(tarfile.TarFile, "extractall", lambda *_, **__: pytest.fail("something was written"))
    archive = write_tar(root.parent / "a.tgz", ("birds/1.jpg", b"one"), member, kind=kind)
    with pytest.raises(DataError, match=f"{archive} is not unpacked: its {message}|{message}"):
        unpack(archive, root, ["birds"])
    assert everything(root) == []


def test_an_archive_of_something_else(root: Path) -> None:
    archive = write_tar(root / "a.tgz", ("dogs/1.jpg", b"one"))
    with pytest.raises(DataError, match=f"{archive} holds no birds: it is another archive than expected"):
        unpack(archive, root, ["birds"])
    assert everything(root) == ["a.tgz"]


def truncated(content: bytes) -> bytes:
    return content[: len(content) * 2 // 3]


@pytest.mark.parametrize("damage", [truncated, lambda _: b"", lambda _: b"<html>"])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_damaged_archives(root: Path, mode: str, damage: Callable[[bytes], bytes]) -> None:
    noise = os.urandom(50_000)
    archive = write_tar(root / "a.tar", ("birds/1.jpg", noise), mode=mode)
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(DataError, match=f"{archive} cannot be unpacked .*: remove it, and load it again"):
        unpack(archive, root, ["birds"])
    assert everything(root) == ["a.tar"]


def test_too_little_room_is_known_before(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(0, 0, 9_999))
    archive = write_tar(root / "a.tgz", ("birds/1.jpg", bytes(10_000)))  # a few bytes, packed
    with pytest.raises(
        DataError, match=f"{root} has 9,999 bytes free, and unpacking {archive} needs 10,000: make room"
    ):
        unpack(archive, root, ["birds"])
    assert everything(root) == ["a.tgz"]


def test_disk_full_midway(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(source: object, target: io.BufferedWriter, *_: object, **__: object) -> None:
        target.write(b"on")
        raise OSError(errno.ENOSPC, "No space left on device")

    archive = write_tar(root / "a.tgz", ("birds/1.jpg", b"one"))
    monkeypatch.setattr(tarfile, "copyfileobj", fill)
    with pytest.raises(
        DataError, match=f"{archive} cannot be unpacked in {root} .*No space left.*nothing of it was kept"
    ):
        unpack(archive, root, ["birds"])
    assert everything(root) == ["a.tgz"]


def test_a_killed_extraction_never_looks_complete(root: Path) -> None:
    def slow(source: io.BufferedReader, target: io.BufferedWriter, *_: object, **__: object) -> None:
        target.write(b"on")
        target.flush()
        time.sleep(60)

    def run() -> None:
        tarfile.copyfileobj = slow
        unpack(archive, root, ["birds"])

    archive = write_tar(root / "a.tgz", ("birds/1.jpg", b"one"), ("birds/2.jpg", b"two"))
    process = multiprocessing.get_context("fork").Process(target=run, daemon=True)
    process.start()
    while process.is_alive() and not list(root.rglob("1.jpg")):
        time.sleep(0.01)
    process.kill()
    process.join()
    assert list(root.rglob("1.jpg"))  # it was killed midway
    assert not (root / "birds").exists()
    (next(root.rglob("1.jpg")).parent / "stray.jpg").write_bytes(b"of another archive")
    unpack(archive, root, ["birds"])
    assert everything(root) == ["a.tgz", "birds", "birds/1.jpg", "birds/2.jpg"]


# From what is there


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "served").mkdir()
    with serve(tmp_path / "served") as server:
        yield server


@pytest.fixture
def birds(server: Server) -> Archive:
    """An archive at the server."""
    source = server.folder.parent / "source"
    (source / "birds").mkdir(parents=True)
    (source / "birds" / "1.jpg").write_bytes(os.urandom(20_000))
    return pack(server.folder / "birds.tgz", source, ["birds"], server.url)


def test_loaded_and_unpacked_once(root: Path, server: Server, birds: Archive) -> None:
    for _ in range(2):
        prepare(root / "new" / "folder", [birds], download=True)
    assert everything(root / "new" / "folder") == [".lock", "birds", "birds.tgz", "birds/1.jpg"]
    assert len(server.asked) == 1


def test_an_archive_that_is_there_is_unpacked_without_a_network(root: Path, server: Server, birds: Archive) -> None:
    shutil.copy(server.folder / "birds.tgz", root)
    prepare(root, [birds], download=False)
    assert birds.is_unpacked(root)
    assert server.asked == []


def test_what_is_unpacked_needs_no_archive_and_no_writing(root: Path, server: Server, birds: Archive) -> None:
    (root / "birds").mkdir()
    for download in (True, False):
        prepare(root, [birds], download)
    assert everything(root) == ["birds"]
    assert server.asked == []


def test_nothing_there(root: Path, birds: Archive) -> None:
    with pytest.raises(DataError, match=f"{root}/none holds neither birds nor birds.tgz.*download=True.*{birds.url}"):
        prepare(root / "none", [birds], download=False)
    assert everything(root) == []


def test_a_damaged_archive_is_not_unpacked(root: Path, birds: Archive) -> None:
    (root / "birds.tgz").write_bytes(b"x" * birds.size)
    for download in (True, False):
        with pytest.raises(DataError, match=f"{root}/birds.tgz has the md5 .*: remove it, or put the file from"):
            prepare(root, [birds], download)
    assert everything(root) == [".lock", "birds.tgz"]


def test_only_what_is_missing_is_loaded(root: Path, server: Server, birds: Archive) -> None:
    (server.folder / "lists").write_text("list")
    lists = pack(server.folder / "lists.tar", server.folder, ["lists"], server.url)
    (root / "birds").mkdir()
    prepare(root, [birds, lists], download=True)
    assert [name for name, _ in server.asked] == ["lists.tar"]


def test_a_root_that_cannot_be_written_to(tmp_path: Path, birds: Archive) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=f"{tmp_path}/file/root cannot be written to"):
        prepare(tmp_path / "file" / "root", [birds], download=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_root(root: Path, server: Server, birds: Archive) -> None:
    shutil.copy(server.folder / "birds.tgz", root)
    root.chmod(0o500)
    with pytest.raises(DataError, match=f"{root} cannot be written to"):
        prepare(root, [birds], download=False)


def test_processes_that_start_at_once(root: Path, server: Server, birds: Archive) -> None:
    server.pause = 0.05
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=prepare, args=(root, [birds], True), daemon=True) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0] * 4
    assert len(server.asked) == 1
    assert everything(root) == [".lock", "birds", "birds.tgz", "birds/1.jpg"]


def test_a_killed_process_leaves_the_way_free(root: Path, server: Server, birds: Archive) -> None:
    server.pause = 0.1
    process = multiprocessing.get_context("fork").Process(target=prepare, args=(root, [birds], True), daemon=True)
    process.start()
    while process.is_alive() and not (root / "birds.tgz.part").exists():
        time.sleep(0.01)
    process.kill()
    process.join()
    assert not birds.is_unpacked(root)
    server.pause = 0
    prepare(root, [birds], download=True)
    assert everything(root) == [".lock", "birds", "birds.tgz", "birds/1.jpg"]
