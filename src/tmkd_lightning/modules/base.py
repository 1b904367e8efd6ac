"""What every module shares: unpacking and checking batches, measuring, optimising. How it trains is its own."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassRecall

from tmkd_lightning.extract import Extractor
from tmkd_lightning.images import check_images, denormalize, to_unit_float
from tmkd_lightning.modules.checks import (
    Normalization,
    as_statistics,
    check_data_classes,
    check_labels,
    describe,
    has_batch_norm,
)
from tmkd_lightning.modules.optimizers import LRSchedulerCallable, OptimizerCallable, optimizer_config
from tmkd_lightning.precision import at_least_float32
from tmkd_lightning.prompts import check_class_names

# Lightning warns of two things that are meant to be: a teacher in evaluation mode, and a hook that looks at batches of
# any datamodule.
_INTENDED = (
    r"Found \d+ module\(s\) in eval mode",
    r"You have overridden `on_before_batch_transfer` in `LightningModule`",
)


class ClassificationModule(LightningModule):
    """A classifier in Lightning: everything but the training step.

    Validation and test log ``top1``, ``top5`` and ``recall`` (macro) of the classifier alone.

    Args:
        network: the classifier that is trained.
        class_names: names of the classes in the order of the labels, for prompts and figures.
        normalized_with: mean and standard deviation of each channel, if the images of a batch arrive normalised.
        optimizer: makes the optimizer from parameter groups.
        lr_scheduler: makes a scheduler from the optimizer, stepped once an epoch; None for warm-up and step decay.
        head_lr_factor: learning-rate factor of all that is trained beside the network.
        compile: whether to compile the networks before the first step.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        class_names: Sequence[str] | None,
        normalized_with: Normalization | None,
        optimizer: OptimizerCallable,
        lr_scheduler: LRSchedulerCallable | None,
        head_lr_factor: float,
        compile: bool,
    ) -> None:
        super().__init__()
        self.extractor = network if isinstance(network, Extractor) else Extractor(network)
        self.num_classes = self.extractor.num_classes
        self.class_names = None if class_names is None else [str(name) for name in class_names]
        if self.class_names is not None:
            check_class_names(self.class_names, self.num_classes)
        self.normalized_with = as_statistics(normalized_with)
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.head_lr_factor = head_lr_factor
        self.compile_networks = compile
        self._ready = False
        self.val_metrics = _metrics(self.num_classes, "val/")
        self.test_metrics = _metrics(self.num_classes, "test/")

    # What a project may want to change

    def unpack(self, batch: Any) -> tuple[Tensor, Tensor | None]:
        """Takes images and labels out of a batch; override it for batches of another form.

        Args:
            batch: as the DataLoader gives it.

        Returns:
            Images ``(B, 3, H, W)`` and labels ``(B,)``, or None for labels where there are none (prediction).

        Raises:
            TypeError: the batch is neither a tensor nor a pair.
        """
        if isinstance(batch, Tensor):
            return batch, None
        if isinstance(batch, (list, tuple)) and len(batch) == 2:
            return batch[0], batch[1]
        raise TypeError(
            f"expected a batch (images, labels), got {describe(batch)}: subclass the module and override "
            "unpack(self, batch) to return the two"
        )

    # From a batch to images in [0, 1]

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Checks images and labels while they are still on the host, where looking at them costs no waiting."""
        if all(part is None or part.device.type == "cpu" for part in self.unpack(batch)):
            self.check(batch)
        return batch

    def check(self, batch: Any) -> None:
        """Refuses a batch whose images or labels are not what they must be."""
        image, label = self.unpack(batch)
        check_images(image, self.normalized_with)
        if label is not None:
            check_labels(label, len(image), self.num_classes)

    def take(self, batch: Any) -> tuple[Tensor, Tensor | None]:
        """Unpacks a batch on the device.

        Args:
            batch: as the DataLoader gives it.

        Returns:
            Images ``(B, 3, H, W)`` in [0, 1] and labels ``(B,)`` or None.
        """
        image, label = self.unpack(batch)
        if self.normalized_with is not None:
            mean, std = (part.to(image.device, image.dtype, non_blocking=True) for part in self.normalized_with)
            return denormalize(image, mean, std), label
        return to_unit_float(image), label

    def take_labelled(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Like `take`, for a batch that cannot do without labels.

        Raises:
            ValueError: there are none.
        """
        image, label = self.take(batch)
        if label is None:
            raise ValueError("training and measuring need labels, but unpack gave none")
        return image, label

    # Training

    def setup(self, stage: str) -> None:
        """Holds the number of classes against the datamodule's."""
        for message in _INTENDED:
            warnings.filterwarnings("ignore", message=message)
        check_data_classes(self.trainer, self.extractor)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Confirms the networks on the first real batch, before anything is trained on it."""
        if not self._ready:
            self.check(batch)  # a datamodule with a transfer hook of its own replaces ours
            image, _ = self.take_labelled(batch)
            if len(image) == 1 and has_batch_norm(self.extractor):
                raise ValueError("training batches hold one image, which BatchNorm cannot train on: use at least 2")
            self.make_ready(image)
            self._ready = True

    def make_ready(self, image: Tensor) -> None:
        """Confirms what was found out about the networks by their names, then compiles them if asked to.

        Args:
            image: of the first batch, ``(B, 3, H, W)`` in [0, 1].
        """
        for extractor in self.extractors():
            extractor.confirm(image)
            if self.compile_networks:
                extractor.network.compile()

    def extractors(self) -> Iterator[Extractor]:
        """All networks that run in a training step."""
        yield self.extractor

    def too_small(self, label: Tensor) -> bool:
        """Tells whether a batch must be skipped: a last batch of one image has no BatchNorm statistics."""
        skip = len(label) == 1 and has_batch_norm(self.extractor)
        if skip:
            rank_zero_warn("skipping a training batch of one image: BatchNorm needs two; drop_last=True avoids it")
        return skip

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """Adds the loss terms up and logs each by its name.

        Args:
            terms: weighted scalars by name.

        Returns:
            Their sum.
        """
        loss = torch.stack([at_least_float32(term) for term in terms.values()]).sum()
        self.log_dict({f"train/{name}": term.detach() for name, term in terms.items()})
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        """The network at the base learning rate, everything beside it at `head_lr_factor` times that."""
        network = {id(parameter) for parameter in self.extractor.parameters()}
        heads = [p for p in self.parameters() if p.requires_grad and id(p) not in network]
        groups = [{"params": [p for p in self.extractor.parameters() if p.requires_grad]}]
        if heads:
            groups.append({"params": heads})
        optimizer = self.optimizer(groups)
        for group in optimizer.param_groups[1:]:
            group["lr"] *= self.head_lr_factor
        return optimizer_config(optimizer, self.lr_scheduler, lambda: self.trainer.estimated_stepping_batches)

    # Measuring

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B, K)`` of images ``(B, 3, H, W)``, uint8 or float in [0, 1]."""
        return self.extractor(image).logits

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Measures the classifier alone."""
        self._measure(batch, self.val_metrics, "val/loss")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Measures the classifier alone."""
        self._measure(batch, self.test_metrics, "test/loss")

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Class probabilities ``(B, K)``."""
        image, _ = self.take(batch)
        return at_least_float32(self(image)).softmax(dim=1)

    def _measure(self, batch: Any, metrics: MetricCollection, loss_name: str) -> None:
        image, label = self.take_labelled(batch)
        logits = at_least_float32(self(image))
        metrics.update(logits, label)
        self.log(loss_name, F.cross_entropy(logits, label), batch_size=len(label), sync_dist=True)
        self.log_dict(metrics, prog_bar=True, batch_size=len(label))


def _metrics(num_classes: int, prefix: str) -> MetricCollection:
    """Top-1 and top-5 over all images, recall as the mean over classes; nothing that waits for the device."""
    return MetricCollection(
        {
            "top1": MulticlassAccuracy(num_classes, average="micro", validate_args=False),
            "top5": MulticlassAccuracy(num_classes, top_k=min(5, num_classes), average="micro", validate_args=False),
            "recall": MulticlassRecall(num_classes, average="macro", validate_args=False),
        },
        prefix=prefix,
    )
