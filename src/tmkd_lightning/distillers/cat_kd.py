"""Class attention transfer: matches class activation maps (Guo et al. 2023)."""

from dataclasses import replace

from torch import Tensor

from tmkd_lightning.distillers.base import Distiller
from tmkd_lightning.feature_extraction.output import Output, Part
from tmkd_lightning.losses.cam import class_attention, pool
from tmkd_lightning.utils.validation import check_count, check_term, check_weight


class CATKD(Distiller):
    """Mean squared difference of the class activation maps, pooled to a few pixels.

    Args:
        weight: factor of the loss, at least 0.
        resolution: side of the pooled maps, at least 1 and at most that of either network's maps.
        normalize: whether each pooled map is divided by its L2 norm; the weight must then be much larger.
        name: name of the term in logs.

    Source: Guo et al. 2023, Eq. 5 and 6; the weight is the paper's, resolution 2 is that of their code.

    Example:
        >>> import torch
        >>> maps, head = torch.ones(1, 2, 4, 4), torch.eye(3, 2)
        >>> student, teacher = (Output(torch.zeros(1, 3), None, scale * maps, head) for scale in (1, 3))
        >>> round(CATKD(weight=1.0)(student, teacher, torch.zeros(1))["cat_kd"].item(), 4)
        2.6667
    """

    reads: frozenset[Part] = frozenset({"feature_map", "head_weight"})
    reads_logits = False

    def __init__(self, weight: float = 5.0, resolution: int = 2, normalize: bool = False, name: str = "cat_kd") -> None:
        super().__init__()
        self.weight = check_weight("weight", weight)
        self.resolution = self.map_size = check_count("resolution", resolution)
        self.normalize = normalize
        self.name = check_term(name)

    def forward(self, student: Output, teacher: Output, label: Tensor) -> dict[str, Tensor]:
        """Computes the term ``cat_kd``; see `Distiller`."""
        pair = self._pooled_cam(student, "student"), self._pooled_cam(teacher, "teacher")
        return {self.name: self.weight * class_attention(*pair, self.resolution, self.normalize)}

    def _pooled_cam(self, output: Output, whose: str) -> Tensor:
        """Pools the feature map before the head: equal to pooling the CAM, since both are linear, but cheaper."""
        return replace(output, feature_map=pool(output.require("feature_map"), self.resolution, whose)).cam
