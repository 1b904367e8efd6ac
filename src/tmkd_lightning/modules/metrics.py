"""What is measured of a classifier."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassRecall


def classification_metrics(num_classes: int, prefix: str) -> MetricCollection:
    """Loss and top-1 and top-5 over all images, recall as the mean over classes; nothing that waits for the device."""
    return MetricCollection(
        {
            "loss": MeanCrossEntropy(),
            "top1": MulticlassAccuracy(num_classes, average="micro", validate_args=False),
            "top5": MulticlassAccuracy(num_classes, top_k=min(5, num_classes), average="micro", validate_args=False),
            "recall": MulticlassRecall(num_classes, average="macro", validate_args=False),
        },
        prefix=prefix,
    )


class MeanCrossEntropy(Metric):
    """Cross-entropy as the mean over the images of all batches and processes, however many each of them holds.

    Lightning's own mean of a logged value (``sync_dist``) rounds the mean number of images to a whole one.

    Example:
        >>> metric = MeanCrossEntropy()
        >>> metric.update(torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1]))
        >>> metric.update(torch.tensor([[100.0, 0.0]]), torch.tensor([0]))
        >>> round(metric.compute().item(), 4)  # two thirds of log 2
        0.4621
    """

    higher_is_better = False
    full_state_update = False
    total: Tensor
    images: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits: Tensor, label: Tensor) -> None:
        """Adds a batch: logits ``(B, K)`` and labels ``(B,)``."""
        self.total += F.cross_entropy(logits, label, reduction="sum")
        self.images += len(label)

    def compute(self) -> Tensor:
        """The mean so far."""
        return self.total / self.images
