"""The base class of distillation methods, and the sum of several."""

from abc import ABC, abstractmethod
from typing import cast, get_args

import torch
from torch import Tensor, nn

from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.feature_extraction.output import Output, Part
from tmkd_lightning.feature_extraction.spec import Spec

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
        needs_index: whether the method needs to know which training images a batch holds, as `set_index` tells, and
            how many there are, as `Spec.training_images` says.
        replicated: names of buffers that every process keeps alike by itself, which are not sent at every step.

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
    needs_index: bool = False
    replicated: tuple[str, ...] = ()

    def build(self, student: Spec, teacher: Spec) -> None:
        """Makes layers that depend on what the networks give; `TMKDModule` calls it in its constructor.

        It is called again when the number of classes changes, and for a method that `needs_index` when the data are
        known. Layers whose size does not depend on those must stay.
        """

    def adapt_student(self, student: Extractor, teacher: Extractor) -> None:
        """Changes the student's network, for a method that trains and deploys another one; most leave it alone.

        `TMKDModule` calls it in its constructor, before anything else reads the student, and again before training,
        when the teacher has its weights and its head the classes of the data in their order.
        """

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

    def set_index(self, index: Tensor) -> None:
        """Takes the places ``(B,)`` of a batch's images among all training images, before each step."""

    def replicated_names(self, prefix: str) -> list[str]:
        """Dotted names of the `replicated` buffers of the method and those in it."""
        parts = [(name, part) for name, part in self.named_modules(prefix=prefix) if isinstance(part, Distiller)]
        return [f"{name}.{buffer}" for name, part in parts for buffer in part.replicated]

    def zero(self, student: Output) -> Tensor:
        """A loss of 0 for a batch too small for the method, with gradients of 0 for the student and its own layers."""
        return 0 * torch.stack([student.logits.float().sum(), *(one.float().sum() for one in self.parameters())]).sum()


class Unbuilt(nn.Module):
    """Stands where `build` puts layers; using it raises a RuntimeError."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self.method = method

    def forward(self, *inputs: Tensor) -> Tensor:
        """Says what to do."""
        remedy = f"call {self.method}.build(student, teacher) with the Spec of both networks, as TMKDModule does"
        raise RuntimeError(f"{self.method} has no layers yet: {remedy}")

    @property
    def weight(self) -> Tensor:
        """Says what to do."""
        return self()


class ProjectingDistiller(Distiller):
    """A method that brings the student's embedding to the teacher's width by a projector."""

    reads: frozenset[Part] = frozenset({"embedding"})

    def __init__(self) -> None:
        super().__init__()
        self.projector: nn.Module = Unbuilt(self.method_name)
        self.dims: tuple[int, int] | None = None  # widths of the student's and the teacher's embedding

    @abstractmethod
    def make_layers(self, student_dim: int, teacher_dim: int) -> None:
        """Makes the projector, for embeddings of these widths."""

    def build(self, student: Spec, teacher: Spec) -> None:
        """Makes the layers, once; raises a ValueError for networks of other widths than before; see `Distiller`."""
        dims = student.embedding_dim, teacher.embedding_dim
        if dims[0] is None or dims[1] is None:
            raise ValueError(f"{self.method_name} reads embeddings, which one of the two networks does not have")
        if self.dims is None:
            self.dims = dims[0], dims[1]
            self.make_layers(*self.dims)
        elif dims != self.dims:
            raise ValueError(
                f"{self.method_name} was built for embeddings {self.dims} wide, of student and teacher, but they are "
                f"{dims}: make a new {self.method_name} for each pair of networks"
            )


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
        self.needs_index = any(part.needs_index for part in parts)
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

    def adapt_student(self, student: Extractor, teacher: Extractor) -> None:
        """Has all methods change the student's network, one after the other."""
        for part in self.parts:
            part.adapt_student(student, teacher)

    def build(self, student: Spec, teacher: Spec) -> None:
        """Makes the layers of all methods."""
        for part in self.parts:
            part.build(student, teacher)

    def set_epoch(self, epoch: int) -> None:
        """Hands the epoch to all methods."""
        for part in self.parts:
            part.set_epoch(epoch)

    def set_index(self, index: Tensor) -> None:
        """Hands the places of the images to all methods."""
        for part in self.parts:
            part.set_index(index)

    def forward(self, student: Output, teacher: Output, label: Tensor) -> dict[str, Tensor]:
        """Computes the terms of all methods; see `Distiller`."""
        terms: dict[str, Tensor] = {}
        for distiller in self.distillers:
            for name, term in distiller(student, teacher, label).items():
                if name in terms or name in _TMKD_TERMS:
                    raise ValueError(f"two loss terms are named {name!r}: give one of them another name=")
                terms[name] = term
        return terms
