"""Feature-level distillation from a slightly perturbed teacher (Eq. 6 and 7)."""

import torch
from torch import Tensor, nn

from tmkd_lightning.distillers.base import ProjectingDistiller
from tmkd_lightning.feature_extraction.output import Output
from tmkd_lightning.losses.kl import feature_kl
from tmkd_lightning.utils.validation import check_positive, check_weight


class FeatureKL(ProjectingDistiller):
    """KL divergence of the student's projected embedding from the teacher's perturbed embedding.

    `TMKDModule` has one of these already, which its `feature_weight` and `feature_temperature` set.

    Args:
        temperature: T of both distributions, above 0.
        noise_scale: λ, standard deviation of the noise on the teacher's embedding, at least 0; fresh noise each step.
        weight: factor of the loss, at least 0.

    Source: Eq. 6 and 7; the defaults are customary in the code that the paper builds on.

    Example:
        >>> from tmkd_lightning.feature_extraction.spec import Spec
        >>> distiller = FeatureKL(noise_scale=0.0)
        >>> distiller.build(student=Spec(3, embedding_dim=4), teacher=Spec(3, embedding_dim=8))
        >>> student, teacher = (Output(torch.zeros(2, 3), torch.rand(2, dim)) for dim in (4, 8))
        >>> distiller(student, teacher, torch.tensor([0, 1]))["feature"].item() > 0
        True
    """

    reads_logits = False

    def __init__(self, temperature: float = 4.0, noise_scale: float = 0.1, weight: float = 1.0) -> None:
        super().__init__()
        self.temperature = check_positive("temperature", temperature)
        self.noise_scale = check_weight("noise_scale", noise_scale)
        self.weight = check_weight("weight", weight)

    def make_layers(self, student_dim: int, teacher_dim: int) -> None:
        """Makes the projector."""
        self.projector = nn.Linear(student_dim, teacher_dim)

    def forward(self, student: Output, teacher: Output, label: Tensor) -> dict[str, Tensor]:
        """Computes the term ``feature``; see `Distiller`."""
        projected = self.projector(student.require("embedding"))
        target = teacher.require("embedding")
        if self.noise_scale > 0:
            target = target.to(torch.promote_types(target.dtype, torch.float32))
            target = target + self.noise_scale * torch.randn_like(target)
        return {"feature": self.weight * feature_kl(projected, target, self.temperature)}
