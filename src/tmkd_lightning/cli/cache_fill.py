"""``tmkd cache fill``: runs the teacher alone, on the images that its cache lacks."""

import re
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from tmkd_lightning.callbacks import TeacherCache
from tmkd_lightning.cli import lightning_cli
from tmkd_lightning.data import ImageDataModule
from tmkd_lightning.models import PretrainedWeightsError
from tmkd_lightning.modules import TMKDModule
from tmkd_lightning.modules.loading import load_teacher
from tmkd_lightning.teacher.cache import CacheError
from tmkd_lightning.utils.drawn_parameters import split_parameters
from tmkd_lightning.utils.images import check_images
from tmkd_lightning.utils.replaced_methods import replaced_methods
from tmkd_lightning.utils.validation import check_count

_FULL = "the cache cannot be filled any further; what is written stays, and is not computed again"


def run(args: Sequence[str] | None) -> None:
    """Runs ``tmkd cache fill``."""
    words = list(sys.argv[1:] if args is None else args)[1:]  # without `cache`; processes that DDP starts need it
    warnings.filterwarnings("ignore", "LightningCLI's args parameter is intended to run from within Python")
    lightning_cli.run(words, FillCLI)


class FillTrainer(Trainer):
    """Lightning's trainer, with the method that the verb is named by."""

    def __init__(self, cache: TeacherCache | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.teacher_cache = cache

    def fill(
        self,
        model: TMKDModule,
        datamodule: LightningDataModule,
        shard: str = "1/1",
        batch_size: int | None = None,
    ) -> None:
        """Fills the TeacherCache of a config, or a part of it, without a student.

        Rows that are there are not computed again, so a command that was stopped goes on.

        Args:
            model: TMKDModule, whose teacher runs.
            datamodule: of the training images.
            shard: the i-th of N equal parts of the rows, as i/N with i from 1 to N, for several machines.
            batch_size: images in a forward of the teacher; by default the datamodule's.
        """
        fill(self, model, datamodule, self.teacher_cache, shard, batch_size)


class FillCLI(lightning_cli.OtherVerbCLI):
    """Takes module, data, TeacherCache, precision, devices and strategy from the config of a run."""

    _trainer_class = FillTrainer
    verb = "fill"

    def trainer_options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Those that decide where and how the teacher runs."""
        same = "accelerator devices num_nodes strategy precision plugins benchmark deterministic default_root_dir"
        progress = given["enable_progress_bar"] is not False
        return {
            "cache": next(iter(self.teacher_caches(given)), None),
            "callbacks": [Progress()] if progress else [],
            "enable_progress_bar": progress,
            "use_distributed_sampler": False,
            **{name: given[name] for name in same.split()},
        }


class Progress(TQDMProgressBar):
    """Lightning's bar, which says what is done."""

    @property
    def validation_description(self) -> str:
        """What stands before the bar."""
        return "Filling the teacher cache"


def fill(
    trainer: Trainer,
    module: TMKDModule,
    data: LightningDataModule,
    cache: TeacherCache | None,
    shard: str = "1/1",
    batch_size: int | None = None,
) -> None:
    """Does what ``tmkd cache fill`` does, see `FillTrainer.fill`."""
    if not isinstance(module, TMKDModule):
        raise TypeError(f"tmkd cache fill takes the config of a TMKDModule, got {type(module).__name__}")
    if cache is None:
        raise ValueError(
            "there is no TeacherCache to fill among the callbacks of the config: add it to trainer.callbacks"
        )
    if not isinstance(data, ImageDataModule):
        raise ValueError(
            f"tmkd cache fill asks the datamodule for rows of the cache, and {type(data).__name__} is none of "
            "tmkd_lightning's: let the first epochs of a run fill it"
        )
    part = parse_shard(shard)
    if batch_size is not None:
        data.batch_size = check_count("batch_size", batch_size)
    filler = Filler(module, data, cache, part)
    warnings.filterwarnings("ignore", "You have overridden `on_before_batch_transfer` in `LightningModule`")
    warnings.filterwarnings("ignore", "Total length of `DataLoader` across ranks is zero")  # all rows are there
    own_setup = data.setup
    # Lightning's verb validates, but these are training images
    with replaced_methods(data, setup=lambda stage: own_setup("fit"), val_dataloader=filler.loader):
        try:
            trainer.validate(filler, datamodule=data, verbose=False)
        finally:
            cache.teardown(trainer, module, "fit")


def parse_shard(shard: str) -> tuple[int, int]:
    """Index from 0, and number of parts.

    Example:
        >>> parse_shard("2/4")
        (1, 4)
    """
    found = re.fullmatch(r"(\d+)/(\d+)", shard)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError(f"shard must be i/N with i from 1 to N, such as 1/4, got {shard!r}")
    return int(found[1]) - 1, int(found[2])


def rows_of(rows: int, part: int, parts: int) -> tuple[int, int]:
    """First row of a part, and that of the next; parts differ by one row at most.

    Example:
        >>> [rows_of(10, part, 4) for part in range(4)]
        [(0, 2), (2, 5), (5, 7), (7, 10)]
    """
    return rows * part // parts, rows * (part + 1) // parts


class Filler(LightningModule):
    """Runs the teacher of a module on batches, and has its cache write the outputs.

    Args:
        module: whose teacher is meant; its student never runs.
        data: of the training images.
        cache: to fill.
        shard: index of this part of the rows, and number of parts.
    """

    module: TMKDModule

    def __init__(self, module: TMKDModule, data: ImageDataModule, cache: TeacherCache, shard: tuple[int, int]) -> None:
        super().__init__()
        self.frozen, self.views = module.teacher.frozen, module.views  # what goes to the device
        vars(self)["module"] = module
        self.data, self.cache, self.shard = data, cache, shard
        self.images, self._verified = 0, False
        self._given = np.empty(0, np.int64)  # rows that this process is to fill

    def prepare_data(self) -> None:
        """Reads pretrained weights on one process first, which downloads those that are missing."""
        self.module.trainer = self.trainer
        if self.module.teacher_checkpoint is None:  # else its file has all weights
            with suppress(PretrainedWeightsError):  # setup insists on them
                self.module.load_pretrained(self.frozen.extractor.network)

    def setup(self, stage: str) -> None:
        """Finds the cache, and makes the teacher ready, as a run does."""
        module = self.module
        module.trainer, module.teacher_cache = self.trainer, self.cache
        if module.num_classes_of_data:
            module.resize_classes(self.data.num_classes)
        module.locate_teacher()
        self.cache.setup(self.trainer, module, "fit")
        if self.cache.folder is None or self.cache.complete:
            return
        moved = load_teacher(module, module.teacher_checkpoint, module.teacher_key, self.data)
        if moved is not None:
            rank_zero_warn(moved)
        self.frozen.extractor.network.to(memory_format=torch.channels_last)
        self.cache.on_train_epoch_start(self.trainer, self.module)  # a head that is gone is written

    def loader(self) -> Any:
        """Batches of the rows that this part and this process lack, in order."""
        folder = self.cache.folder
        missing = self.cache.missing()
        first, end = rows_of(0 if folder is None else folder.rows, *self.shard)
        own = [first + bound for bound in rows_of(end - first, self.trainer.global_rank, self.trainer.world_size)]
        self._given = missing[(missing >= own[0]) & (missing < own[1])]
        return self.data.cache_dataloader(self._given)

    def on_validation_start(self) -> None:
        """Notes the time."""
        self._start = time.monotonic()

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Checks images on the host."""
        check_images(self.module.unpack(split_parameters(batch)[0])[0], self.module.normalized_with, "training batch")
        return batch

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Computes and writes the rows of a batch."""
        images = self.module.preprocess(batch)[0]
        if not self._verified and not self.cache.complete:  # else images alone are missing
            self.module.verify_network(self.frozen.extractor, images)
            self._verified = True
        self.cache.on_train_batch_start(self.trainer, self.module, batch, batch_idx)
        self.cache.read_or_compute(self.module.teacher, images)
        if self.cache.stopped:
            raise CacheError(_FULL)
        self.images += len(images)

    def on_validation_end(self) -> None:
        """Says what was done, and what is left."""
        folder, seconds = self.cache.folder, time.monotonic() - self._start
        if folder is None:
            return
        self.trainer.strategy.barrier()
        folder.reopen()
        missing = self.cache.missing()
        if np.isin(self._given, missing).any():  # a loading process could not write an image
            raise CacheError(_FULL)
        left = len(missing)
        what = "stored" if self.cache.complete else "computed"
        done = f"{self.images} images {what} by this process in {seconds:.0f} s"
        if self.images:
            done += f", {self.images / seconds:.1f} images a second"
        state = f"{left} of {folder.rows} rows are left to others" if left else "complete"
        rank_zero_info(f"Teacher cache {folder.path}: {done}; {state}")
