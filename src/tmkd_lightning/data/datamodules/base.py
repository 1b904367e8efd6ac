"""What every datamodule shares: transforms, loaders, names. Where samples come from is its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader, Sampler

from tmkd_lightning.data.errors import DataError, check_told_apart
from tmkd_lightning.data.fingerprint import training_identity
from tmkd_lightning.data.loader import LateLoader
from tmkd_lightning.data.sampling import EpochSampler, Seeded, collate, leaves_one
from tmkd_lightning.data.transforms import Transform, for_measuring, for_training
from tmkd_lightning.utils.validation import check_whole

Loader = DataLoader[tuple[Any, ...]]


class ImageDataModule(LightningDataModule, ABC):
    """Loads batches of uint8 images ``(B, 3, H, W)`` and labels ``(B,)``.

    A dataset of your own is one subclass: give `class_names` and `samples`.

    Args:
        batch_size: images in a batch, of each process.
        num_workers: processes that load, of each process that trains.
        image_size: side of the images in pixels.
        seed: of order, augmentation and splits.
        augmentation_replicas: after how many epochs the augmentation comes again, which lets a `TeacherCache` remember
            what the teacher says; 0 for never. Training batches then have a third part, the rows of the cache.
        train_transform: from a raw image to a uint8 tensor ``(3, H, W)``, instead of the default augmentation.
        eval_transform: likewise for validation, test and prediction.

    Raises:
        ValueError: a batch size below 2 (BatchNorm and relations between images need two), or another number
            outside its range.
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
    ) -> None:
        super().__init__()
        if _given_hyperparameters.get() is not None:  # the command line's config, for the checkpoint
            self.save_hyperparameters(logger=False)
        self.batch_size = check_whole("batch_size", batch_size)
        self.num_workers = check_whole("num_workers", num_workers)
        self.image_size = check_whole("image_size", image_size)
        self.seed = check_whole("seed", seed)
        self.augmentation_replicas = check_whole("augmentation_replicas", augmentation_replicas)
        if batch_size < 2:
            raise ValueError(f"batch_size must be at least 2, got {batch_size}: BatchNorm cannot train on one image")
        if num_workers < 0 or image_size < 1:
            raise ValueError(f"num_workers must be >= 0 and image_size >= 1, got {num_workers} and {image_size}")
        if seed < 0:
            raise ValueError(f"seed must be at least 0, got {seed}")
        if augmentation_replicas < 0:
            raise ValueError(f"augmentation_replicas must be at least 0, got {augmentation_replicas}")
        self.train_transform = train_transform or self.default_train_transform()
        self.eval_transform = eval_transform or self.default_eval_transform()
        self._datasets: dict[str, Seeded] = {}
        self._before: dict[str, int] = {}

    # What a dataset says of itself

    @property
    @abstractmethod
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of the labels."""

    @abstractmethod
    def samples(self, split: str) -> Any:
        """Raw images and labels by index.

        Args:
            split: ``train``, ``val`` or ``test``.

        Returns:
            A sequence of (raw image, label).

        Raises:
            DataError: there is no such split.
        """

    @property
    def class_phrases(self) -> list[str]:
        """What prompts say of each class; the class names, unless a dataset knows better words."""
        return self.class_names

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def check_classes(self) -> None:
        """Looks whether each class has a name of its own, in `setup` and for ``tmkd data check``.

        Raises:
            DataError: two classes would be called the same.
        """
        names: list[str] = self.class_names or []  # a subclass may know none
        check_told_apart(names, [f"class {label}" for label in range(len(names))])

    def default_train_transform(self) -> Transform:
        """Random crop, resized, and flip: customary for photos."""
        return for_training(self.image_size)

    def default_eval_transform(self) -> Transform:
        """The middle of the image, resized: customary for photos (256 to 224 pixels and in proportion)."""
        return for_measuring(self.image_size)

    # What Lightning asks for

    def setup(self, stage: str) -> None:
        """Opens the splits that the stage reads."""
        splits = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("test",)}[stage]
        for split in splits:
            if split not in self._datasets:
                train = split == "train"
                transform, replicas = (
                    (self.train_transform, self.augmentation_replicas) if train else (self.eval_transform, 0)
                )
                self._datasets[split] = Seeded(self.samples(split), transform, self.seed, replicas)
        self.check_classes()

    def training_identity(self) -> dict[str, Any]:
        """What decides the pixels of the training images; all of them are read once. See `TeacherCache`.

        Returns:
            Plain values: two datamodules with the same ones give the same images row by row.

        Raises:
            DataError: the augmentation cannot be repeated, as it draws from other generators than torch's.
        """
        return training_identity(self._datasets["train"])

    def train_dataloader(self) -> Loader:
        """Shuffled, augmented batches; a last batch of one image is dropped."""
        dataset = self._datasets["train"]
        if len(dataset) < 2:
            raise DataError(f"the training split holds {len(dataset)} image(s): training needs at least 2")
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return self._loader(
            dataset,
            LateLoader,
            sampler=EpochSampler(dataset, self.seed, rank, world_size, self._seen),
            drop_last=leaves_one(dataset, self.batch_size, world_size),
        )

    def val_dataloader(self) -> Loader:
        """Validation batches, in order; of several processes, each image is one's."""
        return self._loader(self._datasets["val"], sampler=self._dealt("val"))

    def test_dataloader(self) -> Loader:
        """Test batches, in order; of several processes, each image is one's."""
        return self._loader(self._datasets["test"], sampler=self._dealt("test"))

    def predict_dataloader(self) -> Loader:
        """The test batches."""
        return self._loader(self._datasets["test"])

    def _dealt(self, split: str) -> UnrepeatedDistributedSampler | None:
        """Deals the images of a split to the processes; Lightning would repeat some, and measure them twice."""
        dataset = self._datasets[split]
        if self.trainer is None or self.trainer.world_size == 1:
            return None
        world_size = self.trainer.world_size
        if len(dataset) < world_size:
            raise DataError(
                f"the {split} split holds {len(dataset)} image(s), fewer than there are processes ({world_size}): "
                "measure on one device"
            )
        return UnrepeatedDistributedSampler(dataset, world_size, self.trainer.global_rank, shuffle=False)

    def state_dict(self) -> dict[str, int]:
        """What decides which images a step sees, for a run that is resumed within an epoch."""
        return self._order()

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Remembers what decided it."""
        self._before = {name: state_dict[name] for name in self._order() if name in state_dict}

    def _order(self) -> dict[str, int]:
        processes = self.trainer.world_size if self.trainer else 1
        return {"batch_size": self.batch_size, "seed": self.seed, "processes": processes}

    def _seen(self) -> int:
        """Images of the epoch that a resumed run saw before it was cut off."""
        steps = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready if self.trainer else 0
        now = self._order()
        if steps and self._before and self._before != now:
            raise DataError(
                f"the checkpoint was made after {steps} steps of an epoch with {self._before}, and now they are {now}: "
                "each step has other images. Resume with the same, or from the end of an epoch"
            )
        if self.trainer and self.trainer.ckpt_path and self._before and self._before != now:
            rank_zero_warn(
                f"the checkpoint is of a run with {self._before}, and now they are {now}: from here on it is another "
                "run than the one that was cut off"
            )
        self._before = {}
        return self.batch_size * steps

    def _loader(
        self,
        dataset: Seeded,
        kind: type[Loader] = DataLoader,
        sampler: Sampler[Any] | None = None,
        drop_last: bool = False,
    ) -> Loader:
        return kind(
            dataset,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            sampler=sampler,
            drop_last=drop_last,
        )
