"""``tmkd probe``: fits a linear head on a frozen network, and writes a teacher's checkpoint."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters_context
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.utils._pytree import tree_leaves

from tmkd_lightning.callbacks import TeacherCache
from tmkd_lightning.cli import lightning_cli
from tmkd_lightning.data import ImageDataModule
from tmkd_lightning.data.image_files import ImageFiles
from tmkd_lightning.feature_extraction.ensemble import Ensemble
from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.lightning_compat.atomic_checkpoints import AtomicCheckpointIO
from tmkd_lightning.models import load_pretrained, load_weights, local_file
from tmkd_lightning.models.linear_probe import LinearHead, fit_linear_head
from tmkd_lightning.modules import ClassifierModule, TMKDModule
from tmkd_lightning.modules.base import BaseModule
from tmkd_lightning.teacher.frozen import FrozenTeacher
from tmkd_lightning.text.class_names import parse_class_names
from tmkd_lightning.utils.files import check_writable
from tmkd_lightning.utils.images import check_images
from tmkd_lightning.utils.labels import check_labels
from tmkd_lightning.utils.messages import printable
from tmkd_lightning.utils.replaced_methods import replaced_methods
from tmkd_lightning.utils.secrets import redact
from tmkd_lightning.utils.validation import check_count
from tmkd_lightning.views import MultiView, RandomView


def run(args: Sequence[str] | None) -> None:
    """Runs ``tmkd probe``."""
    lightning_cli.run(args, ProbeCLI)


class ProbeTrainer(Trainer):
    """Lightning's trainer, with the method that the verb is named by."""

    def probe(
        self,
        model: BaseModule,
        datamodule: LightningDataModule,
        output: str | None = None,
        view_shares: list[float] | None = None,
        augmented: int = 0,
        seed: int = 0,
    ) -> None:
        """Fits a linear head on a frozen teacher's embeddings, and writes it with the teacher to a checkpoint.

        Args:
            model: TMKDModule, whose teacher is meant, or ClassifierModule.
            datamodule: of the training and the validation images.
            output: file to write, which `teacher_checkpoint` of a TMKDModule reads; by default that of the config.
            view_shares: weight of each view in the fit; by default those of a ClassifierModule, else equal ones.
            augmented: number of times that each training image is seen, augmented as in training; 0 for once, prepared
                as for validation.
            seed: decides which images are held out to choose the strength of the regularisation.
        """
        run_probe(self, model, datamodule, output, view_shares, augmented, seed)


