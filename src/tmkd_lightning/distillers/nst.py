"""Neuron selectivity transfer: matches the patterns that channels respond to (Huang and Wang 2017)."""

import torch
from torch import Tensor

from tmkd_lightning.distillers.maps import MapDistiller
from tmkd_lightning.feature_extraction.output import Output
from tmkd_lightning.losses.nst import nst
from tmkd_lightning.utils.validation import check_count, check_term, check_weight


class NST(MapDistiller):
    """Squared maximum mean discrepancy between the channels of several feature maps, summed over them.

    Args:
        weight: factor of the loss, at least 0.
        last: number of the last maps to compare; None for as many as both networks have.
        name: name of the term in logs.

    Source: Huang and Wang 2017; the weight is that of RepDistiller and mdistiller, which leave out the map of
    the stem.

    Example:
        >>> maps = torch.tensor([[[[3.0, 0.0]]]]), torch.tensor([[[[0.0, 5.0]]]])
        >>> student, teacher = (Output(torch.zeros(1, 2), maps=(each,)) for each in maps)
        >>> NST()(student, teacher, torch.zeros(1))["nst"].item()
        100.0
    """

    def __init__(self, weight: float = 50.0, last: int | None = None, name: str = "nst") -> None:
        super().__init__()
        self.weight = check_weight("weight", weight)
        self.last = None if last is None else check_count("last", last)
        self.name = check_term(name)

    def forward(self, student: Output, teacher: Output, label: Tensor) -> dict[str, Tensor]:
        """Computes the term ``nst``; see `Distiller`."""
        losses = [nst(*pair) for pair in self.map_pairs(student, teacher)]
        return {self.name: self.weight * torch.stack(losses).sum()}
