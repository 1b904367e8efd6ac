"""From a batch, of whatever form, to images in [0, 1] and labels on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import RunningStage
from torch import Tensor

from tmkd_lightning.modules.checks import check_labels, describe
from tmkd_lightning.utils.images import check_images, denormalize, to_unit_float

_BATCH: dict[RunningStage | None, str] = {
    RunningStage.TRAINING: "training batch",
    RunningStage.SANITY_CHECKING: "validation batch",
    RunningStage.VALIDATING: "validation batch",
    RunningStage.TESTING: "test batch",
    RunningStage.PREDICTING: "prediction batch",
}

Normalization = tuple[Sequence[float], Sequence[float]]


class BatchModule(LightningModule):
    """Unpacks and checks batches.

    Attributes:
        num_classes: number of classes K that labels may name.
        normalized_with: mean and standard deviation, ``(3, 1, 1)`` each, if images arrive normalised, else None.
    """

    num_classes: int
    normalized_with: tuple[Tensor, Tensor] | None

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
        if isinstance(batch, (list, tuple)) and _are_labelled(batch):
            return batch[0], batch[1]
        raise TypeError(
            f"expected a batch (images, labels), got {describe(batch)}: subclass the module and override "
            "unpack(self, batch) to return the two"
        )

    def rows(self, batch: Any) -> np.ndarray:
        """Says which rows of a `TeacherCache` the images of a batch belong to; override it where you override `unpack`.

        Args:
            batch: as the DataLoader gives it.

        Returns:
            Rows ``(B,)`` on the host, ``replica * images + index``.

        Raises:
            TypeError: the batch does not say.
        """
        if isinstance(batch, (list, tuple)) and len(batch) == 3 and _are_rows(batch[2]):
            return batch[2]
        raise TypeError(
            f"a TeacherCache must know which images a batch holds: expected (images, labels, rows), got "
            f"{describe(batch)}; use a datamodule of ours with augmentation_replicas, or override rows(self, batch)"
        )

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Checks images and labels while they are still on the host, where looking at them costs no waiting."""
        if all(part is None or part.device.type == "cpu" for part in self.unpack(batch)):
            self.check(batch)
        return batch

    def check(self, batch: Any) -> None:
        """Refuses a batch whose images or labels are not what they must be."""
        image, label = self.unpack(batch)
        stage = None if self._trainer is None else self.trainer.state.stage
        check_images(image, self.normalized_with, _BATCH.get(stage, "batch"))
        if label is not None and stage != RunningStage.PREDICTING:
            check_labels(label, len(image), self.num_classes)

    def take(self, batch: Any) -> tuple[Tensor, Tensor | None]:
        """Unpacks a batch on the device.

        Args:
            batch: as the DataLoader gives it.

        Returns:
            Images ``(B, 3, H, W)`` in [0, 1] and labels ``(B,)`` or None.
        """
        image, label = self.unpack(batch)
        label = None if label is None else label.long()
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


def _are_labelled(parts: Sequence[object]) -> bool:
    images_and_labels = len(parts) >= 2 and all(isinstance(part, Tensor) for part in parts[:2])
    return images_and_labels and (len(parts) == 2 or (len(parts) == 3 and _are_rows(parts[2])))


def _are_rows(part: object) -> bool:
    return isinstance(part, np.ndarray) and part.dtype.kind == "i"
