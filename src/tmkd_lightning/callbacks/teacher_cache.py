"""Stores the teacher's outputs on disk in the first epochs, and reads them instead of running it in the later ones."""

import textwrap
import warnings
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from tmkd_lightning.feature_extraction.output import Output
from tmkd_lightning.teacher.cache import CacheError, CacheFolder, serialization
from tmkd_lightning.teacher.cache.fingerprint import teacher_fingerprint, views_fingerprint
from tmkd_lightning.teacher.cache.serialization import EMBEDDING, LOGITS, PIXELS
from tmkd_lightning.teacher.cache.stored_samples import IMAGE, LABEL, StoredSamples
from tmkd_lightning.teacher.multi_view_teacher import MultiViewTeacher
from tmkd_lightning.text.class_names import datamodule_of
from tmkd_lightning.utils.messages import printable
from tmkd_lightning.utils.precision import at_least_float32


class TeacherCache(Callback):
    """Caches the teacher's outputs for every view of every training image in a directory.

    Needs a datamodule with ``augmentation_replicas`` R of at least 1, or one of your own with a method
    `training_fingerprint` whose batches are ``(images, labels, rows)``. In the first R epochs the teacher runs, and its
    outputs are written; from then on they are read. A cache that an earlier run completed with the same teacher, views,
    images and augmentation serves from the first step, and a ``teacher_checkpoint`` is not even loaded.

    Each batch is read if all of it is there, and else computed and written: a run that was killed resumes with what is
    there, processes fill one cache together, and damaged rows are computed again. Only what the method reads is stored:
    embeddings, from which the head computes the logits (an `Ensemble`'s logits are stored too), and maps in the size
    that they are read in.

    With ``images=True`` the augmented images are stored too, with their labels, by the processes that load them: on a
    complete cache an epoch opens and decodes no image. They need an `ImageDataModule` other than a stream's.

    Args:
        directory: of the caches; made if missing. One directory serves any number of runs, also at once.
        dtype: of the stored values. With ``float16`` every step computes with rounded outputs, whether they were read
            or computed; ``float32`` gives the same losses as a run without a cache.
        maps: whether to store `Output.maps` too, for methods that read them, such as AT and FitNet; they are large.
        images: whether to store the images as ``train_transform`` gives them, uint8; 3 · S · S bytes each.

    Raises:
        ValueError: a method reads maps, which are not stored, or the images do not come again or cannot be stored
            (before the first step).
        CacheError: the directory cannot be written to, or the disk is too full (before the first step), or the images
            are not those that the cache was filled with (at the first that is read).
    """

    folder: CacheFolder | None  # of the teacher's outputs
    samples: CacheFolder | None  # the same one, of images and labels
    complete: bool | None  # None: not known before setup
    stopped: bool  # whether nothing is written any more, as the disk is full or gone

    def __init__(
        self,
        directory: str,
        dtype: Literal["float16", "float32"] = "float16",
        maps: bool = False,
        images: bool = False,
    ) -> None:
        if dtype not in ("float16", "float32"):
            raise ValueError(f"dtype must be float16 or float32, got {dtype!r}")
        self.directory = Path(directory).expanduser()
        self.dtype = dtype
        self.maps = maps
        self.images = images
        self._reset()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Returns itself: a copy of the module shares the cache and its open files."""
        return self

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Finds the cache of this teacher, these views and these images."""
        if stage != "fit":
            return
        self._reset()
        self.complete = False
        if pl_module.teacher is None or not pl_module.reads_teacher:
            rank_zero_warn("TeacherCache has nothing to keep: no term of the loss reads a teacher")
            return
        if pl_module.mix is not None:
            raise ValueError(
                "TeacherCache stores the teacher's answers to the images of the data, but mix makes new ones at every "
                "step: leave one of the two out"
            )
        readers = [part.method_name for part in pl_module.distiller.parts if "maps" in part.reads]
        if readers and not self.maps:
            raise ValueError(
                f"{readers[0]} reads maps of several layers, which a TeacherCache stores only with maps=True, as they "
                "are large: say so, or leave the TeacherCache out"
            )
        if self.images:
            _image_datamodule(trainer).store_samples(None)  # refused here, before all images are read
        rank_zero_info("Teacher cache: looking at the teacher, its views and the training images")
        identity = self._identity(trainer, pl_module)
        self.folder = CacheFolder(self.directory, identity, self._dtypes(pl_module.teacher, has_head=True))
        if EMBEDDING not in self.folder.files:
            without = CacheFolder(self.directory, identity, self._dtypes(pl_module.teacher, has_head=False))
            self.folder = without if LOGITS in without.files else self.folder
        self.complete = self._files_made = self.folder.complete
        ending = ": the teacher will not run" if self.complete else ""
        rank_zero_info(
            f"Teacher cache {self.folder.path}: {self.folder.written} of {self.folder.rows} rows are there{ending}"
        )
        if not self.folder.path.exists() and (closest := self.folder.closest()) is not None:
            name, differing = closest
            parts = textwrap.shorten(", ".join(differing), 200, placeholder=" ...")
            rank_zero_info(printable(f"Teacher cache: the closest other one, {name}, differs in {parts}"))
        if self.images:
            self.samples = self._store_samples(_image_datamodule(trainer), identity)
        # A teacher that came with its weights has this head, or gets it, when its module puts its classes in order.
        if self.complete and EMBEDDING in self.folder.dtypes and pl_module.teacher_checkpoint is not None:
            state = {name: torch.from_numpy(value) for name, value in self.folder.read_head().items()}
            pl_module.teacher.extractor.resize_head(len(state["weight"]))  # of the data's classes alone
            pl_module.teacher.extractor.head.load_state_dict(state)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Reopens the files, to which other processes may have written, and makes a head anew that is gone."""
        self._check_images = True
        if self.folder is not None and not self.complete and not self.stopped:
            try:
                if self._files_made:
                    self.folder.reopen()
                if EMBEDDING in self.folder.files and not self.folder.has_head:
                    _write_head(self.folder, pl_module.teacher)
            except (CacheError, OSError) as error:
                self._stop(error)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Notes the rows of the batch."""
        if self.folder is not None:
            self._rows = pl_module.sample_ids(batch)

    def read_or_compute(self, teacher: MultiViewTeacher, image: Tensor) -> Output:
        """Reads the output of ``V * B`` rows for a batch ``(B, 3, H, W)``, or computes and stores it."""
        if self.folder is None:
            return teacher.forward_views(image)
        arrays = self._read(self.folder, image) or self._compute(self.folder, teacher, image)
        return serialization.from_arrays(arrays, teacher.frozen, image, views=teacher.num_views)

    def missing(self) -> np.ndarray:
        """The rows of which something is not written, after `setup`."""
        folders = [folder for folder in (self.folder, self.samples) if folder is not None]
        return np.unique(np.concatenate([np.empty(0, np.int64), *(folder.missing() for folder in folders)]))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Closes the files."""
        if self.folder is not None:
            self.folder.close()
        if self.samples is not None:
            _image_datamodule(trainer).store_samples(None)
            self.samples.close()
        self._reset()

    def _reset(self) -> None:
        """Drops all state of a run: the next one may have another teacher."""
        self.folder = self.samples = self.complete = None
        self._rows = np.empty(0, np.int64)
        self._files_made = self.stopped = False
        self._check_images = True

    def _dtypes(self, teacher: MultiViewTeacher, has_head: bool) -> dict[str, str]:
        extractor = teacher.extractor
        maps = [layer.name for layer in extractor.map_layers] if extractor.keep_maps else []
        options = extractor.keep_map, teacher.frozen.map_size, self.dtype, extractor.logits_of_head, maps
        return serialization.array_dtypes(has_head, *options)

    def _identity(self, trainer: Trainer, module: Any) -> dict[str, Any]:
        data = datamodule_of(trainer)
        if not hasattr(data, "training_fingerprint"):
            who = "a loader without a datamodule" if data is None else type(data).__name__
            raise ValueError(
                f"TeacherCache must know the training images, but {who} has no method "
                "training_fingerprint: give it one (docs/existing_project.md), or subclass ImageDataModule"
            )
        of_data = data.training_fingerprint()
        for name in ("images", "replicas"):
            if not isinstance(of_data, dict) or not isinstance(of_data.get(name), int) or of_data[name] < 1:
                raise ValueError(
                    f"training_fingerprint of {type(data).__name__} must return a dict with the numbers images and "
                    f"replicas, each at least 1, got {of_data!r}"
                )
        extractor, statistics = module.teacher.extractor, module.normalized_with
        if module.teacher_checkpoint is None:
            module.load_pretrained(extractor.network)
        of_file = {"key": module.teacher_key, "class_order": module.teacher_order()}
        dtype = module.teacher.frozen.dtype  # in which it runs, whatever the precision is
        return {
            "teacher": teacher_fingerprint(extractor, module.teacher_checkpoint) | of_file,
            "views": views_fingerprint(module.views),
            "data": of_data,
            "normalized_with": statistics and [part.flatten().tolist() for part in statistics],
            "precision": str(trainer.precision),
            "dtype": None if dtype is None else str(dtype),
        }

    def _store_samples(self, data: Any, identity: dict[str, Any]) -> CacheFolder:
        """Has the loader's processes read and write images and labels, in the folder of the outputs."""
        sample = data.first_training_sample()
        for name, part in zip((IMAGE, LABEL), sample, strict=True):
            if not isinstance(part, (Tensor, np.ndarray, np.generic, int, float)):  # a batch has it in another form
                raise ValueError(
                    f"TeacherCache(images=True) stores one array or number for the {name} of a sample, and the first "
                    f"has a {type(part).__name__}: give one, or leave images out"
                )
        image, label = map(np.asarray, sample)
        if image.dtype != np.uint8:
            raise ValueError(
                f"TeacherCache(images=True) stores uint8 images, and train_transform gives {image.dtype} "
                f"{image.shape}: let it end in uint8, as it came in, or leave images out"
            )
        samples = CacheFolder(self.directory, identity, {IMAGE: "uint8", LABEL: label.dtype.name})
        if not samples.complete:
            samples.create(samples.rows, {IMAGE: image.shape, LABEL: label.shape})
        rank_zero_info(f"Teacher cache {samples.path}: {samples.written} of {samples.rows} images are there")
        data.store_samples(StoredSamples(samples))
        return samples

    def _read(self, folder: CacheFolder, image: Tensor) -> dict[str, Tensor] | None:
        stored = None
        try:
            stored = None if self.stopped else folder.read(self._rows)
        except OSError as error:
            self._stop(error)
        if stored is None and self.complete:
            raise CacheError(
                f"{folder.path} was complete and is damaged now, and the teacher was not made ready to run: run "
                f"tmkd cache check --directory {self.directory}, then start or resume the run again"
            )
        if stored is None:
            return None
        pixels = stored.pop(PIXELS)
        if self._check_images:  # once an epoch: it waits for the device
            self._check_images = False
            if differing := int((pixels != serialization.image_checksums(image)).sum()):
                raise CacheError(
                    f"{differing} of {len(image)} images are not those that {folder.path} was filled with: something "
                    "changes them behind the dataset (a transfer hook, an unpack or preprocess of your own, random "
                    "numbers that are not torch's); put it into train_transform or a view, or leave TeacherCache out"
                )
        return {name: torch.from_numpy(value).to(image.device, non_blocking=True) for name, value in stored.items()}

    def _compute(self, folder: CacheFolder, teacher: MultiViewTeacher, image: Tensor) -> dict[str, Tensor]:
        output = teacher.forward_views(image)
        if output.embedding is None and not self._files_made:  # only now is known that the teacher has no head
            folder = self.folder = CacheFolder(self.directory, folder.identity, self._dtypes(teacher, has_head=False))
        arrays = serialization.to_arrays(output, teacher.num_views, folder.dtypes)
        values = {name: part.cpu().numpy() for name, part in arrays.items()}
        for name, value in values.items():
            if not np.isfinite(value).all():
                raise CacheError(
                    f"the teacher's {name} cannot be kept in {self.dtype}: it holds values that are not finite"
                    + (" or above 65504; use dtype float32" if self.dtype == "float16" else "")
                )
        if not self._files_made:  # before the first optimizer step: only now are the shapes known
            shapes = {PIXELS: (1,), **{name: value.shape[1:] for name, value in values.items()}}
            folder.create(folder.rows, shapes, reserved=0 if self.samples is None else self.samples.unwritten)
            if EMBEDDING in shapes:
                _write_head(folder, teacher)
            self._files_made = True
        if not self.stopped:
            try:
                folder.write(self._rows, {PIXELS: serialization.image_checksums(image), **values})
            except OSError as error:
                self._stop(error)
        return arrays

    def _stop(self, error: Exception) -> None:
        """Goes on without the cache; each process warns, as only its own disk may be full."""
        self.stopped = True
        if not self.complete:
            warnings.warn(
                f"The cache is not filled any further, and the teacher goes on running: {error}", stacklevel=2
            )


def _image_datamodule(trainer: Trainer) -> Any:
    """The datamodule, if it lets its samples be stored."""
    data = datamodule_of(trainer)
    if not hasattr(data, "store_samples"):
        who = "a loader without a datamodule" if data is None else type(data).__name__
        raise ValueError(
            f"TeacherCache(images=True) needs an ImageDataModule with augmentation_replicas, whose workers read the "
            f"stored images, and got {who}: leave images out, or subclass ImageDataModule"
        )
    return data


def _write_head(folder: CacheFolder, teacher: MultiViewTeacher) -> None:
    state = teacher.extractor.head.state_dict()  # NumPy has no bfloat16
    folder.write_head(**{name: at_least_float32(value).cpu().numpy() for name, value in state.items()})
