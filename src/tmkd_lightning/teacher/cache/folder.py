"""A folder of arrays that belong to one teacher, one way of looking and one set of images."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tmkd_lightning.teacher.cache.array_file import RowFile
from tmkd_lightning.teacher.cache.errors import CacheError
from tmkd_lightning.utils.files import atomic_write

MANIFEST = "identity.json"
_HEAD = "head.npz"
_KEY_LENGTH = 16
_FORMAT = 2  # of the files below, and of what computes their content; another one is another identity


class CacheFolder:
    """Stored outputs of a teacher, found by all that they follow from.

    The folder is called after a digest of `identity`, which also lies in it as a file: whatever differs is another
    folder. Runs that read other kinds of the same outputs share it; each kind is a file of its own.

    Args:
        directory: where such folders are.
        identity: plain values that decide what the outputs are.
        kinds: what is read, and in which type it is stored, by name.

    Raises:
        CacheError: the folder belongs to something else, or holds damaged files; the message names them.
    """

    def __init__(self, directory: Path, identity: Mapping[str, Any], kinds: Mapping[str, str]) -> None:
        self.identity = {"format": _FORMAT, **identity}
        text = json.dumps(self.identity, sort_keys=True)
        self.path = directory / hashlib.sha256(text.encode()).hexdigest()[:_KEY_LENGTH]
        self.kinds = dict(kinds)
        if (self.path / MANIFEST).exists() and read_manifest(self.path) != json.loads(text):
            raise CacheError(f"{self.path / MANIFEST} does not say what the folder's name does: remove {self.path}")
        self.files: dict[str, RowFile] = {}
        self.reopen()

    def file(self, kind: str) -> Path:
        """Path of a kind's array."""
        return self.path / f"{kind}.{self.kinds[kind]}.npy"

    @property
    def complete(self) -> bool:
        """Whether everything that is read is written, for all rows."""
        head = "embedding" not in self.kinds or (self.path / _HEAD).exists()
        return head and all(kind in self.files and self.files[kind].complete for kind in self.kinds)

    @property
    def written(self) -> int:
        """How many rows have everything that is read."""
        return min(self.files[kind].written if kind in self.files else 0 for kind in self.kinds)

    def reopen(self) -> None:
        """Looks at the files anew: another machine may have written to them.

        Raises:
            CacheError: one is damaged, or gone since it was made.
        """
        self.close()
        gone = [kind for kind in self.files if not self.file(kind).exists()]
        if gone:
            raise CacheError(f"{self.file(gone[0])} is gone")
        self.files = {kind: RowFile(self.file(kind)) for kind in self.kinds if self.file(kind).exists()}

    def create(self, rows: int, shapes: Mapping[str, Sequence[int]]) -> None:
        """Makes the files that are not there yet, if there is room for them.

        Args:
            rows: how many there will be.
            shapes: of one row, by kind.

        Raises:
            CacheError: the disk is too full, nothing can be written there, or a file has another shape.
        """
        bytes_of = {kind: math.prod(shape) * np.dtype(self.kinds[kind]).itemsize + 4 for kind, shape in shapes.items()}
        needed = rows * sum(bytes_of.values())
        taken = sum(on_disk(self.file(kind)) for kind in shapes)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.path).free
            if needed - taken > free:
                raise CacheError(
                    f"the teacher cache needs {readable_size(needed)} ({rows} rows of {describe_shapes(shapes)}), but "
                    f"{self.path} has {readable_size(free)} left: take fewer augmentation_replicas, float16 instead of "
                    "float32, another directory, or a method that reads no maps"
                )
            with atomic_write(self.path / MANIFEST) as file:
                file.write(json.dumps(self.identity, indent=2, sort_keys=True).encode())
            self.files = {
                kind: RowFile.create(self.file(kind), rows, shape, self.kinds[kind]) for kind, shape in shapes.items()
            }
        except OSError as error:
            raise CacheError(
                f"the teacher cache cannot be written to {self.path} ({error}): name another directory"
            ) from error

    def read(self, rows: np.ndarray) -> dict[str, np.ndarray] | None:
        """Reads some rows of every kind, or None unless all are written and whole.

        Args:
            rows: which ones, ``(B,)``.

        Returns:
            Values ``(B, ...)`` by kind.
        """
        if len(self.files) < len(self.kinds):
            return None
        values = {kind: self.files[kind].read(rows) for kind in self.kinds}
        whole = {kind: value for kind, value in values.items() if value is not None}
        return whole if len(whole) == len(values) else None

    def write(self, rows: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
        """Writes some rows of every kind; those that are there already are left alone, as others may be reading them.

        Args:
            rows: which ones, ``(B,)``.
            values: ``(B, ...)`` by kind.

        Raises:
            OSError: they cannot be written.
        """
        for kind, value in values.items():
            if self.files[kind].read(rows) is None:
                self.files[kind].write(rows, value)

    @property
    def size(self) -> int:
        """Bytes of all that is read, once it is written."""
        return sum(self.file(kind).stat().st_size for kind in self.kinds)

    def write_head(self, weight: np.ndarray, bias: np.ndarray | None = None) -> None:
        """Keeps the teacher's head, by which embeddings become logits.

        Args:
            weight: ``(K, D)``.
            bias: ``(K,)``, or None.

        Raises:
            OSError: it cannot be written.
        """
        with atomic_write(self.path / _HEAD) as file:
            np.savez(file, weight=weight) if bias is None else np.savez(file, weight=weight, bias=bias)

    def read_head(self, shapes: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
        """The teacher's head by name.

        Args:
            shapes: of its tensors, by name.

        Raises:
            CacheError: it is damaged, or another network's.
        """
        path = self.path / _HEAD
        try:
            with np.load(path, allow_pickle=False) as file:
                head = dict(file)
        except Exception as error:  # on foreign bytes an unpacker raises whatever it comes to
            raise CacheError(f"{path} is damaged ({error}): remove it, it is made anew") from error
        found = {name: value.shape for name, value in head.items()}
        wanted = {name: tuple(shape) for name, shape in shapes.items()}
        if found != wanted:
            raise CacheError(f"{path} holds {found} instead of {wanted}: remove it, it is made anew")
        if any(value.dtype.kind != "f" or not np.isfinite(value).all() for value in head.values()):
            raise CacheError(f"{path} holds values that are not finite numbers: remove it, it is made anew")
        return head

    def close(self) -> None:
        """Lets go of the files; reading or writing opens them again."""
        for file in self.files.values():
            file.close()


def read_manifest(path: Path) -> dict[str, Any]:
    """What a folder's outputs follow from.

    Args:
        path: of the folder.

    Returns:
        Its identity.

    Raises:
        CacheError: the file that says so is missing or damaged.
    """
    try:
        identity = json.loads((path / MANIFEST).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise CacheError(f"{path / MANIFEST} cannot be read ({error}): remove {path}") from error
    if not isinstance(identity, dict):
        raise CacheError(f"{path / MANIFEST} is not of a teacher cache")
    return identity


def readable_size(count: float) -> str:
    """Says how much that is, in decimal units as disks are sold.

    Example:
        >>> readable_size(2_500_000)
        '2.5 MB'
    """
    units = ["B", "kB", "MB", "GB", "TB"]
    while round(count) >= 1000 and len(units) > 1:
        count /= 1000
        del units[0]
    return f"{round(count) if count >= 100 else count:.3g} {units[0]}"


def on_disk(path: Path) -> int:
    """Bytes that a file takes, which are fewer than its size until it is filled; 0 if it is not there."""
    return path.stat().st_blocks * 512 if path.exists() else 0


def describe_shapes(shapes: Mapping[str, Sequence[int]]) -> str:
    """Says how large the outputs of each kind are.

    Example:
        >>> describe_shapes({"logits": (200,), "feature_map": (512, 7, 7)})
        'logits 200, feature_map 512×7×7'
    """
    return ", ".join(f"{kind} {'×'.join(map(str, shape))}" for kind, shape in shapes.items())
