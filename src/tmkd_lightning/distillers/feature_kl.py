"""Feature-level distillation against a slightly perturbed teacher (Eq. 6 and 7)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tmkd_lightning.distillers.base import Distiller
from tmkd_lightning.feature_extraction.output import Output, Part
from tmkd_lightning.losses import check_temperature, feature_kl
from tmkd_lightning.utils.precision import in_full_precision
from tmkd_lightning.utils.validation import check_weight


class FeatureKL(Distiller):
    """KL divergence of the student's projected embedding from the teacher's perturbed one.

    Args:
        student_dim: width of the student's embedding.
        teacher_dim: width of the teacher's embedding.
        temperature: T of both distributions, above 0.
        noise_scale: λ, how strongly the teacher's embedding is perturbed, at least 0; fresh noise each step.
        weight: factor of the loss, at least 0.

    Raises:
        ValueError: a temperature that is not positive, or a factor below 0 or not finite.

    Source: Eq. 6 and 7; the defaults are customary in the code that the paper builds on.

    Example:
        >>> distiller = FeatureKL(student_dim=4, teacher_dim=8, noise_scale=0.0)
        >>> student, teacher = (Output(torch.zeros(2, 3), torch.rand(2, dim)) for dim in (4, 8))
        >>> distiller(student, teacher, torch.tensor([0, 1]))["feature"].item() > 0
        True
    """

    reads: frozenset[Part] = frozenset({"embedding"})

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        temperature: float = 4.0,
        noise_scale: float = 0.1,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        check_temperature(temperature)
        self.projector = nn.Linear(student_dim, teacher_dim)
        self.temperature = temperature
        self.noise_scale = check_weight("noise_scale", noise_scale)
        self.weight = check_weight("weight", weight)

    def forward(self, student: Output, teacher: Output, label: Tensor) -> dict[str, Tensor]:
        """Computes the term ``feature``; see `Distiller`."""
        target = perturb(teacher.require("embedding"), self.noise_scale)
        projected = self.projector(student.require("embedding"))
        return {"feature": self.weight * feature_kl(projected, target, self.temperature)}


@in_full_precision
def perturb(value: Tensor, scale: float) -> Tensor:
    """Adds normal noise, fresh at each call.

    Args:
        value: any shape.
        scale: λ, the noise's standard deviation, at least 0; at 0 nothing is drawn.

    Returns:
        ``value + scale * noise``, of the same shape, at least float32.

    Source: Eq. 6; λ 0.1 is customary in the code that the paper builds on.

    Example:
        >>> perturb(torch.ones(2), scale=0.0).tolist()
        [1.0, 1.0]
    """
    return value + scale * torch.randn_like(value) if scale > 0 else value
