"""Archives as they go wrong: whatever happens, an archive or a folder that has its name is whole and genuine."""

import errno
import io
import multiprocessing
import os
import shutil
import socket
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from tqdm import tqdm

from helpers.fake_datasets import Server, md5, pack, serve
from tmkd_lightning.data import DataError
from tmkd_lightning.data.download import Archive, download_and_unpack

Member = tuple[str, bytes | str]  # a file's content, or where a link leads


def write_tar(path: Path, *members: Member, kind: bytes = tarfile.SYMTYPE, mode: str = "w:gz") -> Archive:
    with tarfile.open(path, mode) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = kind, content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return archive(path)


def archive(path: Path, url: str = "http://nowhere.invalid") -> Archive:
    return Archive(path.name, f"{url}/{path.name}", md5(path), ("birds",))


def everything(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.name != ".lock")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


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


def refused(root: Path, birds: Archive, message: str) -> None:
    """Expects an error that names the address and the file, and nothing under either name."""
    with pytest.raises(DataError, match=message) as caught:
        download_and_unpack(root, [birds], download=True)
    assert f"{birds.url} cannot be downloaded" in str(caught.value)
    assert f"put the file at {root}/birds.tgz by other means" in str(caught.value)
    assert everything(root) == []


@contextmanager
def forked(run: Callable[[], None]) -> Iterator[BaseProcess]:
    """Runs in a process of its own, which may be killed while it holds the lock of its progress bar."""

    def unlocked() -> None:
        tqdm.set_lock(threading.RLock())
        run()

    process = multiprocessing.get_context("fork").Process(target=unlocked, daemon=True)
    process.start()
    yield process
    process.join(30)


def kill_once_there(process: BaseProcess, root: Path, pattern: str) -> None:
    while process.is_alive() and not list(root.rglob(pattern)):
        time.sleep(0.01)
    process.kill()


def test_downloaded_and_unpacked_once(root: Path, server: Server, birds: Archive) -> None:
    for _ in range(2):
        download_and_unpack(root / "new" / "folder", [birds], download=True)
    assert everything(root / "new" / "folder") == ["birds", "birds.tgz", "birds/1.jpg"]
    assert len(server.asked) == 2  # one for a redirection, and one for the file
    (server.folder / "lists").write_text("list")
    lists = pack(server.folder / "lists.tar", server.folder, ["lists"], server.url)
    download_and_unpack(root / "new" / "folder", [birds, lists], download=True)
    assert set(server.asked[2:]) == {"lists.tar"}  # only what is missing


def test_what_is_there_needs_no_network(root: Path, server: Server, birds: Archive) -> None:
    """An archive is unpacked, and what is unpacked needs no archive and no writing."""
    with pytest.raises(DataError, match=f"{root}/none holds neither birds nor birds.tgz.*download=True.*{birds.url}"):
        download_and_unpack(root / "none", [birds], download=False)
    assert list(root.iterdir()) == []
    shutil.copy(server.folder / "birds.tgz", root)
    download_and_unpack(root, [birds], download=False)
    assert birds.is_unpacked(root)
    (root / "unpacked" / "birds").mkdir(parents=True)
    for download in (True, False):
        download_and_unpack(root / "unpacked", [birds], download)
    assert [path.name for path in (root / "unpacked").iterdir()] == ["birds"]
    assert server.asked == []


def test_what_is_in_the_way_is_left_alone(root: Path, server: Server, birds: Archive) -> None:
    (root / "birds.tgz").write_bytes(b"another")
    for download in (True, False):
        with pytest.raises(DataError, match=f"{root}/birds.tgz does not have the md5 {birds.md5}: remove it, or repl"):
            download_and_unpack(root, [birds], download)
    below = root / "birds.tgz" / "root"
    with pytest.raises(DataError, match=f"{below} cannot be written to .*: unpack the data there"):
        download_and_unpack(below, [birds], download=True)
    assert (root / "birds.tgz").read_bytes() == b"another"
    assert server.asked == []


def test_servers_that_do_not_give_the_file(root: Path, server: Server, birds: Archive) -> None:
    for status in (404, 503):
        server.status = status
        refused(root, birds, f"HTTP Error {status}")
    server.status = 200
    (server.folder / "birds.tgz").write_bytes(b"<!DOCTYPE html><title>Sign in</title>")
    refused(root, birds, "corrupted")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/birds.tgz"
    refused(root, Archive("birds.tgz", url, birds.md5, birds.holds), "refused")


def test_a_connection_that_breaks(root: Path, server: Server, birds: Archive) -> None:
    server.breaks = [5_000, 5_000]  # the first is asked for redirections; which thread takes which is not known
    refused(root, birds, "corrupted")
    download_and_unpack(root, [birds], download=True)
    assert birds.is_unpacked(root)


def test_a_killed_download_never_looks_complete(root: Path, server: Server, birds: Archive) -> None:
    server.pause = 0.05
    with forked(lambda: download_and_unpack(root, [birds], download=True)) as process:
        kill_once_there(process, root, ".*.part")
    assert everything(root) == [".birds.tgz.part"]
    server.pause = 0
    download_and_unpack(root, [birds], download=True)
    assert everything(root) == ["birds", "birds.tgz", "birds/1.jpg"]


