"""What is measured of a classifier."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection


class LoaderMetrics(nn.Module):
    """One set of metrics for each DataLoader, so that several validation or test sets do not mix.

    Args:
        num_classes: K.
        prefix: of the names, ``val/`` or ``test/``. Lightning adds ``/dataloader_idx_0`` and so on where there are
            several loaders.
    """

    def __init__(self, num_classes: int, prefix: str) -> None:
        super().__init__()
        self.num_classes, self.prefix = num_classes, prefix
        self.of_loader = nn.ModuleList([classification_metrics(num_classes)])

    def log(self, module: LightningModule, logits: Tensor, label: Tensor) -> None:
        """Adds a batch of the DataLoader that is being read, and logs.

        Args:
            module: that logs.
            logits: ``(B, K)``.
            label: ``(B,)``.
        """
        loader = _loader(module)
        while len(self.of_loader) <= loader:
            self.of_loader.append(classification_metrics(self.num_classes).to(logits.device))
        metrics: Any = self.of_loader[loader]
        metrics.update(logits, label)
        for name, metric in metrics.items():
            # Lightning looks for the attribute of a metric once a run, and one of these may be newer
            where = f"{self.prefix}{loader}/{name}"
            module.log(self.prefix + name, metric, prog_bar=True, batch_size=len(label), metric_attribute=where)


def _loader(module: LightningModule) -> int:
    """The number of the loader by which `log` names things; a step that a user wrote need not hand it on."""
    results = None if module._trainer is None else module._trainer._results
    return 0 if results is None or results.dataloader_idx is None else results.dataloader_idx


def classification_metrics(num_classes: int) -> MetricCollection:
    """Loss, top-1 and top-5 over all images, and recall as the mean over classes; nothing waits for the device.

    torchmetrics' own count pairs of classes for the recall, ``K * K``, and make one-hot rows for top-5. Its compute
    groups would let metrics share the counts of the first batch whenever these happen to be equal.
    """
    return MetricCollection(
        {
            "loss": MeanCrossEntropy(),
            "top1": TopAccuracy(1),
            "top5": TopAccuracy(min(5, num_classes)),
            "recall": MeanRecall(num_classes),
        },
        compute_groups=False,
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
        self.total = self.total + F.cross_entropy(logits, label, reduction="sum")
        self.images = self.images + len(label)

    def compute(self) -> Tensor:
        """The mean so far."""
        return self.total / self.images


class TopAccuracy(Metric):
    """Share of the images whose class is among the network's k highest logits.

    Args:
        k: 1 to K.

    Example:
        >>> metric = TopAccuracy(2)
        >>> metric.update(torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]]), torch.tensor([1, 2]))
        >>> metric.compute().item()
        0.5
    """

    higher_is_better = True
    full_state_update = False
    right: Tensor
    images: Tensor

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k
        self.add_state("right", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits: Tensor, label: Tensor) -> None:
        """Adds a batch: logits ``(B, K)`` and labels ``(B,)``."""
        own, label = logits.gather(1, label.unsqueeze(1)), label.unsqueeze(1)
        earlier = torch.arange(logits.shape[1], device=logits.device) < label
        ahead = (logits > own) | ((logits == own) & earlier)  # of equal logits the first counts, as for argmax
        self.right = self.right + ((ahead.sum(1) < self.k) & own.squeeze(1).isfinite()).sum()
        self.images = self.images + len(label)

    def compute(self) -> Tensor:
        """The share so far."""
        return self.right / self.images


class MeanRecall(Metric):
    """Recall as the mean over the classes that occur, among the labels or among the answers.

    Keeps three counts a class.

    Args:
        num_classes: K.

    Source: the definition of torchmetrics' ``MulticlassRecall(average="macro")``.

    Example:
        >>> metric = MeanRecall(num_classes=4)
        >>> metric.update(torch.eye(4)[[0, 0, 0, 2]], torch.tensor([0, 0, 1, 1]))
        >>> round(metric.compute().item(), 4)  # class 0 is found, 1 and 2 are not, 3 does not occur
        0.3333
    """

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
        """Adds a batch: logits ``(B, K)`` and labels ``(B,)``."""
        answer = logits.argmax(1)
        one = torch.ones_like(label)
        self.right = self.right.index_add(0, label, (answer == label).long())  # bincount waits for the device
        self.labelled = self.labelled.index_add(0, label, one)
        self.answered = self.answered.index_add(0, answer, one)

    def compute(self) -> Tensor:
        """The mean so far."""
        occurs = (self.labelled + self.answered) > 0
        return (self.right / self.labelled.clamp(min=1)).sum() / occurs.sum()
