"""Raises the weight of a method over the first epochs."""

from torch import Tensor

from tmkd_lightning.distillers.base import Distiller, Sum
from tmkd_lightning.feature_extraction.output import Output
from tmkd_lightning.utils.validation import check_count


class WarmUp(Sum):
    """Multiplies a method's terms by ``min(epoch / epochs, 1)``, epochs counted from 1.

    The epoch is that of the Trainer, told by `TMKDModule` before each step: a resumed run goes on where it was.

    Args:
        distiller: the method.
        epochs: first epoch with the full weight, at least 1.

    Source: the official code of DKD, ReviewKD and SDD, with 20 epochs on CIFAR-100; that of DKD has 1 on
    ImageNet.

    Example:
        >>> import torch
        >>> from tmkd_lightning.distillers import KD
        >>> student, teacher = Output(torch.zeros(1, 2)), Output(torch.tensor([[0.0, 3.0]]))
        >>> full, rising = KD(), WarmUp(KD(), epochs=4)
        >>> for epoch in (0, 1, 3, 10):
        ...     rising.set_epoch(epoch)
        ...     terms = (method(student, teacher, torch.tensor([0]))["kd"] for method in (rising, full))
        ...     print((next(terms) / next(terms)).item())
        0.25
        0.5
        1.0
        1.0
    """

    def __init__(self, distiller: Distiller, epochs: int = 20) -> None:
        super().__init__(distiller)
        self.epochs = check_count("epochs", epochs)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Takes the epoch, and hands it on."""
        self.epoch = epoch
        super().set_epoch(epoch)

    def forward(self, student: Output, teacher: Output, label: Tensor) -> dict[str, Tensor]:
        """Computes the method's terms; see `Distiller`."""
        factor = min((self.epoch + 1) / self.epochs, 1.0)
        return {name: factor * term for name, term in super().forward(student, teacher, label).items()}
