"""What a distillation method is, and the sum of several."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import cast, get_args

from torch import Tensor, nn

from tmkd_lightning.feature_extraction.output import Output, Part


class Distiller(nn.Module, ABC):
    """Compares what a student and a teacher say of one batch.

    A method of your own is one subclass: implement `forward`, and name in `reads` what you use besides the logits, so
    that a network that lacks it is refused before training.

    Attributes:
        reads: parts of the outputs that the method uses besides the logits.
        is_logit_term: whether the method matches the logits itself, and so stands in for TMKD's own logit loss.
        map_size: side in pixels to which the method pools maps before anything else, None where it reads them whole.
        min_batch: fewest images in a batch that the method can say something of; 2 where it compares them.

    Example:
        >>> from torch.nn import functional as F
        >>> class Match(Distiller):
        ...     def forward(self, student, teacher, label):
        ...         return {"match": F.mse_loss(student.logits, teacher.logits)}
    """

    reads: frozenset[Part] = frozenset()
    is_logit_term: bool = False
    map_size: int | None = None
    min_batch: int = 1

    @abstractmethod
    def forward(self, student: Output, teacher: Output, label: Tensor) -> dict[str, Tensor]:
        """Computes the method's loss terms.

        Args:
            student: of B images; its gradients train the student.
            teacher: of the same images, fused over the views where there are several.
            label: ``(B,)``, in 0..K-1.

        Returns:
            Weighted scalar terms by the name they are logged under.
        """


class Sum(Distiller):
    """Several methods at once: their terms are put together.

    Args:
        distillers: the methods.

    Raises:
        TypeError: an argument is not a Distiller.
        ValueError: one names in `reads` what is no part of an Output.

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
        for distiller in distillers:
            if not isinstance(distiller, Distiller):
                raise TypeError(f"Sum takes Distillers, got {type(distiller).__name__}")
        parts = [part for distiller in distillers for part in _parts(distiller)]
        for part in parts:
            _check_reads(part)
        self.distillers = nn.ModuleList(parts)
        self.reads = frozenset[Part]().union(*(part.reads for part in parts))
        self.is_logit_term = any(part.is_logit_term for part in parts)
        sizes = {part.map_size for part in parts if "feature_map" in part.reads}
        self.map_size = sizes.pop() if len(sizes) == 1 else None
        self.min_batch = max((part.min_batch for part in parts), default=1)

    @property
    def parts(self) -> list[Distiller]:
        """The methods, in order; a sum among them is taken apart."""
        return cast(list[Distiller], list(self.distillers))

    def forward(self, student: Output, teacher: Output, label: Tensor) -> dict[str, Tensor]:
        """Computes all terms.

        Raises:
            ValueError: two methods return a term of one name.
        """
        return join(*(distiller(student, teacher, label) for distiller in self.parts))


def _parts(distiller: Distiller) -> list[Distiller]:
    return distiller.parts if isinstance(distiller, Sum) else [distiller]


def _check_reads(distiller: Distiller) -> None:
    """Refuses a misspelt part, which would be checked on no network and kept by none."""
    for name in sorted(set(distiller.reads) - set(get_args(Part))):
        raise ValueError(
            f"{type(distiller).__name__} names {name!r} in reads, which is no part of an Output: choose from "
            f"{list(get_args(Part))}"
        )


def join(*groups: dict[str, Tensor]) -> dict[str, Tensor]:
    """Puts named loss terms together.

    Args:
        groups: terms by name.

    Returns:
        All terms by name, in order.

    Raises:
        ValueError: two terms have one name.

    Example:
        >>> import torch
        >>> sorted(join({"ce": torch.ones(())}, {"kd": torch.ones(())}))
        ['ce', 'kd']
    """
    joined: dict[str, Tensor] = {}
    for group in groups:
        twice = sorted(joined.keys() & group.keys())
        if twice:
            raise ValueError(f"two loss terms are named {twice[0]!r}: give one of them another name=")
        joined |= group
    return joined
