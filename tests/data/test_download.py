"""Downloads as they go wrong: whatever happens, a file that has its name is the genuine one."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.fake_datasets import Server, serve
from tmkd_lightning.data import DataError, download
from tmkd_lightning.data.download import fetch

CONTENT = bytes(range(256)) * 400  # 100 KB
MD5 = hashlib.md5(CONTENT).hexdigest()
SIZE = len(CONTENT)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "birds.tgz").write_bytes(CONTENT)
    with serve(folder) as server:
        yield server


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "birds.tgz"


def load(server: Server, path: Path, size: int | None = SIZE, md5: str = MD5) -> None:
    fetch(f"{server.url}/birds.tgz?download=1", path, md5, size)


def part(path: Path) -> Path:
    return path.with_name("birds.tgz.part")


def refused(server: Server, path: Path, message: str, **options: object) -> str:
    """Loads, expects an error, and that nothing has taken the file's name."""
    with pytest.raises(DataError, match=message) as caught:
        load(server, path, **options)
    assert not path.exists()
    return str(caught.value)


# What works


@pytest.mark.parametrize("size", [SIZE, None])
@pytest.mark.parametrize("with_length", [True, False])
def test_a_file_is_loaded(server: Server, path: Path, size: int | None, with_length: bool) -> None:
    server.with_length = with_length
    load(server, path, size)
    assert path.read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir()] == ["birds.tgz"]


@pytest.mark.parametrize("size", [SIZE, None])
def test_a_file_that_is_there_needs_no_network(server: Server, path: Path, size: int | None) -> None:
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    load(server, path, size)
    assert server.asked == []


