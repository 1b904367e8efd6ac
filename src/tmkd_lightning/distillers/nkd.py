"""Normalised knowledge distillation: soft labels of the target and of the other classes (Yang et al. 2023)."""

from torch import Tensor

from tmkd_lightning.distillers.base import LogitDistiller
from tmkd_lightning.losses.nkd import nkd
from tmkd_lightning.utils.validation import check_positive, check_term, check_weight


class NKD(LogitDistiller):
    """Cross-entropy of the target class, weighed by the teacher's probability, plus that among the other classes.

    Args:
        gamma: factor of the non-target part, at least 0.
        temperature: T of the non-target part, above 0.
        weight: factor of the whole loss, at least 0.
        name: name of the term in logs.

    Source: Yang et al. 2023; the defaults are those of their code.

    Example:
        >>> import torch
        >>> from tmkd_lightning import Output
        >>> flat = Output(torch.zeros(1, 3))
        >>> NKD()(flat, flat, torch.tensor([0]))["nkd"].item()  # log 3 / 3 + 1.5 · log 2
        1.40592...
    """

    needs_class = True

    def __init__(self, gamma: float = 1.5, temperature: float = 1.0, weight: float = 1.0, name: str = "nkd") -> None:
        super().__init__()
        self.gamma = check_weight("gamma", gamma)
        self.temperature = check_positive("temperature", temperature)
        self.weight = check_weight("weight", weight)
        self.name = check_term(name)

    def loss(self, student: Tensor, teacher: Tensor, label: Tensor, reduction: str = "mean") -> Tensor:
        """Computes both parts; see `LogitDistiller`."""
        return nkd(student, teacher, label, self.gamma, self.temperature, reduction)
