"""Finds the maps that a network goes through: the last one of each resolution, or the tokens of a ViT's blocks."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn

from tmkd_lightning.feature_extraction.image_size import Size
from tmkd_lightning.feature_extraction.layer_discovery import CUSTOMARY_SIDES, is_close, run_traced, spatial_mean
from tmkd_lightning.feature_extraction.spec import MapShape

_SMALLER = 0.6  # share of the pixels at which a resolution is another one
_MOST_PREFIX_TOKENS = 16  # class token and registers
_QUARTERS = (1, 2, 3, 4)  # of a ViT's depth


class MapLayer(NamedTuple):
    """A layer that gives a map.

    Attributes:
        name: its dotted name.
        shape: channels, height and width of its map of the image that it was found on.
        prefix: number of tokens before those of the patches; None where it gives a map and no tokens.
    """

    name: str
    shape: MapShape
    prefix: int | None = None

    @property
    def area(self) -> int:
        """Pixels of its map."""
        return self.shape[1] * self.shape[2]

    def to_map(self, value: Tensor, image: Tensor) -> Tensor:
        """The layer's output as a map ``(B, C, h, w)``, of normalised images ``(B, 3, H, W)``."""
        if self.prefix is None:
            return value
        patches = value.shape[1] - self.prefix
        height = round(math.sqrt(patches * image.shape[2] / image.shape[3])) or 1
        if patches % height:  # the network made the images square
            height = math.isqrt(patches)
        return value[:, self.prefix :].mT.unflatten(2, (height, patches // height))


class MapTrace:
    """The tensors of a forward that can be maps or tokens, in the order of calls."""

    def __init__(self) -> None:
        self.maps: list[tuple[str, MapShape]] = []
        self.tokens: list[tuple[str, type[nn.Module], int, int]] = []  # with their number and width
        self.calls: Counter[str] = Counter()
        self._ends: list[tuple[str, int, int]] = []  # maps that a layer makes smaller, its depth, and to what area
        self._inputs: dict[str, tuple[Tensor | None, int, str | None]] = {}  # mean, pixels, and the layer they are from
        self._sources: dict[int, tuple[ReferenceType[Tensor], str]] = {}  # outermost layer that gave a tensor, by id
        self._last_area = 0

    def before(self, name: str, module: nn.Module, args: tuple[object, ...]) -> None:
        """Notes what a layer is given: a later one may change it in place."""
        value = args[0] if args else None
        reference, source = self._sources.get(id(value), (None, None))
        self._inputs[name] = *spatial_mean(value), source if reference is not None and reference() is value else None

    def after(self, name: str, module: nn.Module, args: tuple[object, ...], output: object) -> None:
        """Notes what a layer gives, unless it only passes on what it was given or pools it to one pixel."""
        self.calls[name] += 1
        if not isinstance(output, Tensor) or isinstance(module, nn.Softmax):
            return
        unchanged = bool(args) and output is args[0]
        if output.ndim == 3 and len(output) == 2 and not unchanged:
            self.tokens.append((name, type(module), *output.shape[1:]))
        mean, area = spatial_mean(output)
        if mean is None or output.shape[2] != output.shape[3]:  # of square images: channels may come last
            return
        given, area_before, source = self._inputs[name]
        passes_on = given is not None and is_close(given, mean)
        pools = area == 1 and (area_before > 4 or (area_before > 1 and passes_on))
        behind_pooling = area == 1 and area_before <= 1 < self._last_area
        if pools or behind_pooling or (unchanged and passes_on):  # others may be changed in place
            return
        self._sources[id(output)] = ref(output), name
        self.maps.append((name, (output.shape[1], output.shape[2], output.shape[3])))
        self._last_area = area
        if source is not None and area <= _SMALLER * area_before and type(module) is not nn.Sequential:
            self._ends.append((source, _depth(name), area))  # a Sequential's own layers tell more

    def finish(self, output: object) -> None:
        """Leaves out layers that were called more than once: which call would count?"""
        self.maps = [one for one in self.maps if self.calls[one[0]] == 1]
        self.tokens = [one for one in self.tokens if self.calls[one[0]] == 1]

    def layers(self) -> list[MapLayer]:
        """The last layer of each resolution, the largest first; of a ViT, blocks at quarters of its depth.

        Last is what the outermost layer that makes it smaller is given, and no convolution on the way within that.
        """
        found: list[list[MapLayer]] = []  # by resolution, those that differ by little together
        for layer in sorted((MapLayer(*one) for one in self.maps), key=lambda layer: -layer.area):
            if not found or layer.area <= _SMALLER * found[-1][0].area:
                found.append([])
            found[-1].append(layer)
        if not found:
            return []
        smaller = [layers[0].area for layers in found[1:]] + [0]
        maps = [self._last(layers, area) for layers, area in zip(found, smaller, strict=True)]
        if len(maps) == 1 and (blocks := self._blocks(maps[0].shape)):
            places = sorted({math.ceil(len(blocks) * quarter / 4) - 1 for quarter in _QUARTERS})
            return [blocks[place] for place in places]
        return maps

    def _last(self, layers: list[MapLayer], smaller: int) -> MapLayer:
        """The one that the outermost layer makes as large as the next maps are, else the last in the order of calls."""
        order = [name for name, _ in self.maps]
        depths = {
            source: depth
            for source, depth, area in sorted(self._ends, key=lambda end: -end[1])
            if _SMALLER * smaller < area <= smaller
        }
        ends = [layer for layer in layers if layer.name in depths]
        return max(ends or layers, key=lambda layer: (-depths.get(layer.name, 0), order.index(layer.name)))

    def named(self, names: Sequence[str], network: str) -> list[MapLayer]:
        """The layers of these names."""
        grid = self.maps[0][1] if self.maps else (0, 0, 0)
        known = {name: MapLayer(name, shape) for name, shape in self.maps}
        known |= {name: layer for name, _, *tokens in self.tokens if (layer := _token_layer(name, tokens, grid))}
        missing = [name for name in names if name not in known]
        if missing:
            raise ValueError(
                f"maps names {missing[0]!r}, but that layer of {network} gives no map (batch, channels, height, width) "
                f"once in a forward; these do: {', '.join(known) or 'none'}"
            )
        return [known[name] for name in names]

    def _blocks(self, grid: MapShape) -> list[MapLayer]:
        """The outermost layers of one class side by side, or the one layer, that give a token for each patch."""
        groups: dict[tuple[str, type[nn.Module], int], list[MapLayer]] = {}
        for name, kind, *tokens in self.tokens:
            layer = _token_layer(name, tokens, grid)
            if layer and tokens[0] == self.tokens[-1][2]:  # to the end, unlike in a network of several resolutions
                groups.setdefault((name.rpartition(".")[0], kind, tokens[1]), []).append(layer)
        several = {key: layers for key, layers in groups.items() if len(layers) > 1}
        return min((several or groups).items(), key=lambda one: _depth(one[0][0]), default=(None, []))[1]


def find_maps(
    network: nn.Module,
    normalize: Callable[[Tensor], Tensor],
    sizes: Sequence[Size | None],
    names: Sequence[str] | None,
) -> tuple[list[MapLayer], Size | None]:
    """Finds the layers of a network that give its maps, on two images of noise, whose size comes back too.

    Args:
        network: from normalised images to logits; left as it was, its weights are not read.
        normalize: from images ``(B, 3, H, W)`` in [0, 1] to normalised ones.
        sizes: of images to try before the customary ones; None is left out.
        names: of the layers, instead of those found.
    """
    weight = next((part for part in network.parameters() if part.is_floating_point()), torch.empty(0))
    noise = torch.Generator().manual_seed(0)
    small: tuple[list[MapLayer], Size | None] = [], None
    for size in [*filter(None, sizes), *((side, side) for side in CUSTOMARY_SIDES)]:
        image = torch.rand(2, 3, *size, generator=noise).to(weight.device, weight.dtype)
        trace, done = MapTrace(), False
        with suppress(Exception), without_reading_weights(network):  # whatever it comes to on images of another size
            run_traced(network, normalize(image), trace)
            done = True
        if done and names is not None:
            return trace.named(names, network._get_name()), size
        layers = trace.layers() if done else []
        if layers and layers[-1].area > 1:
            return layers, size
        small = small if small[0] else (layers, size)  # larger images tell a map of one pixel from what is pooled
    return small


@contextmanager
def without_reading_weights(network: nn.Module) -> Iterator[None]:
    """Has a forward use the weights as they are, though pretrained ones are still to be read."""
    pending = [module for module in network.modules() if getattr(module, "pending", False) is True]
    try:
        for module in pending:
            module.pending = False  # type: ignore[assignment]
        yield
    finally:
        for module in pending:
            module.pending = True  # type: ignore[assignment]


def _token_layer(name: str, tokens: Sequence[int], grid: MapShape) -> MapLayer | None:
    """A layer whose tokens are one for each pixel of the grid, behind a few others."""
    count, width = tokens
    prefix = count - grid[1] * grid[2]
    return MapLayer(name, (width, *grid[1:]), prefix) if grid[1] and 0 <= prefix <= _MOST_PREFIX_TOKENS else None


def _depth(name: str) -> int:
    return name.count(".") + (name != "")
