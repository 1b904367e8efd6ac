"""Augmented training images and their labels in a cache folder, read and written by the processes that load them."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tmkd_lightning.teacher.cache.array_file import CacheError
from tmkd_lightning.teacher.cache.folder import CacheFolder

IMAGE = "image"  # names of arrays
LABEL = "label"


class StoredSamples:
    """Reads the image and the label of a row, or makes and writes them: an image that is there is not decoded.

    Every worker of a loader has a copy of its own. A row that is damaged is made anew, and one that cannot be written
    is made every time, after one warning.

    Args:
        folder: with the arrays `IMAGE` and `LABEL`, which are made already.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> folder = CacheFolder(Path(tempfile.mkdtemp()), {}, {IMAGE: "uint8", LABEL: "int64"})
        >>> folder.create(5, {IMAGE: (3, 2, 2), LABEL: ()})
        >>> store = StoredSamples(folder)
        >>> _ = store.read_or_make(4, lambda: (torch.full((3, 2, 2), 9, dtype=torch.uint8), 7))
        >>> image, label = store.read_or_make(4, lambda: 1 / 0)
        >>> image.shape, image.max().item(), label
        (torch.Size([3, 2, 2]), 9, tensor(7))
    """

    def __init__(self, folder: CacheFolder) -> None:
        self.folder = folder
        self.full = False  # whether nothing is written any more, as the disk is full or gone

    def read_or_make(self, row: int, make: Callable[[], tuple[Any, Any]]) -> tuple[Tensor, Tensor]:
        """Image, as uint8, and label of a row, as tensors whether they were there or not."""
        rows = np.array([row])
        try:
            stored = self.folder.read(rows)
        except OSError:
            stored = None  # writing will say why
        if stored is None:
            stored = {name: np.asarray(part)[None] for name, part in zip((IMAGE, LABEL), make(), strict=True)}
            self._write(rows, stored)
        return torch.as_tensor(stored[IMAGE][0]), torch.as_tensor(stored[LABEL][0])

    def _write(self, rows: np.ndarray, values: dict[str, np.ndarray]) -> None:
        for name, value in values.items():
            file = self.folder.files[name]
            if (value.shape[1:], value.dtype) != (file.shape, file.dtype):
                raise CacheError(
                    f"training sample {rows[0]} has the {name} {value.dtype} {value.shape[1:]}, and the first has "
                    f"{file.dtype} {file.shape}: a TeacherCache with images=True needs all alike"
                )
        if not self.full:
            try:
                self.folder.write(rows, values)
            except OSError as error:
                self.full = True
                warnings.warn(f"No more images are stored, and they go on being decoded: {error}", stacklevel=2)
