"""The base class of distillation methods, and the sum of several."""

from abc import ABC, abstractmethod
from typing import cast, get_args

import torch
from torch import Tensor, nn

from tmkd_lightning.feature_extraction.output import Output, Part
from tmkd_lightning.utils.validation import check_count

_TMKD_TERMS = frozenset({"ce", "fusion", "text"})  # TMKDModule adds terms of these names itself


class Distiller(nn.Module, ABC):
    """A distillation method: compares the outputs of student and teacher on one batch.

    To add a method, implement `forward` and name in `reads` the parts that it uses besides the logits; a network that
    lacks one is refused before training.

    Attributes:
        reads: parts of the outputs that the method uses besides the logits.
        reads_logits: whether the method reads the teacher's logits, which one without a fitted head does not have.
        is_logit_term: whether the method compares the logits and so replaces TMKD's own logit loss.
        map_size: side in pixels to which the method pools feature maps first, None where it reads them whole.
        min_batch: smallest batch that the method is defined on; 2 or more where it compares samples.
        gather: whether `min_batch` counts the images of all processes, which the method then compares.
        needs_class: whether the method needs one class for each image, and cannot take a distribution over them.

    Example:
        >>> from torch.nn import functional as F
        >>> class Match(Distiller):
        ...     def forward(self, student, teacher, label):
        ...         return {"match": F.mse_loss(student.logits, teacher.logits)}
    """

    reads: frozenset[Part] = frozenset()
    reads_logits: bool = True
    is_logit_term: bool = False
    map_size: int | None = None
    min_batch: int = 1
    gather: bool = False
    needs_class: bool = False

    def build(self, student_dim: int, teacher_dim: int) -> None:
        """Makes layers that depend on the widths of the embeddings; `TMKDModule` calls it where they are read."""

    @abstractmethod
    def forward(self, student: Output, teacher: Output, label: Tensor) -> dict[str, Tensor]:
        """Computes the method's loss terms.

        Args:
            student: of B images; its gradients train the student.
            teacher: of the same images, fused over the views where there are several.
            label: classes ``(B,)``, in 0..K-1, or distributions over them ``(B, K)`` where images are mixed, labelled
                softly or not labelled; never those for a method that `needs_class`.

        Returns:
            Weighted scalar terms by the name they are logged under.
        """

    @property
    def method_name(self) -> str:
        """What messages call the method."""
        return type(self).__name__

    def set_epoch(self, epoch: int) -> None:
        """Takes the epoch of training, from 0 on, before each step; for a method whose loss changes with it."""

    def zero(self, student: Output) -> Tensor:
        """A loss of 0 for a batch too small for the method, with gradients of 0 for the student and its own layers."""
        return 0 * torch.stack([student.logits.float().sum(), *(one.float().sum() for one in self.parameters())]).sum()


class RegressionDistiller(Distiller):
    """A method that regresses the teacher's embedding through a projector made for two widths."""

    reads: frozenset[Part] = frozenset({"embedding"})

    def __init__(self, student_dim: int, teacher_dim: int) -> None:
        super().__init__()
        self.dims = check_count("student_dim", student_dim), check_count("teacher_dim", teacher_dim)

    def embeddings(self, student: Output, teacher: Output) -> tuple[Tensor, Tensor]:
        """Both embeddings; raises a ValueError where they have other widths."""
        pair = student.require("embedding"), teacher.require("embedding")
        found = tuple(one.shape[1] for one in pair)
        if found != self.dims:
            raise ValueError(
                f"{self.method_name} was made for embeddings {self.dims} wide, of student and teacher, but they are "
                f"{found}: give these numbers for student_dim and teacher_dim"
            )
        return pair


class LogitDistiller(Distiller):
    """A method that compares the logits of each image by themselves; `SDD` applies it to parts of images too.

    Implement `loss`, and set `weight` and `name` in the constructor.
    """

    is_logit_term = True
    weight: float
    name: str

    @abstractmethod
    def loss(self, student: Tensor, teacher: Tensor, label: Tensor, reduction: str = "mean") -> Tensor:
        """Computes the unweighted loss of logits ``(B, K)``: its mean, or with ``none`` that of each image ``(B,)``."""

    def forward(self, student: Output, teacher: Output, label: Tensor) -> dict[str, Tensor]:
        """Computes the method's one term; see `Distiller`."""
        return {self.name: self.weight * self.loss(student.logits, teacher.logits, label)}


class Sum(Distiller):
    """Several methods at once; their terms are added.

    Args:
        distillers: the methods, whose terms have different names.

    Example:
        >>> import torch
        >>> from tmkd_lightning.distillers import KD
        >>> both = Sum(KD(), KD(temperature=1.0, name="sharp"))
        >>> output = Output(torch.zeros(2, 3))
        >>> sorted(both(output, output, torch.tensor([0, 1])))
        ['kd', 'sharp']
    """

    def __init__(self, *distillers: Distiller) -> None:
        super().__init__()
        parts: list[Distiller] = []
        for distiller in distillers:
            if not isinstance(distiller, Distiller):
                raise TypeError(f"{type(self).__name__} takes Distillers, got {type(distiller).__name__}")
            # A subclass, such as WarmUp, does more than add terms.
            parts += distiller.parts if type(distiller) is Sum else [distiller]
        for part in parts:
            unknown = sorted(part.reads - set(get_args(Part)))
            if unknown:
                wrong = f"{type(part).__name__} names {unknown[0]!r} in reads, which is no part of an Output"
                raise ValueError(f"{wrong}: choose from {list(get_args(Part))}")
        self.distillers = nn.ModuleList(parts)
        self.reads = frozenset[Part]().union(*(part.reads for part in parts))
        self.reads_logits = any(part.reads_logits for part in parts)
        self.is_logit_term = any(part.is_logit_term for part in parts)
        sizes = {part.map_size for part in parts if "feature_map" in part.reads}
        self.map_size = sizes.pop() if len(sizes) == 1 else None
        self.needs_class = any(part.needs_class for part in parts)
        self.min_batch = max((part.min_batch for part in parts), default=1)
        self.gather = all(part.gather for part in parts if part.min_batch > 1)

    @property
    def parts(self) -> list[Distiller]:
        """The methods in order, with those of nested sums."""
        return cast(list[Distiller], list(self.distillers))

    @property
    def method_name(self) -> str:
        """Those of all methods."""
        return ", ".join(part.method_name for part in self.parts)

    def build(self, student_dim: int, teacher_dim: int) -> None:
        """Makes the layers of the methods that read embeddings."""
        for part in self.parts:
            if "embedding" in part.reads:
                part.build(student_dim, teacher_dim)

    def set_epoch(self, epoch: int) -> None:
        """Hands the epoch to all methods."""
        for part in self.parts:
            part.set_epoch(epoch)

    def forward(self, student: Output, teacher: Output, label: Tensor) -> dict[str, Tensor]:
        """Computes the terms of all methods; see `Distiller`."""
        terms: dict[str, Tensor] = {}
        for distiller in self.distillers:
            for name, term in distiller(student, teacher, label).items():
                if name in terms or name in _TMKD_TERMS:
                    raise ValueError(f"two loss terms are named {name!r}: give one of them another name=")
                terms[name] = term
        return terms
