"""The batches of all processes as one, with gradients, and what processes agree on."""

from typing import Any

import torch
import torch.distributed
from torch import Tensor
from torch.autograd.function import once_differentiable


def world_size() -> int:
    """Number of processes that train together; 1 without torch.distributed."""
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if ready else 1


def largest(count: int) -> int:
    """The largest of the numbers that all processes call this with."""
    if world_size() == 1:
        return count
    value = torch.tensor(count)
    torch.distributed.all_reduce(value, torch.distributed.ReduceOp.MAX, group=_host_group())
    return int(value)


def gather_batches(*parts: Tensor) -> tuple[Tensor, ...]:
    """Concatenates the batches of all processes, in the order of the processes; returns a single process's as they are.

    A loss of gathered batches has one value in all processes, that of a single process with the whole batch. Gradients
    flow into the process's own samples, and averaged over the processes, as DDP does, they are those of that loss.

    Args:
        parts: tensors ``(B, ...)``, such as embeddings of student and teacher. Each has the same shape in all
            processes, and is gathered in its own dtype.

    Returns:
        Each part of all N processes, ``(N·B, ...)``.

    Raises:
        ValueError: where the shapes differ between processes, in all of them.

    Source: our choice; no method's paper has more than one process.

    Example:
        >>> gather_batches(torch.ones(2, 3))[0].shape
        torch.Size([2, 3])
    """
    if world_size() == 1:
        return parts
    _check_shapes(*parts)
    return tuple(_Gather.apply(part) for part in parts)


def _check_shapes(*parts: Tensor) -> None:
    """Refuses batches that differ between processes, which a collective would wait for or mix up."""
    own = torch.tensor([side for part in parts for side in part.shape])
    shapes = [torch.empty_like(own) for _ in range(world_size())]
    torch.distributed.all_gather(shapes, own, group=_host_group())
    if any(not shape.equal(own) for shape in shapes):
        sizes = [int(shape[0]) for shape in shapes]
        raise ValueError(
            f"the batches of all processes are gathered, but differ in shape (they hold {sizes} images): give each "
            "process batches of one size, with drop_last=True or a DistributedSampler"
        )


def _host_group() -> Any:
    """A group of all processes that connects the hosts, so that none waits for its device."""
    global _group
    default = torch.distributed.group.WORLD
    if torch.distributed.get_backend() == "gloo":
        return default
    if _group is None or _group[0] is not default:
        _group = default, torch.distributed.new_group(backend="gloo")
    return _group[1]


_group: tuple[Any, Any] | None = None  # the default group, which may be replaced, and the one of the hosts


class _Gather(torch.autograd.Function):
    """All processes' samples; the gradient of the process's own ones, times the number of processes."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        ctx.batch = len(own)
        parts = [torch.empty_like(own, memory_format=torch.contiguous_format) for _ in range(world_size())]
        torch.distributed.all_gather(parts, own.contiguous())
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # Every process computes the whole loss, but hands on the gradient of its own samples alone: these add up to
        # the whole gradient, and DDP takes their mean, a world_size-th of it. The factor belongs here and not to the
        # loss, whose gradient for parameters behind the gathering is whole in each process, and so is their mean.
        start = torch.distributed.get_rank() * ctx.batch
        return world_size() * gradient[start : start + ctx.batch]
