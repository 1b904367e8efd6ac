"""What was drawn for the augmentation of a batch on its device, while the batch is on its way there."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

_SHAPE = "forward_input_shape"  # Kornia's, of the whole batch


class DrawnParameters:
    """What was drawn for the images of a batch: Kornia's parameters, a dictionary for each augmentation.

    Kornia expects them on the host, so this is no collection of tensors that a batch's transfer would look into.
    """

    def __init__(self, parameters: list[dict[str, Tensor]]) -> None:
        self.parameters = parameters

    @classmethod
    def join(cls, drawn: Sequence[Self]) -> Self:
        """Parameters of a batch, from those of its images."""
        batch = []
        for of_images in zip(*(each.parameters for each in drawn), strict=True):
            joined = {name: torch.cat([part[name] for part in of_images]) for name in of_images[0].keys() - {_SHAPE}}
            _, *of_image = of_images[0][_SHAPE].tolist()
            batch.append({**joined, _SHAPE: torch.tensor([len(drawn), *of_image])})
        return cls(batch)


def without_parameters(batch: Any) -> Any:
    """A batch as it is after its transfer, when what was drawn for it has been done."""
    return batch[:-1] if isinstance(batch, list) and batch and isinstance(batch[-1], DrawnParameters) else batch
