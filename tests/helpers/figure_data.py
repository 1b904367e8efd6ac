"""Random outputs of networks, with everything that figures read."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tmkd_lightning import Output
from tmkd_lightning.figures import CollectedOutputs


def make_outputs(
    labels: Sequence[int], classes: int = 4, names: Sequence[str] = ("student", "teacher"), examples: int = 2
) -> CollectedOutputs:
    """Outputs on images with these labels; the first few are examples, 6 by 10 pixels with maps of 2 by 3."""
    generator = torch.Generator().manual_seed(0)

    def output(images: int, maps: bool) -> Output:
        feature_map = torch.randn(images, 5, 2, 3, generator=generator)
        weight = torch.randn(classes, 5, generator=generator)
        embedding = feature_map.mean((2, 3))
        return Output(embedding @ weight.T, embedding, feature_map if maps else None, weight)

    all_labels: Tensor = torch.tensor(labels)
    return CollectedOutputs(
        labels=all_labels,
        outputs={name: output(len(labels), maps=False) for name in names},
        example_images=torch.rand(examples, 3, 6, 10, generator=generator),
        example_labels=all_labels[:examples],
        example_outputs={name: output(examples, maps=True) for name in names},
        class_names=[f"class_{index}" for index in range(classes)],
    )
