"""What both modules share: batches to images and labels, loss logging, metrics, optimizer and checkpoints."""

import inspect
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters
from lightning.pytorch.trainer.states import RunningStage
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from tmkd_lightning.callbacks import ClassNamesCheck, PlateauStep, StepSeeds
from tmkd_lightning.callbacks.non_finite_loss import NonFiniteLossCheck, check_finite_weights
from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.feature_extraction.image_size import IMAGE_SIZE
from tmkd_lightning.lightning_compat.resume import check_same_data, read_run, restore_run, write_run
from tmkd_lightning.lightning_compat.sigterm import ExitOnSigterm
from tmkd_lightning.models import PretrainedWeightsError, ZeroShotCLIP, load_pretrained
from tmkd_lightning.modules import optimizers, validation
from tmkd_lightning.modules.metrics import LoaderMetrics
from tmkd_lightning.text.class_names import check_class_names, datamodule_of, find_class_names, names_for_prompts
from tmkd_lightning.utils.drawn_parameters import split_parameters
from tmkd_lightning.utils.images import channel_statistics, check_images, denormalize, to_unit_float
from tmkd_lightning.utils.labels import Mix, as_distribution, check_labels, known_part, mixed
from tmkd_lightning.utils.precision import at_least_float32, warn_of_slow_precision
from tmkd_lightning.utils.secrets import without_secrets
from tmkd_lightning.utils.validation import check_positive

Normalization = tuple[Sequence[float], Sequence[float]]
NumClasses = int | Literal["data"] | None

LEFT_OUT = "tmkd_left_out"  # keys in checkpoints: names of arguments that were objects
NUM_CLASSES = "tmkd_num_classes"
CLASS_NAMES = "tmkd_class_names"  # or None where the run knew none
TRAINED_CLASS_NAMES = "tmkd_trained_class_names"  # as the training data call the classes, or None
# arguments that every caller passes, or that training alone reads
_PASSED_ANEW = {"teacher", "student", "network", "optimizer", "lr_scheduler", "mix"}
_STAGES = {"train": "training batch", "val": "validation batch", "test": "test batch", "predict": "prediction batch"}


