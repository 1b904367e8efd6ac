"""Runs the teacher once on every image that training will see, and reads what it said ever after."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from tmkd_lightning.feature_extraction.output import Output
from tmkd_lightning.models import load_pretrained
from tmkd_lightning.teacher.cache import CacheError, CacheFolder
from tmkd_lightning.teacher.cache.fingerprint import teacher_identity, views_identity
from tmkd_lightning.teacher.cache.folder import describe_shapes, readable_size
from tmkd_lightning.teacher.cache.serialization import (
    EMBEDDING,
    LOGITS,
    PIXELS,
    checksums,
    head_tensors,
    kinds,
    output_of,
    parts,
)
from tmkd_lightning.text.prompts import datamodule_of

_FOREIGN = "(this one does not have it; subclass ImageDataModule, or train without a TeacherCache)"


class TeacherCache(Callback):
    """Keeps what the teacher says of every view of every training image in a directory.

    Needs a datamodule with ``augmentation_replicas`` R of at least 1. In the first R epochs the teacher runs, and its
    outputs are written as they come; then they are read, and it runs no more. A cache that an earlier run completed
    with the same teacher, views, images and augmentation serves from the first step, and a ``teacher_checkpoint`` is
    not even loaded. What differs in any of them is another cache. Fusion, perturbation and losses act on what is read
    as they do on what a teacher says.

    Each batch is read if all of it is there, and else run and written. So a run that was killed goes on with what is
    there, processes fill one cache together, and what is damaged is made anew.

    What is kept follows from what the method reads: embeddings, from which the head gives the logits, and maps only
    for methods that read maps, in the size that they read.

    Args:
        directory: where caches are; made if missing. One directory serves any number of runs, also at once.
        dtype: of what is kept. In ``float16`` every step computes with rounded outputs, whether they were read or not;
            ``float32`` gives what a run without a cache gives.

    Raises:
        ValueError: another `dtype`; or, in `setup`, a datamodule that does not say which image is which.
        CacheError: the directory cannot be written to, the disk is too full, or files are damaged; before the first
            step. Later, if the images are not those that the cache was filled with.
    """

    folder: CacheFolder | None
    complete: bool | None  # None: not known before setup

    def __init__(self, directory: str, dtype: Literal["float16", "float32"] = "float16") -> None:
        if dtype not in ("float16", "float32"):
            raise ValueError(f"dtype must be float16 or float32, got {dtype!r}")
        self.directory = Path(directory).expanduser()
        self.dtype = dtype
        self._forget_run()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A module that is copied goes on sharing the cache and its open files."""
        return self

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Finds the cache of this teacher, these views and these images."""
        module: Any = pl_module  # a TMKDModule
        if stage != "fit":
            return
        self._forget_run()
        self.complete = False
        if module.teacher is None or not module.reads_teacher:
            rank_zero_warn("TeacherCache has nothing to keep: no term of the loss reads a teacher")
            return
        identity = self._identity(trainer, module)
        self.folder = CacheFolder(self.directory, identity, self._kinds(module, has_head=True))
        if EMBEDDING not in self.folder.files:
            without = CacheFolder(self.directory, identity, self._kinds(module, has_head=False))
            self.folder = without if LOGITS in without.files else self.folder
        self.complete = self._files_made = self.folder.complete
        rows = identity["data"]["images"] * identity["data"]["replicas"]
        rank_zero_info(
            f"Teacher cache {self.folder.path}: {self.folder.written} of {rows} rows are there"
            + (": the teacher will not run" if self.complete else "")
        )
        if self.complete and EMBEDDING in self.folder.kinds:
            head = module.teacher.extractor.head
            kept = self.folder.read_head({name: tensor.shape for name, tensor in head.state_dict().items()})
            head.load_state_dict({name: torch.from_numpy(value) for name, value in kept.items()})

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at what other machines have written, and will look at the first images."""
        self._look_at_images = True
        if self.folder is not None and self._files_made and not self.complete and not self._given_up:
            try:
                self.folder.reopen()
            except CacheError as error:
                self._give_up(error)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Notes which rows the step is about."""
        module: Any = pl_module
        if self.folder is not None:
            self._rows = module.rows(batch)

    def recall(self, module: Any, image: Tensor) -> Output:
        """What the teacher says of the batch: as it is kept, or else as it comes, which is kept then.

        Args:
            module: a TMKDModule, with the teacher.
            image: the batch, ``(B, 3, H, W)``.

        Returns:
            Output of ``V * B`` rows, in the order of views.

        Raises:
            CacheError: the images are not those that the cache was filled with; what the teacher says cannot be kept;
                or a complete cache is damaged, for which there is no teacher.
        """
        if self.folder is None:
            return module.show(image)
        kept = self._read(self.folder, image)
        if kept is None:
            kept = self._keep(self.folder, module, image)
        return output_of(kept, module.teacher, image, views=len(module.views))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lets go of the files."""
        if self.folder is not None:
            self.folder.close()
        self._forget_run()

    def _forget_run(self) -> None:
        """Nothing of one run may reach the next, which may have another teacher."""
        self.folder = self.complete = None
        self._rows = np.empty(0, np.int64)
        self._files_made = self._given_up = False
        self._look_at_images = True

    def _kinds(self, module: Any, has_head: bool) -> dict[str, str]:
        return kinds(has_head, "feature_map" in module.distiller.reads, module.teacher.map_size, self.dtype)

    def _identity(self, trainer: Trainer, module: Any) -> dict[str, Any]:
        data = datamodule_of(trainer)
        replicas = getattr(data, "augmentation_replicas", None)  # a foreign one has none
        if not replicas:
            raise ValueError(
                "TeacherCache needs images that come again: set augmentation_replicas of the datamodule to 1 or more "
                + ("(it is 0, which never repeats an augmentation)" if replicas == 0 else _FOREIGN)
            )
        extractor, undone = module.teacher.extractor, module.normalized_with
        if module.teacher_checkpoint is None:
            load_pretrained(extractor.network)
        return {
            "teacher": teacher_identity(extractor, module.teacher_checkpoint) | _of_file(module),
            "views": views_identity(module.views),
            "data": data.training_fingerprint(),
            "normalized_with": undone and [part.flatten().tolist() for part in undone],
            "precision": str(trainer.precision),
        }

    def _read(self, folder: CacheFolder, image: Tensor) -> dict[str, Tensor] | None:
        if self._given_up:
            return None
        try:
            kept = folder.read(self._rows)
        except OSError as error:
            self._give_up(error)
            kept = None
        if kept is None:
            if self.complete:
                raise CacheError(
                    f"{folder.path} was complete and is damaged now, and the teacher was not made ready to run: run "
                    f"tmkd cache check --directory {self.directory}, then start or resume the run again"
                )
            return None
        pixels = kept.pop(PIXELS)
        if self._look_at_images:  # once an epoch: it waits for the device
            self._look_at_images = False
            _check_same(pixels, checksums(image), folder)
        return {kind: torch.from_numpy(value).to(image.device, non_blocking=True) for kind, value in kept.items()}

    def _keep(self, folder: CacheFolder, module: Any, image: Tensor) -> dict[str, Tensor]:
        output = module.show(image)
        if output.embedding is None and not self._files_made:  # only now is known that the teacher has no head
            folder = self.folder = CacheFolder(self.directory, folder.identity, self._kinds(module, has_head=False))
        found = parts(output, len(module.views), folder.kinds)
        values = {kind: part.cpu().numpy() for kind, part in found.items()}
        for kind, value in values.items():
            if not np.isfinite(value).all():
                raise CacheError(
                    f"the teacher's {kind} cannot be kept in {self.dtype}: it holds values that are not finite"
                    + (" or above 65504; use dtype float32" if self.dtype == "float16" else "")
                )
        if not self._files_made:  # before the first optimizer step: only now is known how large the outputs are
            self._make_files(folder, module, {kind: value.shape[1:] for kind, value in values.items()})
        if not self._given_up:
            try:
                folder.write(self._rows, {PIXELS: checksums(image), **values})
            except OSError as error:
                self._give_up(error)
        return found

    def _make_files(self, folder: CacheFolder, module: Any, shapes: dict[str, tuple[int, ...]]) -> None:
        data = folder.identity["data"]
        folder.create(data["images"] * data["replicas"], {PIXELS: (1,), **shapes})
        if EMBEDDING in shapes:
            folder.write_head(**head_tensors(module.teacher))
        self._files_made = True
        rank_zero_info(
            f"Teacher cache: {data['replicas']} replicas of {data['images']} images, {describe_shapes(shapes)} "
            f"in {self.dtype}, {readable_size(folder.size)} in all"
        )

    def _give_up(self, error: Exception) -> None:
        self._given_up = True
        if not self.complete:  # each process says so: only its own disk may be full
            warnings.warn(
                f"The teacher cache is not filled any further, and the teacher goes on running: {error}", stacklevel=2
            )


def _of_file(module: Any) -> dict[str, Any]:
    """What of the teacher's file is taken, and in which order its classes are, where that is not the whole as it is."""
    chosen = {"key": module.teacher_key, "class_order": module.teacher_order()}
    return {name: value for name, value in chosen.items() if value is not None}


def _check_same(kept: np.ndarray, seen: np.ndarray, folder: CacheFolder) -> None:
    if not np.array_equal(kept, seen):
        raise CacheError(
            f"{int((kept != seen).sum())} of {len(seen)} images are not those that {folder.path} was filled with: "
            "something changes them behind the dataset (a transfer hook, an unpack or take of your own, random numbers "
            "that are not torch's); put it into train_transform or a view, or train without a TeacherCache"
        )
