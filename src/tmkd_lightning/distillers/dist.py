"""Distillation from a stronger teacher: matches correlations of class probabilities (Huang et al. 2022)."""

from torch import Tensor

from tmkd_lightning.distillers.relational import RelationalDistiller
from tmkd_lightning.losses.dist import dist
from tmkd_lightning.utils.validation import check_positive, check_weight


class DIST(RelationalDistiller):
    """One minus the correlation of the class probabilities, within each image and within each class of the batch.

    Args:
        beta: factor of the part within each image, at least 0.
        gamma: factor of the part within each class, over the images, at least 0.
        temperature: τ, above 0; the loss is multiplied by τ².
        weight: factor of the whole loss, at least 0.
        gather: whether the images of all processes are compared, instead of those of each by itself.
        name: name of the term in logs.

    Source: Huang et al. 2022; the defaults are those of their code.

    Example:
        >>> import torch
        >>> from tmkd_lightning import Output
        >>> logits = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> DIST()(Output(logits), Output(-logits), torch.tensor([0, 1]))["dist"].item()  # correlations of -1
        4.0
    """

    compares = "logits"
    is_logit_term = True
    min_batch = 2

    def __init__(
        self,
        beta: float = 1.0,
        gamma: float = 1.0,
        temperature: float = 1.0,
        weight: float = 1.0,
        gather: bool = False,
        name: str = "dist",
    ) -> None:
        super().__init__(gather, name)
        self.beta = check_weight("beta", beta)
        self.gamma = check_weight("gamma", gamma)
        self.temperature = check_positive("temperature", temperature)
        self.weight = check_weight("weight", weight)

    def loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Computes the weighted loss; see `RelationalDistiller`."""
        return self.weight * dist(student, teacher, self.beta, self.gamma, self.temperature)
