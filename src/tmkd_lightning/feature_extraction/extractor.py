"""Any classifier as a source of `Output`: finds its head and map, and owns its input normalisation."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from tmkd_lightning.feature_extraction.hooks import ONE_AT_A_TIME, Capture, is_compiled, notice_hooks, out_of_compilers
from tmkd_lightning.feature_extraction.layer_discovery import Probe, probe
from tmkd_lightning.feature_extraction.normalization import Statistics, stated_statistics
from tmkd_lightning.feature_extraction.output import MissingPartError, Output, Part
from tmkd_lightning.utils.images import channel_statistics, check_images, to_unit_float
from tmkd_lightning.utils.validation import check_count

_PROBED_IMAGES = 8  # enough to tell one tensor from another, cheap for any network
_CUSTOMARY_SIDES = (32, 224, 64, 96, 128, 256, 299, 384)  # of images, in pixels


GIVEN = "as given"
"""Source of statistics that a user gave."""


class Extractor(nn.Module):
    """Runs a classifier and returns its logits with the parts of the network behind them.

    The head is the linear layer whose output is the network's output; the embedding is its input. The feature map is
    the 4-D output whose spatial mean is the embedding. Both are looked for on the first batch, without touching the
    network's state; no network is rewritten. A network whose logits are not those of one linear layer (an ensemble, a
    zero-shot CLIP, one that ends in a convolution) has logits alone, which is all that many methods read.

    Args:
        network: classifier from normalised images ``(B, 3, H, W)`` to logits ``(B, K)``.
        mean: channel means on [0, 1] that the network expects to be subtracted; None for what it was trained with, if
            it says so (timm's, open_clip's and `Pretrained` do), else ImageNet's.
        std: channel standard deviations on [0, 1] that the network expects to be divided by; None likewise.
        head: dotted name of the head, by default the last linear layer.
        feature_map: dotted name of the layer that gives the map, by default found on the first batch.
        keep_map: whether to return the map; without it, activations are freed earlier.
        num_classes: K, for a network that it cannot be read off; None for the width of its last linear layer.

    Raises:
        TypeError: `network` is not a module, or the named head is not a linear layer.
        ValueError: a name leads nowhere, K cannot be read off, or parts of the network were trained with different
            statistics.

    Example:
        >>> from torchvision.models import resnet18
        >>> output = Extractor(resnet18(num_classes=5))(torch.rand(2, 3, 64, 64))
        >>> output.logits.shape, output.embedding.shape, output.feature_map.shape
        (torch.Size([2, 5]), torch.Size([2, 512]), torch.Size([2, 512, 2, 2]))
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        head: str | None = None,
        feature_map: str | None = None,
        keep_map: bool = True,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(network, nn.Module) or isinstance(network, Extractor):
            raise TypeError(f"network must be a classifier (an nn.Module from images to logits), got {type(network)}")
        self.network, self.compiled = out_of_compilers(network)  # by their owner; modules compile these parts again
        self.keep_map = keep_map
        self.named_head, self.named_map = head, feature_map
        self.head_name = last_linear(self.network) if head is None else head
        self.map_name = feature_map
        self._head_searched = self._map_searched = False
        self._no_head = f"{self.name} has no linear layer"  # why there is no embedding, where head_name is None
        self._shared: Capture | None = None  # of compiled code
        if head is not None:
            _ = self.head  # refuses a name that leads nowhere
        if feature_map is not None:
            _submodule(self.network, feature_map, "feature_map")
        stated = stated_statistics(self.network) if mean is None or std is None else Statistics((), (), GIVEN)
        self.set_statistics(
            stated.mean if mean is None else mean, stated.std if std is None else std, source=stated.source
        )
        self.register_load_state_dict_pre_hook(_statistics_are_loaded)
        self._num_classes = None if num_classes is None else check_count("num_classes", num_classes)
        self._told_classes = num_classes is not None
        if self._num_classes is None and not _ends_in(self.network, self.head_name):
            self.measure_classes()

    @property
    def head(self) -> nn.Linear:
        """The linear layer whose output is the network's output."""
        if self.head_name is None:
            raise MissingPartError(f"{self.name} has no head: {self._no_head}")
        head = _submodule(self.network, self.head_name, "head")
        if not isinstance(head, nn.Linear):
            raise TypeError(f"head {self.head_name!r} of {self.name} is a {type(head).__name__}, not a linear layer")
        return head

    @property
    def confirmed(self) -> bool:
        """Whether all that is read has been checked on real images."""
        return self._head_searched and (self._map_searched or not self.keep_map)

    @property
    def name(self) -> str:
        """What the network calls itself, by default its class, for messages."""
        return self.network._get_name()

    @property
    def num_classes(self) -> int:
        """Number of classes K: as given, as measured, or read off the head."""
        if self._num_classes is None and self.head_name is None:
            raise ValueError(
                f"how many classes {self.name} has cannot be read off it, as it has no linear layer: pass "
                "Extractor(network, num_classes=...)"
            )
        return self.head.out_features if self._num_classes is None else self._num_classes

    @property
    def weight_dtype(self) -> torch.dtype:
        """What the network computes in, read off its first layer; norms and single parameters may be wider."""
        layers = (layer.weight for layer in self.network.modules() if isinstance(layer, (nn.Conv2d, nn.Linear)))
        weights = itertools.chain(layers, self.network.parameters())
        return next((weight.dtype for weight in weights if weight.is_floating_point()), self.mean.dtype)

    def own_precision(self, device: torch.device) -> AbstractContextManager[Any]:
        """Turns autocast off for a network that is not in float32, which runs in its own precision."""
        kept = self.weight_dtype == torch.float32
        return nullcontext() if kept else torch.autocast(device.type, enabled=False)

    @property
    def embedding_dim(self) -> int:
        """Width D of the embedding, read off the head."""
        return self.head.in_features

    def forward(self, image: Tensor, checked: bool = False) -> Output:
        """Runs the network on un-normalised images.

        Args:
            image: ``(B, 3, H, W)``, uint8 or float in [0, 1].
            checked: whether somebody has looked at their range, as modules do; to do so waits for their device.

        Returns:
            Logits ``(B, K)``, embedding ``(B, D)``, map ``(B, D, h, w)`` and head weight ``(K, D)``; None for what the
            network does not have.

        Raises:
            TypeError: the network does not return one tensor.
            ValueError: the images are not in [0, 1], normalised perhaps; or the logits are not what they must be.
        """
        if not checked and not torch.compiler.is_compiling():
            check_images(image)
        compiling = torch.compiler.is_compiling()
        if not self.confirmed or (compiling and self._shared is None):
            self._prepare(image, share=compiling)
        if self._shared is not None:
            with nullcontext() if compiling else ONE_AT_A_TIME:
                return self._run(image, self._shared)
        capture = Capture()
        capture.hang(*self._read_layers())
        try:
            return self._run(image, capture)
        finally:
            capture.remove()

    def normalize(self, image: Tensor) -> Tensor:
        """Scales to [0, 1] where needed and subtracts and divides by the network's statistics, in its precision."""
        own = self.weight_dtype
        wide = torch.promote_types(self.mean.dtype, own)
        return (to_unit_float(image).to(wide) - self.mean).div_(self.std).to(own)

    @torch.no_grad()
    def confirm(self, image: Tensor) -> None:
        """Looks on real images for the head and the map.

        Runs the network once in evaluation mode, without gradients; its state, its training modes and the random
        generators are as before. Called by the first `forward`; call it yourself to fail earlier.

        Args:
            image: ``(B, 3, H, W)``, uint8 or float in [0, 1]; a few images are enough.

        Raises:
            TypeError: the network does not return one tensor.
            ValueError: the images are not in [0, 1]; the logits are a softmax, not finite, or of another number of
                classes; or a head or map that was named is none.
        """
        with ONE_AT_A_TIME:  # the network is in evaluation mode for a moment
            if self.confirmed:
                return
            image = image[:_PROBED_IMAGES]
            check_images(image)
            seen = probe(self.network, self.normalize(image))
            self._confirm_head(seen, _check_logits(seen.output, self.name))
            if self.keep_map:
                self._confirm_map(seen)
                self._map_searched = True
            if is_compiled(self.network):
                self.share_hooks()
            self._head_searched = True

    def compile_network(self, whole: bool) -> None:
        """Compiles the network in place once it is confirmed, or what its owner had compiled of it."""
        parts = [""] if whole else self.compiled
        if parts:
            self.share_hooks()
        for part in parts:
            self.network.get_submodule(part).compile()

    def set_statistics(self, mean: Sequence[float], std: Sequence[float], source: str) -> None:
        """Sets what images are normalised with.

        Args:
            mean: of each channel, on [0, 1].
            std: of each channel, on [0, 1].
            source: who says so, for messages.
        """
        for name, value in zip(("mean", "std"), channel_statistics(list(mean), list(std)), strict=True):
            self.register_buffer(name, value.to(getattr(self, name, value)))
        self.statistics_source = source

    def has_statistics(self, mean: Sequence[float], std: Sequence[float]) -> bool:
        """Whether images are normalised with these already, up to rounding."""
        wanted = channel_statistics(mean, std)
        return all(
            torch.allclose(one.float().cpu(), other) for one, other in zip((self.mean, self.std), wanted, strict=True)
        )

    def share_hooks(self) -> None:
        """Leaves the hooks on the network: compiled code must find the same ones at every forward."""
        self.remove_hooks()
        notice_hooks()
        self._shared = Capture(shared=True)
        self._shared.hang(*self._read_layers())

    def remove_hooks(self) -> None:
        """Takes hooks off that compiled code has left on the network, which can then be pickled and scripted."""
        if self._shared is not None:
            self._shared.remove()
            self._shared, self._head_searched = None, False  # the next forward looks and hangs them again

    def measure_classes(self) -> int | None:
        """Counts the logits that the network really gives, by running it on a black image of a customary size.

        Returns:
            K, which `num_classes` gives from now on; None if the network takes no such image.
        """
        try:
            seen = self._look_at_black()
        except ValueError:
            return None
        if not isinstance(seen.output, Tensor) or seen.output.ndim != 2:
            return None
        classes = seen.output.shape[1]
        self._num_classes = None if classes == self._width_of_head() else classes
        return classes

    def resize_head(self, num_classes: int) -> None:
        """Gives the network a fresh head, if its own was made for another number of classes.

        Args:
            num_classes: K.

        Raises:
            ValueError: it has no linear head that could be replaced.
        """
        if self.num_classes == num_classes:
            return
        if self._width_of_head() != self.num_classes:
            raise ValueError(
                f"{self.name} gives {self.num_classes} logits instead of {num_classes}, and they are not those of one "
                f"linear layer, which could be replaced: build it for {num_classes} classes"
            )
        old = self.head
        options = {"device": old.weight.device, "dtype": old.weight.dtype}
        new = nn.Linear(old.in_features, num_classes, bias=old.bias is not None, **options)
        new.requires_grad_(old.weight.requires_grad).train(old.training)
        owner, _, name = str(self.head_name).rpartition(".")
        setattr(self.network.get_submodule(owner), name, new)
        self._num_classes, self._head_searched = None, False

    @torch.no_grad()
    def reorder_classes(self, rows: Sequence[int]) -> None:
        """Puts the classes of the head into another order.

        Args:
            rows: for each label from then on, the row of the head that is its class's now, ``(K,)``.

        Raises:
            ValueError: the logits are not those of the head, or no image could be found that shows it.
        """
        try:
            heads, problem = self._look_at_black().heads, "its logits are not those of one linear layer"
        except ValueError as error:
            heads, problem = {}, str(error)
        if self.head_name not in heads:
            raise ValueError(
                f"the classes of {self.name} cannot be put into another order ({problem}): pass a network whose "
                "forward puts them into that of the data"
            )
        for parameter in self.head.parameters():
            parameter.copy_(parameter[list(rows)])

    def require(self, part: Part, reader: str) -> None:
        """Makes sure that a part of the output can be had, which is known after `confirm`.

        Args:
            part: name of the part.
            reader: who reads it, for the message.

        Raises:
            MissingPartError: the network has none, or the map is not kept.
        """
        if part != "logits" and self.head_name is None:
            raise MissingPartError(
                f"{reader} reads {part}, which {self.name} does not have: {self._no_head}; take a network that ends in "
                "a linear layer, or methods that read logits alone (with feature_weight=0, text_weight=0)"
            )
        if part != "feature_map":
            return
        if not self.keep_map:
            raise MissingPartError(f"{reader} reads feature_map, but the Extractor of {self.name} has keep_map=False")
        if self.confirmed and self.map_name is None:
            raise MissingPartError(
                f"{reader} reads feature_map, but {self.name} has no 4-D map whose spatial mean is the input of its "
                f"head {self.head_name!r}: choose a network that ends in global average pooling and one linear layer, "
                f"or a method that does not read maps"
            )

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _prepare(self, image: Tensor, share: bool) -> None:
        self.confirm(image)
        with ONE_AT_A_TIME:
            if share and self._shared is None:
                self.share_hooks()

    def _look_at_black(self) -> Probe:
        """What a black image of a customary size shows of the network.

        Raises:
            ValueError: it takes none of these, or still waits for pretrained weights, which a forward would fetch.
        """
        if any(getattr(module, "pending", False) is True for module in self.network.modules()):
            raise ValueError("it has not got its pretrained weights yet")
        for side in _CUSTOMARY_SIDES:
            try:
                return probe(self.network, self.normalize(torch.zeros(1, 3, side, side, device=self.mean.device)))
            except Exception as error:  # whatever a network comes to on images of another size than its own
                problem = error
        raise ValueError(f"it takes no image of {_CUSTOMARY_SIDES} pixels: {problem}") from problem

    def _run(self, image: Tensor, capture: Capture) -> Output:
        try:
            with self.own_precision(image.device):
                logits = self.network(self.normalize(image))
        finally:
            embedding, feature_map = capture.take()
        weight = None if self.head_name is None else self.head.weight
        return Output(_check_logits(logits, self.name), embedding, feature_map, weight)

    def _read_layers(self) -> tuple[nn.Module | None, nn.Module | None]:
        """The head, and the layer that gives the map, where they are read."""
        maps = self.keep_map and self.map_name is not None
        return (
            None if self.head_name is None else self.head,
            self.network.get_submodule(str(self.map_name)) if maps else None,
        )

    def _width_of_head(self) -> int | None:
        return None if self.head_name is None else self.head.out_features

    def _confirm_head(self, seen: Probe, logits: Tensor) -> None:
        if not logits.isfinite().all():
            raise ValueError(f"{self.name} returned logits that are not finite on the first batch")
        if self.head_name not in seen.heads:
            self._settle_head(list(seen.heads), logits)
        if self.head_name is None and not self._told_classes:
            self._num_classes = logits.shape[1]  # what was taken for the head, and for its width, is none
        if logits.shape[1] != self.num_classes:
            raise ValueError(
                f"{self.name} gives {logits.shape[1]} logits, but was taken for a network of {self.num_classes} "
                f"classes: pass Extractor(network, num_classes={logits.shape[1]})"
            )

    def _settle_head(self, found: list[str], logits: Tensor) -> None:
        """Decides what to do where another layer than expected gives the output, or none."""
        if not found and _is_softmax(logits):
            raise ValueError(
                f"the output of {self.name} looks like a softmax: distillation needs the logits, remove it from the "
                "network"
            )
        why = (
            f"the output is that of {found[-1]!r}: pass Extractor(network, head=...) with that name"
            if found
            else "no linear layer gives the network's output"
        )
        if self.head_name is not None:
            why = f"{self.head_name!r} was taken for the head of {self.name}, but {why}"
            if self.named_head is not None:
                raise ValueError(why)
        self._no_head = self._no_head if self.head_name is None else why
        self.head_name = None

    def _confirm_map(self, seen: Probe) -> None:
        maps = [] if self.head_name is None else seen.maps(self.head_name)
        if self.map_name is None and maps:
            self.map_name = maps[-1]
        elif self.map_name is not None and self.map_name not in maps:
            raise ValueError(
                f"feature_map={self.map_name!r} of {self.name} is not a 4-D map whose spatial mean is the head's "
                f"input; " + (f"these are: {maps}" if maps else "this network has none, leave the argument out")
            )


