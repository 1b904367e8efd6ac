"""Similarity-preserving distillation: matches the similarities between samples (Tung and Mori 2019)."""

from torch import Tensor

from tmkd_lightning.distillers.relational import RelationalDistiller
from tmkd_lightning.feature_extraction.output import Part
from tmkd_lightning.losses.sp import similarity_preserving
from tmkd_lightning.utils.validation import check_weight


class SP(RelationalDistiller):
    """Difference of the similarity matrices of the feature maps of a batch.

    Args:
        weight: factor of the loss, at least 0.
        gather: whether the images of all processes are compared, instead of those of each by itself.
        name: name of the term in logs.

    Source: Tung and Mori 2019, Eq. 4, on the last map before the pooling; the weight as in their code and RepDistiller.

    Example:
        >>> import torch
        >>> from tmkd_lightning import Output
        >>> maps = torch.eye(2).view(2, 2, 1, 1)
        >>> student, teacher = (Output(torch.zeros(2, 2), feature_map=scale * maps) for scale in (1, 3))
        >>> SP()(student, teacher, torch.zeros(2))["sp"].item()
        0.0
    """

    reads: frozenset[Part] = frozenset({"feature_map"})
    compares = "feature_map"
    reads_logits = False
    min_batch = 2

    def __init__(self, weight: float = 3000.0, gather: bool = False, name: str = "sp") -> None:
        super().__init__(gather, name)
        self.weight = check_weight("weight", weight)

    def loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Computes the weighted loss; see `RelationalDistiller`."""
        return self.weight * similarity_preserving(student, teacher)