class BaseModule(LightningModule):
    """A classifier in Lightning, all but the training step; logs loss, top1, top5 and macro recall in evaluation."""

    def __init__(
        self,
        network: nn.Module,
        num_classes: NumClasses,
        class_names: Sequence[str] | None,
        normalized_with: Normalization | None,
        optimizer: optimizers.OptimizerCallable,
        lr_scheduler: optimizers.LRSchedulerCallable | None,
        head_lr_factor: float,
        compile: bool,
        mix: Mix | None,
    ) -> None:
        super().__init__()
        validation.check_arguments(num_classes, optimizer, lr_scheduler)
        self.extractor = as_extractor(network, num_classes)
        self.teacher: Any = None  # callbacks look for these two
        self.prompt_bank: Any = None
        class_names = self.extractor.class_names if class_names is None else class_names
        if class_names is not None and len(class_names) != self.extractor.num_classes:
            self.extractor.measure_classes()  # the width of the last linear layer need not be their number
        self.num_classes_of_data = num_classes == "data"
        self._set_num_classes(self.extractor.num_classes)
        self.class_names: list[str] | None = None
        if class_names is not None:
            self.class_names = check_class_names(class_names, None if self.num_classes_of_data else self.num_classes)
        self.normalized_with = None if normalized_with is None else channel_statistics(*normalized_with)
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.lr: float | None = None  # replaces the optimizer's learning rate: Tuner.lr_find sets it
        self.configured_lr: float | None = None
        self.head_lr_factor = check_positive("head_lr_factor", head_lr_factor)
        self.compile_networks, self._verified = compile, False
        if mix is not None and not callable(mix):
            raise TypeError(f"mix must be a function from images and labels to both of them mixed, got {mix!r}")
        self.mix: Mix | None
        self.__dict__["mix"] = mix  # not as a part of the module, whose state checkpoints hold
        self._lacks_labels: bool | None = None  # of the training batch that was transferred last; None: not known
        self.labels_lack = False  # of the batch of this step
        self._told_of_missing, self._check_mix = False, True
        self.logged_losses: dict[str, Tensor] = {}  # of the last step, for NonFiniteLossCheck
        self.unsaved_arguments: list[str] = []
        self.run_before: dict[str, Any] = {}  # of the checkpoint that was loaded
        self.saved_class_names: list[str] | None = None  # of the checkpoint that was loaded
        self.trained_class_names: list[str] | None = None  # of the data that it was trained on

    # Batches

    def unpack(self, batch: Any) -> tuple[Tensor, Tensor | None]:
        """Images ``(B, 3, H, W)`` and labels of a batch; override it for batches of another form.

        Labels are classes ``(B,)``, or distributions over them ``(B, K)``, or None. A training image without a label
        has -1 for its class, or in its whole row: the teacher's answer stands in for it.
        """
        if isinstance(batch, Tensor):
            return batch, None
        if isinstance(batch, (list, tuple)) and len(batch) == 1 and isinstance(batch[0], Tensor):
            return batch[0], None  # of a TensorDataset of images alone
        if isinstance(batch, (list, tuple)) and len(batch) in (2, 3) and _holds_sample_ids(batch[2:]):
            images, labels = batch[:2]
            if isinstance(images, Tensor) and (labels is None or isinstance(labels, Tensor)):
                return images, labels
        got, remedy = validation.describe(batch), validation.how_to_unpack(batch)
        raise TypeError(f"expected a batch (images, labels), got {got}: {remedy}")

    def sample_ids(self, batch: Any) -> np.ndarray:
        """Rows ``(B,)`` of a `TeacherCache` for a batch, ``replica * images + index``; override it with `unpack`."""
        if isinstance(batch, (list, tuple)) and len(batch) == 3 and _holds_sample_ids(batch[2:]):
            return batch[2]
        raise TypeError(
            "a TeacherCache, or a method such as CRD, must know which images a batch holds: expected (images, labels, "
            f"rows), got {validation.describe(batch)}; take a datamodule of tmkd_lightning, for a TeacherCache with "
            "augmentation_replicas, or override sample_ids"
        )

    def preprocess(self, batch: Any) -> tuple[Tensor, Tensor | None]:
        """Unpacks a batch into images ``(B, 3, H, W)``, float in [0, 1], and labels ``(B,)`` or ``(B, K)`` or None."""
        images, labels = self.unpack(batch)
        if labels is not None:
            labels = labels.long() if labels.ndim == 1 else as_distribution(labels)
        if self.normalized_with is not None:
            mean, std = (part.to(images.device, images.dtype, non_blocking=True) for part in self.normalized_with)
            return denormalize(images, mean, std), labels
        return to_unit_float(images), labels

    def preprocess_labelled(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Like `preprocess`, for batches that must have labels."""
        images, labels = self.preprocess(batch)
        if labels is None:
            raise ValueError("measuring needs labels, but unpack gave none")
        return images, labels

    def preprocess_training(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Like `preprocess`, mixed by `mix`; rows of labels ``(B, K)`` lack what no label says."""
        images, labels = self.preprocess(batch)
        lacking, self._lacks_labels = self._lacks_labels, None
        self.labels_lack = labels is None or (bool((labels < 0).any()) if lacking is None else lacking)
        if labels is None or self.labels_lack:
            if lacking is None and (reason := self.why_labels_needed()):  # else `check_batch` has asked
                raise ValueError(f"a training batch has images without a label (None or -1), but {reason}")
            labels = known_part(labels, len(images), self.num_classes, images.device)
        if self.mix is None:
            return images, labels
        check, self._check_mix = self._check_mix, False
        return mixed(self.mix, images, labels, self.num_classes, check)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Checks images and labels on the host, where reading them waits for no device."""
        loaded, _ = split_parameters(batch)
        if all(part is None or part.device.type == "cpu" for part in self.unpack(loaded)):
            self.check_batch(loaded)
        return batch

    def check_batch(self, batch: Any) -> None:
        """Refuses images out of range and labels that name no class."""
        images, labels = self.unpack(batch)
        stage = None if self._trainer is None else self.trainer.state.stage
        name = "batch" if stage is None else _STAGES.get(stage.dataloader_prefix or "", "batch")
        check_images(images, self.normalized_with, name)
        if stage == RunningStage.PREDICTING:
            return
        if labels is not None:
            check_labels(labels, len(images), self.num_classes)
        lacking = labels is None or bool((labels < 0).any())
        training = stage in (None, RunningStage.TRAINING)
        if lacking and (reason := self.why_labels_needed() if training else "measuring needs the label of every image"):
            raise ValueError(f"the {name} has images without a label (None or -1), but {reason}")
        if training and labels is not None and labels.ndim == 2 and (reason := self.why_classes_needed()):
            raise ValueError(f"the {name} has labels that are distributions, but {reason}")
        if training:
            self._lacks_labels = lacking
            if lacking and not self._told_of_missing:
                self._told_of_missing = True
                rank_zero_info("Some training images have no label (None or -1): the teacher's answer stands in for it")

    def why_labels_needed(self) -> str | None:
        """Why training images without a label are refused; None if the teacher's answer stands in for it."""
        return "a classifier learns from labels alone: a TMKDModule has a teacher for the others"

    def why_classes_needed(self) -> str | None:
        """Why labels that are distributions over the classes are refused; None if they are not."""
        return None

    # Training

    def log_losses(self, losses: dict[str, Tensor]) -> Tensor:
        """Logs weighted loss terms by name, and returns their sum."""
        values = torch.stack(list(losses.values()))
        for name, value in zip(losses, values.detach(), strict=True):
            self.logged_losses[name] = value + self.logged_losses[name] if name in self.logged_losses else value
        loss = values.sum(dtype=torch.promote_types(values.dtype, torch.float32))
        self.log_dict({f"train/{name}": term.detach() for name, term in losses.items()})
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def _is_degenerate_batch(self, images: Tensor) -> bool:
        """Whether a batch is skipped: BatchNorm has no statistics of a last batch of one image."""
        skip = len(images) == 1 and validation.has_batch_norm(self.extractor)
        if skip:
            rank_zero_warn("skipping a training batch of one image: BatchNorm needs two; drop_last=True avoids it")
        return skip

    def _zero_loss(self) -> Tensor | None:
        """Result of a step that is skipped: None, or a zero where other processes wait for gradients."""
        if self.trainer.world_size == 1:
            return None
        return 0 * torch.stack([parameter.sum() for parameter in self.parameters() if parameter.requires_grad]).sum()

    def extractors(self) -> Iterator[Extractor]:
        """All networks that run in a training step."""
        yield self.extractor

    def configure_callbacks(self) -> list[Callback]:
        """The callbacks every run needs, without those of a kind that the trainer has already."""
        if self.num_classes_of_data:  # callbacks must find everything in its final size
            classes = getattr(datamodule_of(self.trainer), "num_classes", None)
            if classes is None:
                raise ValueError("num_classes='data' needs a datamodule with a num_classes property: give the number")
            self.resize_classes(classes)
        return self._missing_callbacks(
            [StepSeeds(), PlateauStep(), ClassNamesCheck(), NonFiniteLossCheck(), ExitOnSigterm()]
        )

    def _missing_callbacks(self, callbacks: Sequence[Callback]) -> list[Callback]:
        present: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        return [each for each in callbacks if not any(isinstance(one, type(each)) for one in present)]

    def prepare_data(self) -> None:
        """Reads pretrained weights on one process first, which downloads those that are missing."""
        validation.check_data_classes(self.trainer, self.extractor)
        if self.trainer.training:
            self.read_weights()

    def setup(self, stage: str) -> None:
        """Prepares the networks for training."""
        warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode")  # the teacher is meant to be
        warnings.filterwarnings("ignore", "You have overridden `on_before_batch_transfer` in `LightningModule`")
        validation.check_data_classes(self.trainer, self.extractor)
        if stage != "fit":
            return
        self._verified = False
        for extractor in self.extractors():  # convolutions are faster so, and DDP must not see strides change
            extractor.network.to(memory_format=torch.channels_last)
        self.read_weights()
        if not self.extractor.network.training:
            rank_zero_warn(f"{self.extractor.name} was in evaluation mode and is put into training mode")
            self.extractor.train()

    def read_weights(self) -> None:
        """Reads pretrained weights if they can be had; a run that is resumed may do without."""
        with suppress(PretrainedWeightsError):
            self.load_pretrained(self.extractor.network)

    def load_pretrained(self, network: nn.Module) -> None:
        """Reads the weights that a network came with; a `ZeroShotCLIP` gets the class names of module or data."""
        for part in network.modules():
            if isinstance(part, ZeroShotCLIP):
                data = datamodule_of(self.trainer)
                part.set_class_names(names_for_prompts(self, data, part.class_names, "ZeroShotCLIP"))
        load_pretrained(network)

    def on_fit_start(self) -> None:
        """Insists on pretrained weights, unless a checkpoint has brought others."""
        load_pretrained(self.extractor.network)
        if self.lr != self.configured_lr:  # the callback LearningRateFinder has set it since
            self.trainer.strategy.setup_optimizers(self.trainer)
        warn_of_slow_precision(self.trainer.precision, self.device)

    def on_train_start(self) -> None:
        """Resumes what Lightning does not."""
        if self.trainer.ckpt_path:
            restore_run(self)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Verifies the networks on the first batch, before anything is trained on it."""
        if self._verified:
            return
        if self.trainer.ckpt_path:
            check_same_data(self)
        self.check_batch(batch)  # a datamodule with a transfer hook of its own replaces ours
        images, _ = self.preprocess(batch)
        if len(images) == 1 and validation.has_batch_norm(self.extractor):
            raise ValueError("training batches hold one image, which BatchNorm cannot train on: use at least 2")
        self.verify_networks(images)
        self._verified = True

    def verify_networks(self, images: Tensor) -> None:
        """Verifies the layers found in each network on images ``(B, 3, H, W)`` in [0, 1], and compiles the networks."""
        for extractor in self.extractors():
            self.verify_network(extractor, images)

    def verify_network(self, extractor: Extractor, images: Tensor) -> None:
        """Verifies one network, and compiles it where the module is to be compiled."""
        extractor.confirm(images)
        if extractor.num_classes != self.num_classes:
            raise ValueError(
                f"{extractor.name} gives {extractor.num_classes} logits, but the module is one for "
                f"{self.num_classes} classes: pass Extractor(network, num_classes={extractor.num_classes})"
            )
        extractor.compile_network(whole=self.compile_networks)

    def configure_optimizers(self) -> Any:
        """The network at the base learning rate, everything beside it at `head_lr_factor` times that."""
        return optimizers.configure_optimizers(self)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Steps a scheduler, over parameter groups that were added since too."""
        optimizers.cover_added_groups(scheduler)
        super().lr_scheduler_step(scheduler, metric)

    def teardown(self, stage: str) -> None:
        """Takes the hooks off the networks, which can be pickled and scripted afterwards."""
        for part in self.modules():
            if isinstance(part, Extractor):
                part.remove_hooks()

    # Measuring

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B, K)`` of images ``(B, 3, H, W)``, uint8 or float in [0, 1], as `preprocess` gives them."""
        if not torch.compiler.is_compiling():
            try:
                check_images(image)
            except ValueError as error:
                hint = "A module is called on images in [0, 1], as self.preprocess(batch) gives"
                raise ValueError(f"{error}. {hint}") from None
        return self.extractor(image, checked=True).logits

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Measures the classifier alone."""
        self._measure(batch, batch_idx, self.val_metrics)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Measures the classifier alone."""
        self._measure(batch, batch_idx, self.test_metrics)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Class probabilities ``(B, K)``."""
        if batch_idx == 0:
            self.check_batch(batch)
        images, _ = self.preprocess(batch)
        return at_least_float32(self.extractor(images, checked=True).logits).softmax(dim=1)

    def _measure(self, batch: Any, batch_idx: int, metrics: LoaderMetrics) -> None:
        if batch_idx == 0:
            self.check_batch(batch)  # as in training: the batch may have come by another hook than ours
        images, labels = self.preprocess_labelled(batch)
        metrics.log(self, at_least_float32(self.extractor(images, checked=True).logits), labels)

    # Checkpoints and classes

    def _save_hparams(self) -> None:
        """Saves the constructor's plain arguments or a CLI's config; objects cannot be read with weights_only."""
        given = _given_hyperparameters.get()
        arguments: dict[str, Any] = {}
        frame = inspect.currentframe()
        while frame is not None:  # the last is the constructor of the module's own class
            names, _, free, values = inspect.getargvalues(frame)
            if frame.f_code.co_name == "__init__" and names and values.get(names[0]) is self:
                arguments = {name: values[name] for name in names[1:] if name in values}
                arguments |= values[free] if free else {}
            frame = frame.f_back
        plain = {name: value for name, value in arguments.items() if _is_plain(value)}
        self.save_hyperparameters(without_secrets(plain) if given is None else given)
        self.unsaved_arguments = sorted(arguments.keys() - plain.keys() - _PASSED_ANEW) if given is None else []

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what resuming needs; raises FloatingPointError for losses and weights that are not finite."""
        for callback in self.trainer.callbacks if self._trainer else ():  # type: ignore[attr-defined]
            if isinstance(callback, NonFiniteLossCheck):  # Lightning asks no callback about a file of weights alone
                callback.check(self.trainer, self)
        check_finite_weights(self)
        checkpoint[LEFT_OUT] = self.unsaved_arguments
        checkpoint[NUM_CLASSES] = self.num_classes
        checkpoint[IMAGE_SIZE] = self.extractor.image_size
        checkpoint[CLASS_NAMES] = find_class_names(self)
        checkpoint[TRAINED_CLASS_NAMES] = self.trained_class_names
        write_run(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Asks for objects that the checkpoint could not hold; takes its number of classes where none is known."""
        missing = [name for name in checkpoint.get(LEFT_OUT, []) if name not in self.unsaved_arguments]
        if missing:
            own = f"{missing} of its own"
            raise ValueError(f"the checkpoint was made with {own}, which files do not hold: pass them again")
        self.saved_class_names = checkpoint.get(CLASS_NAMES)
        self.trained_class_names = checkpoint.get(TRAINED_CLASS_NAMES)
        read_run(self, checkpoint)
        saved = checkpoint.get(NUM_CLASSES)
        if not self.num_classes_of_data or saved is None:
            return
        if self._trainer is None:
            self.resize_classes(saved)
        elif self.num_classes != saved:
            trained = f"the checkpoint was made for {saved} classes"
            raise ValueError(f"{trained}, but the data have {self.num_classes}: are they those that it was trained on?")

    def resize_classes(self, num_classes: int) -> None:
        """Gives a network made for another number of classes a fresh head."""
        if not (self.num_classes == num_classes == self.extractor.num_classes):
            self.extractor.resize_head(num_classes)
            self._set_num_classes(num_classes)

    def _set_num_classes(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.val_metrics, self.test_metrics = (LoaderMetrics(num_classes, prefix) for prefix in ("val/", "test/"))


def as_extractor(network: nn.Module, num_classes: NumClasses) -> Extractor:
    """Wraps a bare network; an Extractor, or the one inside a module of ours, keeps its statistics."""
    network = network.extractor if isinstance(network, BaseModule) else network
    extractor = network if isinstance(network, Extractor) else Extractor(network)
    if isinstance(num_classes, int):
        extractor.resize_head(num_classes)
    return extractor


def _holds_sample_ids(rest: Sequence[object]) -> bool:
    """Whether what follows images and labels in a batch is nothing, or the rows of a TeacherCache."""
    return all(isinstance(part, np.ndarray) and part.dtype.kind == "i" for part in rest)


def _is_plain(value: Any) -> bool:
    """Whether a checkpoint may hold a value: numbers, words, and lists and dicts of them."""
    if type(value) is dict:
        return all(_is_plain(part) for part in [*value, *value.values()])
    if type(value) in (list, tuple):
        return all(_is_plain(part) for part in value)
    return type(value) in (type(None), bool, int, float, str)
