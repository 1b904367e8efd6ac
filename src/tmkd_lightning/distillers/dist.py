"""Distillation from a stronger teacher: matches correlations of class probabilities (Huang et al. 2022)."""

from torch import Tensor

from tmkd_lightning.distillers.base import Distiller
from tmkd_lightning.feature_extraction.output import Output
from tmkd_lightning.losses.dist import dist
from tmkd_lightning.utils.validation import check_positive, check_term, check_weight


class DIST(Distiller):
    """One minus the correlation of the class probabilities, within each image and within each class of the batch.

    Args:
        beta: factor of the part within each image, at least 0.
        gamma: factor of the part within each class, over the images of one device, at least 0.
        temperature: τ, above 0; the loss is multiplied by τ².
        weight: factor of the whole loss, at least 0.
        name: name of the term in logs.

    Source: Huang et al. 2022; the defaults are those of their code.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> DIST()(Output(logits), Output(-logits), torch.tensor([0, 1]))["dist"].item()  # correlations of -1
        4.0
    """

    is_logit_term = True
    min_batch = 2

    def __init__(
        self,
        beta: float = 1.0,
        gamma: float = 1.0,
        temperature: float = 1.0,
        weight: float = 1.0,
        name: str = "dist",
    ) -> None:
        super().__init__()
        self.beta = check_weight("beta", beta)
        self.gamma = check_weight("gamma", gamma)
        self.temperature = check_positive("temperature", temperature)
        self.weight = check_weight("weight", weight)
        self.name = check_term(name)

    def forward(self, student: Output, teacher: Output, label: Tensor) -> dict[str, Tensor]:
        """Computes the term ``dist``; see `Distiller`."""
        if len(student.logits) < self.min_batch:
            return {self.name: self.zero(student)}
        loss = dist(student.logits, teacher.logits, self.beta, self.gamma, self.temperature)
        return {self.name: self.weight * loss}
