"""Base class of the datamodules: transforms, loaders and the order of samples; subclasses define the samples."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset

from tmkd_lightning.data.device_augmentation import DeviceAugmentation
from tmkd_lightning.data.errors import DataError
from tmkd_lightning.data.fingerprint import training_fingerprint
from tmkd_lightning.data.sampling import CacheRows, DeferredLoader, EpochSampler, SampleStore, SeededDataset, collate
from tmkd_lightning.data.transforms import Transform, eval_transform, train_transform
from tmkd_lightning.utils.drawn_parameters import split_parameters
from tmkd_lightning.utils.validation import check_count

Loader = DataLoader[tuple[Any, ...]]


class ImageDataModule(LightningDataModule, ABC):
    """Loads batches of uint8 images ``(B, 3, H, W)`` and labels ``(B,)``.

    A dataset of your own is one subclass: define `class_names` and `samples`.

    Args:
        batch_size: images in a batch, of each process; at least 2, which BatchNorm and relations between images need.
        num_workers: loading processes, of each training process.
        image_size: side of the images in pixels.
        seed: of order and augmentation.
        augmentation_replicas: number of epochs after which the augmentation repeats, so that a `TeacherCache` can store
            the teacher's outputs; 0 for never. Training batches then have a third part, the rows of the cache.
        train_transform: from a raw image to a uint8 tensor ``(3, H, W)``, instead of the default augmentation.
        eval_transform: likewise for validation, test and prediction.
        device_augmentations: of `kornia.augmentation`, done with whole training batches on their device after the
            `train_transform` of each image; what they do with an image is drawn under its own seed, so it comes again
            as its crop does. They keep the size of images.
    """

    def __init__(
        self,
        *,
        batch_size: int = 64,
        num_workers: int = 2,
        image_size: int = 224,
        seed: int = 0,
        augmentation_replicas: int = 0,
        train_transform: Transform | None = None,
        eval_transform: Transform | None = None,
        device_augmentations: list[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        if _given_hyperparameters.get() is not None:  # of the command line, whose config goes into checkpoints
            self.save_hyperparameters(logger=False)
        self.batch_size = check_count("batch_size", batch_size, minimum=2)
        self.num_workers = check_count("num_workers", num_workers, minimum=0)
        self.image_size = check_count("image_size", image_size)
        self.seed = check_count("seed", seed, minimum=0)
        self.augmentation_replicas = check_count("augmentation_replicas", augmentation_replicas, minimum=0)
        self.train_transform = train_transform or self.default_train_transform()
        self.eval_transform = eval_transform or self.default_eval_transform()
        self.device_augmentation = None
        if device_augmentations:
            self.device_augmentation = DeviceAugmentation(device_augmentations)
            # not a method, for Lightning would call it in place of a module's own
            self.on_after_batch_transfer = self._augment  # type: ignore[method-assign]
        self._datasets: dict[str, SeededDataset] = {}
        self._numbered = False
        self._before: dict[str, int] = {}  # what decided the order, from a checkpoint

    @property
    @abstractmethod
    def class_names(self) -> list[str]:
        """Class names in the order of the labels."""

    @abstractmethod
    def samples(self, split: str) -> Any:
        """Raw images and labels of ``train``, ``val`` or ``test`` by index; DataError if there is no such split."""

    @property
    def class_phrases(self) -> list[str]:
        """Words for each class in prompts; the class names, unless overridden."""
        return self.class_names

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def check_classes(self) -> None:
        """Raises DataError if two classes have the same name; called by `setup` and by ``tmkd data check``."""
        check_class_names(self.class_names or [])  # a subclass may have none

    def default_train_transform(self) -> Transform:
        """Random resized crop and flip."""
        return train_transform(self.image_size)

    def default_eval_transform(self) -> Transform:
        """Resize and central crop, of 224 pixels in 256 and in proportion."""
        return eval_transform(self.image_size)

    def setup(self, stage: str) -> None:
        """Opens the splits of the stage, and checks the class names."""
        splits = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("test",)}[stage]
        for split in splits:
            if split not in self._datasets:
                options: tuple[Any, ...] = (self.eval_transform, self.seed)
                if split == "train":
                    options = (self.train_transform, self.seed, self.augmentation_replicas, self.device_augmentation)
                self._datasets[split] = SeededDataset(self.samples(split), *options)
            self._datasets[split].store = None  # of a run that broke off, in which TeacherCache was not torn down
        self.check_classes()
        if self.device_augmentation is not None and "train" in splits:
            self.device_augmentation.check(self.image_size)

    @property
    def training_images(self) -> int:
        """Number of training images, after `setup`."""
        return len(self._datasets["train"])

    def number_samples(self) -> None:
        """Has training batches carry the places of their images, for methods that need them (`CRD`)."""
        self._numbered = True

    def first_training_sample(self) -> tuple[Any, Any]:
        """The first training image, augmented, and its label; after `setup`."""
        return self._datasets["train"].draw(0, 0)

    def store_samples(self, store: SampleStore | None) -> None:
        """Has augmented training samples read from a store, and written to it where it lacks them; None for no store.

        For `TeacherCache`, after `setup` and before the loader is made; needs `augmentation_replicas`.
        """
        self._datasets["train"].store = store

    def training_fingerprint(self) -> dict[str, Any]:
        """Plain values that are equal for equal training images, which are all read once; see `TeacherCache`."""
        return training_fingerprint(self._datasets["train"])

    def train_dataloader(self) -> Loader:
        """Shuffled, augmented batches; a last batch of one image is dropped."""
        dataset = self._datasets["train"]
        dataset.numbered = self._numbered
        if len(dataset) < 2:
            raise DataError(f"the training split holds {len(dataset)} image(s): training needs at least 2")
        rank, world_size = self._process()
        sampler = EpochSampler(dataset, self.seed, rank, world_size, self._samples_seen)
        drop_last = len(sampler) % self.batch_size == 1  # BatchNorm cannot train on one image
        return self._loader(dataset, DeferredLoader, sampler=sampler, drop_last=drop_last)

    def ordered_train_dataloader(self, augmented: int = 0) -> Loader:
        """Training batches in order: prepared as for validation, or, `augmented` times in a row, as for training."""
        samples = self.samples("train")
        if not augmented:
            return self._loader(SeededDataset(samples, self.eval_transform, self.seed))
        options = (self.train_transform, self.seed, 0, self.device_augmentation)
        epochs = [SeededDataset(samples, *options) for _ in range(augmented)]
        for epoch, dataset in enumerate(epochs):
            dataset.set_epoch(epoch)
        return self._loader(ConcatDataset(epochs), collate_fn=partial(collate_augmented, self.device_augmentation))

    def cache_dataloader(self, rows: np.ndarray) -> Loader:
        """Training batches of some rows of a teacher cache, in their order; after `setup`."""
        return self._loader(CacheRows(self._datasets["train"], rows))

    def val_dataloader(self) -> Loader:
        """Validation batches in order, split between the processes."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> Loader:
        """Test batches in order, split between the processes."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> Loader:
        """All test batches."""
        return self._loader(self._datasets["test"])

    def _evaluation_loader(self, split: str) -> Loader:
        """Gives each image to one process; Lightning's sampler would count some twice."""
        dataset = self._datasets[split]
        rank, world_size = self._process()
        if world_size == 1:
            return self._loader(dataset)
        if len(dataset) < world_size:
            count = f"{len(dataset)} image(s), fewer than there are processes ({world_size})"
            raise DataError(f"the {split} split holds {count}: evaluate on one device")
        return self._loader(dataset, sampler=UnrepeatedDistributedSampler(dataset, world_size, rank, shuffle=False))

    def _process(self) -> tuple[int, int]:
        """Rank of this process, and number of all."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _augment(self, batch: Any, dataloader_idx: int) -> Any:
        """Augments a batch of training images, before a hook of a subclass."""
        augmented = done_on_device(self.device_augmentation, batch)
        if augmented is batch and self.trainer is not None and self.trainer.training:
            raise DataError(
                f"device_augmentations are set, but nothing was drawn for a training batch of {type(self).__name__}: "
                "its train_dataloader must give the batches of ImageDataModule's, or leave device_augmentations out"
            )
        return type(self).on_after_batch_transfer(self, augmented, dataloader_idx)

    def _loader(self, dataset: Dataset[tuple[Any, ...]], kind: type[Loader] = DataLoader, **options: Any) -> Loader:
        return kind(
            dataset,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            **{"collate_fn": collate, **options},
        )

    def state_dict(self) -> dict[str, int]:
        """What decides the images of each step, for a run that is resumed within an epoch."""
        return {"batch_size": self.batch_size, "seed": self.seed, "processes": self._process()[1]}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Stores what decided the images before."""
        self._before = state_dict

    def _samples_seen(self) -> int:
        """Images of the current epoch that a resumed run saw before it was interrupted."""
        steps = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready if self.trainer else 0
        before, now = self._before, self.state_dict()
        if steps and before and before != now:
            raise DataError(
                f"the checkpoint was made after {steps} steps of an epoch with {before}, and now they are {now}: "
                "each step has other images. Resume with the same, or from the end of an epoch"
            )
        if before and before["seed"] != now["seed"]:
            rank_zero_warn(
                f"resuming with seed {now['seed']} a run of seed {before['seed']}: other images are drawn now"
            )
        self._before = {}
        return self.batch_size * steps


def done_on_device(augmentation: DeviceAugmentation | None, batch: Any) -> Any:
    """A batch augmented by what was drawn for it, which is then no part of it; others as they are."""
    plain, drawn = split_parameters(batch)
    if augmentation is None or drawn is None:
        return batch
    return [augmentation(plain[0], drawn), *plain[1:]]


def collate_augmented(augmentation: DeviceAugmentation | None, samples: list[tuple[Any, ...]]) -> list[Any]:
    """Makes a batch that no trainer moves to a device, augmented where it is made."""
    return done_on_device(augmentation, collate(samples))


def check_class_names(names: Sequence[object]) -> None:
    """Refuses classes whose names differ only by blanks or underscores."""
    first: dict[str, object] = {}
    for name in names:
        word = " ".join(str(name).replace("_", " ").split())
        if word in first:
            raise DataError(f"classes {first[word]!r} and {name!r} would both be called {word!r}: rename one of them")
        first[word] = name
