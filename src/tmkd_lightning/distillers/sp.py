"""Similarity-preserving distillation: matches the similarities between samples (Tung and Mori 2019)."""

from torch import Tensor

from tmkd_lightning.distillers.base import Distiller
from tmkd_lightning.feature_extraction.output import Output, Part
from tmkd_lightning.losses.sp import similarity_preserving
from tmkd_lightning.utils.validation import check_term, check_weight


class SP(Distiller):
    """Difference of the similarity matrices of feature maps, within the batch of one device.

    Args:
        weight: factor of the loss, at least 0.
        name: name of the term in logs.

    Source: Tung and Mori 2019, Eq. 4, on the last map before the pooling; the weight as in their code and RepDistiller.

    Example:
        >>> import torch
        >>> maps = torch.eye(2).view(2, 2, 1, 1)
        >>> student, teacher = (Output(torch.zeros(2, 2), feature_map=scale * maps) for scale in (1, 3))
        >>> SP()(student, teacher, torch.zeros(2))["sp"].item()
        0.0
    """

    reads: frozenset[Part] = frozenset({"feature_map"})
    reads_logits = False
    min_batch = 2

    def __init__(self, weight: float = 3000.0, name: str = "sp") -> None:
        super().__init__()
        self.weight = check_weight("weight", weight)
        self.name = check_term(name)

    def forward(self, student: Output, teacher: Output, label: Tensor) -> dict[str, Tensor]:
        """Computes the term ``sp``; see `Distiller`."""
        loss = similarity_preserving(student.require("feature_map"), teacher.require("feature_map"))
        return {self.name: self.weight * loss}
