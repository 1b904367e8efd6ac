"""Weights from files, read without running what is in them."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from tmkd_lightning.extract import Extractor
from tmkd_lightning.keys import differences, uncompiled
from tmkd_lightning.models.head import head_to_keep
from tmkd_lightning.models.networks_in import find_network
from tmkd_lightning.safe_files import read_checkpoint


def load_weights(
    network: nn.Module | Extractor, path: str | Path, *, replace_head: bool = True, key: str | None = None
) -> None:
    """Loads a network's weights from a checkpoint of ours, any Lightning checkpoint, or a plain state dict.

    In a checkpoint with more in it, the network is found by its keys, whatever stands before them. Of several that fit,
    such as the raw weights and their average, `key` must say which is meant. Weights for another number of classes are
    loaded but for the head (an Extractor's, else the last linear layer), which stays as it is; a warning says so.

    Args:
        network: where the weights go, or an Extractor around it; unchanged if they do not fit.
        path: file that ``torch.save`` wrote, or a ``.safetensors`` file.
        replace_head: whether a head for another number of classes may be left out; if not, it is an error.
        key: part of the file that is meant, such as ``state_dict_ema``; parts within parts are joined by dots.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a safe checkpoint, of another architecture, or with several networks that fit and no `key`; the
            message names the keys.

    Example:
        >>> import torch
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "weights.pt"
        >>> torch.save({"state_dict": {"model.weight": torch.ones(1, 2), "model.bias": torch.ones(1)}}, path)
        >>> network = nn.Linear(2, 1)
        >>> load_weights(network, path)
        >>> network.weight.tolist()
        [[1.0, 1.0]]
    """
    path = Path(path)
    extractor = network if isinstance(network, Extractor) else None
    network = network if extractor is None else extractor.network
    own = {uncompiled(name): name for name in network.state_dict()}  # one that is compiled has longer names
    wanted = {uncompiled(name): value for name, value in network.state_dict(keep_vars=True).items()}
    found = find_network(read_checkpoint(path), wanted, path, key)
    found = {own.get(name, name): value for name, value in found.items()}
    kept = head_to_keep(network, found, None if extractor is None else extractor.head_name) if replace_head else {}
    fitting = {**found, **kept}
    problems = differences(fitting, network.state_dict())
    if problems:
        raise ValueError(f"{path} does not fit {type(network).__name__}: " + "; ".join(problems))
    network.load_state_dict({name: fitting[name] for name in own.values()})
    if kept:
        name = next(iter(kept))
        rank_zero_warn(
            f"{path} has {len(found[name])} classes and {type(network).__name__} {len(kept[name])}: all was loaded but "
            f"the head {name.rpartition('.')[0]!r}, which stays as it is"
        )
