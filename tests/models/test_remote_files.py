"""Weights from the hub and from a server: fetched once, whole or not at all, and no secret gets into a message."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from helpers.fake_datasets import Server, Trap, serve
from tmkd_lightning.models import DownloadError, load_weights, local_file
from tmkd_lightning.models.remote_files import check_location

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = {"weight": torch.full((1, 2), 3.0), "bias": torch.ones(1)}


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's hub cache."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "served"
    folder.mkdir()
    torch.save(WEIGHTS, folder / "teacher.pt")
    save_file(WEIGHTS, folder / "teacher.safetensors")
    with serve(folder) as running:
        yield running


@pytest.mark.parametrize("name", ["teacher.pt", "teacher.safetensors"])
def test_fetched_once_and_read(server: Server, hub: Path, name: str) -> None:
    for _ in range(2):
        network = nn.Linear(2, 1)
        load_weights(network, f"{server.url}/{name}?download=1")
        assert network.weight.tolist() == [[3.0, 3.0]]
    assert server.asked == [name]
    assert [path.name for path in hub.rglob("teacher*")] == [name]


def test_equal_names_are_not_confused(server: Server) -> None:
    """torch.hub.load_state_dict_from_url would give the first for both."""
    first = local_file(f"{server.url}/teacher.pt")
    (server.folder / "v2").mkdir()
    torch.save({"other": torch.zeros(1)}, server.folder / "v2" / "teacher.pt")
    second = local_file(f"{server.url}/v2/teacher.pt")
    assert first.read_bytes() != second.read_bytes() == (server.folder / "v2/teacher.pt").read_bytes()


def test_a_digest_in_the_name_is_verified(server: Server, hub: Path) -> None:
    content = (server.folder / "teacher.pt").read_bytes()
    digest = "a1" + hashlib.sha256(content).hexdigest()[:6]  # at least one letter
    right = f"net-{hashlib.sha256(content).hexdigest()}.pth"
    for name in (right, f"net-{digest}.pth", "net-20240131.pth"):
        (server.folder / name).write_bytes(content)
    assert local_file(f"{server.url}/{right}") == hub / right  # where torch.hub would have put it
    assert local_file(f"{server.url}/net-20240131.pth").parent.parent == hub  # a date is no digest
    with pytest.raises(DownloadError, match=rf"/net-{digest}.pth cannot be fetched to .*invalid hash value"):
        local_file(f"{server.url}/net-{digest}.pth")
    assert not (hub / f"net-{digest}.pth").exists()
    (hub / right).write_bytes(b"cut")
    with pytest.raises(DownloadError, match=r"is damaged, as its SHA-256 does not begin with \w+: remove it"):
        local_file(f"{server.url}/{right}")


@pytest.mark.parametrize("mishap", ["breaks off", "page", "code", "missing"])
def test_what_is_not_whole_or_not_safe_is_not_kept(server: Server, hub: Path, tmp_path: Path, mishap: str) -> None:
    file = server.folder / "teacher.pt"
    if mishap == "breaks off":
        server.breaks = [200]
    elif mishap == "page":
        file.write_text("<html>Please log in</html>")
    elif mishap == "code":
        torch.save({"weight": Trap(tmp_path / "hacked")}, file)
    else:
        server.status = 404
    remedy = r"teacher.pt cannot be fetched to .*: fetch it elsewhere and copy it there, or give the path of a copy"
    with pytest.raises(DownloadError, match=remedy):
        local_file(f"{server.url}/teacher.pt")
    assert not list(hub.rglob("*teacher.pt"))
    assert not (tmp_path / "hacked").exists()
    server.status = 200
    torch.save(WEIGHTS, file)
    assert local_file(f"{server.url}/teacher.pt").is_file()


def test_one_of_several_fetches(server: Server) -> None:
    server.pause = 0.05
    found: list[Path] = []
    ranks = [threading.Thread(target=lambda: found.append(local_file(f"{server.url}/teacher.pt"))) for _ in range(3)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert len(set(found)) == 1
    assert len(found) == 3
    assert server.asked == ["teacher.pt"]


def test_no_key_in_messages(server: Server, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture) -> None:
    server.status = 403
    with caplog.at_level("INFO"), pytest.raises(DownloadError) as caught:
        local_file(f"{server.url}/teacher.pt?X-Amz-Signature=5up3r&token=5ecret")
    said = f"{caught.value}{caplog.text}{capsys.readouterr()}"
    assert "Signature=***" in said
    assert "5up3r" not in said
    assert "5ecret" not in said


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("http://example.org/teacher.pt", "may be changed on its way: use https://"),
        ("https://me:5up3r@example.org/teacher.pt", r"holds a user's name or password"),
        ("https://5up3r@example.org/teacher.pt", r"holds a user's name or password"),
        ("https://example.org/", "does not name a file"),
        ("https://example.org/%2e%2e", "does not name a file"),
        ("https://example.org:eight/teacher.pt", "is not a URL"),
        ("s3://bucket/teacher.pt", "is neither a path nor hf:// or https://"),
        ("hf://owner/teacher.pt", "does not name a file of the hub: write hf://<owner>/<repository>/<file>@<revision>"),
        ("hf://owner/repo@v1/teacher.pt@v2", "does not name a file of the hub"),
    ],
)
def test_locations_that_are_refused(location: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        check_location("teacher_checkpoint", location)
    assert str(caught.value).startswith("teacher_checkpoint=")
    assert "5up3r" not in str(caught.value)


def test_no_name_leads_out_of_the_cache(server: Server, hub: Path) -> None:
    assert check_location("it", f"{server.url}/a%2F..%2Fteacher.pt")
    (server.folder / "a%2F..%2Fteacher.pt").write_bytes((server.folder / "teacher.pt").read_bytes())
    assert hub in local_file(f"{server.url}/a%2F..%2Fteacher.pt").parents


# The hub


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """A folder of the hub's cache as it lays them out, and which revisions were asked for."""
    asked: list[str | None] = []
    blob = tmp_path / "hf/models--owner--repo/blobs/abc"
    snapshot = tmp_path / "hf/models--owner--repo/snapshots" / COMMIT
    link = snapshot / "nets/teacher.safetensors"
    blob.parent.mkdir(parents=True)
    link.parent.mkdir(parents=True)
    save_file(WEIGHTS, blob)
    link.symlink_to(blob)

    def hf_hub_download(repo_id: str, filename: str, revision: str | None = None) -> str:
        asked.append(revision)
        if (repo_id, filename) != ("owner/repo", "nets/teacher.safetensors"):
            raise huggingface_hub.errors.LocalEntryNotFoundError("outgoing traffic has been disabled")
        return str(snapshot / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    return asked


@pytest.mark.parametrize(
    ("location", "revision"),
    [
        (f"hf://owner/repo/nets/teacher.safetensors@{COMMIT}", COMMIT),
        (f"hf://owner/repo@{COMMIT}/nets/teacher.safetensors", COMMIT),  # as the hub's own file system has it
        ("hf://owner/repo/nets/teacher.safetensors", None),
        ("hf://owner/repo/nets/teacher.safetensors@refs/pr/1", "refs/pr/1"),
    ],
)
def test_hub(repository: list[str | None], caplog: pytest.LogCaptureFixture, location: str, revision: str) -> None:
    network = nn.Linear(2, 1)
    with caplog.at_level("INFO"):
        load_weights(network, location)
    assert network.weight.tolist() == [[3.0, 3.0]]
    assert repository == [revision]
    notice = f"hf://owner/repo/nets/teacher.safetensors@{COMMIT} pins it"
    assert caplog.text.count(notice) == (revision != COMMIT)


@pytest.mark.usefixtures("repository")
def test_hub_that_cannot_be_reached() -> None:
    message = (
        r"hf://owner/other/a.pt@v1 cannot be fetched .*outgoing traffic.*HF_TOKEN; without a network, fetch it else"
    )
    with pytest.raises(DownloadError, match=message):
        local_file("hf://owner/other/a.pt@v1")


def test_the_hubs_own_cache_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real hf_hub_download finds a file in the layout above, and the commit is read off its path."""
    cache = tmp_path / "real"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    snapshot = cache / "models--owner--repo" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    torch.save(WEIGHTS, snapshot / "teacher.pt")
    real = huggingface_hub.hf_hub_download

    def cached(*args: str, **options: str) -> str:
        return real(*args, cache_dir=str(cache), local_files_only=True, **options)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", cached)
    assert local_file(f"hf://owner/repo/teacher.pt@{COMMIT}") == snapshot / "teacher.pt"
    begun = time.monotonic()
    with pytest.raises(DownloadError, match=r"hf://owner/repo/teacher.pt cannot be fetched"):
        local_file("hf://owner/repo/teacher.pt")
    assert time.monotonic() - begun < 5
