"""Relational knowledge distillation: matches distances and angles between samples (Park et al. 2019)."""

from torch import Tensor

from tmkd_lightning.distillers.base import Distiller
from tmkd_lightning.feature_extraction.output import Output, Part
from tmkd_lightning.losses.rkd import rkd_angle, rkd_distance
from tmkd_lightning.utils.validation import check_term, check_weight


class RKD(Distiller):
    """Differences of the pairwise distances and angles of embeddings, within the batch of one device.

    Args:
        distance_weight: factor of the distance loss, at least 0.
        angle_weight: factor of the angle loss, at least 0.
        name: name of the term in logs.

    Source: Park et al. 2019, Eq. 5 to 8; the weights are those of their code and of RepDistiller.

    Example:
        >>> import torch
        >>> student, teacher = (Output(torch.zeros(4, 2), torch.eye(4) * scale) for scale in (1, 2))
        >>> RKD()(student, teacher, torch.zeros(4))["rkd"].item()
        0.0
    """

    reads: frozenset[Part] = frozenset({"embedding"})
    reads_logits = False
    min_batch = 3  # two samples have one distance, which is divided by itself, and no angle

    def __init__(self, distance_weight: float = 25.0, angle_weight: float = 50.0, name: str = "rkd") -> None:
        super().__init__()
        self.distance_weight = check_weight("distance_weight", distance_weight)
        self.angle_weight = check_weight("angle_weight", angle_weight)
        self.name = check_term(name)

    def forward(self, student: Output, teacher: Output, label: Tensor) -> dict[str, Tensor]:
        """Computes the term ``rkd``; see `Distiller`."""
        pair = student.require("embedding"), teacher.require("embedding")
        return {self.name: self.distance_weight * rkd_distance(*pair) + self.angle_weight * rkd_angle(*pair)}
