"""SimKD: the student predicts by the teacher's head, and learns to give it the teacher's map (Chen et al. 2022)."""

from torch import Tensor

from tmkd_lightning.distillers.base import Distiller
from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.feature_extraction.output import Output, Part
from tmkd_lightning.losses.fitnet import hint
from tmkd_lightning.models.reused_head import reuse_head
from tmkd_lightning.utils.validation import check_count, check_term, check_weight


class SimKD(Distiller):
    """Mean squared difference of the feature maps, the student's through a projector that stays in the student.

    The student's own head is replaced by a projector, the global average pooling and the teacher's head, which is
    frozen; so its logits, in measuring and export too, are those of the teacher's head. It is trained by this term
    alone with ``ce_weight=0`` and TMKD's other weights 0.

    Args:
        weight: factor of the loss, at least 0.
        factor: the projector is as wide within as the teacher's map divided by this, at least 1.
        name: name of the term in logs.

    Source: Chen et al. 2022, Eq. 3; weight and factor as in their code, which has no other term.

    Example:
        >>> import torch
        >>> student, teacher = (Output(torch.zeros(1, 2), feature_map=torch.full((1, 3, 2, 2), x)) for x in (1.0, 3.0))
        >>> SimKD()(student, teacher, torch.zeros(1))["simkd"].item()
        4.0
    """

    reads: frozenset[Part] = frozenset({"feature_map", "head_weight"})
    reads_logits = False

    def __init__(self, weight: float = 1.0, factor: int = 2, name: str = "simkd") -> None:
        super().__init__()
        self.weight = check_weight("weight", weight)
        self.factor = check_count("factor", factor)
        self.name = check_term(name)

    def adapt_student(self, student: Extractor, teacher: Extractor) -> None:
        """Puts projector and head into the student, and copies the head's weights from the teacher."""
        reuse_head(student, teacher, self.factor, self.method_name)

    def forward(self, student: Output, teacher: Output, label: Tensor) -> dict[str, Tensor]:
        """Computes the term ``simkd``; see `Distiller`."""
        return {self.name: self.weight * hint(student.require("feature_map"), teacher.require("feature_map"))}