def last_linear(network: nn.Module) -> str | None:
    """Names the last linear layer, which is a classifier's head unless it says otherwise; None if there is none."""
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    return names[-1] if names else None


def _statistics_are_loaded(extractor: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    if isinstance(extractor, Extractor) and f"{prefix}mean" in state:
        extractor.statistics_source = "its checkpoint says so"


def _ends_in(network: nn.Module, head: str | None) -> bool:
    """Whether a linear layer is the last of a network's layers that have weights of their own, as heads are."""
    layers = [name for name, module in network.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    return bool(layers) and layers[-1] == head


def _submodule(network: nn.Module, name: str, argument: str) -> nn.Module:
    try:
        return network.get_submodule(name)
    except AttributeError:
        known = [child for child, _ in network.named_children()]
        raise ValueError(f"{argument}={name!r}: {type(network).__name__} has no such layer; it has {known}") from None


def _check_logits(logits: object, network: str) -> Tensor:
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"{network} returned a {type(logits).__name__}, expected one tensor of logits (batch, classes): wrap it in "
            "a module whose forward picks the logits, and pass that"
        )
    if logits.ndim != 2:
        raise ValueError(f"{network} returned shape {tuple(logits.shape)}, expected logits (batch, classes)")
    return logits


def _is_softmax(output: Tensor) -> bool:
    return bool((output >= 0).all() and torch.allclose(output.sum(1), torch.ones_like(output[:, 0]), atol=1e-2))
