"""Any classifier as a source of `Output`: finds its head and feature map, and normalises its images."""

import itertools
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor, nn

from tmkd_lightning.feature_extraction.hooks import FORWARD_LOCK, Capture, unwrap_compiled
from tmkd_lightning.feature_extraction.image_size import (
    Size,
    check_image_size,
    in_words,
    resize,
    stated_image_size,
)
from tmkd_lightning.feature_extraction.layer_discovery import (
    CUSTOMARY_SIDES,
    LayerTrace,
    trace_black_image,
    trace_layers,
)
from tmkd_lightning.feature_extraction.map_discovery import MapLayer, find_maps, without_reading_weights
from tmkd_lightning.feature_extraction.normalization import GIVEN, stated_statistics
from tmkd_lightning.feature_extraction.output import MissingPartError, Output, Part
from tmkd_lightning.feature_extraction.probe_head import ProbeHead
from tmkd_lightning.feature_extraction.spec import MapShape, Spec
from tmkd_lightning.text.class_names import check_class_names
from tmkd_lightning.utils.images import channel_statistics, check_images, to_unit_float
from tmkd_lightning.utils.messages import short
from tmkd_lightning.utils.validation import check_count


class Extractor(nn.Module):
    """Runs a classifier and returns its logits with the parts of the network behind them.

    The head is the linear layer whose output is the network's output; the embedding is its input. The feature map is
    the 4-D output whose spatial mean is the embedding. Both are found on the first batch, without touching the network.
    One whose logits are not those of a linear layer (an ensemble, a zero-shot CLIP) has logits alone.

    Args:
        network: classifier from normalised images ``(B, 3, H, W)`` to logits ``(B, K)``.
        mean: channel means on [0, 1] to subtract; None for those of the network's training, if it states them (timm's,
            open_clip's and `Pretrained` do; their parts must agree), else ImageNet's.
        std: channel standard deviations on [0, 1] to divide by; None likewise.
        head: dotted name of the head, by default the last linear layer.
        feature_map: dotted name of the layer that gives the map, by default found on the first batch.
        keep_map: whether to return the map; without it, activations are freed earlier.
        maps: dotted names of the layers that give `Output.maps`, by default the last of each resolution, and of a ViT
            blocks at 1/4, 2/4, 3/4 and 4/4 of its depth, both found on noise. Maps are returned where a method reads
            them, or where they are named here.
        num_classes: K, for a network that it cannot be read off; None for the width of its last linear layer.
        image_size: side in pixels, or (height, width), to which images are resized for this network, on their device:
            bicubic with antialiasing, as CLIP and most of timm's networks were trained. Views are made before, at the
            data's size, and normalisation comes after. Images that have this size stay as they are; None leaves all.
        class_names: names of the network's classes in the order of its logits. A teacher's are matched with the data's
            by name, so that it may have them in another order, and others beside them.

    Example:
        >>> from torchvision.models import resnet18
        >>> output = Extractor(resnet18(num_classes=5))(torch.rand(2, 3, 64, 64))
        >>> output.logits.shape, output.embedding.shape, output.feature_map.shape
        (torch.Size([2, 5]), torch.Size([2, 512]), torch.Size([2, 512, 2, 2]))
    """

    mean: Tensor
    std: Tensor
    logits_of_head = True  # whether the head, where there is one, gives them from the embedding
    follows_autocast = True  # whether a network in float32 runs in the precision of an autocast around it
    role = ""  # what messages call the network beside its name: "teacher " or "student " in a TMKDModule

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        head: str | None = None,
        feature_map: str | None = None,
        keep_map: bool = True,
        maps: Sequence[str] | None = None,
        num_classes: int | None = None,
        image_size: int | Sequence[int] | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self._check_network(network)
        self.network, self.compiled = unwrap_compiled(network)
        self.keep_map, self.keep_maps = keep_map, maps is not None
        self.image_size = None if image_size is None else check_image_size(image_size)
        self.named_head, self.named_map = head, feature_map
        self.head_name = last_linear(self.network) if head is None else head
        self.map_name = feature_map
        self.named_maps = None if maps is None else list(maps)
        self._map_layers: list[MapLayer] | None = None  # not looked for yet
        self._seen_by_maps: Size | None = None  # image that they were found on
        self._head_confirmed = self._map_confirmed = False
        self._map_is_known = False  # by construction: need not be confirmed
        self._why_no_head = f"{self.name} has no linear layer"
        self._shared: Capture | None = None  # stays attached to compiled code
        _check_layers(self.network, head, feature_map)
        if mean is None or std is None:
            own_mean, own_std, source = stated_statistics(self.network)
            self.set_statistics(own_mean if mean is None else mean, own_std if std is None else std, source)
        else:
            self.set_statistics(mean, std, GIVEN)
        self._num_classes = None if num_classes is None else check_count("num_classes", num_classes)
        self._classes_given = num_classes is not None
        layers = [name for name, layer in self.network.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
        if num_classes is None and layers[-1:] != [self.head_name]:  # a head is the last layer with weights
            self.measure_classes()
        self.class_names = None if class_names is None else self._check_names(class_names)

    @property
    def head(self) -> nn.Linear:
        """The linear layer whose output is the network's output."""
        if self.head_name is None:
            raise MissingPartError(f"{self.name} has no head: {self._why_no_head}")
        return self.network.get_submodule(self.head_name)  # type: ignore[return-value]

    @property
    def knows_classes(self) -> bool:
        """Whether the logits say anything; those of a `Probe` do once its head is fitted. Waits for the device."""
        head = None if self.head_name is None else self.head
        return head.fitted if isinstance(head, ProbeHead) else True

    @property
    def confirmed(self) -> bool:
        """Whether head and map, where they are returned, have been checked on real images."""
        return self._head_confirmed and (self._map_confirmed or not self.keep_map)

    @property
    def name(self) -> str:
        """What messages call the network, by default its class."""
        return self.network._get_name()

    @property
    def num_classes(self) -> int:
        """Number of classes K: as given, as measured, or read off the head."""
        if self._num_classes is not None:
            return self._num_classes
        if self.head_name is None:
            unknown = f"how many classes {self.name} has cannot be read off it"
            raise ValueError(f"{unknown}: pass Extractor(network, num_classes=...)")
        return self.head.out_features

    @property
    def weight_dtype(self) -> torch.dtype:
        """What the network computes in, read off its first layer; norms and single parameters may be wider."""
        layers = (layer.weight for layer in self.network.modules() if isinstance(layer, (nn.Conv2d, nn.Linear)))
        weights = itertools.chain(layers, self.network.parameters())
        return next((weight.dtype for weight in weights if weight.is_floating_point()), self.mean.dtype)

    def own_precision(self, device: torch.device) -> AbstractContextManager[Any]:
        """Turns autocast off for a network that is not in float32, which runs in its own precision."""
        follows = self.follows_autocast and self.weight_dtype == torch.float32
        return nullcontext() if follows else torch.autocast(device.type, enabled=False)

    @property
    def embedding_dim(self) -> int:
        """Width D of the embedding, read off the head."""
        return self.head.in_features

    @property
    def spec(self) -> Spec:
        """What is known of the network before it runs."""
        maps = tuple(layer.shape for layer in self.map_layers) if self.keep_maps else ()
        return Spec(self.num_classes, None if self.head_name is None else self.embedding_dim, maps)

    @property
    def map_layers(self) -> list[MapLayer]:
        """The layers that give `Output.maps`; looked for once."""
        if self._map_layers is None:
            sizes = [self.image_size, stated_image_size(self.network)]
            self._map_layers, self._seen_by_maps = find_maps(self.network, self.normalize, sizes, self.named_maps)
        return self._map_layers

    def match_maps(self, other: "Extractor") -> None:
        """Looks for the maps anew on the size of image on which those of another network were found, if it is larger.

        The sizes in `spec` can then be compared.
        """
        if not (self.map_layers and other.map_layers and self._seen_by_maps and other._seen_by_maps):
            return
        if other._seen_by_maps > self._seen_by_maps and self.image_size is None:
            layers, seen = find_maps(self.network, self.normalize, [other._seen_by_maps], self.named_maps)
            if seen == other._seen_by_maps:
                self._map_layers, self._seen_by_maps = layers, seen

    @torch.no_grad()
    def locate_map(self, reader: str) -> tuple[str, MapShape]:
        """Finds the feature map on noise, before there are images, for a method that changes the network.

        Args:
            reader: the method, for messages.

        Returns:
            The name of the layer that gives the map, and the map's shape.

        Raises:
            MissingPartError: the network has no such map, or takes no noise of a customary size.
        """
        if self.head_name is None:
            self.require("feature_map", reader)
        _, size = self.map_layers, self._seen_by_maps or (CUSTOMARY_SIDES[0], CUSTOMARY_SIDES[0])
        noise = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)).to(self.mean)
        trace = LayerTrace()
        with suppress(Exception), without_reading_weights(self.network):  # whatever it comes to on another size
            trace = trace_layers(self.network, self.normalize(noise))
        if trace.output is None:
            raise MissingPartError(
                f"{reader} looks for the feature map of {self.name} before training, but it takes no noise of a "
                "customary size: pass Extractor(network, image_size=...), and images are resized for it"
            )
        maps = trace.maps(self.head_name) if self.head_name in trace.heads else []
        name = self.named_map if self.named_map in maps else next(reversed(maps), None)
        if name is None:
            raise self._without_map(reader)
        return name, trace.shapes[name]

    def wrap_network(self, network: nn.Module, child: str, head: str, feature_map: str) -> None:
        """Puts the network, which is now the part `child` of another one, into that one, whose layers are known.

        Args:
            network: the other one, from normalised images to logits.
            child: name of the part.
            head: name of the other network's head.
            feature_map: name of the layer whose output is averaged to the head's input.
        """
        self.remove_hooks()
        self.network = network
        self.compiled = [f"{child}.{name}".rstrip(".") for name in self.compiled]
        self.named_maps = self.named_maps and [f"{child}.{name}" for name in self.named_maps]
        self._map_layers = self._seen_by_maps = None
        self.named_head = self.head_name = head
        self.named_map = self.map_name = feature_map
        self._head_confirmed, self._map_is_known = False, True

    def forward(self, image: Tensor, checked: bool = False) -> Output:
        """Runs the network on un-normalised images.

        Args:
            image: ``(B, 3, H, W)``, uint8 or float in [0, 1].
            checked: whether their range has been checked, as modules do; checking waits for their device.

        Returns:
            The output, with None for what the network does not have.
        """
        compiling = torch.compiler.is_compiling()
        if not (checked or compiling):
            check_images(image)
        if not self.confirmed or (compiling and self._shared is None):
            self._prepare(image, share=compiling)
        image, autocast = self.normalize(image), self.own_precision(image.device)
        head, map_layer, *more = self._captured_layers()
        capture = Capture(head, map_layer, more) if self._shared is None else self._shared
        lock = FORWARD_LOCK if capture.shared and not compiling else nullcontext()
        with lock, autocast:
            try:
                logits = self.network(image)
            finally:
                embedding, feature_map = capture.pop()
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            raise self._wrong_logits(logits)
        maps = self._to_maps(capture.pop_more(), image) if more else ()
        return Output(logits, embedding, feature_map, None if head is None else head.weight, maps)

    def pixels(self, image: Tensor) -> int:
        """Pixels of one image ``(B, 3, H, W)`` as the network sees it."""
        height, width = image.shape[-2:] if self.image_size is None else self.image_size
        return height * width

    def normalize(self, image: Tensor) -> Tensor:
        """Scales to [0, 1], resizes, subtracts the mean and divides by the deviation, in the network's precision."""
        dtype = self.weight_dtype
        if not image.is_floating_point():
            image = to_unit_float(image)
        if self.image_size is not None:
            image = resize(image, self.image_size)
        # torch.promote_types would be exported along, and torch 2.6 cannot read that back
        wide = dtype if dtype.itemsize > self.mean.dtype.itemsize else self.mean.dtype
        return (image.to(wide) - self.mean).div_(self.std).to(dtype)

    @torch.no_grad()
    def confirm(self, image: Tensor) -> None:
        """Finds the head and the map on a few images, as the first `forward` does; call it to fail earlier.

        Runs the network once in evaluation mode, and leaves its state, its modes and the random generators as they are.
        """
        with FORWARD_LOCK:  # the network is in evaluation mode for a moment
            if self.confirmed:
                return
            image = image[:8]  # enough to tell one tensor from another, cheap for any network
            check_images(image)
            image = image.to(self.mean.device)  # a teacher may have a device of its own
            trace = self._trace(image)
            self._confirm_head(trace)
            if self.keep_map:
                self._confirm_map(trace)
                self._map_confirmed = True
            if any(getattr(module, "_compiled_call_impl", None) is not None for module in self.network.modules()):
                self.share_hooks()
            self._head_confirmed = True

    def compile_network(self, whole: bool) -> None:
        """Compiles the confirmed network in place: the whole, or the parts that were compiled when it was passed."""
        parts = [""] if whole else self.compiled
        if parts:
            self.share_hooks()
        for part in parts:
            self.network.get_submodule(part).compile()

    def share_hooks(self) -> None:
        """Leaves the hooks on the network: compiled code must find the same ones at every forward."""
        self.remove_hooks()
        if torch._dynamo.config.skip_nnmodule_hook_guards:  # by default, compiled code does not check for hooks
            torch._dynamo.config.skip_nnmodule_hook_guards = False
            torch._dynamo.reset()
        head, map_layer, *more = self._captured_layers()
        self._shared = Capture(head, map_layer, more, shared=True)

    def remove_hooks(self) -> None:
        """Removes the hooks that compiled code needs, so that the network can be pickled and scripted."""
        if self._shared is not None:
            self._shared.detach()
            self._shared, self._head_confirmed = None, False  # the next forward confirms and attaches again

    def set_statistics(self, mean: Sequence[float], std: Sequence[float], source: str) -> None:
        """Sets the channel means and deviations that images are normalised with, and their source for messages."""
        for name, value in zip(("mean", "std"), channel_statistics(list(mean), list(std)), strict=True):
            self.register_buffer(name, value.to(getattr(self, name, value)))
        self.statistics_source = source

    def measure_classes(self) -> None:
        """Sets `num_classes` to the logits that the network gives for a black image, if it takes one."""
        output = trace_black_image(self.network, self.normalize).output
        if isinstance(output, Tensor) and output.ndim == 2:
            self._num_classes = output.shape[1]

    def resize_head(self, num_classes: int) -> None:
        """Replaces the head by a fresh one of K rows, if the network was made for another number of classes."""
        if self.num_classes == num_classes:
            return
        if self.head_name is None or self.head.out_features != self.num_classes:
            raise ValueError(
                f"{self.name} gives {self.num_classes} logits instead of {num_classes}, and no linear layer that could "
                f"be replaced gives them: build it for {num_classes} classes"
            )
        old, weight = self.head, self.head.weight
        kind = ProbeHead if isinstance(old, ProbeHead) else nn.Linear
        new = kind(old.in_features, num_classes, old.bias is not None, device=weight.device, dtype=weight.dtype)
        new.requires_grad_(weight.requires_grad).train(old.training)
        self.network.set_submodule(self.head_name, new)
        self._num_classes, self.class_names = num_classes, None

    def reorder_classes(self, rows: Sequence[int]) -> None:
        """Puts classes into another order, or picks some: `rows` has, for each new label, its present row."""
        self.check_reorderable()
        self._take_rows(rows)

    def check_reorderable(self) -> None:
        """Raises a ValueError unless the network has a head whose rows can be moved."""
        if self.head_name not in trace_black_image(self.network, self.normalize).heads:
            raise ValueError(
                f"the classes of {self.name} cannot be put into another order, as no linear layer gives its logits, or "
                "it takes no image of a customary size: pass a network that has them in the data's order"
            )

    @torch.no_grad()
    def _take_rows(self, rows: Sequence[int]) -> None:
        old = {name: parameter[list(rows)] for name, parameter in self.head.named_parameters()}
        names = self._names_of(rows)
        self.resize_head(len(rows))
        self.head.load_state_dict(old)
        self.class_names = names

    def _names_of(self, rows: Sequence[int]) -> list[str] | None:
        return None if self.class_names is None else [self.class_names[row] for row in rows]

    def _check_names(self, names: Sequence[str]) -> list[str]:
        if len(names) != self.num_classes:
            self.measure_classes()  # the width of the last linear layer need not be their number
        return check_class_names(names, self.num_classes)

    def require(self, part: Part, reader: str) -> None:
        """Raises a `MissingPartError` that names the reader of a part which the network is known not to give."""
        if part == "maps":
            if not self.map_layers:
                raise MissingPartError(
                    f"{reader} reads maps, but {self.name} gives none on noise of a customary size: take a network "
                    "with maps (batch, channels, height, width) or a ViT, or a method without maps"
                )
            return
        if part != "logits" and self.head_name is None:
            raise MissingPartError(
                f"{reader} reads {part}, which {self.name} does not have: {self._why_no_head}; take a network that "
                "ends in a linear layer, or methods that read logits alone, with feature_weight=0 and text_weight=0"
            )
        if part == "feature_map" and not self.keep_map:
            raise MissingPartError(f"{reader} reads feature_map, but the Extractor of {self.name} has keep_map=False")
        if part == "feature_map" and self.confirmed and self.map_name is None:
            raise self._without_map(reader)

    def _without_map(self, reader: str) -> MissingPartError:
        return MissingPartError(
            f"{reader} reads feature_map, but {self.name} has no 4-D map whose spatial mean is the input of its "
            f"head {self.head_name!r}: take a network that pools globally before it, or a method without maps"
        )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if f"{prefix}mean" in state_dict:
            self.statistics_source = "from its checkpoint"
        super()._load_from_state_dict(state_dict, prefix, *args)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _prepare(self, image: Tensor, share: bool) -> None:
        self.confirm(image)
        with FORWARD_LOCK:
            if share and self._shared is None:
                self.share_hooks()

    def _captured_layers(self) -> list[Any]:
        """The head, the layer that gives the feature map, None for what is not returned, and those of the maps."""
        map_name = self.map_name if self.keep_map else None
        map_layer = None if map_name is None else self.network.get_submodule(map_name)
        maps = [self.network.get_submodule(layer.name) for layer in self.map_layers] if self.keep_maps else []
        return [None if self.head_name is None else self.head, map_layer, *maps]

    def _to_maps(self, captured: Sequence[Tensor], image: Tensor) -> tuple[Tensor, ...]:
        """The captured outputs as maps, for normalised images."""
        if len(captured) != len(self.map_layers):
            names = [layer.name for layer in self.map_layers]
            raise MissingPartError(f"{self.name} did not call all of its layers {names} on these images: name its maps")
        return tuple(layer.to_map(value, image) for layer, value in zip(self.map_layers, captured, strict=True))

    def _trace(self, image: Tensor) -> LayerTrace:
        """Traces the first images; the error says so if the network takes images, but of another size."""
        image = self.normalize(image)
        try:
            return trace_layers(self.network, image)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a network comes to on images of another size than its own
            seen, stated = image.shape[-2:], stated_image_size(self.network)
            size = self._accepted_size(image, stated)
            if size is None:
                raise
            raise ValueError(
                f"{self.role}{self.name} does not take images of {seen[0]}x{seen[1]} pixels, but of {size[0]}x{size[1]}"
                f"{', for which it was built' if size == stated else ''}: pass Extractor(network, "
                f"image_size={in_words(size)}), and images are resized for it ({short(error)})"
            ) from error

    def _accepted_size(self, image: Tensor, stated: Size | None) -> Size | None:
        """The size that the network states, or else the first customary one, if it is not the image's and works."""
        for size in dict.fromkeys([stated, *((side, side) for side in CUSTOMARY_SIDES)]):
            if size is not None and size != image.shape[-2:]:
                with suppress(Exception):
                    trace_layers(self.network, image.new_zeros(1, 3, *size))
                    return size
        return None

    def _confirm_head(self, trace: LayerTrace) -> None:
        logits, heads = trace.output, list(trace.heads)
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            raise self._wrong_logits(logits)
        if not logits.isfinite().all():
            half = ", in float16, which ends at 65504: take bfloat16" if self.weight_dtype == torch.float16 else ""
            raise ValueError(f"{self.role}{self.name} returned logits that are not finite on the first batch{half}")
        if not heads and (logits >= 0).all() and torch.allclose(logits.sum(1), logits.new_ones(()), atol=1e-2):
            raise ValueError(f"the output of {self.role}{self.name} looks like a softmax: remove it, logits are needed")
        if self.head_name is not None and self.head_name not in heads:
            self._why_no_head = f"{self.head_name!r} was taken for the head of {self.name}, but " + (
                f"the output is that of {heads[-1]!r}: pass Extractor(network, head=...) with that name"
                if heads
                else "no linear layer gives the network's output"
            )
            if self.named_head is not None:
                raise ValueError(self._why_no_head)
            self.head_name = None
        classes = logits.shape[1]
        if self.head_name is None and not self._classes_given:
            self._num_classes = classes  # the dropped layer's width was not their number
        if classes != self.num_classes:
            raise ValueError(
                f"{self.name} gives {classes} logits, but was taken for a network of {self.num_classes} classes: pass "
                f"Extractor(network, num_classes={classes})"
            )

    @staticmethod
    def _check_network(network: object) -> None:
        """Refuses what is no network, and what holds an Extractor already: images would be normalised twice."""
        kind = type(network).__name__
        if not isinstance(network, nn.Module):
            raise TypeError(f"network must be a classifier, an nn.Module from images to logits, got a {kind}")
        if any(isinstance(part, Extractor) for part in network.modules()):
            raise TypeError(
                f"network is a {kind}, which normalises images by itself: use it as it is, or the Extractor of a "
                "module, module.extractor; its network alone is extractor.network"
            )

    def _wrong_logits(self, logits: object) -> Exception:
        name = f"{self.role}{self.name}"
        if isinstance(logits, Tensor):
            return ValueError(f"{name} returned shape {tuple(logits.shape)}, expected logits (batch, classes)")
        return TypeError(
            f"{name} returned a {type(logits).__name__}, expected one tensor of logits (batch, classes): wrap it in a "
            "module whose forward picks the logits, and pass that"
        )

    def _confirm_map(self, trace: LayerTrace) -> None:
        if self._map_is_known:
            return
        maps = [] if self.head_name is None else trace.maps(self.head_name)
        if self.map_name is None:
            self.map_name = maps[-1] if maps else None
        elif self.map_name not in maps:
            known = f"these are: {maps}" if maps else "this network has none, leave the argument out"
            raise ValueError(
                f"feature_map={self.map_name!r} of {self.name} is not a 4-D map whose spatial mean is the head's "
                f"input; {known}"
            )


def last_linear(network: nn.Module) -> str | None:
    """Dotted name of the last linear layer, by default taken for the head; None if there is none."""
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    return names[-1] if names else None


def _check_layers(network: nn.Module, head: str | None, feature_map: str | None) -> None:
    name = type(network).__name__
    for argument, layer in (("head", head), ("feature_map", feature_map)):
        try:
            found = None if layer is None else network.get_submodule(layer)
        except AttributeError:
            known = [child for child, _ in network.named_children()]
            raise ValueError(f"{argument}={layer!r}: {name} has no such layer; it has {known}") from None
        if argument == "head" and found is not None and not isinstance(found, nn.Linear):
            raise TypeError(f"head {head!r} of {name} is a {type(found).__name__}, not a linear layer")
