"""A student that predicts by its teacher's head: its feature map is projected to that of the teacher (SimKD)."""

from collections.abc import Mapping
from contextlib import nullcontext
from fractions import Fraction

import torch
from torch import Tensor, nn

from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.feature_extraction.hooks import FORWARD_LOCK, Capture
from tmkd_lightning.losses.cam import average_pool

_HEAD, _PROJECTOR = "reused_head", "projector"


class ReusedHead(nn.Module):
    """A network whose feature map goes through a projector, a global average pooling and a frozen head of another one.

    The network's own head is taken off, as nothing reads it. A map that is larger than the other network's is pooled to
    its size first.

    Args:
        network: classifier from normalised images ``(B, 3, H, W)``; its head is replaced by an identity.
        head: dotted name of that head.
        feature_map: dotted name of the layer that gives the map ``(B, C, h, w)``.
        projector: from that map, pooled, to one ``(B, D, h', w')``.
        reused_head: from the mean ``(B, D)`` of the projected map to logits ``(B, K)``; it is frozen.
        shrink: side of the pooled map as a share of that of the map, above 0 and at most 1; sides are rounded up.

    Source: Chen et al. 2022, Fig. 2.

    Example:
        >>> from torchvision.models import resnet18
        >>> head, share = nn.Linear(6, 3), Fraction(1, 2)
        >>> network = ReusedHead(resnet18(), "fc", "layer4", make_projector(512, 3, 6), head, share)
        >>> network(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        network: nn.Module,
        head: str,
        feature_map: str,
        projector: nn.Module,
        reused_head: nn.Linear,
        shrink: Fraction = Fraction(1),
    ) -> None:
        super().__init__()
        network.set_submodule(head, nn.Identity())
        self.network, self.projector = network, projector
        self.reused_head: nn.Linear = reused_head.requires_grad_(False)
        self.shrink = shrink
        self.captured = Capture(None, network.get_submodule(feature_map), shared=True)
        self.train(network.training)

    def _get_name(self) -> str:
        return f"ReusedHead({self.network._get_name()})"  # in messages, and where modules are printed

    def forward(self, image: Tensor) -> Tensor:
        """Classifies normalised images ``(B, 3, H, W)``; returns logits ``(B, K)``."""
        with nullcontext() if torch.compiler.is_compiling() else FORWARD_LOCK:  # the hook is shared by all threads
            self.network(image)
            _, maps = self.captured.pop()
        if maps is None:
            raise RuntimeError(f"{self.network._get_name()} did not call the layer that gives its feature map")
        projected: Tensor = self.projector(self.pool(maps))
        return self.reused_head(projected.mean((2, 3)))

    def pool(self, maps: Tensor) -> Tensor:
        """Pools maps ``(B, C, h, w)`` by the share `shrink`."""
        if self.shrink == 1:
            return maps
        over, under = self.shrink.numerator, self.shrink.denominator
        return average_pool(maps, [-(-side * over // under) for side in maps.shape[2:]]).to(maps.dtype)

    def get_extra_state(self) -> Tensor:
        """Numerator and denominator of `shrink`: state dicts, which hold tensors alone, keep it."""
        return torch.tensor([self.shrink.numerator, self.shrink.denominator])

    def set_extra_state(self, state: Tensor) -> None:
        """Takes `shrink` from a state dict."""
        self.shrink = Fraction(*state.tolist())


def make_projector(channels: int, width: int, wanted: int) -> nn.Sequential:
    """Convolutions of 1, 3 and 1 pixels, each with BatchNorm and ReLU, from `channels` through `width` to `wanted`.

    Source: Chen et al. 2022 and their code.
    """
    sizes = [(channels, width, 1), (width, width, 3), (width, wanted, 1)]
    layers: list[nn.Module] = []
    for inputs, outputs, side in sizes:
        conv = nn.Conv2d(inputs, outputs, side, padding=side // 2, bias=False)
        layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


def reuse_head(student: Extractor, teacher: Extractor, factor: int, reader: str) -> None:
    """Makes a student's network a `ReusedHead` with its teacher's head, or gives that head the teacher's weights.

    Args:
        student: its network is changed.
        teacher: the network whose head is copied; it may have more classes than the student until its weights are read.
        factor: the projector narrows the teacher's width D to ``D // factor`` within.
        reader: the method that asks for it, for messages.

    Raises:
        MissingPartError: one of the two has no feature map.
    """
    network = student.network
    if not isinstance(network, ReusedHead):
        if student.image_size is None and teacher.image_size is None:  # they will see images of one size
            student.match_maps(teacher)
            teacher.match_maps(student)
        layer, own = student.locate_map(reader)
        _, wanted = teacher.locate_map(reader)
        widths, shrink = (own[0], max(wanted[0] // factor, 1), wanted[0]), min(Fraction(wanted[1], own[1]), Fraction(1))
        network = _wrap(student, layer, widths, teacher.head.bias is not None, shrink)
    if network.reused_head.out_features == teacher.head.out_features:
        network.reused_head.load_state_dict(teacher.head.state_dict())


def restore_reused_head(extractor: Extractor, state: Mapping[str, Tensor], prefix: str) -> None:
    """Makes a network a `ReusedHead` if that is what a state dict holds under a prefix; loads nothing."""
    projector = f"{prefix}{_PROJECTOR}."
    convs = [value.shape for key, value in state.items() if key.startswith(projector) and value.ndim == 4]
    if f"{prefix}{_HEAD}.weight" not in state or len(convs) != 3:
        return
    layer, _ = extractor.locate_map(ReusedHead.__name__)
    _wrap(extractor, layer, (convs[0][1], convs[0][0], convs[2][0]), f"{prefix}{_HEAD}.bias" in state)


def _wrap(
    extractor: Extractor, layer: str, widths: tuple[int, int, int], bias: bool, shrink: Fraction = Fraction(1)
) -> ReusedHead:
    """Puts an Extractor's network into a `ReusedHead`, whose head is still to be given its weights."""
    own = extractor.head.weight
    projector, head = make_projector(*widths).to(own), nn.Linear(widths[2], extractor.num_classes, bias).to(own)
    network = ReusedHead(extractor.network, str(extractor.head_name), layer, projector, head, shrink)
    extractor.wrap_network(network, child="network", head=_HEAD, feature_map=_PROJECTOR)
    return network
