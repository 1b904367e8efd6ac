"""A network, and what its classes are called."""

from __future__ import annotations

from collections.abc import Sequence

from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.modules.base import ClassificationModule
from tmkd_lightning.text.class_names import (
    check_same_classes,
    find_class_names,
    given_classes,
    learned_classes,
    resolve_class_names,
)


def named_network(
    network: ClassificationModule | Extractor, class_names: Sequence[str] | None
) -> tuple[Extractor, list[str]]:
    """Finds the network of a module, and names for its classes.

    Args:
        network: a TMKDModule, whose student is meant, a ClassifierModule, or an Extractor.
        class_names: names in the order of the labels; None for those that the module, its datamodule or the checkpoint
            it came from knows, or else the numbers of the classes. Others rename the classes, and do not reorder them.

    Returns:
        The network with its normalisation, and the names.

    Raises:
        TypeError: neither a module of this library nor an Extractor.
        ValueError: the names cannot stand for the classes, or are the known ones in another order.

    Example:
        >>> from torchvision.models import resnet18
        >>> named_network(Extractor(resnet18(num_classes=2)), None)[1]
        ['0', '1']
    """
    extractor = network.extractor if isinstance(network, ClassificationModule) else network
    if not isinstance(extractor, Extractor):
        raise TypeError(
            f"expected a TMKDModule, a ClassifierModule or an Extractor, got {type(network).__name__}: wrap a bare "
            "network as Extractor(network), with the mean and std that it expects"
        )
    known = _known(network) if isinstance(network, ClassificationModule) else None
    return extractor, resolve_class_names(extractor.num_classes, class_names, known, "the module")


def _known(module: ClassificationModule) -> Sequence[str] | None:
    """What a module calls its classes: its argument, then what it has learned, and only then the last data it saw."""
    learned, given = learned_classes(module), given_classes(module)
    check_same_classes(learned, given, None)
    return next((one.names for one in (given, *learned) if one is not None), find_class_names(module))
