"""Probabilistic knowledge transfer: matches which samples are near to which (Passalis and Tefas 2018)."""

from torch import Tensor

from tmkd_lightning.distillers.relational import RelationalDistiller
from tmkd_lightning.feature_extraction.output import Part
from tmkd_lightning.losses.pkt import pkt
from tmkd_lightning.utils.validation import check_weight


class PKT(RelationalDistiller):
    """Divergence between the neighbourhoods of the embeddings of a batch.

    Args:
        weight: factor of the loss, at least 0.
        gather: whether the images of all processes are compared, instead of those of each by itself.
        name: name of the term in logs.

    Source: Passalis and Tefas 2018; the weight is that of RepDistiller.

    Example:
        >>> import torch
        >>> from tmkd_lightning import Output
        >>> student, teacher = (Output(torch.zeros(2, 2), embedding) for embedding in (torch.eye(2), torch.ones(2, 3)))
        >>> PKT(weight=1.0)(student, teacher, torch.zeros(2))["pkt"].item()
        0.02944...
    """

    reads: frozenset[Part] = frozenset({"embedding"})
    compares = "embedding"
    reads_logits = False
    min_batch = 2

    def __init__(self, weight: float = 30000.0, gather: bool = False, name: str = "pkt") -> None:
        super().__init__(gather, name)
        self.weight = check_weight("weight", weight)

    def loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Computes the weighted loss; see `RelationalDistiller`."""
        return self.weight * pkt(student, teacher)
