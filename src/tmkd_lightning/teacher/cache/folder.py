"""A folder of arrays that belong to one teacher, its views and one set of images."""

import contextlib
import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tmkd_lightning.teacher.cache.array_file import ArrayFile, CacheError
from tmkd_lightning.utils.files import atomic_write

MANIFEST = "identity.json"
_HEAD = "head.npz"
_FORMAT = 3  # of these files and of the code that computes their content; another one is another cache


class CacheFolder:
    """Stored outputs of a teacher, named by the digest of `identity`, which also lies in the folder as JSON.

    Args:
        directory: where such folders are.
        identity: plain values that decide what the outputs are.
        dtypes: dtype of each array that is read, by name.
    """

    def __init__(self, directory: Path, identity: Mapping[str, Any], dtypes: Mapping[str, str]) -> None:
        self.identity = {"format": _FORMAT, **identity}
        text = json.dumps(self.identity, sort_keys=True)
        self.path = directory / hashlib.sha256(text.encode()).hexdigest()[:16]
        self.dtypes = dict(dtypes)
        if (self.path / MANIFEST).exists() and read_manifest(self.path) != json.loads(text):
            raise CacheError(f"{self.path / MANIFEST} does not say what the folder's name does: remove {self.path}")
        self.files: dict[str, ArrayFile] = {}
        self.reopen()

    def file(self, name: str) -> Path:
        """Path of an array."""
        return self.path / f"{name}.{self.dtypes[name]}.npy"

    @property
    def complete(self) -> bool:
        """Whether all rows of all arrays are written."""
        head = "embedding" not in self.dtypes or self.has_head
        return head and all(name in self.files and self.files[name].complete for name in self.dtypes)

    @property
    def has_head(self) -> bool:
        """Whether the teacher's head is stored."""
        return (self.path / _HEAD).exists()

    @property
    def written(self) -> int:
        """Number of rows that are written in all arrays."""
        return min(self.files[name].written if name in self.files else 0 for name in self.dtypes)

    @property
    def rows(self) -> int:
        """Number of rows of each array."""
        return int(self.identity["data"]["images"] * self.identity["data"]["replicas"])

    @property
    def unwritten(self) -> int:
        """Bytes that the arrays which were made will yet take on the disk."""
        files = [self.file(name) for name in self.files]
        return sum(max(0, path.stat().st_size - on_disk(path)) for path in files)

    def missing(self) -> np.ndarray:
        """The rows that are not written in all arrays."""
        written = [self.files[name].is_written for name in self.dtypes if name in self.files]
        if len(written) < len(self.dtypes):
            return np.arange(self.rows)
        return np.flatnonzero(~np.logical_and.reduce(written))

    def reopen(self) -> None:
        """Opens the files again, as other processes may have written to them; CacheError if one is damaged or gone."""
        self.close()
        gone = [name for name in self.files if not self.file(name).exists()]
        if gone:
            raise CacheError(f"{self.file(gone[0])} is gone")
        self.files = {name: ArrayFile(self.file(name)) for name in self.dtypes if self.file(name).exists()}

    def create(self, rows: int, shapes: Mapping[str, Sequence[int]], reserved: int = 0) -> None:
        """Makes the arrays that are not there yet, for rows of these shapes, if the disk has room for them.

        `reserved` is the number of free bytes that belong to others.
        """
        row = sum(math.prod(shape) * np.dtype(self.dtypes[name]).itemsize + 4 for name, shape in shapes.items())
        what = f"{rows} rows of {dict(shapes)} in {tqdm.format_sizeof(rows * row, 'B')}"
        taken = sum(on_disk(self.file(name)) for name in shapes)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            free = max(0, shutil.disk_usage(self.path).free - reserved)
            if rows * row - taken > free:
                raise CacheError(
                    f"the teacher cache needs {what}, but {self.path} has {tqdm.format_sizeof(free, 'B')} left: take "
                    "fewer augmentation_replicas, float16, another directory, no images, or a method that reads no maps"
                )
            with atomic_write(self.path / MANIFEST) as file:
                file.write(json.dumps(self.identity, indent=2, sort_keys=True).encode())
            for name, shape in shapes.items():
                self.files[name] = ArrayFile.create(self.file(name), rows, shape, self.dtypes[name])
        except OSError as error:
            message = f"the teacher cache cannot be written to {self.path} ({error}): name another directory"
            raise CacheError(message) from error
        from lightning.pytorch.utilities import rank_zero_info  # seconds to import, and `tmkd cache` does without

        rank_zero_info(f"Teacher cache: {what}")

    def closest(self) -> tuple[str, list[str]] | None:
        """Name of the cache beside this one that differs in the fewest parts of the identity, and which these are."""
        own, found = dict(_parts(json.loads(json.dumps(self.identity)))), []
        for path in self.path.parent.glob(f"*/{MANIFEST}"):
            with contextlib.suppress(CacheError, RecursionError):
                other = dict(_parts(read_manifest(path.parent)))
                differing = sorted(name for name in own.keys() | other.keys() if own.get(name) != other.get(name))
                if differing:  # a copy of this one, or what another process has just made, does not
                    found.append((len(differing), path.parent.name, differing))
        return min(found)[1:] if found else None

    def read(self, rows: np.ndarray) -> dict[str, np.ndarray] | None:
        """Reads rows ``(B,)`` of every array as ``(B, ...)``; None unless all are written and whole."""
        if len(self.files) < len(self.dtypes):
            return None
        values = {name: self.files[name].read(rows) for name in self.dtypes}
        whole = {name: value for name, value in values.items() if value is not None}
        return whole if len(whole) == len(values) else None

    def write(self, rows: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
        """Writes rows ``(B,)`` of some arrays, except those that are there, which others may be reading."""
        for name, value in values.items():
            if self.files[name].read(rows) is None:
                self.files[name].write(rows, value)

    def write_head(self, **tensors: np.ndarray) -> None:
        """Stores the teacher's head: weight ``(K, D)``, and bias ``(K,)`` if it has one."""
        with atomic_write(self.path / _HEAD) as file:
            np.savez(file, **tensors)  # type: ignore[arg-type]

    def read_head(self) -> dict[str, np.ndarray]:
        """Reads the teacher's head."""
        path = self.path / _HEAD
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                return dict(file)
        except Exception as error:  # on foreign bytes an unpacker raises whatever it comes to
            raise CacheError(f"{path} is damaged ({error}): remove it, it is made anew") from error

    def close(self) -> None:
        """Closes the files; reading or writing opens them again."""
        for file in self.files.values():
            file.close()


def _parts(value: object, name: str = "") -> Iterator[tuple[str, str]]:
    """The values of nested dicts, as they are written, each with its dotted name."""
    if not isinstance(value, dict) or not value:
        yield name, json.dumps(value, sort_keys=True)
        return
    for key, part in value.items():
        yield from _parts(part, f"{name}.{key}" if name else key)


def read_manifest(path: Path) -> dict[str, Any]:
    """Reads the identity that lies in a folder."""
    try:
        identity = json.loads((path / MANIFEST).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise CacheError(f"{path / MANIFEST} cannot be read ({error}): remove {path}") from error
    if not isinstance(identity, dict):
        raise CacheError(f"{path / MANIFEST} is not of a teacher cache")
    return identity


def on_disk(path: Path) -> int:
    """Bytes that a file takes, which are fewer than its size until it is filled; 0 if it is not there."""
    return path.stat().st_blocks * 512 if path.exists() else 0
