"""Attention transfer: matches where the last feature maps are strong (Zagoruyko and Komodakis 2017)."""

from torch import Tensor

from tmkd_lightning.distillers.base import Distiller
from tmkd_lightning.feature_extraction.output import Output, Part
from tmkd_lightning.losses.attention_transfer import attention_transfer
from tmkd_lightning.utils.validation import check_at_least_one, check_term, check_weight


class AT(Distiller):
    """Mean squared difference of the attention maps of the last feature maps.

    Args:
        weight: factor of the loss, at least 0.
        power: p, at least 1, of the activations' absolute values.
        name: name of the term in logs.

    Source: Zagoruyko and Komodakis 2017; the defaults are those of RepDistiller and mdistiller, which sum the loss over
    the maps of several stages. Here it is that of the last map alone.

    Example:
        >>> import torch
        >>> maps = torch.ones(1, 3, 1, 2), torch.tensor([[[[2.0, 0.0]]]])
        >>> student, teacher = (Output(torch.zeros(1, 2), feature_map=each) for each in maps)
        >>> AT(weight=1.0)(student, teacher, torch.zeros(1))["at"].item()
        0.29289...
    """

    reads: frozenset[Part] = frozenset({"feature_map"})
    reads_logits = False

    def __init__(self, weight: float = 1000.0, power: float = 2.0, name: str = "at") -> None:
        super().__init__()
        self.weight = check_weight("weight", weight)
        self.power = check_at_least_one("power", power)
        self.name = check_term(name)

    def forward(self, student: Output, teacher: Output, label: Tensor) -> dict[str, Tensor]:
        """Computes the term ``at``; see `Distiller`."""
        pair = student.require("feature_map"), teacher.require("feature_map")
        return {self.name: self.weight * attention_transfer(*pair, self.power)}
