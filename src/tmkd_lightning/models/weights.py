"""Weights from files, read without running what is in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from tmkd_lightning.extract import Extractor
from tmkd_lightning.keys import differences
from tmkd_lightning.models.head import head_to_keep
from tmkd_lightning.safe_files import read_checkpoint


def load_weights(network: nn.Module | Extractor, path: str | Path, *, replace_head: bool = True) -> None:
    """Loads a network's weights from a checkpoint of ours, any Lightning checkpoint, or a plain state dict.

    In a checkpoint with more in it, the network is found by its keys, whatever stands before them. Weights for another
    number of classes are loaded but for the head (an Extractor's, else the last linear layer), which stays as it is; a
    warning says so.

    Args:
        network: where the weights go, or an Extractor around it; unchanged if they do not fit.
        path: file that ``torch.save`` wrote.
        replace_head: whether a head for another number of classes may be left out; if not, it is an error.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a safe checkpoint, or of another architecture; the message names the keys.

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
    wanted = network.state_dict()
    found = _strip(_tensors(read_checkpoint(path), path), wanted, path)
    kept = head_to_keep(network, found, None if extractor is None else extractor.head_name) if replace_head else {}
    fitting = {**found, **kept}
    problems = differences(fitting, wanted)
    if problems:
        raise ValueError(f"{path} does not fit {type(network).__name__}: " + "; ".join(problems))
    network.load_state_dict({key: fitting[key] for key in wanted})
    if kept:
        key = next(iter(kept))
        rank_zero_warn(
            f"{path} has {len(found[key])} classes and {type(network).__name__} {len(kept[key])}: all was loaded but "
            f"the head {key.rpartition('.')[0]!r}, which stays as it is"
        )


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    named = content.items() if isinstance(content, Mapping) else ()
    tensors = {key: value for key, value in named if isinstance(key, str) and isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{path} holds no tensors by name: neither a state dict nor a checkpoint with one")
    return tensors


def _strip(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Picks the tensors under the prefix that covers most of the wanted keys, a teacher's last, and removes it."""
    prefixes = {key[: -len(name)] for key in tensors for name in wanted if key.endswith(name)}
    prefixes = {prefix for prefix in prefixes if not prefix or prefix.endswith(".")}
    covered = {prefix: sum(prefix + name in tensors for name in wanted) for prefix in sorted(prefixes | {""})}
    best = max(covered, key=lambda prefix: (covered[prefix], "teacher" not in prefix))
    rivals = [prefix for prefix in covered if covered[prefix] == len(wanted) and "teacher" not in prefix]
    if len(rivals) > 1:
        raise ValueError(f"{path} holds several networks that fit, under {rivals}: save the one that is meant alone")
    found = {key.removeprefix(best): value for key, value in tensors.items() if key.startswith(best)}
    if best or not wanted.keys() <= found.keys():
        return found
    own = {name.split(".")[0] for name in wanted}  # without a prefix, other parts may stand beside the network's
    return {key: value for key, value in found.items() if key.split(".")[0] in own}
