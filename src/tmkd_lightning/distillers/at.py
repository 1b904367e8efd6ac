"""Attention transfer: matches where the feature maps are strong (Zagoruyko and Komodakis 2017)."""

import torch
from torch import Tensor

from tmkd_lightning.distillers.maps import MapDistiller
from tmkd_lightning.feature_extraction.output import Output
from tmkd_lightning.losses.attention_transfer import attention_transfer
from tmkd_lightning.utils.validation import check_at_least_one, check_count, check_term, check_weight


class AT(MapDistiller):
    """Mean squared difference of the attention maps of several feature maps, summed over them.

    Args:
        weight: factor of the loss, at least 0.
        power: p, at least 1, of the activations' absolute values.
        last: number of the last maps to compare; None for as many as both networks have.
        name: name of the term in logs.

    Source: Zagoruyko and Komodakis 2017; the defaults are those of RepDistiller and mdistiller, which leave
    out the map of the stem.

    Example:
        >>> maps = torch.ones(1, 3, 1, 2), torch.tensor([[[[2.0, 0.0]]]])
        >>> student, teacher = (Output(torch.zeros(1, 2), maps=(each,)) for each in maps)
        >>> AT(weight=1.0)(student, teacher, torch.zeros(1))["at"].item()
        0.29289...
    """

    def __init__(self, weight: float = 1000.0, power: float = 2.0, last: int | None = None, name: str = "at") -> None:
        super().__init__()
        self.weight = check_weight("weight", weight)
        self.power = check_at_least_one("power", power)
        self.last = None if last is None else check_count("last", last)
        self.name = check_term(name)

    def forward(self, student: Output, teacher: Output, label: Tensor) -> dict[str, Tensor]:
        """Computes the term ``at``; see `Distiller`."""
        losses = [attention_transfer(*pair, self.power) for pair in self.map_pairs(student, teacher)]
        return {self.name: self.weight * torch.stack(losses).sum()}
