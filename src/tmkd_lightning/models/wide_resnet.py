"""Wide residual networks for small images (Zagoruyko and Komodakis 2016)."""

from torch import Tensor, nn
from torch.nn import functional as F


class WideResNet(nn.Module):
    """WRN-d-w: three groups of pre-activation blocks, pooled to one vector.

    Args:
        depth: d, layers with weights along the path; ``6 * n + 4`` with n above 0.
        widen_factor: w, the groups are ``16w``, ``32w`` and ``64w`` wide.
        num_classes: K.

    Source: Zagoruyko and Komodakis 2016, as RepDistiller defines it for distillation, with adaptive pooling.

    Example:
        >>> import torch
        >>> network = WideResNet(depth=10, widen_factor=1, num_classes=5)
        >>> network(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 5])
    """

    def __init__(self, depth: int, widen_factor: int = 1, num_classes: int = 100) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth must be 6 * n + 4 (10, 16, 22, 28, 34, 40, ...), got {depth}")
        blocks = (depth - 4) // 6
        widths = [16, *(base * widen_factor for base in (16, 32, 64))]
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.groups = nn.Sequential(*(_group(blocks, widths[i], widths[i + 1], 1 if i == 0 else 2) for i in range(3)))
        self.bn = nn.BatchNorm2d(widths[3])
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[3], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Classifies normalised images ``(B, 3, H, W)``; returns logits ``(B, K)``."""
        feature_map = self.relu(self.bn(self.groups(self.conv1(image))))
        return self.fc(self.pool(feature_map).flatten(1))


class _Block(nn.Module):
    """Two convolutions behind their activations, and a shortcut; a change of width projects the activated input."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width_in)
        self.conv1 = nn.Conv2d(width_in, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(width_in, width, 1, stride=stride, bias=False) if width_in != width else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        inner = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return inner + (x if self.shortcut is None else self.shortcut(active))


def _group(blocks: int, width_in: int, width: int, stride: int) -> nn.Sequential:
    return nn.Sequential(_Block(width_in, width, stride), *(_Block(width, width, 1) for _ in range(blocks - 1)))


def wrn_40_2(num_classes: int = 100) -> WideResNet:
    """WRN-40-2: 2.3 million parameters at 100 classes."""
    return WideResNet(40, 2, num_classes)


def wrn_40_1(num_classes: int = 100) -> WideResNet:
    """WRN-40-1: 0.57 million parameters at 100 classes."""
    return WideResNet(40, 1, num_classes)


def wrn_16_2(num_classes: int = 100) -> WideResNet:
    """WRN-16-2: 0.70 million parameters at 100 classes."""
    return WideResNet(16, 2, num_classes)
