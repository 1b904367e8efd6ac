"""A frozen teacher whose weights are split over the processes that train, by torch's FSDP2."""

from collections.abc import Iterator

import torch
import torch.distributed
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import nn

from tmkd_lightning.feature_extraction.ensemble import Ensemble
from tmkd_lightning.feature_extraction.extractor import Extractor

_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)
_LARGE = 1 / 8  # share of a network's weights above which a block is split into those within it


def check_torch() -> None:
    """Raises a RuntimeError if torch cannot split some of a network's weights and leave the others."""
    if torch.__version__ < "2.7":
        raise RuntimeError(
            f"teacher_sharded=True needs torch 2.7 or newer, and this is {torch.__version__}: install a newer one, or "
            "leave the argument out"
        )


def shard(extractor: Extractor, device: torch.device) -> None:
    """Splits the weights of a network's blocks over all processes, which gather one block at a time in each forward.

    A block is a child of a ``ModuleList``, ``ModuleDict`` or ``Sequential``, the outermost there is, as the layers of a
    vision transformer and the blocks of a ResNet; one that holds over an eighth of the weights is split into the blocks
    within it and what is left of it. What is outside of blocks, the head, biases and norms stay whole everywhere.

    Every process calls this at the same time, has the same weights, and from then on runs the network as often as the
    others do: a process that waits for a block waits for all.

    Args:
        extractor: the network, on any device.
        device: of this process; the blocks are put there, one after the other.

    Raises:
        ValueError: the network has no blocks, or is compiled.

    Source: Zhao et al. 2023 (FSDP); the rule for blocks is our choice.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    if isinstance(extractor, Ensemble):
        for member in extractor.members:
            shard(member, device)
        return
    if extractor.compiled:
        raise ValueError(
            f"teacher_sharded=True does not go with compiled networks: pass teacher {extractor.name} as it was before"
        )
    network, head = extractor.network, None if extractor.head_name is None else extractor.head
    name, total = extractor.name, sum(each.numel() for each in network.parameters())
    found = list(blocks(network, head, int(total * _LARGE)))
    kept = {each for each in network.parameters() if each.ndim < 2 or each.dtype != extractor.weight_dtype}
    split = {each for block in found for each in block.parameters() if each not in kept}
    if not split:
        raise ValueError(
            f"teacher_sharded=True splits the blocks of a network, the children of its ModuleLists and Sequentials, "
            f"but teacher {name} has none with weights: leave the argument out"
        )
    share = sum(each.numel() for each in split) / total
    network.to(memory_format=torch.contiguous_format)  # the only one that is split
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for block in found:
        fully_shard(block, mesh=mesh, reshard_after_forward=True, ignored_params=kept)
    outside = {each for each in network.parameters() if not isinstance(each, DTensor)}
    fully_shard(network, mesh=mesh, ignored_params=outside)  # which lets one block be gathered while another computes
    message = (
        f"Teacher {name}: {share:.0%} of its {total:,} weights, in {len(found)} blocks, are split over {mesh.size()} "
        "processes"
    )
    if share > 0.5:
        rank_zero_info(message)
    else:
        rank_zero_warn(f"{message}; the others are whole in each of them")


def blocks(module: nn.Module, head: nn.Module | None, large: int) -> Iterator[nn.Module]:
    """Children of the outermost containers without the head; of those with over `large` weights first what is within.

    Example:
        >>> network = nn.Sequential(nn.Sequential(nn.Linear(2, 8), nn.ReLU()), nn.Linear(8, 3))
        >>> list(blocks(network, network[1], large=100))
        [Linear(in_features=2, out_features=8, bias=True)]
    """
    for child in module.children():
        weights = sum(each.numel() for each in child.parameters())
        is_block = isinstance(module, _CONTAINERS) and not isinstance(child, _CONTAINERS) and weights > 0
        is_block = is_block and all(part is not head for part in child.modules())
        if not is_block or weights > large:
            yield from blocks(child, head, large)
        if is_block:
            yield child
