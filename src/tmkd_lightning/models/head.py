"""The head of a classifier, where it was made for another number of classes than some weights."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from tmkd_lightning.feature_extraction.extractor import last_linear


def head_to_keep(network: nn.Module, tensors: Mapping[str, Tensor], name: str | None = None) -> dict[str, Tensor]:
    """Finds the network's own head, if the given one differs in nothing but its number of classes.

    Args:
        network: any classifier.
        tensors: weights that shall go into it, by their names in its state dict.
        name: dotted name of the head, by default the last linear layer.

    Returns:
        Weight and bias to keep, by name; none if the given head fits, or differs in more than its rows.

    Example:
        >>> network = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
        >>> of_five_classes = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 5)).state_dict()
        >>> list(head_to_keep(network, of_five_classes))
        ['1.weight', '1.bias']
    """
    own = network.state_dict()
    head = {key: own[key] for key in head_keys(network, name)}
    if len(head) == len(own) or not head.keys() <= tensors.keys():
        return {}
    rows = {(tensors[key].shape[:1], value.shape[:1]) for key, value in head.items()}
    same_width = all(tensors[key].shape[1:] == value.shape[1:] for key, value in head.items())
    differs = same_width and len(rows) == 1 and all(given != kept for given, kept in rows)
    return head if differs else {}


def head_keys(network: nn.Module, name: str | None = None) -> list[str]:
    """Names the tensors of a classifier's head, its last linear layer, as they stand in its state dict.

    Args:
        network: any classifier.
        name: dotted name of the head, by default the last linear layer.

    Returns:
        Keys of weight and bias; none if there is no linear layer.

    Example:
        >>> head_keys(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
        ['2.weight', '2.bias']
    """
    name = last_linear(network) if name is None else name
    if name is None:
        return []
    parameters = {id(parameter) for parameter in network.get_submodule(name).parameters()}
    return [key for key, value in network.state_dict(keep_vars=True).items() if id(value) in parameters]
