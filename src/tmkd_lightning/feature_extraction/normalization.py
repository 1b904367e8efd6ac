"""Reads off a network with which channel means and deviations it was trained."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from tmkd_lightning.utils.images import IMAGENET_MEAN, IMAGENET_STD

Triple = tuple[float, ...]
GIVEN = "as given"  # source of statistics that a user passed


def stated_statistics(network: nn.Module) -> tuple[Triple, Triple, str]:
    """Mean and std on [0, 1] that a network was trained with, and their source; ImageNet's if it states none."""
    found = _statements(network, "")
    if len(found) > 1:
        listed = "; ".join(f"{mean} and {std} ({source})" for (mean, std), source in found.items())
        raise ValueError(
            f"parts of {type(network).__name__} were trained with different mean and std, {listed}: have each "
            "normalise its own images, and pass Extractor(network, mean=..., std=...) with what is left to do"
        )
    for (mean, std), source in found.items():
        return mean, std, source
    return IMAGENET_MEAN, IMAGENET_STD, "ImageNet's, as the network states none"


def _statements(module: nn.Module, name: str) -> dict[tuple[Triple, Triple], str]:
    """Sources by the statistics that a module states, else its parts: it feeds what lies within."""
    config: Any = getattr(module, "pretrained_cfg", None)  # timm's and `Pretrained`
    pair = getattr(module, "image_mean", None), getattr(module, "image_std", None)  # open_clip's, and by load_weights
    if pair == (None, None) and isinstance(config, Mapping):
        pair = config.get("mean"), config.get("std")
    triples = [tuple(map(float, part)) for part in pair if isinstance(part, (tuple, list)) and len(part) == 3]
    if len(triples) == 2:
        return {(triples[0], triples[1]): f"from {name or type(module).__name__}"}
    found: dict[tuple[Triple, Triple], str] = {}
    for child, part in module.named_children():
        for stated, source in _statements(part, f"{name}.{child}".strip(".")).items():
            found.setdefault(stated, source)
    return found
