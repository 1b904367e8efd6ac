"""What is measured of a classifier."""

from __future__ import annotations

from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassRecall


def classification_metrics(num_classes: int, prefix: str) -> MetricCollection:
    """Top-1 and top-5 over all images, recall as the mean over classes; nothing that waits for the device."""
    return MetricCollection(
        {
            "top1": MulticlassAccuracy(num_classes, average="micro", validate_args=False),
            "top5": MulticlassAccuracy(num_classes, top_k=min(5, num_classes), average="micro", validate_args=False),
            "recall": MulticlassRecall(num_classes, average="macro", validate_args=False),
        },
        prefix=prefix,
    )
