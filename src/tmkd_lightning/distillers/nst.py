"""Neuron selectivity transfer: matches the patterns that channels respond to (Huang and Wang 2017)."""

from torch import Tensor

from tmkd_lightning.distillers.base import Distiller
from tmkd_lightning.feature_extraction.output import Output, Part
from tmkd_lightning.losses.nst import nst
from tmkd_lightning.utils.validation import check_term, check_weight


class NST(Distiller):
    """Squared maximum mean discrepancy between the channels of the last feature maps.

    Args:
        weight: factor of the loss, at least 0.
        name: name of the term in logs.

    Source: Huang and Wang 2017; the weight is that of RepDistiller and mdistiller, which sum the loss over the maps of
    several stages. Here it is that of the last map alone.

    Example:
        >>> import torch
        >>> maps = torch.tensor([[[[3.0, 0.0]]]]), torch.tensor([[[[0.0, 5.0]]]])
        >>> student, teacher = (Output(torch.zeros(1, 2), feature_map=each) for each in maps)
        >>> NST()(student, teacher, torch.zeros(1))["nst"].item()
        100.0
    """

    reads: frozenset[Part] = frozenset({"feature_map"})
    reads_logits = False

    def __init__(self, weight: float = 50.0, name: str = "nst") -> None:
        super().__init__()
        self.weight = check_weight("weight", weight)
        self.name = check_term(name)

    def forward(self, student: Output, teacher: Output, label: Tensor) -> dict[str, Tensor]:
        """Computes the term ``nst``; see `Distiller`."""
        return {self.name: self.weight * nst(student.require("feature_map"), teacher.require("feature_map"))}
