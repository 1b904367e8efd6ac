"""Files of weights that lie on the Hugging Face hub or a web server: fetched once, then read from the disk."""

import hashlib
import os
import re
import tempfile
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit

import torch
from filelock import FileLock
from lightning.pytorch.utilities import rank_zero_info

from tmkd_lightning.utils.checkpoint_reading import read_checkpoint
from tmkd_lightning.utils.files import sha256_of
from tmkd_lightning.utils.messages import short
from tmkd_lightning.utils.progress import on_terminal
from tmkd_lightning.utils.secrets import redact

_HUB = re.compile(r"hf://([^/@]+/[^/@]+)(?:@([^/@]+))?/([^@]+?)(?:@([^@]+))?")
_HUB_FORM = "hf://<owner>/<repository>/<file>@<revision>"
_DIGEST = re.compile(r"-(?=[0-9]*[a-f])([0-9a-f]{8,64})\.")  # as torch.hub names its files; digits alone may be a date
_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


class DownloadError(RuntimeError):
    """A file of weights cannot be fetched; the message says what would help."""


def check_location(argument: str, location: str | os.PathLike[str]) -> str:
    """Checks where a file of weights is: a path, ``hf://`` or ``https://``; returns it with ``~`` expanded."""
    location = os.fspath(location)
    if "://" not in location:
        return os.path.expanduser(location)
    scheme, shown = location.partition("://")[0], redact(location)
    if scheme == "hf":
        found = _HUB.fullmatch(location)
        if found is None or (found[2] and found[4]):
            raise ValueError(f"{argument}={shown!r} does not name a file of the hub: write {_HUB_FORM}")
        return location
    try:
        url = urlsplit(location)
        host, user, _ = url.hostname, url.username, url.port  # the last is read to be checked
    except ValueError as error:
        raise ValueError(f"{argument}={shown!r} is not a URL ({error})") from None
    if scheme not in ("https", "http"):
        raise ValueError(f"{argument}={shown!r} is neither a path nor hf:// or https://: fetch it and give its path")
    if scheme == "http" and host not in _LOCAL_HOSTS:
        raise ValueError(f"{argument}={shown!r} may be changed on its way: use https://, or fetch it and give its path")
    if user is not None:
        raise ValueError(f"{argument}={shown!r} holds a user's name or password: fetch the file and give its path")
    if not host or _name(location) in ("", ".."):
        raise ValueError(f"{argument}={shown!r} does not name a file, such as https://<host>/<folder>/teacher.pt")
    return location


def local_file(location: str | Path) -> Path:
    """The path of a file of weights, which is fetched first if it is elsewhere and was not fetched before.

    Of several processes one fetches and the others wait. A file of a web server lies in torch's hub cache: under its
    own name if that holds the beginning of its SHA-256, as in ``resnet50-0676ba61.pth``, which is verified; otherwise
    in a folder of its URL. A file of the hub lies in the Hugging Face cache.

    Args:
        location: a path, ``hf://<owner>/<repository>/<file>@<revision>``, or ``https://<host>/<...>/<file>``.

    Returns:
        Path of the file on this machine; a path that was given may lead nowhere.

    Raises:
        ValueError: `location` is another kind of URL, or one with a password.
        DownloadError: the file cannot be fetched, is not what its name says, or cannot be read safely.

    Example:
        >>> local_file("runs/teacher/best.ckpt").name
        'best.ckpt'
    """
    location = check_location("location", location)
    if location.startswith("hf://"):
        return _from_hub(location)
    return _from_web(location) if "://" in location else Path(location)


def _from_hub(location: str) -> Path:
    from huggingface_hub import hf_hub_download

    found = _HUB.fullmatch(location)
    assert found is not None  # check_location has seen to it
    repository, before, name, behind = found.groups()
    revision = before or behind
    rank_zero_info(f"Fetching {location}, unless it is here")
    try:
        path = Path(hf_hub_download(repository, name, revision=revision))
    except Exception as error:  # the hub raises whatever sockets, disks and servers come to
        raise DownloadError(
            f"{location} cannot be fetched from the Hugging Face hub ({_reason(error)}): check the names and, for a "
            "private repository, HF_TOKEN; without a network, fetch it elsewhere and give its path"
        ) from error
    commit = path.parents[name.count("/")].name  # .../snapshots/<commit>/<file>
    if revision != commit:
        pinned = f"hf://{repository}/{name}@{commit}"
        rank_zero_info(f"{location} is at commit {commit} now, and may be another file later: {pinned} pins it")
    return path


def _from_web(url: str) -> Path:
    name = _name(url)
    digest = _DIGEST.search(name)
    folder = Path(torch.hub.get_dir(), "checkpoints")
    if digest is None:  # other files may have the same name
        folder = folder / hashlib.sha256(url.encode()).hexdigest()[:16]
    path = folder / name
    try:
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / f".{name}.lock"):
                if not path.is_file():  # fetched by another process, meanwhile
                    _download(url, path, None if digest is None else digest[1])
    except (OSError, HTTPException, NotImplementedError) as error:  # the last where a file system has no locks
        raise DownloadError(
            f"{redact(url)} cannot be fetched to {path} ({_reason(error)}): fetch it elsewhere and copy it there, or "
            "give the path of a copy"
        ) from error
    if digest is not None and not sha256_of(path).startswith(digest[1]):
        raise DownloadError(f"{path} is damaged, as its SHA-256 does not begin with {digest[1]}: remove it")
    return path


def _download(url: str, path: Path, digest: str | None) -> None:
    """Downloads a file, and gives it its name once it is whole: the server may break off, or send a page instead."""
    rank_zero_info(f"Downloading {redact(url)} to {path}")
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        part = Path(folder, path.name)
        try:
            torch.hub.download_url_to_file(url, str(part), digest, progress=on_terminal())
        except HTTPError as error:
            error.close()  # it holds the connection
            raise
        except RuntimeError as error:  # another SHA-256 than its name says
            raise OSError(short(error)) from error
        try:
            read_checkpoint(part, tensors=False)
        except ValueError as error:
            raise OSError(str(error).replace(str(part), "what came")) from error
        os.replace(part, path)


def _name(url: str) -> str:
    return Path(unquote(urlsplit(url).path)).name


def _reason(error: Exception) -> str:
    return redact(short(error, kind=True))
