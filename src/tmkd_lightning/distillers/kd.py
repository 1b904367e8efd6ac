"""Knowledge distillation: matches the softened logits (Hinton et al. 2015)."""

from torch import Tensor

from tmkd_lightning.distillers.base import Distiller
from tmkd_lightning.feature_extraction.output import Output
from tmkd_lightning.losses.kl import logit_kl
from tmkd_lightning.utils.validation import check_positive, check_term, check_weight


class KD(Distiller):
    """KL divergence of the student's softened logits from the teacher's.

    Args:
        temperature: T, above 0. 4 is customary in the code that the paper builds on.
        weight: factor of the loss, at least 0. 0.9 beside a cross-entropy weight of 0.1 is a common pair.
        name: name of the term in logs.

    Source: Hinton et al. 2015; Eq. 8.

    Example:
        >>> import torch
        >>> same = Output(torch.tensor([[1.0, 2.0]]))
        >>> KD()(same, same, torch.tensor([0]))["kd"].item()
        0.0
    """

    is_logit_term = True

    def __init__(self, temperature: float = 4.0, weight: float = 1.0, name: str = "kd") -> None:
        super().__init__()
        self.temperature = check_positive("temperature", temperature)
        self.weight = check_weight("weight", weight)
        self.name = check_term(name)

    def forward(self, student: Output, teacher: Output, label: Tensor) -> dict[str, Tensor]:
        """Computes the term ``kd``; see `Distiller`."""
        return {self.name: self.weight * logit_kl(student.logits, teacher.logits, self.temperature)}
