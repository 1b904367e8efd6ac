"""Datamodule of a stream: a data set in shards, in a folder or a bucket."""

from pathlib import Path
from typing import Any

import torch

from tmkd_lightning.data.datamodules.base import ImageDataModule, Loader
from tmkd_lightning.data.errors import DataError
from tmkd_lightning.data.fingerprint import augmentation_digest
from tmkd_lightning.data.sampling import SampleStore, SeededDataset, collate
from tmkd_lightning.data.shards.index import StreamIndex, check_shards, is_remote, read_index
from tmkd_lightning.data.shards.reading import ShardSamples
from tmkd_lightning.utils.fingerprint import fingerprint


class StreamDataModule(ImageDataModule):
    """A data set that ``tmkd data optimize`` has written as shards, streamed by LitData.

    Training images are shuffled by LitData: first the shards, then the images of each. With several processes the same
    number of batches goes to each, and what is left over, less than a batch for each, is left out of the epoch, another
    part every time. A run resumes with the same images in the same order if `seed`, `batch_size`, `num_workers` and the
    number of processes are the same; between two epochs they may change. Validation, test and prediction go through all
    images in their order, each one once.

    A stream holds the number of each image in its split, so a `TeacherCache` and `CRD` work. Without ``val``, nothing
    is validated.

    Args:
        root: folder of the stream, or its address: ``s3://bucket/name``, ``gs://bucket/name``.
        cache_dir: where shards of a bucket are kept; LitData's own folder by default.
        max_cache_size: disk space for shards of a bucket; the oldest are removed beyond it.
        storage_options: of LitData for a bucket, such as ``{"endpoint_url": "https://..."}``.
        **kwargs: arguments of `ImageDataModule`; transforms are given PIL images.

    Source: LitData, https://github.com/Lightning-AI/litData.
    """

    def __init__(
        self,
        root: str,
        *,
        cache_dir: str | None = None,
        max_cache_size: str = "100GB",
        storage_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.root = root.rstrip("/") if is_remote(root) else str(Path(root).expanduser())
        self.cache_dir = None if cache_dir is None else str(Path(cache_dir).expanduser())
        self.max_cache_size = max_cache_size
        self.storage_options = storage_options
        self._index: StreamIndex | None = None

    @property
    def index(self) -> StreamIndex:
        """What the stream holds; read once."""
        if self._index is None:
            self._index = read_index(self.root, self.storage_options)
        return self._index

    @property
    def class_names(self) -> list[str]:
        """Those of the data set that was written."""
        return self.index.class_names

    @property
    def class_phrases(self) -> list[str]:
        """Those of the data set that was written."""
        return self.index.class_phrases

    def prepare_data(self) -> None:
        """Checks that the shards are those of the index, and in a folder that none is cut off or missing."""
        for split in self.index.splits:
            check_shards(self.root, self.index, split, self.storage_options)

    def samples(self, split: str) -> Any:
        """Raw images and labels of ``train``, ``val`` or ``test``, in the order of the shards."""
        return self._samples(split) if split != "val" or "val" in self.index.splits else []

    def val_dataloader(self) -> Loader:
        """Validation batches in order; none where the stream has no ``val``."""
        return super().val_dataloader() if len(self._datasets["val"]) else []  # type: ignore[return-value]

    def training_fingerprint(self) -> dict[str, Any]:
        """Plain values that are equal for equal training images; the digest of their content is the index's."""
        data = self._datasets["train"]
        if not data.replicas:
            raise ValueError("a TeacherCache needs images that come again: set augmentation_replicas to 1 or more")
        # 32 images all over the stream, for which whole shards would be too much
        samples = self._samples("train", single=True)
        few = SeededDataset(samples, data.transform, self.seed, data.replicas, data.augmentation)
        return {
            "images": len(data),
            "content": self.index.splits["train"].content,
            "replicas": data.replicas,
            "transform": fingerprint(data.transform, "train_transform"),
            "augmented": augmentation_digest(few),
        }

    def store_samples(self, store: SampleStore | None) -> None:
        """Refuses: LitData has read an image before anybody could say that it is stored."""
        raise ValueError(
            "TeacherCache(images=True) stores images that come from files, and a stream reads its own: leave images out"
        )

    def train_dataloader(self) -> Loader:
        """Shuffled, augmented batches; a last batch of one image is dropped."""
        from litdata import StreamingDataset

        from tmkd_lightning.data.shards.loader import Augment, ShardLoader

        seeded, place = self._datasets["train"], f"{self.root}/train"
        seeded.numbered = self._numbered
        (_, processes), images = self._process(), len(seeded)
        if images < 2 or (processes > 1 and images < processes * self.batch_size):
            each = f" in each of {processes} processes" if processes > 1 else ""
            raise DataError(f"the training split holds {images} image(s), fewer than a batch{each}: train on more")
        dataset = StreamingDataset(
            place,
            shuffle=True,
            drop_last=processes > 1 or images % self.batch_size == 1,  # BatchNorm cannot train on one image
            seed=self.seed,
            transform=Augment(seeded, place),
            item_shuffle_window=0,  # whole shards are shuffled, not blocks of 256 images
            batch_decode=0,
            **self._options(),
        )
        return ShardLoader(
            dataset,
            seeded,
            self._samples_seen,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
        )

    def state_dict(self) -> dict[str, int]:
        """What decides the images of each step, for a run that is resumed within an epoch."""
        return {**super().state_dict(), "num_workers": self.num_workers}

    def _samples(self, split: str, single: bool = False) -> ShardSamples:
        splits = self.index.splits
        if split not in splits:
            raise DataError(f"{self.root} has no split {split!r}: it holds {', '.join(splits)}")
        return ShardSamples(f"{self.root}/{split}", splits[split].images, self._options(), single)

    def _options(self) -> dict[str, Any]:
        """What LitData is told of a bucket."""
        if not is_remote(self.root):
            return {}
        options = {"cache_dir": self.cache_dir, "storage_options": self.storage_options}
        return {**options, "max_cache_size": self.max_cache_size}
