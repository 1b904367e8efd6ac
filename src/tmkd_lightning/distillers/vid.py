"""VID: the teacher's maps under Gaussians whose means the student predicts (Ahn et al. 2019)."""

import math

import torch
from torch import Tensor, nn

from tmkd_lightning.distillers.maps import RegressingDistiller
from tmkd_lightning.feature_extraction.output import Output
from tmkd_lightning.feature_extraction.spec import MapShape
from tmkd_lightning.losses.cam import pool_larger
from tmkd_lightning.losses.vid import vid
from tmkd_lightning.utils.validation import check_count, check_term, check_weight

_VARIANCE = 5.0  # at the beginning


class VID(RegressingDistiller):
    """Negative log-likelihood of the teacher's maps, summed over several pairs; variances of channels are trained.

    The larger map is pooled to the size of the smaller one. Each mean is then predicted by three 1×1 convolutions
    without bias, with ReLUs between them.

    Args:
        weight: factor of the loss, at least 0.
        last: number of the last maps to compare; None for as many as both networks have.
        name: name of the term in logs.

    Source: Ahn et al. 2019; the weight, the regressor and the first variance of 5 are those of RepDistiller, whose
    variances train too.

    Example:
        >>> from tmkd_lightning.feature_extraction.spec import Spec
        >>> method = VID()
        >>> method.build(student=Spec(3, maps=((2, 4, 4),)), teacher=Spec(3, maps=((5, 4, 4),)))
        >>> student, teacher = (Output(torch.zeros(2, 3), maps=(torch.zeros(2, dim, 4, 4),)) for dim in (2, 5))
        >>> method(student, teacher, torch.zeros(2))["vid"].item() / (0.5 * math.log(5))
        1.0000...
    """

    def __init__(self, weight: float = 1.0, last: int | None = None, name: str = "vid") -> None:
        super().__init__()
        self.weight = check_weight("weight", weight)
        self.last = None if last is None else check_count("last", last)
        self.name = check_term(name)

    def make_layers(self, pairs: list[tuple[MapShape, MapShape]]) -> nn.Module:
        """Makes a regressor and the variances for each pair."""
        return nn.ModuleList(_Gaussian(student[0], teacher[0]) for student, teacher in pairs)

    def forward(self, student: Output, teacher: Output, label: Tensor) -> dict[str, Tensor]:
        """Computes the term ``vid``; see `Distiller`."""
        pairs = self.map_pairs(student, teacher)
        losses = []
        for layer, pair in zip(self.each_regressor(), pairs, strict=True):
            own, target = pool_larger(*pair)  # which widens half precision
            losses.append(vid(layer.mean(own.to(pair[0].dtype)), target, layer.log_scale))
        return {self.name: self.weight * torch.stack(losses).sum()}


class _Gaussian(nn.Module):
    """The student's prediction of a map, and how sure it is of each channel."""

    def __init__(self, channels: int, wanted: int) -> None:
        super().__init__()
        self.mean = nn.Sequential(
            nn.Conv2d(channels, wanted, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(wanted, wanted, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(wanted, wanted, 1, bias=False),
        )
        self.log_scale = nn.Parameter(torch.full((wanted,), math.log(math.expm1(_VARIANCE - 1e-5))))
