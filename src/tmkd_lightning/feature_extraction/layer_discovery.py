"""One look inside a network: which layers give its output, and which maps average to a layer's input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


class Probe:
    """What one forward pass showed, keyed by the layers' dotted names.

    Attributes:
        output: what the network returned.
        heads: input of each linear layer whose output is the network's output.
    """

    def __init__(self) -> None:
        self.output: object = None
        self.heads: dict[str, Tensor] = {}
        self._linear: list[tuple[str, Tensor, Tensor]] = []
        self._given: dict[str, tuple[Tensor | None, int]] = {}
        self._area = 0  # pixels of the last map, before it was pooled
        self._pooled: list[tuple[str, Tensor | None, Tensor]] = []
        self._fresh: list[tuple[int, Tensor]] = []  # how many maps there were, and what an untrained norm passed on

    def maps(self, head: str) -> list[str]:
        """Layers whose output averages to the head's input, in order of calls.

        A layer that only passes such a map on or pools it (its input averages to the same), or that works on single
        pixels behind the pooling, is not counted. Nor is a map that goes through an untrained norm, which only seems to
        pass it on: in training it will not.
        """
        embedding = self.heads[head]
        first = max((count for count, passed in self._fresh if _same(passed, embedding)), default=0)
        return [
            name
            for name, before, after in self._pooled[first:]
            if _same(after, embedding) and not (before is not None and _same(before, embedding))
        ]

    # Maps are averaged on the spot: a later layer may change them in place.

    def _before(self, name: str, module: nn.Module, args: tuple[object, ...]) -> None:
        given = args[0] if args else None
        self._given[name] = (_pool(given), _area(given))

    def _after(self, name: str, module: nn.Module, args: tuple[object, ...], output: object) -> None:
        if isinstance(module, nn.Linear) and isinstance(output, Tensor) and args and isinstance(args[0], Tensor):
            self._linear.append((name, args[0], output))
        after, area = _pool(output), _area(output)
        before, area_before = self._given[name]
        if isinstance(module, _NormBase) and isinstance(output, Tensor) and args and isinstance(args[0], Tensor):
            given = args[0] if before is None else before
            if _same(given, output if after is None else after):
                self._fresh.append((len(self._pooled), given))
            before = None  # what a norm gives is its own
        if after is None or (area == 1 and area_before <= 1 < self._area):
            return  # no map, or behind a pooling: the last map had more than this one pixel
        self._pooled.append((name, before, after))
        if not (area == 1 < area_before and before is not None and _same(before, after)):  # unless this is the pooling
            self._area = area

    def _finish(self, output: object) -> None:
        self.output = output
        if isinstance(output, Tensor):
            self.heads = {name: given for name, given, result in self._linear if _same(result, output)}


@torch.no_grad()
def probe(network: nn.Module, image: Tensor) -> Probe:
    """Runs a network once in evaluation mode and leaves it as it was.

    Args:
        network: any module that takes the images.
        image: ``(B, 3, H, W)`` as the network expects it.

    Returns:
        What was seen.

    Example:
        >>> seen = probe(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.rand(1, 3, 2, 2))
        >>> list(seen.heads)
        ['1']
    """
    seen = Probe()
    device = image.device
    with ExitStack() as stack:
        for name, module in network.named_modules():
            if name and not isinstance(module, torch.jit.ScriptModule):  # which take no hooks
                stack.callback(module.register_forward_pre_hook(partial(seen._before, name)).remove)
                stack.callback(module.register_forward_hook(partial(seen._after, name)).remove)
        stack.enter_context(_evaluating(network))
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        stack.enter_context(torch.autocast(device.type, enabled=False))
        stack.enter_context(torch.compiler.set_stance("force_eager"))  # code that is compiled need not call these hooks
        seen._finish(network(image))
    return seen


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _pool(value: object) -> Tensor | None:
    return value.mean((2, 3)) if isinstance(value, Tensor) and value.ndim == 4 else None


def _area(value: object) -> int:
    return value.shape[2] * value.shape[3] if isinstance(value, Tensor) and value.ndim == 4 else 0


def _same(one: Tensor, other: Tensor) -> bool:
    """Equal up to rounding; relative to the largest value, since a sum of many rounds by the size of its parts."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    tolerance = 1e-4 if one.dtype in (torch.float32, torch.float64) else 2e-2
    return bool((one - other).abs().max() <= tolerance * other.abs().max())
