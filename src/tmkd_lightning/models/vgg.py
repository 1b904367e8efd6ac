"""VGG for small images: convolutions with batch normalisation, one linear head (Simonyan and Zisserman 2015)."""

from collections.abc import Sequence

from torch import Tensor, nn


class VGG(nn.Module):
    """Five blocks of 3×3 convolutions with max-pooling between them, pooled to one vector.

    Images are halved behind the first three blocks, and from 64 pixels on before the last block too.

    Args:
        widths: channels of each convolution in each of the five blocks.
        num_classes: K.

    Source: Simonyan and Zisserman 2015, as RepDistiller defines it for distillation, with adaptive pooling.

    Example:
        >>> import torch
        >>> network = VGG([[8], [8], [16], [16], [32, 32]], num_classes=5)
        >>> network(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 5])
    """

    def __init__(self, widths: Sequence[Sequence[int]], num_classes: int = 100) -> None:
        super().__init__()
        if len(widths) != 5 or not all(widths):
            raise ValueError(f"widths must be five lists, each of one width or more, got {widths}")
        ends = [3, *(block[-1] for block in widths)]
        self.blocks = nn.ModuleList(_block(ends[i], block) for i, block in enumerate(widths))
        self.halve = nn.MaxPool2d(2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(ends[-1], num_classes)
        for module in self.modules():  # as RepDistiller does; batch normalisation starts at 1 and 0 by itself
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
            if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Classifies normalised images ``(B, 3, H, W)`` of at least 8 pixels; returns logits ``(B, K)``."""
        halvings = 4 if min(image.shape[2:]) >= 64 else 3
        feature_map = image
        for index, block in enumerate(self.blocks):
            feature_map = block(feature_map)
            if index < halvings:
                feature_map = self.halve(feature_map)
        return self.fc(self.pool(feature_map).flatten(1))


def _block(width_in: int, widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, width in zip([width_in, *widths], widths, strict=False):
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def vgg8(num_classes: int = 100) -> VGG:
    """VGG8, one convolution a block: 4.0 million parameters at 100 classes."""
    return VGG([[64], [128], [256], [512], [512]], num_classes)


def vgg13(num_classes: int = 100) -> VGG:
    """VGG13, two convolutions a block: 9.5 million parameters at 100 classes."""
    return VGG([[64, 64], [128, 128], [256, 256], [512, 512], [512, 512]], num_classes)
