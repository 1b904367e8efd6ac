"""Weights from files, read without running what is in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from tmkd_lightning.feature_extraction.extractor import GIVEN, Extractor
from tmkd_lightning.feature_extraction.normalization import Triple, state_statistics
from tmkd_lightning.models.head import head_to_keep
from tmkd_lightning.models.networks_in import find_network
from tmkd_lightning.utils.checkpoint_reading import read_checkpoint, read_metadata
from tmkd_lightning.utils.state_dict import describe_mismatch, uncompiled
from tmkd_lightning.utils.validation import is_number


def load_weights(
    network: nn.Module | Extractor, path: str | Path, *, replace_head: bool = True, key: str | None = None
) -> None:
    """Loads a network's weights from a checkpoint of ours, any Lightning checkpoint, or a plain state dict.

    In a checkpoint with more in it, the network is found by its keys, whatever stands before them. Of several that fit,
    such as the raw weights and their average, `key` must say which is meant. Weights for another number of classes are
    loaded but for the head (an Extractor's, else the last linear layer), which stays as it is; a warning says so.

    If a file of ours says with which mean and std the network was trained, the network says so from then on: an
    Extractor around it that was not told otherwise normalises with them.

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
    path = Path(path).expanduser()
    extractor = network if isinstance(network, Extractor) else None
    network = network if extractor is None else extractor.network
    own = {uncompiled(name): name for name in network.state_dict()}  # one that is compiled has longer names
    wanted = {uncompiled(name): value for name, value in network.state_dict(keep_vars=True).items()}
    content = read_checkpoint(path)
    found = find_network(content, wanted, path, key)
    found = {own.get(name, name): value for name, value in found.items()}
    kept = head_to_keep(network, found, None if extractor is None else extractor.head_name) if replace_head else {}
    fitting = {**found, **kept}
    problems = describe_mismatch(fitting, network.state_dict())
    if problems:
        raise ValueError(f"{path} does not fit {type(network).__name__}: " + "; ".join(problems))
    network.load_state_dict({name: fitting[name] for name in own.values()})
    statistics = stated_by_file(path, content)
    if statistics is not None and extractor is not None:
        use_statistics(extractor, statistics, path)
    elif statistics is not None:
        state_statistics(network, *statistics)
    if kept:
        name = next(iter(kept))
        rank_zero_warn(
            f"{path} has {len(found[name])} classes and {type(network).__name__} {len(kept[name])}: all was loaded but "
            f"the head {name.rpartition('.')[0]!r}, which stays as it is"
        )


def stated_by_file(path: str | Path, content: Any = None) -> tuple[Triple, Triple] | None:
    """Mean and std that a checkpoint or an export of ours names; None where it names none.

    Args:
        path: of the file.
        content: what is in it, if it has been read.

    Raises:
        ValueError: it cannot be read safely.
    """
    path = Path(path).expanduser()
    if path.suffix == ".safetensors":
        metadata = read_metadata(path)
        named: list[Any] = [metadata.get(name) for name in ("mean", "std")]
    else:
        content = read_checkpoint(path, tensors=False) if content is None else content
        state = content.get("state_dict") if isinstance(content, Mapping) else None
        found = [state.get(f"extractor.{name}") if isinstance(state, Mapping) else None for name in ("mean", "std")]
        named = [part.flatten().tolist() if isinstance(part, Tensor) else None for part in found]
    if not all(isinstance(part, list) and len(part) == 3 and all(map(is_number, part)) for part in named):
        return None
    mean, std = (tuple(float(f"{value:.7g}") for value in part) for part in named)  # as it was written before float32
    return mean, std


def use_statistics(extractor: Extractor, statistics: tuple[Triple, Triple], path: str | Path) -> None:
    """Normalises as the network of a file was trained, or says that the Extractor was told otherwise."""
    said = f"{path} was trained on images normalised with mean {statistics[0]} and std {statistics[1]}"
    if extractor.has_statistics(*statistics):
        return
    if extractor.statistics_source == GIVEN:
        rank_zero_warn(f"{said}, but the Extractor of {extractor.name} was given others: are they right?")
        return
    extractor.set_statistics(*statistics, source="its checkpoint says so")
    rank_zero_info(f"{said}, and so are those of {extractor.name} from now on")
