"""Stratified split into training and validation."""

from collections.abc import Sequence

import torch

from tmkd_lightning.data.errors import DataError


def stratified_split(
    labels: Sequence[int], fraction: float, seed: int, names: Sequence[str] = ()
) -> tuple[list[int], list[int]]:
    """Splits indices so that the same part of every class is held out, at least one sample.

    Args:
        labels: class of each sample; each has at least two.
        fraction: part of each class to hold out, above 0 and below 1.
        seed: of the draw; one seed gives one split.
        names: of the classes, for error messages.

    Returns:
        Remaining and held-out indices, each in ascending order.

    Example:
        >>> labels = [0, 0, 0, 0, 1, 1]
        >>> remaining, held_out = stratified_split(labels, fraction=0.25, seed=0)
        >>> len(remaining), sorted(labels[index] for index in held_out)
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
            raise DataError(f"class {name} has one image: it cannot be split into training and validation; add images")
        count = min(max(1, round(len(members) * fraction)), len(members) - 1)
        held_out += members[torch.randperm(len(members), generator=generator)[:count]].tolist()
    remaining = set(range(len(labels))) - set(held_out)
    return sorted(remaining), sorted(held_out)


def check_fraction(fraction: float, name: str = "val_fraction") -> None:
    """Raises ValueError for a fraction that holds out nothing or everything."""
    if not 0 < fraction < 1:
        raise ValueError(f"{name} must be above 0 and below 1, got {fraction}")
