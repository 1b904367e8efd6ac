"""Reads the images of a stream by their index."""

import io
import os
import threading
from pathlib import Path
from typing import Any

from PIL import Image
from torch.utils.data import Dataset

from tmkd_lightning.data.errors import DataError
from tmkd_lightning.data.image_files import open_rgb
from tmkd_lightning.utils.messages import short


class ShardSamples(Dataset[tuple[Any, int]]):
    """Raw images and labels of a split by index, in the order of its shards.

    Args:
        place: folder or address of the split.
        images: their number.
        options: arguments of LitData's StreamingDataset.
        single: whether each image is fetched by itself from a bucket, and not with its whole shard.
    """

    def __init__(self, place: str, images: int, options: dict[str, Any], single: bool = False) -> None:
        self.place, self.images, self.options, self.single = place, images, options, single
        self._opened: tuple[int, Any] = 0, None  # process, and its dataset
        self._lock = threading.Lock()  # LitData has one shard open at a time

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        if not 0 <= index < self.images:
            raise IndexError(f"{self.place} has {self.images} images, there is no image {index}")
        try:
            with self._lock:
                sample = self._dataset()[index]
                image, label, found = bytes(sample["image"]), int(sample["label"]), int(sample["index"])
        except Exception as error:  # each provider has errors of its own
            raise DataError(
                f"image {index} of {self.place} cannot be read ({short(error, kind=True)}): copy the stream again"
            ) from error
        if found != index:
            raise DataError(f"image {index} of {self.place} says that it is {found}: write the stream again")
        return decode(image, self.place, index), label

    def _dataset(self) -> Any:
        """LitData's dataset, of this process alone: its files and threads cannot be shared."""
        process, dataset = self._opened
        if process != os.getpid():
            from litdata import StreamingDataset

            dataset = StreamingDataset(self.place, batch_decode=0, **self.options)
            self._opened = os.getpid(), dataset
            if not self.single:
                _ = dataset[0]  # only then can be said that whole shards are fetched
                dataset.on_demand_bytes = False
        return dataset

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_opened": (0, None), "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())


def decode(image: bytes, place: str | Path, index: int) -> Image.Image:
    """Decodes an image as `ImageFiles` does; raises DataError if it cannot be read."""
    try:
        return open_rgb(io.BytesIO(image))
    except Exception as error:  # on damaged images, decoders raise errors of any kind
        reason = str(error) or repr(error)
        raise DataError(f"image {index} of {place} cannot be read ({reason}): write the stream again") from error
