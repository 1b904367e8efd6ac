"""The index of a stream, ``stream_index.json``: what its shards hold. It is written once all of them are there."""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tmkd_lightning.data.errors import DataError
from tmkd_lightning.utils.files import atomic_write
from tmkd_lightning.utils.messages import short

INDEX = "stream_index.json"  # LitData starts no threads, which forks break, for what ends in index.json
SHARDS = "index.json"  # LitData's, in the folder of each split
MISSING = "streams need LitData: pip install 'tmkd-lightning[stream]'"
_FORMAT = 1


@dataclass(frozen=True)
class Split:
    """What the shards of a split hold.

    Attributes:
        images: their number.
        content: digest of all encoded images and labels, in the order of the shards.
        shards: SHA-256 of LitData's ``index.json``.
        sizes: bytes of each shard by its file name.
    """

    images: int
    content: str
    shards: str
    sizes: dict[str, int]


@dataclass(frozen=True)
class StreamIndex:
    """Class names, words for them in prompts, and splits of a stream."""

    class_names: list[str]
    class_phrases: list[str]
    splits: dict[str, Split]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that the index says."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def write(self, folder: Path) -> None:
        """Writes ``stream_index.json``, in one piece."""
        content = {"format": _FORMAT, "fingerprint": self.fingerprint, **asdict(self)}
        with atomic_write(folder / INDEX) as file:
            file.write(json.dumps(content, indent=1, ensure_ascii=False).encode())


def read_index(root: str, storage_options: dict[str, Any] | None = None) -> StreamIndex:
    """Reads the index of a stream.

    Args:
        root: folder or address of the stream.
        storage_options: of LitData, for a bucket.

    Raises:
        ImportError: LitData is not installed.
        DataError: there is no index, it is damaged, or it cannot be reached.
    """
    if find_spec("litdata") is None:
        raise ImportError(MISSING)
    written = read_file(root, INDEX, storage_options)
    if written is None:
        raise DataError(
            f"{root} has no {INDEX}: it is no stream, or a half-written one, for that file is written last; "
            "tmkd data optimize makes streams"
        )
    try:
        content = json.loads(written)
        if content["format"] != _FORMAT:
            raise DataError(f"{root}/{INDEX} has the format {content['format']}, this version reads {_FORMAT}")
        splits = {name: Split(**split) for name, split in content["splits"].items()}
        index = StreamIndex(content["class_names"], content["class_phrases"], splits)
        if index.fingerprint != content["fingerprint"]:
            raise ValueError("it is not as it was written")
    except DataError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{root}/{INDEX} is damaged ({short(error)}): write the stream again") from error
    return index


def check_shards(root: str, index: StreamIndex, split: str, storage_options: dict[str, Any] | None = None) -> None:
    """Raises DataError if the shards of a split are not those of the index; in a folder, if one is cut off or missing.

    No image is read.
    """
    place, described = f"{root}/{split}", index.splits[split]
    written = read_file(place, SHARDS, storage_options)
    if written is None:
        raise DataError(f"{place} has no {SHARDS}, which LitData reads: copy the stream again")
    if hashlib.sha256(written).hexdigest() != described.shards:
        raise DataError(f"the shards in {place} are not those that {root}/{INDEX} describes: copy the stream again")
    if is_remote(root):
        return
    for name, size in described.sizes.items():
        path = Path(place, name)
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            wrong = "is missing" if found is None else f"has {found} bytes instead of {size}"
            raise DataError(f"the shard {path} {wrong}: copy the stream again")


def is_remote(root: str) -> bool:
    """Whether LitData copies the shards from there before it reads them: a bucket, or ``local:`` and a folder."""
    return "://" in root or root.startswith("local:")


def read_file(root: str, name: str, storage_options: dict[str, Any] | None) -> bytes | None:
    """Content of a small file of a stream; None if it is not there."""
    if not is_remote(root):
        path = Path(root, name)
        return path.read_bytes() if path.is_file() else None
    from litdata.streaming.downloader import get_downloader

    address = f"{root.rstrip('/')}/{name}"
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, name)
        try:
            get_downloader(root, folder, [], storage_options or {}).download_file(address, str(copy))
        except FileNotFoundError:
            return None
        except Exception as error:  # each provider has errors of its own
            raise DataError(
                f"{address} cannot be read ({short(error, kind=True)}): check the address, and the credentials of "
                "this machine for that bucket"
            ) from error
        return copy.read_bytes() if copy.is_file() else None
