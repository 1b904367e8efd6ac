"""Runs the teacher once on every image that training will see, and reads what it said ever after."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from tmkd_lightning.cache import CacheError, CacheFolder
from tmkd_lightning.cache.folder import size
from tmkd_lightning.cache.identity import teacher_identity, views_identity
from tmkd_lightning.models import load_pretrained
from tmkd_lightning.outputs import Output


class TeacherCache(Callback):
    """Keeps what the teacher says of every view of every training image in a directory.

    Needs a datamodule with ``augmentation_replicas`` R of at least 1. In the first R epochs the teacher runs, and its
    outputs are written as they come; then they are read, and it runs no more. A cache that an earlier run completed
    with the same teacher, views, images and augmentation serves from the first step, and the teacher's weights are not
    even read. What differs in any of them is another cache. Fusion, perturbation and losses act on what is read as
    they do on what a teacher says.

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
            step.
    """

    def __init__(self, directory: str, dtype: Literal["float16", "float32"] = "float16") -> None:
        if dtype not in ("float16", "float32"):
            raise ValueError(f"dtype must be float16 or float32, got {dtype!r}")
        self.directory = Path(directory).expanduser()
        self.dtype = dtype
        self.complete: bool | None = None  # not known before setup
        self.folder: CacheFolder | None = None
        self._rows = np.empty(0, np.int64)
        self._ready = False
        self._lost = False

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A module that is copied goes on sharing the cache: its copies would be as large as the files."""
        return self

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Finds the cache of this teacher, these views and these images."""
        module: Any = pl_module  # a TMKDModule
        if stage != "fit":
            return
        self.complete, self._ready, self._lost = False, False, False
        if module.teacher is None or not module.reads_teacher:
            rank_zero_warn("TeacherCache has nothing to keep: no term of the loss reads a teacher")
            return
        identity = self._identity(trainer, module)
        kinds = ["embedding", *([_map_kind(module.teacher.map_size)] if _reads_map(module) else [])]
        self.folder = CacheFolder(self.directory, identity, self.dtype, kinds)
        self.complete = self._ready = self.folder.complete
        rows = identity["data"]["images"] * identity["data"]["replicas"]
        rank_zero_info(
            f"Teacher cache {self.folder.path}: {self.folder.written} of {rows} rows are there"
            + (": the teacher will not run" if self.complete else "")
        )
        if self.complete:
            _load_head(module, self.folder.read_head())

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at what other machines have written."""
        if self.folder is not None and self._ready and not self.complete and not self._lost:
            try:
                self.folder.reopen()
            except CacheError as error:
                self._lose(error)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Notes which rows the step is about; makes the files before the first one."""
        module: Any = pl_module
        if self.folder is None:
            return
        self._rows = module.rows(batch)
        if not self._ready:
            image, _ = module.take(batch)
            self._create(trainer, module, image[:1])
            self._ready = True

    def recall(self, module: Any, image: Tensor) -> Output:
        """What the teacher says of the batch: as it is kept, or else as it comes, which is kept then.

        Args:
            module: a TMKDModule, with the teacher.
            image: the batch, ``(B, 3, H, W)``.

        Returns:
            Output of ``V * B`` rows, in the order of views.
        """
        if self.folder is None:
            return module.show(image)
        kept = self.folder.read(self._rows)
        if kept is None and self.complete:
            raise CacheError(
                f"{self.folder.path} was complete and is damaged now, and the teacher's weights were not read: run "
                f"tmkd cache check --directory {self.directory}, then start or resume the run again"
            )
        if kept is None:
            return self._output(module, image, self._keep(module.show(image), views=len(module.views)))
        read = {kind: torch.from_numpy(value).to(image.device, non_blocking=True) for kind, value in kept.items()}
        return self._output(module, image, read)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lets go of the files."""
        if self.folder is not None:
            self.folder.close()

    # What decides the outputs

    def _identity(self, trainer: Trainer, module: Any) -> dict[str, Any]:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        replicas = getattr(data, "augmentation_replicas", None)  # a foreign one has none
        if not replicas:
            raise ValueError(
                "TeacherCache needs images that come again: set augmentation_replicas of the datamodule to 1 or more "
                + ("(it is 0, which never repeats an augmentation)" if replicas == 0 else _FOREIGN)
            )
        extractor = module.teacher.extractor
        if module.teacher_checkpoint is None:
            load_pretrained(extractor.network)
        return {
            "teacher": teacher_identity(extractor, module.teacher_checkpoint),
            "views": views_identity(module.views),
            "data": data.training_identity(),
            "precision": str(trainer.precision),
        }

    # Files

    def _create(self, trainer: Trainer, module: Any, image: Tensor) -> None:
        """Sees on one image how large the teacher's outputs are."""
        assert self.folder is not None
        module.teacher.extractor.confirm(image)
        parts = self._parts(module.show(image), views=len(module.views))
        shapes = {kind: tuple(part.shape[1:]) for kind, part in parts.items()}
        data = self.folder.identity["data"]
        self.folder.create(data["images"] * data["replicas"], shapes)
        head = module.teacher.extractor.head
        self.folder.write_head(head.weight.cpu().numpy(), None if head.bias is None else head.bias.cpu().numpy())
        total = sum(file.array.nbytes for file in self.folder.files.values())
        rank_zero_info(
            f"Teacher cache: {data['replicas']} replicas of {data['images']} images, "
            + ", ".join(f"{kind} {'×'.join(map(str, shape))}" for kind, shape in shapes.items())
            + f" in {self.dtype}, {size(total)} in all"
        )

    def _keep(self, output: Output, views: int) -> dict[str, Tensor]:
        parts = self._parts(output, views)
        if self._lost:
            return parts
        values = {kind: part.cpu().numpy() for kind, part in parts.items()}
        for kind, value in values.items():
            if not np.isfinite(value).all():
                raise CacheError(
                    f"the teacher's {kind} cannot be kept in {self.dtype}: it holds values that are not finite"
                    + (" or above 65504; use dtype float32" if self.dtype == "float16" else "")
                )
        assert self.folder is not None
        try:
            self.folder.write(self._rows, values)
        except OSError as error:
            self._lose(error)
        return parts

    def _lose(self, error: Exception) -> None:
        self._lost = True
        rank_zero_warn(f"The teacher cache is not filled any further, and the teacher goes on running: {error}")

    # From an output to what is kept of it, and back

    def _parts(self, output: Output, views: int) -> dict[str, Tensor]:
        """By kind ``(B, V, ...)``."""
        assert self.folder is not None
        kinds = {
            kind: output.require("embedding" if kind == "embedding" else "feature_map") for kind in self.folder.kinds
        }
        dtype = getattr(torch, self.dtype)
        return {kind: part.unflatten(0, (views, -1)).transpose(0, 1).to(dtype) for kind, part in kinds.items()}

    def _output(self, module: Any, image: Tensor, parts: dict[str, Tensor]) -> Output:
        dtype = module.teacher.extractor.head.weight.dtype
        rows = {kind: part.transpose(0, 1).flatten(0, 1).to(dtype) for kind, part in parts.items()}
        embedding = rows.pop("embedding")
        return module.teacher.complete(embedding, next(iter(rows.values()), None), image, views=len(module.views))


_FOREIGN = "(this one does not have it; subclass ImageDataModule, or train without a TeacherCache)"


def _reads_map(module: Any) -> bool:
    return "feature_map" in module.distiller.reads


def _map_kind(size: int | None) -> str:
    return "map" if size is None else f"map_{size}x{size}"


def _load_head(module: Any, tensors: dict[str, np.ndarray]) -> None:
    module.teacher.extractor.head.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()})
