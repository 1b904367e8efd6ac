"""With which channel means and deviations a network was trained, where it says so itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn

from tmkd_lightning.utils.images import IMAGENET_MEAN, IMAGENET_STD

Triple = tuple[float, ...]


class Statistics(NamedTuple):
    """What images are normalised with, and who says so.

    Args:
        mean: of each channel, on [0, 1].
        std: of each channel, on [0, 1].
        source: for messages.
    """

    mean: Triple
    std: Triple
    source: str


def stated_statistics(network: nn.Module) -> Statistics:
    """Reads the statistics off a network, also where it is wrapped or compiled; ImageNet's if it says nothing.

    timm's networks and `Pretrained` have a ``pretrained_cfg``; open_clip's image towers, and networks whose weights
    were read from a file that says it, ``image_mean`` and ``image_std``. torchvision's own networks say nothing.

    Args:
        network: any module.

    Returns:
        The statistics.

    Raises:
        ValueError: parts of the network, side by side, say different things.

    Example:
        >>> stated_statistics(nn.Linear(1, 1)).source
        "ImageNet's, as the network says nothing"
    """
    found: dict[tuple[Triple, Triple], str] = {}
    outer: list[str] = []  # of those that have spoken; what lies within is theirs to feed
    for name, module in network.named_modules():
        inside = any(not above or name.startswith(f"{above}.") for above in outer)
        if not inside and (stated := _stated(module)) is not None:
            outer.append(name)
            found.setdefault(stated, f"{name or type(module).__name__} says so")
    if len(found) > 1:
        told = "; ".join(f"{mean} and {std} ({who})" for (mean, std), who in found.items())
        raise ValueError(
            f"parts of {type(network).__name__} were trained with different mean and std, {told}: have each normalise "
            "its own images, and pass Extractor(network, mean=..., std=...) with what is left to do"
        )
    for (mean, std), source in found.items():
        return Statistics(mean, std, source)
    return Statistics(IMAGENET_MEAN, IMAGENET_STD, "ImageNet's, as the network says nothing")


def state_statistics(network: nn.Module, mean: Triple, std: Triple) -> None:
    """Has a network say with what it was trained, unless it says so already.

    Args:
        network: whose weights were read from a file.
        mean: of each channel, on [0, 1], as the file has it.
        std: of each channel, on [0, 1].

    Example:
        >>> network = nn.Linear(1, 1)
        >>> state_statistics(network, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
        >>> stated_statistics(network).mean
        (0.5, 0.5, 0.5)
    """
    known = stated_statistics(network)
    said = (*known.mean, *known.std)
    if not all(math.isclose(one, other, abs_tol=1e-6) for one, other in zip(said, (*mean, *std), strict=True)):
        network.image_mean, network.image_std = mean, std  # type: ignore[assignment]


def _stated(module: nn.Module) -> tuple[Triple, Triple] | None:
    config: Any = getattr(module, "pretrained_cfg", None)  # foreign networks: most have none
    pair = getattr(module, "image_mean", None), getattr(module, "image_std", None)
    if pair == (None, None) and isinstance(config, Mapping):
        pair = config.get("mean"), config.get("std")
    triples = [tuple(map(float, part)) for part in pair if isinstance(part, (tuple, list)) and len(part) == 3]
    return (triples[0], triples[1]) if len(triples) == 2 else None
