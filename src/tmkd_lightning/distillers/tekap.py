"""Teacher knowledge augmentation: KD from one teacher and noisy copies of it (Hossain et al. 2025)."""

import torch
from torch import Tensor

from tmkd_lightning.distillers.base import Distiller
from tmkd_lightning.feature_extraction.output import Output
from tmkd_lightning.losses.tekap import tekap_kl
from tmkd_lightning.utils.validation import check_count, check_positive, check_term, check_weight


class TeKAP(Distiller):
    """KL divergence of the student's softened logits from the teacher's and from those of noisy copies.

    Args:
        temperature: T, above 0.
        weight: factor of the whole loss, at least 0. 0.9 beside a cross-entropy weight of 0.1 is a common pair.
        copies: number of noisy copies, at least 1; their noise is fresh each step.
        teacher_share: factor of the teacher's logits in a copy, at least 0.
        noise_share: factor of the standard normal noise in a copy, at least 0.
        copies_weight: factor of the copies' losses, at least 0.
        name: name of the term in logs.

    Source: Hossain et al. 2025, at the level of the logits; the defaults are those of their code.

    Example:
        >>> same = Output(torch.tensor([[1.0, 2.0]]))
        >>> TeKAP(teacher_share=1.0, noise_share=0.0)(same, same, torch.tensor([0]))["tekap"].item()
        0.0
    """

    is_logit_term = True

    def __init__(
        self,
        temperature: float = 4.0,
        weight: float = 1.0,
        copies: int = 3,
        teacher_share: float = 0.9,
        noise_share: float = 0.1,
        copies_weight: float = 0.8,
        name: str = "tekap",
    ) -> None:
        super().__init__()
        self.temperature = check_positive("temperature", temperature)
        self.weight = check_weight("weight", weight)
        self.copies = check_count("copies", copies)
        self.teacher_share = check_weight("teacher_share", teacher_share)
        self.noise_share = check_weight("noise_share", noise_share)
        self.copies_weight = check_weight("copies_weight", copies_weight)
        self.name = check_term(name)

    def forward(self, student: Output, teacher: Output, label: Tensor) -> dict[str, Tensor]:
        """Computes the term ``tekap``; see `Distiller`."""
        noise = torch.randn(self.copies, *teacher.logits.shape, device=teacher.logits.device)
        shares = self.teacher_share, self.noise_share, self.copies_weight
        loss = tekap_kl(student.logits, teacher.logits, self.temperature, noise, *shares)
        return {self.name: self.weight * loss}
