"""Decoupled knowledge distillation: weighs target and non-target classes apart (Zhao et al. 2022)."""

from torch import Tensor

from tmkd_lightning.distillers.base import LogitDistiller
from tmkd_lightning.losses.dkd import dkd
from tmkd_lightning.utils.validation import check_positive, check_term, check_weight


class DKD(LogitDistiller):
    """KL divergence of the target class against the rest, plus that within the rest.

    The official runs raise its weight over the first epochs: ``WarmUp(DKD(), epochs=20)``.

    Args:
        alpha: factor of the target-class part, at least 0.
        beta: factor of the non-target part, at least 0; the official files have 2, 6 and 8 for
            pairs on CIFAR-100, and 0.5 with a temperature of 1 on ImageNet.
        temperature: T, above 0.
        weight: factor of the whole loss, at least 0.
        standardize: whether the logits of each image are first standardised on both sides.
        name: name of the term in logs.

    Source: Zhao et al. 2022; the defaults are those of their code for CIFAR-100.

    Example:
        >>> import torch
        >>> from tmkd_lightning import Output
        >>> same = Output(torch.tensor([[1.0, 2.0, 6.0]]))
        >>> DKD()(same, same, torch.tensor([0]))["dkd"].item()
        0.0
    """

    needs_class = True

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        weight: float = 1.0,
        standardize: bool = False,
        name: str = "dkd",
    ) -> None:
        super().__init__()
        self.alpha = check_weight("alpha", alpha)
        self.beta = check_weight("beta", beta)
        self.temperature = check_positive("temperature", temperature)
        self.weight = check_weight("weight", weight)
        self.standardize = standardize
        self.name = check_term(name)

    def loss(self, student: Tensor, teacher: Tensor, label: Tensor, reduction: str = "mean") -> Tensor:
        """Computes both parts; see `LogitDistiller`."""
        arguments = self.alpha, self.beta, self.temperature, self.standardize, reduction
        return dkd(student, teacher, label, *arguments)