class ProbeCLI(lightning_cli.OtherVerbCLI):
    """Takes module, data, precision, device and TeacherCache from the config of a run."""

    _trainer_class = ProbeTrainer
    verb = "probe"

    def trainer_options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Those of one device."""
        devices = given["devices"]
        return {
            "accelerator": given["accelerator"],
            "devices": devices[:1] if isinstance(devices, list) else 1,
            "precision": given["precision"],
            "callbacks": self.teacher_caches(given),
            "enable_progress_bar": given["enable_progress_bar"],
            "default_root_dir": given["default_root_dir"],
        }


class Embeddings(NamedTuple):
    """Embeddings of labelled images.

    Attributes:
        values: of each view of each image, ``(N, V, D)``; of augmented images, the views of one after those of another.
        labels: ``(N,)``.
    """

    values: np.ndarray
    labels: np.ndarray

    def labelled(self) -> "Embeddings":
        """Those of images with a label."""
        known = self.labels >= 0
        return self if known.all() else Embeddings(self.values[known], self.labels[known])


def run_probe(
    trainer: Trainer,
    module: BaseModule,
    data: LightningDataModule,
    output: str | None = None,
    view_shares: Sequence[float] | None = None,
    augmented: int = 0,
    seed: int = 0,
) -> LinearHead:
    """Does what ``tmkd probe`` does; see `ProbeTrainer.probe`."""
    if not isinstance(module, (TMKDModule, ClassifierModule)):
        raise TypeError(f"tmkd probe takes the config of a TMKDModule or ClassifierModule, got {type(module).__name__}")
    start = time.monotonic()
    check_count("augmented", augmented, minimum=0)
    path = _output(module, output)
    extractor, views, shares = _teacher(module, view_shares)
    data.prepare_data()
    classes = getattr(data, "num_classes", None) or module.num_classes  # a foreign datamodule may lack it
    _read_weights(module, extractor, path)
    extractor.require("embedding", reader="tmkd probe")
    extractor.resize_head(classes)

    begun = time.monotonic()
    train, val = collect(trainer, module, data, extractor, views, augmented)
    forwards = time.monotonic() - begun
    train = train.labelled()
    head = fit_linear_head(
        train.values,
        train.labels,
        shares * (train.values.shape[1] // len(shares)),
        bias=extractor.head.bias is not None,
        seed=seed,
    )
    with torch.no_grad():
        extractor.head.weight.copy_(head.weight)
        if extractor.head.bias is not None:
            extractor.head.bias.copy_(head.bias)
    _report(extractor, views, train, val, head)
    _save(trainer, module, data, extractor, path)
    print(f"  {printable(path)} written; {forwards:.0f} s for the embeddings, {time.monotonic() - start:.0f} s in all")
    return head


def collect(
    trainer: Trainer,
    module: TMKDModule | ClassifierModule,
    data: LightningDataModule,
    extractor: Extractor,
    views: MultiView,
    augmented: int = 0,
) -> tuple[Embeddings, Embeddings | None]:
    """Embeddings of the training images, from a complete cache where there is one, and of the validation images."""
    frozen = module.teacher.frozen if isinstance(module, TMKDModule) else FrozenTeacher(extractor)
    cache: TeacherCache | None = next((one for one in trainer.callbacks if isinstance(one, TeacherCache)), None)  # type: ignore[attr-defined]
    has_validation = is_overridden("val_dataloader", data, LightningDataModule)
    validation_loader = data.val_dataloader
    cached: list[Embeddings] = []

    def loaders() -> list[Any]:
        data.setup("fit")
        if cache is not None and isinstance(module, TMKDModule) and isinstance(data, ImageDataModule):
            cached.extend(_from_cache(cache, trainer, module, data, augmented))
        found = [] if cached else [_training_loader(data, augmented)]
        validation = next(iter(tree_leaves(validation_loader())), None) if has_validation else None
        return found + ([] if validation is None else [validation])

    extractor.network.to(memory_format=torch.channels_last)  # convolutions are faster so
    embedder = Embedder(module, frozen, views)
    with replaced_methods(data, val_dataloader=loaders):
        trainer.validate(embedder, datamodule=data, verbose=False)
    found = [*cached, *embedder.compute()]
    if augmented > 1 and not cached:  # all images once, then all again
        values, labels = found[0]
        by_image = values.reshape(augmented, -1, *values.shape[1:]).swapaxes(0, 1)
        found[0] = Embeddings(by_image.reshape(by_image.shape[0], -1, values.shape[-1]), labels[: by_image.shape[0]])
    return found[0], found[1] if len(found) > 1 else None


class Embedder(LightningModule):
    """Runs a frozen network on several views of each image, and keeps its embeddings on the host."""

    def __init__(self, module: BaseModule, frozen: FrozenTeacher, views: MultiView) -> None:
        super().__init__()
        self.frozen, self.views = frozen, views
        self.unpack: Callable[[Any], tuple[Tensor, Tensor | None]] = module.unpack
        self.preprocess: Callable[[Any], tuple[Tensor, Tensor | None]] = module.preprocess
        self.normalized_with = module.normalized_with
        self._parts: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Keeps the embeddings of a batch, whose images and labels are checked first."""
        images, labels = self.unpack(batch)
        check_images(images, self.normalized_with, "batch")
        if labels is None:
            raise ValueError("tmkd probe needs labels, but unpack gave none")
        check_labels(labels, len(images), self.frozen.extractor.num_classes)
        if labels.ndim == 2:
            raise ValueError("tmkd probe needs one class for each image, but the labels are distributions over them")
        images = self.views(self.preprocess(batch)[0]).flatten(0, 1)
        output = self.frozen(images, views=len(self.views), checked=True)
        self.frozen.extractor.require("embedding", reader="tmkd probe")  # now that the head is confirmed
        by_image = output.require("embedding").unflatten(0, (len(self.views), -1)).transpose(0, 1)
        self._parts.setdefault(dataloader_idx, []).append((by_image.float().cpu(), labels.long().cpu()))

    def compute(self) -> list[Embeddings]:
        """The embeddings of each loader."""
        parts = [zip(*self._parts[index], strict=True) for index in sorted(self._parts)]
        return [Embeddings(torch.cat(values).numpy(), torch.cat(labels).numpy()) for values, labels in parts]


def _output(module: TMKDModule | ClassifierModule, output: str | None) -> Path:
    """The file to write; one that is there already is replaced only if it is named."""
    named = module.teacher_checkpoint if isinstance(module, TMKDModule) else None
    if output is None and named is None:
        raise ValueError("tmkd probe does not know where to write the teacher: give --output teacher.ckpt")
    location = output or named or ""
    if "://" in location:
        raise ValueError(f"tmkd probe cannot write to {redact(location)}: give --output teacher.ckpt, a file of yours")
    path = Path(location).expanduser()
    if path.suffix == ".safetensors":
        raise ValueError(f"{path} would not hold a checkpoint: name a file that ends in .ckpt")
    if output is None and path.exists():
        raise ValueError(f"{path}, the teacher_checkpoint of the config, is there already: give --output to write one")
    check_writable(path)
    return path


def _teacher(
    module: TMKDModule | ClassifierModule, view_shares: Sequence[float] | None
) -> tuple[Extractor, MultiView, list[float]]:
    """The network, its views, and the share of each."""
    extractor = module.teacher.extractor if isinstance(module, TMKDModule) else module.extractor
    if isinstance(extractor, Ensemble):
        raise ValueError("tmkd probe fits the head of one network, not of an Ensemble: probe each member alone")
    if view_shares is None and isinstance(module, ClassifierModule):
        return extractor, module.views, module.random_view.shares.tolist()
    return extractor, module.views, RandomView(module.views.views, view_shares, "view_shares").shares.tolist()


