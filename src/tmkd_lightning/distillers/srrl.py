"""Softmax regression representation learning: the student's embedding through the teacher's head (Yang et al. 2021)."""

from torch import Tensor, nn

from tmkd_lightning.distillers.base import ProjectingDistiller
from tmkd_lightning.feature_extraction.output import Output, Part
from tmkd_lightning.losses.srrl import srrl
from tmkd_lightning.utils.validation import check_term, check_weight


class SRRL(ProjectingDistiller):
    """Squared differences of the projected embedding from the teacher's, and of the logits its head gives for both.

    The projector is a linear layer, a BatchNorm and a ReLU.

    Args:
        weight: factor of the loss, at least 0.
        name: name of the term in logs.

    Source: Yang et al. 2021; projector and weight as in the code of SimKD, beside weights of 1 for CE and KD.

    Example:
        >>> import torch
        >>> from tmkd_lightning.feature_extraction.spec import Spec
        >>> distiller = SRRL()
        >>> distiller.build(student=Spec(5, embedding_dim=2), teacher=Spec(5, embedding_dim=3))
        >>> student = Output(torch.zeros(2, 5), torch.zeros(2, 2))  # which BatchNorm and ReLU leave at 0
        >>> teacher = Output(torch.zeros(2, 5), torch.ones(2, 3), head_weight=torch.ones(5, 3))
        >>> distiller(student, teacher, torch.tensor([0, 1]))["srrl"].item()  # 1² + 3²
        10.0
    """

    reads: frozenset[Part] = frozenset({"embedding", "head_weight"})
    reads_logits = False
    min_batch = 2  # of one image there are no statistics for the BatchNorm

    def __init__(self, weight: float = 1.0, name: str = "srrl") -> None:
        super().__init__()
        self.weight = check_weight("weight", weight)
        self.name = check_term(name)

    def make_layers(self, student_dim: int, teacher_dim: int) -> None:
        """Makes the projector."""
        layers = nn.Linear(student_dim, teacher_dim, bias=False), nn.BatchNorm1d(teacher_dim), nn.ReLU()
        self.projector = nn.Sequential(*layers)

    def forward(self, student: Output, teacher: Output, label: Tensor) -> dict[str, Tensor]:
        """Computes the term ``srrl``; see `Distiller`."""
        if len(student.logits) < self.min_batch:
            return {self.name: self.zero(student)}
        projected = self.projector(student.require("embedding"))
        loss = srrl(projected, teacher.require("embedding"), teacher.require("head_weight"))
        return {self.name: self.weight * loss}
