"""Regression of the normalised teacher through an orthogonal projection (Miles et al. 2024)."""

from typing import cast

import torch
from torch import Tensor, nn

from tmkd_lightning.distillers.base import ProjectingDistiller
from tmkd_lightning.feature_extraction.output import Output
from tmkd_lightning.losses.vkd import vkd
from tmkd_lightning.utils.validation import check_term, check_weight


class VkD(ProjectingDistiller):
    """Smooth L1 between the student's projected embedding and the teacher's, normalised like by a LayerNorm.

    Args:
        weight: factor of the loss, at least 0.
        name: name of the term in logs.

    Where the teacher is the narrower one, the projection has orthonormal rows instead of columns.

    Source: Miles et al. 2024, for students that are ViTs; the weight is our choice, and so is the QR decomposition
    that keeps the projection orthogonal.

    Example:
        >>> from tmkd_lightning.feature_extraction.spec import Spec
        >>> method = VkD()
        >>> method.build(student=Spec(3, embedding_dim=2), teacher=Spec(3, embedding_dim=4))
        >>> projection = method.projection
        >>> (projection.T @ projection).allclose(torch.eye(2), atol=1e-6)
        True
    """

    reads_logits = False

    def __init__(self, weight: float = 1.0, name: str = "vkd") -> None:
        super().__init__()
        self.weight = check_weight("weight", weight)
        self.name = check_term(name)

    def make_layers(self, student_dim: int, teacher_dim: int) -> None:
        """Makes the layer that is orthogonalised."""
        self.projector = nn.Linear(student_dim, teacher_dim, bias=False)

    @property
    def projection(self) -> Tensor:
        """P ``(E, D)`` with orthonormal columns, or rows where E is below D: Q of the QR decomposition of the weight.

        torch's own parametrization by Householder reflections becomes 0 under weight decay: it casts a diagonal of -1
        to int, and decay makes -0.999 of it.
        """
        weight = cast(nn.Linear, self.projector).weight
        weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
        with torch.autocast(weight.device.type, enabled=False):
            q, r = torch.linalg.qr(weight if weight.shape[0] >= weight.shape[1] else weight.T)
            q = q.where(r.diagonal() >= 0, -q)  # the one of a positive diagonal, which moves smoothly with the weight
        return q if q.shape == weight.shape else q.T

    def forward(self, student: Output, teacher: Output, label: Tensor) -> dict[str, Tensor]:
        """Computes the term ``vkd``; see `Distiller`."""
        embeddings = student.require("embedding"), teacher.require("embedding")
        return {self.name: self.weight * vkd(*embeddings, self.projection)}
