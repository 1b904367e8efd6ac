"""The base class of methods that compare the images of a batch with each other."""

from abc import abstractmethod
from typing import Literal

from torch import Tensor

from tmkd_lightning.distillers.base import Distiller
from tmkd_lightning.feature_extraction.output import Output
from tmkd_lightning.utils.distributed import gather_batches
from tmkd_lightning.utils.validation import check_term


class RelationalDistiller(Distiller):
    """A method that compares the images of a batch with each other, on one device or on all of them.

    Implement `loss`, and name in `compares` the part of the outputs that it takes.

    Args:
        gather: whether the batch is that of all processes, and not of each by itself.
        name: name of the term in logs.

    Attributes:
        compares: the part of both outputs.

    Example:
        >>> import torch
        >>> class Highest(RelationalDistiller):
        ...     compares = "logits"
        ...     min_batch = 2
        ...     def loss(self, student, teacher):
        ...         return (student.amax(0) - teacher.amax(0)).square().mean()
        >>> student, teacher = (Output(torch.tensor([[0.0], [scale]])) for scale in (1, 2))
        >>> Highest(gather=False, name="highest")(student, teacher, torch.tensor([0, 0]))["highest"].item()
        1.0
    """

    compares: Literal["logits", "embedding", "feature_map"]

    def __init__(self, gather: bool, name: str) -> None:
        super().__init__()
        if not isinstance(gather, bool):
            raise TypeError(f"gather must be True or False, got {gather!r}")
        self.gather = gather
        self.name = check_term(name)

    @abstractmethod
    def loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Computes the weighted loss of the part that the method compares, ``(B, ...)``."""

    def forward(self, student: Output, teacher: Output, label: Tensor) -> dict[str, Tensor]:
        """Computes the method's one term; see `Distiller`."""
        ours, theirs = student.require(self.compares), teacher.require(self.compares)
        if self.gather:
            ours, theirs = gather_batches(ours, theirs)
        if len(ours) < self.min_batch:
            return {self.name: self.zero(student)}
        return {self.name: self.loss(ours, theirs)}
