"""Holding out a part of every class."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tmkd_lightning.data.errors import DataError


def stratified_split(
    labels: Sequence[int], fraction: float, seed: int, names: Sequence[str] = ()
) -> tuple[list[int], list[int]]:
    """Splits indices so that every class is held out in the same proportion, by at least one sample.

    Args:
        labels: class of each sample.
        fraction: part of each class to hold out, above 0 and below 1.
        seed: of the draw; one seed gives one split.
        names: of the classes, for messages.

    Returns:
        Indices to keep and indices held out, each in ascending order.

    Raises:
        DataError: a class has a single sample, which cannot be on both sides.
        ValueError: a fraction that is not between 0 and 1.

    Example:
        >>> labels = [0, 0, 0, 0, 1, 1]
        >>> kept, held_out = stratified_split(labels, fraction=0.25, seed=0)
        >>> len(kept), sorted(labels[index] for index in held_out)
        (4, [0, 1])
    """
    check_fraction(fraction)
    generator = torch.Generator().manual_seed(seed)
    label_of = torch.tensor(labels)
    held_out: list[int] = []
    for label in sorted(set(labels)):
        members = (label_of == label).nonzero().flatten()
        if len(members) < 2:
            name = repr(names[label]) if names else label
            raise DataError(f"class {name} has one image: it cannot be split into training and validation")
        count = min(max(1, round(len(members) * fraction)), len(members) - 1)
        held_out += members[torch.randperm(len(members), generator=generator)[:count]].tolist()
    chosen = set(held_out)
    return [index for index in range(len(labels)) if index not in chosen], sorted(held_out)


def check_fraction(val_fraction: float) -> None:
    """Refuses to hold out nothing, or everything."""
    if not 0 < val_fraction < 1:
        raise ValueError(f"val_fraction must be above 0 and below 1, got {val_fraction}")
