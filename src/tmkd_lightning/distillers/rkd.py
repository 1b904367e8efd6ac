"""Relational knowledge distillation: matches distances and angles between samples (Park et al. 2019)."""

from torch import Tensor

from tmkd_lightning.distillers.relational import RelationalDistiller
from tmkd_lightning.feature_extraction.output import Part
from tmkd_lightning.losses.rkd import rkd_angle, rkd_distance
from tmkd_lightning.utils.validation import check_weight


class RKD(RelationalDistiller):
    """Differences of the pairwise distances and angles of the embeddings of a batch.

    Args:
        distance_weight: factor of the distance loss, at least 0.
        angle_weight: factor of the angle loss, at least 0.
        gather: whether the images of all processes are compared, instead of those of each by itself.
        name: name of the term in logs.

    Source: Park et al. 2019, Eq. 5 to 8; the weights are those of their code and of RepDistiller.

    Example:
        >>> import torch
        >>> from tmkd_lightning import Output
        >>> student, teacher = (Output(torch.zeros(4, 2), torch.eye(4) * scale) for scale in (1, 2))
        >>> RKD()(student, teacher, torch.zeros(4))["rkd"].item()
        0.0
    """

    reads: frozenset[Part] = frozenset({"embedding"})
    compares = "embedding"
    reads_logits = False
    min_batch = 3  # two samples have one distance, which is divided by itself, and no angle

    def __init__(
        self, distance_weight: float = 25.0, angle_weight: float = 50.0, gather: bool = False, name: str = "rkd"
    ) -> None:
        super().__init__(gather, name)
        self.distance_weight = check_weight("distance_weight", distance_weight)
        self.angle_weight = check_weight("angle_weight", angle_weight)

    def loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Computes the weighted sum of both losses; see `RelationalDistiller`."""
        distances, angles = rkd_distance(student, teacher), rkd_angle(student, teacher)
        return self.distance_weight * distances + self.angle_weight * angles
