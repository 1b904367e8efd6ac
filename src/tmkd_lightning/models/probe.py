"""A linear head for networks that come without one, such as DINOv2, SigLIP and timm's with ``num_classes=0``."""

import torch
from torch import Tensor, nn

from tmkd_lightning.feature_extraction.layer_discovery import trace_black_image
from tmkd_lightning.feature_extraction.probe_head import ProbeHead
from tmkd_lightning.utils.validation import check_count


class Probe(nn.Module):
    """A network that gives embeddings, and a linear head that turns them into logits.

    It is a classifier like any other: its embedding is what the network gives. The head is zero until it is fitted,
    by ``tmkd probe`` or by training; a `TMKDModule` refuses methods that read the logits of a head of zeros.

    Args:
        network: from normalised images ``(B, 3, H, W)`` to embeddings ``(B, D)``.
        num_classes: K, at least 1; `TMKDModule` makes it that of the student as long as the head is zero.
        embedding_dim: D; None to measure it on a black image of a customary size.

    Raises:
        ValueError: the network gives no embeddings ``(B, D)``, or takes no image of a customary size.

    Example:
        >>> from torchvision.models import resnet18
        >>> network = resnet18()
        >>> network.fc = nn.Identity()
        >>> probe = Probe(network, num_classes=5)
        >>> probe.head.in_features, probe(torch.rand(2, 3, 64, 64)).abs().max().item()
        (512, 0.0)
    """

    def __init__(self, network: nn.Module, num_classes: int = 1, embedding_dim: int | None = None) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            raise TypeError(f"network must be an nn.Module from images to embeddings, got {type(network)}")
        check_count("num_classes", num_classes)
        width = embedding_width(network) if embedding_dim is None else check_count("embedding_dim", embedding_dim)
        weight = next((part for part in network.parameters() if part.is_floating_point()), torch.empty(0))
        self.network = network
        self.head = ProbeHead(width, num_classes, device=weight.device, dtype=weight.dtype)

    def _get_name(self) -> str:
        return f"Probe({self.network._get_name()})"  # in messages, and where modules are printed

    def forward(self, image: Tensor) -> Tensor:
        """Classifies normalised images ``(B, 3, H, W)``; returns logits ``(B, K)``."""
        return self.head(self.network(image))


def embedding_width(network: nn.Module) -> int:
    """Width D of the embeddings ``(B, D)`` that a network gives for a black image of a customary size."""
    output = trace_black_image(network).output
    if isinstance(output, Tensor) and output.ndim == 2:
        return output.shape[1]
    name = network._get_name()
    if output is None:
        raise ValueError(f"{name} takes no image of a customary size: say how wide its embeddings are, embedding_dim=")
    got = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
    raise ValueError(
        f"{name} returned {got}, expected embeddings (batch, width): wrap it in a module whose forward picks or pools "
        "them, and pass that"
    )
