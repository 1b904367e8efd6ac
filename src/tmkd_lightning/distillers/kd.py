"""Knowledge distillation: matches the softened logits (Hinton et al. 2015)."""

from torch import Tensor

from tmkd_lightning.distillers.base import LogitDistiller
from tmkd_lightning.losses.kl import logit_kl
from tmkd_lightning.utils.validation import check_positive, check_term, check_weight


class KD(LogitDistiller):
    """KL divergence of the student's softened logits from the teacher's.

    Args:
        temperature: T, above 0. 4 is customary in the code that the paper builds on; 2 with `standardize`.
        weight: factor of the loss, at least 0. 0.9 beside a cross-entropy weight of 0.1 is a common pair; with
            `standardize` it is 9 beside 0.1.
        standardize: whether the logits of each image are first standardised on both sides, so that the student need
            not match their scale.
        name: name of the term in logs.

    Source: Hinton et al. 2015; Eq. 8. Standardised: Sun et al. 2024, whose code has T 2, and 9 beside 0.1.

    Example:
        >>> import torch
        >>> from tmkd_lightning import Output
        >>> same, scaled = Output(torch.tensor([[1.0, 2.0, 6.0]])), Output(torch.tensor([[2.0, 4.0, 12.0]]))
        >>> KD()(same, same, torch.tensor([0]))["kd"].item()
        0.0
        >>> KD(standardize=True)(same, scaled, torch.tensor([0]))["kd"].item() < 1e-6
        True
    """

    def __init__(
        self, temperature: float = 4.0, weight: float = 1.0, standardize: bool = False, name: str = "kd"
    ) -> None:
        super().__init__()
        self.temperature = check_positive("temperature", temperature)
        self.weight = check_weight("weight", weight)
        self.standardize = standardize
        self.name = check_term(name)

    def loss(self, student: Tensor, teacher: Tensor, label: Tensor, reduction: str = "mean") -> Tensor:
        """Computes the divergence; see `LogitDistiller`."""
        return logit_kl(student, teacher, self.temperature, self.standardize, reduction)
