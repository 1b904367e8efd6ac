"""Probabilistic knowledge transfer: matches which samples are near to which (Passalis and Tefas 2018)."""

from torch import Tensor

from tmkd_lightning.distillers.base import Distiller
from tmkd_lightning.feature_extraction.output import Output, Part
from tmkd_lightning.losses.pkt import pkt
from tmkd_lightning.utils.validation import check_term, check_weight


class PKT(Distiller):
    """Divergence between the neighbourhoods of embeddings, within the batch of one device.

    Args:
        weight: factor of the loss, at least 0.
        name: name of the term in logs.

    Source: Passalis and Tefas 2018; the weight is that of RepDistiller.

    Example:
        >>> import torch
        >>> student, teacher = (Output(torch.zeros(2, 2), embedding) for embedding in (torch.eye(2), torch.ones(2, 3)))
        >>> PKT(weight=1.0)(student, teacher, torch.zeros(2))["pkt"].item()
        0.02944...
    """

    reads: frozenset[Part] = frozenset({"embedding"})
    reads_logits = False
    min_batch = 2

    def __init__(self, weight: float = 30000.0, name: str = "pkt") -> None:
        super().__init__()
        self.weight = check_weight("weight", weight)
        self.name = check_term(name)

    def forward(self, student: Output, teacher: Output, label: Tensor) -> dict[str, Tensor]:
        """Computes the term ``pkt``; see `Distiller`."""
        return {self.name: self.weight * pkt(student.require("embedding"), teacher.require("embedding"))}
