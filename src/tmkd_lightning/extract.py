"""Any classifier as a source of `Output`: finds its head and map, and owns its input normalisation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tmkd_lightning.images import IMAGENET_MEAN, IMAGENET_STD, channel_statistics, to_unit_float
from tmkd_lightning.outputs import MissingPartError, Output
from tmkd_lightning.probe import Probe, probe
from tmkd_lightning.taps import InputTap, OutputTap, out_of_compilers

_PROBED_IMAGES = 8  # enough to tell one tensor from another, cheap for any network


class Extractor(nn.Module):
    """Runs a classifier and returns its logits with the parts of the network behind them.

    The head is the linear layer whose output is the network's output; the embedding is its input. The feature map is
    the 4-D output whose spatial mean is the embedding. Both are confirmed on the first batch, without touching the
    network's state; no network is rewritten.

    Args:
        network: classifier from normalised images ``(B, 3, H, W)`` to logits ``(B, K)``.
        mean: channel means on [0, 1] that the network expects to be subtracted.
        std: channel standard deviations on [0, 1] that the network expects to be divided by.
        head: dotted name of the head, by default the last linear layer.
        feature_map: dotted name of the layer that gives the map, by default found on the first batch.
        keep_map: whether to return the map; without it, activations are freed earlier.

    Raises:
        TypeError: `network` is not a module, or the named head is not a linear layer.
        ValueError: there is no linear layer, or a name leads nowhere.

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
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        head: str | None = None,
        feature_map: str | None = None,
        keep_map: bool = True,
    ) -> None:
        super().__init__()
        if not isinstance(network, nn.Module) or isinstance(network, Extractor):
            raise TypeError(f"network must be a classifier (an nn.Module from images to logits), got {type(network)}")
        self.network, self.compiled = out_of_compilers(network)  # by their owner; modules compile these parts again
        self.keep_map = keep_map
        self._head_confirmed = self._map_searched = False
        self.head_name = _head(self.network) if head is None else head
        self.map_name = self.named_map = feature_map
        for name, values in zip(("mean", "std"), channel_statistics(mean, std), strict=True):
            self.register_buffer(name, values)
        self._head_tap = InputTap()
        self._map_tap = OutputTap()
        self.head.register_forward_hook(self._head_tap)
        if feature_map is not None:
            self._map_tap.attach(_submodule(self.network, feature_map, "feature_map"))

    @property
    def head(self) -> nn.Linear:
        """The linear layer whose output is the network's output."""
        head = _submodule(self.network, self.head_name, "head")
        if not isinstance(head, nn.Linear):
            raise TypeError(f"head {self.head_name!r} of {self.name} is a {type(head).__name__}, not a linear layer")
        return head

    @property
    def confirmed(self) -> bool:
        """Whether all that is read has been checked on real images."""
        return self._head_confirmed and (self._map_searched or not self.keep_map)

    @property
    def name(self) -> str:
        """What the network calls itself, by default its class, for messages."""
        return self.network._get_name()

    @property
    def num_classes(self) -> int:
        """Number of classes K, read off the head."""
        return self.head.out_features

    @property
    def embedding_dim(self) -> int:
        """Width D of the embedding, read off the head."""
        return self.head.in_features

    def forward(self, image: Tensor) -> Output:
        """Runs the network on un-normalised images.

        Args:
            image: ``(B, 3, H, W)``, uint8 or float in [0, 1].

        Returns:
            Logits ``(B, K)``, embedding ``(B, D)``, map ``(B, D, h, w)`` or None, head weight ``(K, D)``.

        Raises:
            TypeError: the network does not return one tensor.
            ValueError: its head is not what it seemed to be; the message says what was seen and what to name.
        """
        if not self.confirmed:
            self.confirm(image)
        if self.keep_map and self.map_name is not None:
            self._map_tap.attach(self.network.get_submodule(self.map_name))
            self._map_tap.open = True
        self._head_tap.open = True
        try:
            logits = self.network(self.normalize(image))
        finally:
            embedding, feature_map = self._head_tap.close(), self._map_tap.close()
        return Output(_check_logits(logits, self.name), embedding, feature_map, self.head.weight)

    def normalize(self, image: Tensor) -> Tensor:
        """Scales to [0, 1] where needed and subtracts and divides by the network's statistics, in its precision."""
        return (to_unit_float(image).to(self.mean.dtype) - self.mean).div_(self.std)

    def confirm(self, image: Tensor) -> None:
        """Checks on real images that the head is the head, and finds the map.

        Runs the network once in evaluation mode, without gradients; its state, its training modes and the random
        generators are as before. Called by the first `forward`; call it yourself to fail earlier.

        Args:
            image: ``(B, 3, H, W)``, uint8 or float in [0, 1]; a few images are enough.

        Raises:
            TypeError: the network does not return one tensor.
            ValueError: its head or map is not what it seemed to be.
        """
        seen = probe(self.network, self.normalize(image[:_PROBED_IMAGES]))
        self._confirm_head(seen, _check_logits(seen.output, self.name))
        self._head_confirmed = True
        if self.keep_map:
            self._confirm_map(seen)
            self._map_searched = True

    def resize_head(self, num_classes: int) -> None:
        """Gives the network a fresh head, if its own was made for another number of classes.

        Args:
            num_classes: K.
        """
        old = self.head
        if old.out_features == num_classes:
            return
        options = {"device": old.weight.device, "dtype": old.weight.dtype}
        new = nn.Linear(old.in_features, num_classes, bias=old.bias is not None, **options)
        new.requires_grad_(old.weight.requires_grad).train(old.training)
        new.register_forward_hook(self._head_tap)
        owner, _, name = self.head_name.rpartition(".")
        setattr(self.network.get_submodule(owner), name, new)
        self._head_confirmed = False

    def require_map(self, reader: str) -> None:
        """Makes sure that the feature map can be had; every network has the other parts of an `Output`.

        Args:
            reader: who reads it, for the message.

        Raises:
            MissingPartError: the map is not kept, or the network has none, which is known after `confirm`.
        """
        if not self.keep_map:
            raise MissingPartError(f"{reader} reads feature_map, but the Extractor of {self.name} has keep_map=False")
        if self.confirmed and self.map_name is None:
            raise MissingPartError(
                f"{reader} reads feature_map, but {self.name} has no 4-D map whose spatial mean is the input of its "
                f"head {self.head_name!r}: choose a network that ends in global average pooling and one linear layer, "
                f"or a method that does not read maps"
            )

    def _confirm_head(self, seen: Probe, logits: Tensor) -> None:
        if self.head_name in seen.heads:
            return
        if not logits.isfinite().all():
            raise ValueError(f"{self.name} returned logits that are not finite on the first batch")
        if seen.heads:
            remedy = f"the output is that of {list(seen.heads)[-1]!r}: pass Extractor(network, head=...) with that name"
        elif _is_softmax(logits):
            remedy = "the output looks like a softmax: distillation needs the logits, remove it from the network"
        else:
            remedy = "no linear layer gives the network's output: it must end in one, with nothing behind it"
        raise ValueError(f"{self.head_name!r} was taken for the head of {self.name}, but {remedy}")

    def _confirm_map(self, seen: Probe) -> None:
        maps = seen.maps(self.head_name)
        if self.map_name is None and maps:
            self.map_name = maps[-1]
            self._map_tap.attach(self.network.get_submodule(maps[-1]))
        elif self.map_name is not None and self.map_name not in maps:
            raise ValueError(
                f"feature_map={self.map_name!r} of {self.name} is not a 4-D map whose spatial mean is the head's "
                f"input; " + (f"these are: {maps}" if maps else "this network has none, leave the argument out")
            )


def last_linear(network: nn.Module) -> str | None:
    """Names the last linear layer, which is a classifier's head unless it says otherwise; None if there is none."""
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    return names[-1] if names else None


def _head(network: nn.Module) -> str:
    name = last_linear(network)
    if name is None:
        raise ValueError(
            f"{type(network).__name__} has no linear layer: its logits must come from one (a network that ends in a "
            "convolution can be given global average pooling and a linear head)"
        )
    return name


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
