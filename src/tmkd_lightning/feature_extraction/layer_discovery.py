"""Finds, in one forward pass, which linear layers give a network's output and which maps average to their input."""

from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from tmkd_lightning.feature_extraction.spec import MapShape

CUSTOMARY_SIDES = (32, 224, 64, 96, 128, 256, 299, 384, 336, 448, 512, 518)  # of images, in pixels


class Trace(Protocol):
    """Watches the layers of a network in one forward, by their dotted names."""

    def before(self, name: str, module: nn.Module, args: tuple[object, ...]) -> None:
        """Is called before each layer."""

    def after(self, name: str, module: nn.Module, args: tuple[object, ...], output: object) -> None:
        """Is called behind each layer."""

    def finish(self, output: object) -> None:
        """Is called with the network's output."""


class LayerTrace:
    """What passed through the layers of a network in one forward, by their dotted names."""

    def __init__(self) -> None:
        self.output: object = None  # what the network returned
        self.heads: dict[str, Tensor] = {}  # input of each linear layer whose output is the network's output
        self.shapes: dict[str, MapShape] = {}  # of the maps that layers give
        self._linear: list[tuple[str, Tensor, Tensor]] = []
        self._inputs: dict[str, tuple[Tensor | None, int]] = {}
        self._last_area = 0  # pixels of the last map, before it was pooled
        self._pooled: list[tuple[str, Tensor | None, Tensor]] = []
        self._identities: list[tuple[int, Tensor]] = []  # number of maps so far, and input of an untrained norm

    def maps(self, head: str) -> list[str]:
        """Layers whose output averages to the head's input, in order of calls, without those that only pass it on."""
        embedding = self.heads[head]
        # a map that goes through an untrained norm, which changes nothing yet but will in training, does not count
        first = max((count for count, passed in self._identities if is_close(passed, embedding)), default=0)
        return [
            name
            for name, before, after in self._pooled[first:]
            if is_close(after, embedding) and not (before is not None and is_close(before, embedding))
        ]

    def before(self, name: str, module: nn.Module, args: tuple[object, ...]) -> None:
        """Notes what a layer is given."""
        self._inputs[name] = spatial_mean(
            args[0] if args else None
        )  # on the spot: a later layer may change maps in place

    def after(self, name: str, module: nn.Module, args: tuple[object, ...], output: object) -> None:
        """Notes what a layer gives."""
        value = args[0] if args else None
        after, area = spatial_mean(output)
        before, area_before = self._inputs[name]
        if isinstance(output, Tensor) and isinstance(value, Tensor):
            if isinstance(module, nn.Linear):
                self._linear.append((name, value, output))
            if isinstance(module, _NormBase):
                given = value if before is None else before
                if is_close(given, output if after is None else after):
                    self._identities.append((len(self._pooled), given))
                before = None  # a norm's output counts as a map of its own
        if isinstance(output, Tensor) and output.ndim == 4:
            self.shapes[name] = output.shape[1], output.shape[2], output.shape[3]
        if after is None or (area == 1 and area_before <= 1 < self._last_area):
            return  # no map, or behind a pooling: the last map had more than this one pixel
        self._pooled.append((name, before, after))
        if not (
            area == 1 < area_before and before is not None and is_close(before, after)
        ):  # unless this is the pooling
            self._last_area = area

    def finish(self, output: object) -> None:
        """Finds the heads by the output of the network."""
        self.output = output
        if isinstance(output, Tensor):
            self.heads = {name: given for name, given, result in self._linear if is_close(result, output)}


def trace_layers(network: nn.Module, image: Tensor) -> LayerTrace:
    """Runs a network once on normalised images ``(B, 3, H, W)``, and leaves it as it was."""
    trace = LayerTrace()
    run_traced(network, image, trace)
    return trace


@torch.no_grad()
def run_traced(network: nn.Module, image: Tensor, trace: Trace) -> None:
    """Has a trace watch the layers of a network in one forward in evaluation mode, and leaves it as it was."""
    device = image.device
    with ExitStack() as stack:
        for name, module in network.named_modules():
            stack.callback(setattr, module, "training", module.training)
            if name and not isinstance(module, torch.jit.ScriptModule):  # which take no hooks
                stack.callback(module.register_forward_pre_hook(partial(trace.before, name)).remove)
                stack.callback(module.register_forward_hook(partial(trace.after, name)).remove)
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        stack.enter_context(torch.autocast(device.type, enabled=False))
        stack.enter_context(torch.compiler.set_stance("force_eager"))  # compiled code need not call these hooks
        network.eval()
        trace.finish(network(image))


def trace_black_image(network: nn.Module, normalize: Callable[[Tensor], Tensor] = Tensor.clone) -> LayerTrace:
    """Traces a black image of the first customary size that the network takes; an empty trace if it takes none."""
    pending = any(getattr(module, "pending", False) is True for module in network.modules())
    weight = next((part for part in network.parameters() if part.is_floating_point()), torch.empty(0))
    for side in () if pending else CUSTOMARY_SIDES:  # a forward would fetch pretrained weights
        with suppress(Exception):  # whatever a network comes to on images of another size than its own
            black = torch.zeros(1, 3, side, side, device=weight.device, dtype=weight.dtype)
            return trace_layers(network, normalize(black))
    return LayerTrace()


def spatial_mean(value: object) -> tuple[Tensor | None, int]:
    """Spatial mean and pixels of a map; None and 0 for other values."""
    if not isinstance(value, Tensor) or value.ndim != 4:
        return None, 0
    return value.mean((2, 3)), value.shape[2] * value.shape[3]


def is_close(one: Tensor, other: Tensor) -> bool:
    """Equal up to rounding; relative to the largest value, since a sum of many rounds by the size of its parts."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    tolerance = 1e-4 if one.dtype in (torch.float32, torch.float64) else 2e-2
    return bool((one - other).abs().max() <= tolerance * other.abs().max())
