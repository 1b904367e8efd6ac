"""Residual networks (He et al. 2016) for small images: torchvision's but for their first layers, as in RepDistiller."""

import torchvision
from torch import nn
from torchvision.models import ResNet


def resnet18(num_classes: int = 100) -> ResNet:
    """ResNet18 that keeps the resolution of small images at first: 11.2 million parameters at 100 classes."""
    return _with_small_stem(torchvision.models.resnet18(num_classes=num_classes))


def resnet50(num_classes: int = 100) -> ResNet:
    """ResNet50 that keeps the resolution of small images at first: 23.7 million parameters at 100 classes."""
    return _with_small_stem(torchvision.models.resnet50(num_classes=num_classes))


def _with_small_stem(network: ResNet) -> ResNet:
    """Replaces the first layers, which shrink an image fourfold, by a 3×3 convolution without a stride."""
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
    return network
