"""Softmax regression representation learning: the student's embedding through the teacher's head (Yang et al. 2021)."""

from torch import Tensor, nn

from tmkd_lightning.distillers.base import RegressionDistiller
from tmkd_lightning.feature_extraction.output import Output, Part
from tmkd_lightning.losses.srrl import srrl
from tmkd_lightning.utils.validation import check_term, check_weight


class SRRL(RegressionDistiller):
    """Squared differences of the projected embedding from the teacher's, and of the logits its head gives for both.

    The projector is a linear layer, a BatchNorm and a ReLU.

    Args:
        student_dim: width of the student's embedding.
        teacher_dim: width of the teacher's embedding.
        weight: factor of the loss, at least 0.
        name: name of the term in logs.

    Source: Yang et al. 2021; projector and weight as in the code of SimKD, beside weights of 1 for CE and KD.

    Example:
        >>> import torch
        >>> distiller = SRRL(student_dim=2, teacher_dim=3)
        >>> student = Output(torch.zeros(2, 5), torch.zeros(2, 2))  # which BatchNorm and ReLU leave at 0
        >>> teacher = Output(torch.zeros(2, 5), torch.ones(2, 3), head_weight=torch.ones(5, 3))
        >>> distiller(student, teacher, torch.tensor([0, 1]))["srrl"].item()  # 1² + 3²
        10.0
    """

    reads: frozenset[Part] = frozenset({"embedding", "head_weight"})
    reads_logits = False
    min_batch = 2  # of one image there are no statistics for the BatchNorm

    def __init__(self, student_dim: int, teacher_dim: int, weight: float = 1.0, name: str = "srrl") -> None:
        super().__init__(student_dim, teacher_dim)
        layers = nn.Linear(student_dim, teacher_dim, bias=False), nn.BatchNorm1d(teacher_dim), nn.ReLU()
        self.projector = nn.Sequential(*layers)
        self.weight = check_weight("weight", weight)
        self.name = check_term(name)

    def forward(self, student: Output, teacher: Output, label: Tensor) -> dict[str, Tensor]:
        """Computes the term ``srrl``; see `Distiller`."""
        if len(student.logits) < self.min_batch:
            return {self.name: self.zero(student)}
        embedding, target = self.embeddings(student, teacher)
        loss = srrl(self.projector(embedding), target, teacher.require("head_weight"))
        return {self.name: self.weight * loss}
