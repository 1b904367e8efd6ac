"""The student of the study, small enough to be trained a hundred times on two cores."""

from torch import nn


class Small(nn.Sequential):
    """Four convolutions, of which three halve the image to 4 pixels a side; 240 thousand weights."""

    def __init__(self, width: int = 32, num_classes: int = 10) -> None:
        widths = [(3, width, 2), (width, 2 * width, 2), (2 * width, 4 * width, 2), (4 * width, 4 * width, 1)]
        blocks = [
            nn.Sequential(nn.Conv2d(into, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())
            for into, out, stride in widths
        ]
        super().__init__(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, num_classes))