def _read_weights(module: TMKDModule | ClassifierModule, extractor: Extractor, path: Path) -> None:
    """Reads the network's weights, from its teacher_checkpoint unless that is what shall be written."""
    load_pretrained(extractor.network)
    if not isinstance(module, TMKDModule) or module.teacher_checkpoint is None:
        return
    weights = local_file(module.teacher_checkpoint)
    if weights.exists() or weights.resolve() != path.resolve():
        load_weights(extractor, weights, key=module.teacher_key)
        module.teacher_checkpoint = str(weights)  # as a run of tmkd fit hands it to a TeacherCache
    else:
        module.teacher_checkpoint = None  # as a TeacherCache of the network without a head knows it


def _training_loader(data: LightningDataModule, augmented: int) -> Any:
    if isinstance(data, ImageDataModule):
        return data.ordered_train_dataloader(augmented)
    if augmented:
        raise ValueError(f"augmented is for our datamodules; {type(data).__name__} prepares its images as it likes")
    return next(iter(tree_leaves(data.train_dataloader())))


def _from_cache(
    cache: TeacherCache, trainer: Trainer, module: TMKDModule, data: ImageDataModule, augmented: int
) -> list[Embeddings]:
    """The embeddings of all augmented training images, if the cache has all of them."""
    if not isinstance(data, ImageDataModule) or not data.augmentation_replicas or not module.reads_teacher:
        return []
    module.trainer = trainer
    cache.images = False  # embeddings alone are read
    cache.setup(trainer, module, "fit")
    if not cache.complete or cache.folder is None or "embedding" not in cache.folder.dtypes:
        return []
    if augmented:
        raise ValueError(
            f"augmented={augmented} has no say here: the config's TeacherCache is complete, and its images, "
            f"augmented in {data.augmentation_replicas} pass(es), would be read instead; leave one of the two out"
        )
    samples = data.samples("train")
    labels = samples.labels if isinstance(samples, ImageFiles) else [label for _, label in samples]
    replicas, images = data.augmentation_replicas, len(labels)
    rows = cache.folder.read(np.arange(replicas * images))
    if rows is None:
        return []  # damaged
    print(printable(f"The training images, augmented in {replicas} pass(es), are read from {cache.folder.path}"))
    values = rows["embedding"].astype(np.float32)
    by_image = values.reshape(replicas, images, *values.shape[1:]).swapaxes(0, 1)
    return [Embeddings(by_image.reshape(images, -1, values.shape[-1]), np.asarray(labels))]


def _report(
    extractor: Extractor, views: MultiView, train: Embeddings, val: Embeddings | None, head: LinearHead
) -> None:
    """Prints what was fitted, and the top-1 on each view of the validation images."""
    chosen = f", held-out loss {head.held_out[head.strength]:.3f}" if head.held_out else ", as no image was held out"
    print(
        printable(
            f"Head of {extractor.name}: {len(head.weight)} classes on {train.values.shape[2]} numbers, from "
            f"{len(train.labels)} images in {train.values.shape[1]} views; C={head.strength:g}{chosen}"
        )
    )
    val = None if val is None else val.labelled()
    if val is None or not len(val.labels):
        print("  there are no validation images with labels to measure it on")
        return
    logits = torch.from_numpy(val.values) @ head.weight.T + head.bias
    found = dict(zip(views.names, logits.unbind(1), strict=True))
    if len(views) > 1:
        found["mean of views"] = logits.mean(1)
    right = {name: float((one.argmax(1).numpy() == val.labels).mean()) for name, one in found.items()}
    described = ", ".join(f"{name} {value:.1%}" for name, value in right.items())
    print(printable(f"  top-1 on {len(val.labels)} validation images: {described}"))


def _save(
    trainer: Trainer,
    module: TMKDModule | ClassifierModule,
    data: LightningDataModule,
    extractor: Extractor,
    path: Path,
) -> None:
    """Writes the network with its head as a ClassifierModule, as ``tmkd fit`` would have."""
    config = dict(module.hparams)
    network = config["network" if isinstance(module, ClassifierModule) else "teacher"]
    names = ("views", "normalized_with", "class_names")
    settings = {name: config.get(name) for name in names} | {"num_classes": extractor.num_classes}
    hparams = {"_class_path": "tmkd_lightning.ClassifierModule", "network": network, **settings}
    with _given_hyperparameters_context(hparams, "lightning.pytorch.cli.instantiate_module"):
        classifier = ClassifierModule(
            extractor,
            views=module.views.views,
            class_names=module.class_names,
            normalized_with=None if module.normalized_with is None else config["normalized_with"],
        )
    classifier.trained_class_names = parse_class_names(getattr(data, "class_names", None), extractor.num_classes)
    classifier.trainer = trainer
    trainer.strategy.connect(classifier)
    trainer.strategy.checkpoint_io = AtomicCheckpointIO()
    path.parent.mkdir(parents=True, exist_ok=True)
    trainer.save_checkpoint(path, weights_only=True)
