"""A network, and what its classes are called."""

from __future__ import annotations

from collections.abc import Sequence

from tmkd_lightning.extract import Extractor
from tmkd_lightning.modules.base import ClassificationModule
from tmkd_lightning.prompts import check_class_names, fitting_class_names, names_or_numbers


def named_network(
    network: ClassificationModule | Extractor, class_names: Sequence[str] | None
) -> tuple[Extractor, list[str]]:
    """Finds the network of a module, and names for its classes.

    Args:
        network: a TMKDModule, whose student is meant, a ClassifierModule, or an Extractor.
        class_names: names in the order of the labels; None for those that the module, its datamodule or the checkpoint
            it came from knows, or else the numbers of the classes.

    Returns:
        The network with its normalisation, and the names.

    Raises:
        TypeError: neither a module of this library nor an Extractor.
        ValueError: the names cannot stand for the classes.

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
    if class_names is None and isinstance(network, ClassificationModule):
        class_names = fitting_class_names(network)
    names = names_or_numbers(class_names, extractor.num_classes)
    return extractor, check_class_names(names, extractor.num_classes)