def test_progress_is_shown_on_a_terminal_only(
    server: Server, path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load(server, path)
    assert "%" not in capsys.readouterr().err
    path.unlink()
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    load(server, path)
    assert "birds.tgz: 100%" in capsys.readouterr().err


# Lines that break


@pytest.mark.parametrize("size", [SIZE, None])
def test_a_line_that_breaks_is_picked_up(server: Server, path: Path, size: int | None) -> None:
    server.breaks = [30_000, 50_000]
    load(server, path, size)
    assert path.read_bytes() == CONTENT
    assert [wanted for _, wanted in server.asked] == [None, "bytes=30000-", "bytes=80000-"]


def test_a_server_without_ranges_begins_anew(server: Server, path: Path) -> None:
    server.ranges = False
    server.breaks = [30_000]
    load(server, path)
    assert path.read_bytes() == CONTENT


def test_what_arrived_is_kept_for_the_next_call(server: Server, path: Path) -> None:
    server.breaks = [1_000] * 5
    message = refused(server, path, "broke off 5 times: start again")
    assert str(part(path)) in message
    assert str(path) in message
    assert part(path).read_bytes() == CONTENT[:5_000]
    server.asked.clear()
    load(server, path)
    assert server.asked == [("birds.tgz", "bytes=5000-")]
    assert path.read_bytes() == CONTENT
    assert not part(path).exists()


def test_a_killed_download_never_looks_complete(server: Server, path: Path) -> None:
    server.pause = 0.05
    process = multiprocessing.get_context("fork").Process(target=load, args=(server, path), daemon=True)
    process.start()
    while process.is_alive() and not (part(path).exists() and part(path).stat().st_size):
        time.sleep(0.01)
    process.kill()
    process.join()
    assert not path.exists()
    arrived = part(path).read_bytes()
    assert 0 < len(arrived) < SIZE
    assert CONTENT.startswith(arrived)
    server.pause = 0
    load(server, path)
    assert path.read_bytes() == CONTENT
    assert server.asked[-1] == ("birds.tgz", f"bytes={len(arrived)}-")


@pytest.mark.parametrize("size", [SIZE, None])
def test_a_part_that_is_longer_than_the_file_is_dropped(server: Server, path: Path, size: int | None) -> None:
    path.parent.mkdir()
    part(path).write_bytes(bytes(SIZE + 10))
    load(server, path, size)
    assert path.read_bytes() == CONTENT


def test_a_part_that_is_complete_only_takes_its_name(server: Server, path: Path) -> None:
    path.parent.mkdir()
    part(path).write_bytes(CONTENT)
    load(server, path)
    assert (server.asked, path.read_bytes()) == ([], CONTENT)


def test_a_complete_part_of_unknown_size_is_not_loaded_again(server: Server, path: Path) -> None:
    path.parent.mkdir()
    part(path).write_bytes(CONTENT)
    load(server, path, None)
    assert (len(server.asked), path.read_bytes()) == (1, CONTENT)


def test_a_part_of_another_file_is_dropped(server: Server, path: Path) -> None:
    path.parent.mkdir()
    part(path).write_bytes(bytes(100))
    refused(server, path, "has the md5 .* it was removed: try again later")
    load(server, path)
    assert path.read_bytes() == CONTENT


# Servers that send something else


def test_wrong_md5(server: Server, path: Path) -> None:
    message = refused(server, path, f"has the md5 {MD5} instead of {'0' * 32}", md5="0" * 32)
    assert server.url in message
    assert str(path) in message
    assert list(path.parent.iterdir()) == []


def test_a_file_of_another_size_is_not_even_loaded(server: Server, path: Path) -> None:
    refused(server, path, f"sends {SIZE} bytes, not 7: the file there has changed", size=7)
    assert list(path.parent.iterdir()) == []


def test_a_web_page_that_says_so(server: Server, path: Path) -> None:
    server.content_type = "text/html; charset=utf-8"
    refused(server, path, "sent a web page, not a file: look at it in a browser")
    assert list(path.parent.iterdir()) == []


def test_a_web_page_that_does_not_say_so(server: Server, path: Path) -> None:
    (server.folder / "birds.tgz").write_bytes(b"\n<!DOCTYPE html><title>Sign in</title>")
    refused(server, path, "is a web page", size=None)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_http_errors_name_address_and_file(server: Server, path: Path, status: int) -> None:
    server.status = status
    message = refused(server, path, f"cannot be loaded .HTTP Error {status}")
    assert f"{server.url}/birds.tgz" in message
    assert f"put the file at {path} by other means" in message
    assert len(server.asked) == 1


def test_server_down(path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/birds.tgz"
    with pytest.raises(DataError, match=f"{url} cannot be reached .*refused.* put the file at {path}"):
        fetch(url, path, MD5, SIZE)


def test_a_server_that_does_not_answer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_TIMEOUT", 0.1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(DataError, match=r"cannot be reached .*timed out"):
            fetch(f"http://127.0.0.1:{silent.getsockname()[1]}/birds.tgz", path, MD5, SIZE)


def test_a_server_that_falls_silent_midway(server: Server, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_TIMEOUT", 0.1)
    monkeypatch.setattr(download, "_ATTEMPTS", 2)
    monkeypatch.setattr(download, "_CHUNK", 4096)
    server.pause = 0.3
    refused(server, path, "broke off 2 times")
    assert CONTENT.startswith(part(path).read_bytes())


def test_no_such_host(path: Path) -> None:
    with pytest.raises(DataError, match=r"https://nowhere.invalid/birds.tgz cannot be reached"):
        fetch("https://nowhere.invalid/birds.tgz", path, MD5, SIZE)


# What lies there already


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CONTENT[:-1], f"has {SIZE - 1} bytes instead of {SIZE}: remove it"),
        (bytes(SIZE), f"has the md5 .* instead of {MD5}: remove it"),
        (b"<html><body>Sign in</body></html>", "is a web page: remove it"),
    ],
)
def test_another_file_is_named_and_left_alone(server: Server, path: Path, content: bytes, message: str) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path} {message}"):
        load(server, path)
    assert path.read_bytes() == content
    assert server.asked == []


# Disks


def test_too_little_room_is_known_before(server: Server, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(0, 0, 1_000))
    refused(server, path, f"{path.parent} has 1,000 bytes free, and .* needs 102,400 more: make room")
    assert list(path.parent.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_disk_full_midway(server: Server, path: Path) -> None:
    path.parent.mkdir()
    part(path).symlink_to("/dev/full")
    refused(server, path, f"{path} cannot be written .*No space left on device.* kept in {part(path)}")


def test_a_root_that_cannot_be_made(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    path = tmp_path / "file" / "birds.tgz"
    with pytest.raises(DataError, match=f"{path} cannot be written"):
        load(server, path)
    assert server.asked == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_root(server: Server, path: Path) -> None:
    path.parent.mkdir()
    path.parent.chmod(0o500)
    refused(server, path, f"{path} cannot be written")
