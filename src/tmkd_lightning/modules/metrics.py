"""Metrics of a classifier: loss, top-1, top-5 and macro recall, for each DataLoader.

Where labels are distributions over the classes, an image counts for each class by its share.
"""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from tmkd_lightning.losses import cross_entropy


class LoaderMetrics(nn.Module):
    """A set of metrics for each DataLoader, logged by prefix as ``val/top1``, with Lightning's suffix if several."""

    def __init__(self, num_classes: int, prefix: str) -> None:
        super().__init__()
        self.num_classes, self.prefix = num_classes, prefix
        self.of_loader = nn.ModuleList([classification_metrics(num_classes)])

    def log(self, module: LightningModule, logits: Tensor, label: Tensor) -> None:
        """Adds a batch of the current DataLoader, logits ``(B, K)`` and labels, and logs it by `module`."""
        results = None if module._trainer is None else module._trainer._results
        loader = (results and results.dataloader_idx) or 0  # a user's own step need not pass it on
        while len(self.of_loader) <= loader:
            self.of_loader.append(classification_metrics(self.num_classes).to(logits.device))
        metrics: Any = self.of_loader[loader]
        if label.ndim == 2:  # a label that lacks, behind a transfer hook that is not ours, makes no number
            label = label.where(label >= 0, torch.nan)
        metrics.update(logits, label)
        for name, metric in metrics.items():
            # Lightning looks for the attribute of a metric once a run, and one of these may be newer
            where = f"{self.prefix}{loader}/{name}"
            module.log(self.prefix + name, metric, prog_bar=True, batch_size=len(label), metric_attribute=where)


def classification_metrics(num_classes: int) -> MetricCollection:
    """Loss, top-1, top-5 and mean recall, leaner than torchmetrics' own ``K * K`` counts and one-hot rows."""
    metrics: dict[str, Metric | MetricCollection] = {
        "loss": MeanCrossEntropy(0.0),
        "top1": TopAccuracy(1),
        "top5": TopAccuracy(min(5, num_classes)),
        "recall": MeanRecall(num_classes),
    }
    return MetricCollection(metrics, compute_groups=False)  # groups share counts that are equal on the first batch


class _ImageMean(Metric):
    """Mean over the images of all batches and processes, however many each holds; `sync_dist` rounds their number."""

    full_state_update = False
    total: Tensor
    images: Tensor

    def __init__(self, zero: float) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(zero), dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    def compute(self) -> Tensor:
        """The mean so far."""
        return self.total / self.images


class MeanCrossEntropy(_ImageMean):
    """Mean cross-entropy of logits ``(B, K)`` and labels ``(B,)`` or ``(B, K)``."""

    higher_is_better = False

    def update(self, logits: Tensor, label: Tensor) -> None:
        """Adds a batch."""
        self.total = self.total + cross_entropy(logits, label, reduction="sum")
        self.images = self.images + len(label)


class TopAccuracy(_ImageMean):
    """Share of the images whose class is among the network's k highest logits: of equal ones, the first."""

    higher_is_better = True

    def __init__(self, k: int) -> None:
        super().__init__(0)
        self.k = k

    def update(self, logits: Tensor, label: Tensor) -> None:
        """Adds a batch."""
        if label.ndim == 2:  # a stable sort puts the first of equal logits first, as argmax does
            top = logits.argsort(dim=1, descending=True, stable=True)[:, : self.k]
            self.total = self.total + (label.gather(1, top) * logits.gather(1, top).isfinite()).sum()
            self.images = self.images + len(label)
            return
        own, label = logits.gather(1, label.unsqueeze(1)), label.unsqueeze(1)
        earlier = torch.arange(logits.shape[1], device=logits.device) < label
        ahead = (logits > own) | ((logits == own) & earlier)  # of equal logits the first counts, as for argmax
        self.total = self.total + ((ahead.sum(1) < self.k) & own.squeeze(1).isfinite()).sum()
        self.images = self.images + len(label)


class MeanRecall(Metric):
    """Mean recall of classes among labels or predictions, as torchmetrics' ``MulticlassRecall(average="macro")``."""

    higher_is_better = True
    full_state_update = False
    right: Tensor
    labelled: Tensor
    answered: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        for count in ("right", "labelled", "answered"):
            self.add_state(count, torch.zeros(num_classes, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, logits: Tensor, label: Tensor) -> None:
        """Adds a batch."""
        answer = logits.argmax(1)
        if label.ndim == 2:
            zeros = torch.zeros_like(label[0])
            self.right = self.right + zeros.index_add(0, answer, label.gather(1, answer.unsqueeze(1)).squeeze(1))
            self.labelled = self.labelled + label.sum(0)
            self.answered = self.answered + zeros.index_add(0, answer, torch.ones_like(label[:, 0]))
            return
        one = torch.ones_like(label)
        self.right = self.right.index_add(0, label, (answer == label).long())  # bincount waits for the device
        self.labelled = self.labelled.index_add(0, label, one)
        self.answered = self.answered.index_add(0, answer, one)

    def compute(self) -> Tensor:
        """The mean so far."""
        occurs = (self.labelled + self.answered) > 0
        return (self.right / self.labelled.where(self.labelled > 0, 1)).sum() / occurs.sum()
