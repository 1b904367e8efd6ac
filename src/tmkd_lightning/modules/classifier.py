"""Trains one classifier: a teacher, or a student alone."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.losses import cross_entropy
from tmkd_lightning.modules.base import BaseModule, Normalization, NumClasses
from tmkd_lightning.modules.optimizers import LRSchedulerCallable, OptimizerCallable
from tmkd_lightning.utils.labels import Mix
from tmkd_lightning.utils.state_dict import alias_submodule
from tmkd_lightning.views import MultiView, RandomView, View


class ClassifierModule(BaseModule):
    """Trains a classifier by cross-entropy, on images or on views of them.

    With `views`, each training image is seen in one view, drawn by `view_shares`; validation and test use none.

    Args:
        network: classifier from normalised images to logits, or an Extractor around one.
        views: names of views or views of your own to train on; None for the plain images.
        view_shares: how often each view is drawn, as many positive numbers as views; None for equal shares.
        mix: mixes a training batch, as for a `TMKDModule`; before the views.
        num_classes: K; networks made for another number get fresh heads. ``data`` is the datamodule's, None theirs.
        class_names: names of the classes in the order of the labels.
        normalized_with: mean and standard deviation of each channel, if the images of a batch arrive normalised.
        compile: whether to compile the network before the first step.
        optimizer: makes the optimizer from parameter groups; the paper's SGD by default.
        lr_scheduler: makes a scheduler, or Lightning's dict, from the optimizer, as for a `TMKDModule`.

    Example:
        >>> from torchvision.models import resnet18
        >>> module = ClassifierModule(resnet18(num_classes=5), views=["rgb", "edge"], view_shares=[0.7, 0.3])
        >>> module.num_classes
        5
    """

    def __init__(
        self,
        network: nn.Module | Extractor,
        *,
        views: Sequence[str | View] | None = None,
        view_shares: Sequence[float] | None = None,
        mix: Mix | None = None,
        num_classes: NumClasses = None,
        class_names: Sequence[str] | None = None,
        normalized_with: Normalization | None = None,
        compile: bool = False,
        optimizer: OptimizerCallable = lambda p: torch.optim.SGD(p, lr=0.001, momentum=0.9, weight_decay=5e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__(network, num_classes, class_names, normalized_with, optimizer, lr_scheduler, 1.0, compile, mix)
        self._save_hparams()
        self.random_view = RandomView(("rgb",) if views is None else views, view_shares, "view_shares")
        alias_submodule(self, "extractor.network", "network")

    @property
    def network(self) -> nn.Module:
        """The bare network."""
        return self.extractor.network

    @property
    def views(self) -> MultiView:
        """What it is trained on."""
        return self.random_view.views

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        """Cross-entropy of images that are each seen in one view."""
        images, labels = self.preprocess_training(batch)
        if self._is_degenerate_batch(images):
            return self._zero_loss()
        output = self.extractor(self.random_view(images)[0], checked=True)
        return self.log_losses({"ce": cross_entropy(output.logits, labels)})
