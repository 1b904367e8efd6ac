"""What every module shares: unpacking and checking batches, measuring, optimising. How it trains is its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from tmkd_lightning.callbacks import ClassNamesCheck, PlateauStep, StepSeeds
from tmkd_lightning.callbacks.non_finite_loss import FiniteGuard
from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.lightning_compat.resume import check_same_data, read_run, restore_run, write_run
from tmkd_lightning.lightning_compat.sigterm import ExitOnSigterm
from tmkd_lightning.models import PretrainedWeightsError, load_pretrained
from tmkd_lightning.modules.batches import Normalization
from tmkd_lightning.modules.checks import check_data_classes, check_makers, has_batch_norm
from tmkd_lightning.modules.classes import NumClasses, check_num_classes, of_data, resize, take_classes
from tmkd_lightning.modules.metrics import LoaderMetrics
from tmkd_lightning.modules.optimizers import LRSchedulerCallable, OptimizerCallable, configure, take_up_lr
from tmkd_lightning.modules.quiet import silence_intended
from tmkd_lightning.modules.schedulers import cover_added_groups
from tmkd_lightning.modules.state import (
    NUM_CLASSES,
    constructor_arguments,
    objects_among,
    read_facts,
    save_plain_hyperparameters,
    write_facts,
)
from tmkd_lightning.modules.wanted import not_in_trainer
from tmkd_lightning.modules.watched import WatchedModule
from tmkd_lightning.text.prompts import check_class_names
from tmkd_lightning.utils.images import channel_statistics, check_images
from tmkd_lightning.utils.precision import at_least_float32, warn_of_slow_precision
from tmkd_lightning.utils.state_dict import names_under
from tmkd_lightning.utils.validation import check_positive


class ClassificationModule(WatchedModule):
    """A classifier in Lightning: everything but the training step.

    Validation and test log ``loss``, ``top1``, ``top5`` and ``recall`` (macro) of the classifier alone, of each
    DataLoader by itself.

    Args:
        network: the classifier that is trained.
        num_classes: K, for which networks made for another number are given fresh heads; ``data`` for that of the
            datamodule, None for that of the network.
        class_names: names of the classes in the order of the labels, for prompts and figures.
        normalized_with: mean and standard deviation of each channel, if the images of a batch arrive normalised.
        optimizer: makes the optimizer from parameter groups.
        lr_scheduler: makes a scheduler from the optimizer, or Lightning's dict around one; None for warm-up and step
            decay.
        head_lr_factor: learning-rate factor of all that is trained beside the network.
        compile: whether to compile the networks before the first step.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        num_classes: NumClasses,
        class_names: Sequence[str] | None,
        normalized_with: Normalization | None,
        optimizer: OptimizerCallable,
        lr_scheduler: LRSchedulerCallable | None,
        head_lr_factor: float,
        compile: bool,
    ) -> None:
        super().__init__()
        check_num_classes(num_classes)
        self.extractor = as_extractor(network, num_classes)
        self.teacher: Any = None  # callbacks look for these two
        self.prompt_bank: Any = None
        if class_names is not None and len(class_names) != self.extractor.num_classes:
            self.extractor.measure_classes()  # the width of the last layer need not be their number
        self.asks_data = num_classes == "data"
        self.count_classes()
        self.class_names: list[str] | None = None
        if class_names is not None:
            self.class_names = check_class_names(class_names, None if self.asks_data else self.num_classes)
        self.normalized_with = None if normalized_with is None else channel_statistics(*normalized_with)
        check_makers(optimizer, lr_scheduler)
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.lr: float | None = None  # base learning rate in place of the optimizer's own: Tuner.lr_find sets it
        self.configured_lr: float | None = None
        self.head_lr_factor = check_positive("head_lr_factor", head_lr_factor)
        self.compile_networks, self._ready = compile, False
        self.left_out: list[str] = []
        self.run_before: dict[str, Any] = {}  # of the checkpoint that was loaded
        self.saved_class_names: list[str] | None = None  # of the checkpoint that was loaded
        self.trained_class_names: list[str] | None = None  # of the data that it was trained on
        self.guard = FiniteGuard()
        self._ddp_params_and_buffers_to_ignore = names_under(self, "guard")  # each process notices for itself

    def count_classes(self) -> None:
        """Takes the network's number of classes."""
        self.num_classes = self.extractor.num_classes
        self.val_metrics, self.test_metrics = (LoaderMetrics(self.num_classes, prefix) for prefix in ("val/", "test/"))

    def remember(self) -> None:
        """Saves the constructor's arguments that a checkpoint may hold, and notes those that it may not."""
        arguments = constructor_arguments(self)
        save_plain_hyperparameters(self, arguments)
        self.left_out = objects_among(arguments)

    def configure_callbacks(self) -> list[Callback]:
        """Asks the data for the number of classes, if told to: callbacks must find everything in its final size."""
        if self.asks_data:
            resize(self, of_data(self.trainer))
        return not_in_trainer(self.trainer, [StepSeeds(), PlateauStep(), ClassNamesCheck(), ExitOnSigterm()])

    def prepare_data(self) -> None:
        """Reads the weights on one process first, which fetches those that are not on the machine."""
        check_data_classes(self.trainer, self.extractor)
        if self.trainer.training:
            self.read_weights()

    def setup(self, stage: str) -> None:
        """Holds the number of classes against the data's; puts a network left evaluating into training mode."""
        silence_intended()
        check_data_classes(self.trainer, self.extractor)
        if stage != "fit":
            return
        self._ready = self.guard.watching = False  # other data, perhaps; a learning rate may be searched for first
        for extractor in self.extractors():  # convolutions are faster so, and DDP must not see strides change
            extractor.network.to(memory_format=torch.channels_last)
        self.read_weights()
        if not self.extractor.network.training:
            rank_zero_warn(f"{self.extractor.name} was in evaluation mode and is put into training mode")
            self.extractor.train()

    def read_weights(self) -> None:
        """Reads pretrained weights that were put off until now; a run that is resumed may do without."""
        with suppress(PretrainedWeightsError):
            load_pretrained(self.extractor.network)

    def on_fit_start(self) -> None:
        """Insists on pretrained weights, unless a checkpoint has brought others."""
        super().on_fit_start()
        load_pretrained(self.extractor.network)
        take_up_lr(self)
        warn_of_slow_precision(self.trainer.precision, self.device)

    def on_train_start(self) -> None:
        """Sees to it that a run is resumed where it was."""
        if self.trainer.ckpt_path:
            restore_run(self)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Confirms the networks on the first real batch, before anything is trained on it."""
        self.guard.begin(self.current_epoch, batch_idx)
        if not self._ready:
            if self.trainer.ckpt_path:
                check_same_data(self)
            self.check(batch)  # a datamodule with a transfer hook of its own replaces ours
            image, _ = self.take_labelled(batch)
            if len(image) == 1 and has_batch_norm(self.extractor):
                raise ValueError("training batches hold one image, which BatchNorm cannot train on: use at least 2")
            self.make_ready(image)
            self._ready = True

    def make_ready(self, image: Tensor) -> None:
        """Confirms what was found out about the networks by their names, then compiles what was to be compiled.

        Args:
            image: of the first batch, ``(B, 3, H, W)`` in [0, 1].
        """
        for extractor in self.extractors():
            extractor.confirm(image)
            if extractor.num_classes != self.num_classes:
                raise ValueError(
                    f"{extractor.name} gives {extractor.num_classes} logits, but the module is one for "
                    f"{self.num_classes} classes: pass Extractor(network, num_classes={extractor.num_classes})"
                )
            extractor.compile_network(whole=self.compile_networks)

    def extractors(self) -> Iterator[Extractor]:
        """All networks that run in a training step."""
        yield self.extractor

    def too_small(self, label: Tensor) -> bool:
        """Tells whether a batch must be skipped: a last batch of one image has no BatchNorm statistics."""
        skip = len(label) == 1 and has_batch_norm(self.extractor)
        if skip:
            rank_zero_warn("skipping a training batch of one image: BatchNorm needs two; drop_last=True avoids it")
        return skip

    def teardown(self, stage: str) -> None:
        """Leaves nothing on the networks, which can be pickled and scripted afterwards."""
        for part in self.modules():
            if isinstance(part, Extractor):
                part.remove_hooks()

    def no_loss(self) -> Tensor | None:
        """What a step returns for a batch that it skips: nothing, or where processes wait for each other, a zero."""
        if self.trainer.world_size == 1:
            return None
        return 0 * torch.stack([parameter.sum() for parameter in self.parameters() if parameter.requires_grad]).sum()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the last good checkpoint: nothing is saved after a loss, or with weights, that are not finite."""
        self.check_finite()
        write_facts(self, checkpoint)
        write_run(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Asks for objects that the checkpoint could not hold; takes its number of classes where none is known."""
        read_facts(self, checkpoint)
        read_run(self, checkpoint)
        if self.asks_data and NUM_CLASSES in checkpoint:
            take_classes(self, checkpoint[NUM_CLASSES], attached=self._trainer is not None)

    def configure_optimizers(self) -> Any:
        """The network at the base learning rate, everything beside it at `head_lr_factor` times that."""
        return configure(self)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Steps a scheduler, over parameter groups that were added since too."""
        cover_added_groups(scheduler)
        super().lr_scheduler_step(scheduler, metric)

    # Measuring

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B, K)`` of images in [0, 1], as `take` gives them, whatever batches hold.

        Args:
            image: ``(B, 3, H, W)``, uint8 or float in [0, 1]; looking at their range waits for their device.

        Raises:
            ValueError: they are outside of it, normalised perhaps, and would be normalised once more.
        """
        if not torch.compiler.is_compiling():
            try:
                check_images(image)
            except ValueError as error:
                raise ValueError(
                    f"{error}. A module is called on images in [0, 1], as self.take(batch) gives"
                ) from None
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
            self.check(batch)
        image, _ = self.take(batch)
        return at_least_float32(self.extractor(image, checked=True).logits).softmax(dim=1)

    def _measure(self, batch: Any, batch_idx: int, metrics: LoaderMetrics) -> None:
        if batch_idx == 0:
            self.check(batch)  # as in training: the batch may have come by another hook than ours
        image, label = self.take_labelled(batch)
        metrics.log(self, at_least_float32(self.extractor(image, checked=True).logits), label)


def as_extractor(network: nn.Module, num_classes: NumClasses) -> Extractor:
    """Wraps a bare network; an Extractor, or the one inside a module of ours, keeps its statistics."""
    network = network.extractor if isinstance(network, ClassificationModule) else network
    extractor = network if isinstance(network, Extractor) else Extractor(network)
    if isinstance(num_classes, int):
        extractor.resize_head(num_classes)
    return extractor
