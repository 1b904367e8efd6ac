"""Regression of the normalised teacher through an orthogonal projection (Miles et al. 2024)."""

import torch
from torch import Tensor, nn

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

    Source: Miles et al. 2024, for students that are ViTs; the weight is our choice, and so is the QR decomposition
    that keeps the projection orthogonal.

    Example:
        >>> import torch
        >>> projection = VkD(student_dim=2, teacher_dim=4).projection
        >>> (projection.T @ projection).allclose(torch.eye(2), atol=1e-6)
        True
    """

    reads_logits = False

    def __init__(self, student_dim: int, teacher_dim: int, weight: float = 1.0, name: str = "vkd") -> None:
        super().__init__(student_dim, teacher_dim)
        self.projector = nn.Linear(student_dim, teacher_dim, bias=False)
        self.weight = check_weight("weight", weight)
        self.name = check_term(name)

    @property
    def projection(self) -> Tensor:
        """P ``(E, D)`` with orthonormal columns, or rows where E is below D: Q of the QR decomposition of the weight.

        torch's own parametrization by Householder reflections becomes 0 under weight decay: it casts a diagonal of -1
        to int, and decay makes -0.999 of it.
        """
        weight = self.projector.weight
        weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
        with torch.autocast(weight.device.type, enabled=False):
            q, r = torch.linalg.qr(weight if weight.shape[0] >= weight.shape[1] else weight.T)
            q = q.where(r.diagonal() >= 0, -q)  # the one of a positive diagonal, which moves smoothly with the weight
        return q if q.shape == weight.shape else q.T

    def forward(self, student: Output, teacher: Output, label: Tensor) -> dict[str, Tensor]:
        """Computes the term ``vkd``; see `Distiller`."""
        return {self.name: self.weight * vkd(*self.embeddings(student, teacher), self.projection)}