def test_processes_that_start_at_once(root: Path, server: Server, birds: Archive) -> None:
    server.pause = 0.02
    with ExitStack() as stack:
        each = [forked(lambda: download_and_unpack(root, [birds], download=True)) for _ in range(4)]
        processes = [stack.enter_context(process) for process in each]
    assert [process.exitcode for process in processes] == [0] * 4
    assert len(server.asked) == 2
    assert everything(root) == ["birds", "birds.tgz", "birds/1.jpg"]


def write_zip(path: Path, *members: Member) -> Archive:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members:
            file.writestr(name, content)
    return archive(path)


@pytest.mark.parametrize(("name", "write"), [("a.tar", write_tar), ("a.tgz", write_tar), ("a.zip", write_zip)])
def test_what_it_holds_is_taken_and_the_rest_dropped(root: Path, name: str, write: Callable[..., Archive]) -> None:
    members = [("./birds/deep/1.jpg", b"one"), ("./birds/2.jpg", b"two"), ("/readme.txt", b"x")]
    options = {"mode": "w"} if name == "a.tar" else {}
    download_and_unpack(root, [write(root / name, *members, **options)], download=False)
    assert everything(root) == [name, "birds", "birds/2.jpg", "birds/deep", "birds/deep/1.jpg"]
    assert (root / "birds/deep/1.jpg").read_bytes() == b"one"


@pytest.mark.parametrize(
    ("members", "kind", "message"),
    [
        ([("birds/1.jpg", b"one"), ("../evil.txt", b"x")], b"", "outside"),
        ([("birds/1.jpg", b"one"), ("birds/../../evil.txt", b"x")], b"", "outside"),
        ([("birds/1.jpg", b"one"), ("birds/link", "/etc/passwd")], tarfile.SYMTYPE, "absolute"),
        ([("birds/1.jpg", b"one"), ("birds/link", "../../evil")], tarfile.SYMTYPE, "outside"),
        ([("birds/1.jpg", b"one"), ("birds/pipe", "")], tarfile.FIFOTYPE, "special file"),
        ([("birds/1.jpg", b"one"), ("birds/null", "")], tarfile.CHRTYPE, "special file"),
        ([("dogs/1.jpg", b"one")], b"", "birds"),  # an archive of something else
        ([("birds/../../evil.txt", b"x")], b"zip", ""),
    ],
)
def test_archives_that_are_refused(root: Path, members: list[Member], kind: bytes, message: str) -> None:
    path = root / ("a.zip" if kind == b"zip" else "a.tgz")
    hostile = write_zip(path, *members) if kind == b"zip" else write_tar(path, *members, kind=kind)
    with pytest.raises(DataError, match=rf"{path} cannot be unpacked \(.*{message}"):
        download_and_unpack(root, [hostile], download=False)
    assert everything(root.parent) == ["root", f"root/{path.name}"]


def test_absolute_paths_stay_inside(root: Path, tmp_path: Path) -> None:
    absolute = write_tar(root / "a.tgz", ("birds/1.jpg", b"one"), (f"{tmp_path}/evil.txt", b"x"))
    download_and_unpack(root, [absolute], download=False)
    assert not (tmp_path / "evil.txt").exists()


@pytest.mark.parametrize("damage", [lambda content: content[: len(content) * 2 // 3], lambda _: b"", lambda _: b"<h"])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_damaged_archives(root: Path, mode: str, damage: Callable[[bytes], bytes]) -> None:
    path = root / "a.tar"
    write_tar(path, ("birds/1.jpg", os.urandom(50_000)), mode=mode)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=rf"{path} cannot be unpacked \(.*\): remove it, make room or get it anew"):
        download_and_unpack(root, [archive(path)], download=False)
    assert everything(root) == ["a.tar"]


def test_disk_full(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(source: object, target: io.BufferedWriter, *_: object, **__: object) -> None:
        target.write(b"on")
        raise OSError(errno.ENOSPC, "No space left on device")

    birds = write_tar(root / "a.tgz", ("birds/1.jpg", b"one"))
    monkeypatch.setattr(tarfile, "copyfileobj", fill)
    with pytest.raises(DataError, match=f"{root}/a.tgz cannot be unpacked .*No space left"):
        download_and_unpack(root, [birds], download=False)
    assert everything(root) == ["a.tgz"]


def test_a_killed_extraction_never_looks_complete(root: Path) -> None:
    def slow(source: io.BufferedReader, target: io.BufferedWriter, *_: object, **__: object) -> None:
        target.write(b"on")
        target.flush()
        time.sleep(60)

    def run() -> None:
        tarfile.copyfileobj = slow
        download_and_unpack(root, [birds], download=False)

    birds = write_tar(root / "a.tgz", ("birds/1.jpg", b"one"), ("birds/2.jpg", b"two"))
    with forked(run) as process:
        kill_once_there(process, root, "1.jpg")
    assert not (root / "birds").exists()
    (next(root.rglob("1.jpg")).parent / "stray.jpg").write_bytes(b"of another archive")
    download_and_unpack(root, [birds], download=False)
    assert everything(root) == ["a.tgz", "birds", "birds/1.jpg", "birds/2.jpg"]
