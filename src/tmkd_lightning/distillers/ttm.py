"""Transformed teacher matching: only the teacher is softened, by a power (Zheng and Yang 2024)."""

from torch import Tensor

from tmkd_lightning.distillers.base import Distiller
from tmkd_lightning.feature_extraction.output import Output
from tmkd_lightning.losses.ttm import ttm, wttm
from tmkd_lightning.utils.validation import check_positive, check_term, check_weight


class TTM(Distiller):
    """KL divergence of the student's class distribution from the teacher's, raised to a power and normalised.

    Args:
        power: γ, above 0; 0.1 to 0.2 in the authors' runs.
        weight: factor of the loss, at least 0. 45 belongs to `weighted` False and a power of 0.1; the authors' example
            for `weighted` True has 4 with a power of 0.2, beside CRD.
        weighted: whether images count more for which the teacher's answer is flatter (WTTM).
        name: name of the term in logs.

    Source: Zheng and Yang 2024; the defaults are those of the example in their code, VGG13 to VGG8 on CIFAR-100.

    Example:
        >>> import torch
        >>> same = Output(torch.tensor([[1.0, 2.0]]))
        >>> TTM(power=1.0)(same, same, torch.tensor([0]))["ttm"].item()
        0.0
    """

    is_logit_term = True

    def __init__(self, power: float = 0.1, weight: float = 45.0, weighted: bool = False, name: str = "ttm") -> None:
        super().__init__()
        self.power = check_positive("power", power)
        self.weight = check_weight("weight", weight)
        self.weighted = weighted
        self.name = check_term(name)

    def forward(self, student: Output, teacher: Output, label: Tensor) -> dict[str, Tensor]:
        """Computes the term ``ttm``; see `Distiller`."""
        loss = wttm if self.weighted else ttm
        return {self.name: self.weight * loss(student.logits, teacher.logits, self.power)}
