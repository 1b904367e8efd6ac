"""Scale-decoupled distillation: a logit method on parts of the image as well (Wei et al. 2024)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tmkd_lightning.distillers.base import Distiller, LogitDistiller
from tmkd_lightning.feature_extraction.output import Output, Part
from tmkd_lightning.losses.cam import average_pool, pool
from tmkd_lightning.utils.validation import check_term

_SIDE = 4


class SDD(Distiller):
    """Applies KD, DKD or NKD to the logits of the image and of its cells, by pooling feature maps before the head.

    The maps are averaged over a 4×4 grid, and from it over 2×2 cells and the whole. A cell where the teacher is right
    and on the whole image wrong, or the reverse, counts twice. The loss is averaged over images and cells.

    Args:
        base: the method, `KD`, `DKD` or `NKD`, whose weight holds.
        scales: sides of the grids, of 1, 2 and 4; 1 is the whole image and must be among them.
        name: name of the term in logs.

    Source: Wei et al. 2024; grids, weights and averages as in their code, except that NKD's target class is not among
    the others here.

    Example:
        >>> import torch
        >>> from tmkd_lightning.distillers import KD
        >>> maps, head = torch.rand(2, 3, 4, 4), torch.eye(3)
        >>> output = Output(maps.mean((2, 3)), maps.mean((2, 3)), maps, head)
        >>> SDD(KD())(output, output, torch.tensor([0, 1]))["sdd"].item()
        0.0
    """

    reads: frozenset[Part] = frozenset({"embedding", "feature_map", "head_weight"})
    is_logit_term = True
    map_size = _SIDE
    needs_class = True  # on which the teacher is right or wrong

    def __init__(self, base: LogitDistiller, scales: Sequence[int] = (1, 2, 4), name: str = "sdd") -> None:
        super().__init__()
        if not isinstance(base, LogitDistiller):
            raise TypeError(f"base must be KD, DKD or NKD, got {type(base).__name__}")
        if 1 not in scales or not set(scales) <= {1, 2, _SIDE}:
            raise ValueError(f"scales must be 1, and 2 or 4 or both, got {list(scales)}")
        self.base = base
        self.scales = sorted(set(scales))
        self.name = check_term(name)

    def forward(self, student: Output, teacher: Output, label: Tensor) -> dict[str, Tensor]:
        """Computes the term ``sdd``; see `Distiller`."""
        of_student, of_teacher = self.cell_logits(student, "student"), self.cell_logits(teacher, "teacher")
        images, cells = of_teacher.shape[:2]
        labels = label.unsqueeze(1).expand(images, cells)
        losses = self.base.loss(of_student.flatten(0, 1), of_teacher.flatten(0, 1), labels.flatten(), reduction="none")
        right = of_teacher.argmax(2) == labels
        counts = 1 + (right != right[:, :1]).to(losses.dtype)  # the first cell is the whole image
        return {self.name: self.base.weight * (counts * losses.unflatten(0, (images, cells))).mean()}

    def cell_logits(self, output: Output, whose: str) -> Tensor:
        """Logits ``(B, cells, K)`` that the head gives for each cell's mean of the map, the whole image first."""
        grid = pool(output.require("feature_map"), _SIDE, whose)
        cells = torch.cat([average_pool(grid, (side, side)).flatten(2) for side in self.scales], dim=2).mT
        dtype = cells.dtype
        embedding, weight = output.require("embedding").to(dtype), output.require("head_weight").to(dtype)
        with torch.autocast(grid.device.type, enabled=False):  # the bias is in the logits of the image
            return output.logits.to(dtype).unsqueeze(1) + (cells - embedding.unsqueeze(1)) @ weight.T
