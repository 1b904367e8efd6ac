"""Regression of the normalised teacher through an orthogonal projection (Miles et al. 2024)."""

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from tmkd_lightning.distillers.base import RegressionDistiller
from tmkd_lightning.feature_extraction.output import Output
from tmkd_lightning.losses.vkd import vkd
from tmkd_lightning.utils.validation import check_term, check_weight


class VkD(RegressionDistiller):
    """Smooth L1 between the student's projected embedding and the teacher's, normalised like by a LayerNorm.

    Args:
        student_dim: width of the student's embedding.
        teacher_dim: width of the teacher's embedding; where it is below the student's, the projection has orthonormal
            rows instead of columns.
        weight: factor of the loss, at least 0.
        name: name of the term in logs.

    Source: Miles et al. 2024, for students that are ViTs; the weight is our choice.

    Example:
        >>> import torch
        >>> distiller = VkD(student_dim=2, teacher_dim=4)
        >>> weight = distiller.projector.weight
        >>> (weight.T @ weight).allclose(torch.eye(2), atol=1e-6)
        True
    """

    def __init__(self, student_dim: int, teacher_dim: int, weight: float = 1.0, name: str = "vkd") -> None:
        super().__init__(student_dim, teacher_dim)
        self.projector = orthogonal(nn.Linear(student_dim, teacher_dim, bias=False))
        self.weight = check_weight("weight", weight)
        self.name = check_term(name)

    def forward(self, student: Output, teacher: Output, label: Tensor) -> dict[str, Tensor]:
        """Computes the term ``vkd``; see `Distiller`."""
        pair = self.embeddings(student, teacher)
        with torch.autocast(pair[0].device.type, enabled=False):  # in half precision it would not be orthogonal
            projection: Tensor = self.projector.weight  # type: ignore[assignment]  # computed by the parametrization
        return {self.name: self.weight * vkd(*pair, projection)}
