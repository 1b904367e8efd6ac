"""What was drawn for the augmentation of a batch on its device, while the batch is on its way there."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

_SHAPE = "forward_input_shape"  # Kornia's, of the whole batch


class DrawnParameters:
    """What was drawn for the images of a batch: Kornia's parameters, a dictionary for each augmentation.

    Kornia expects them on the host, so this is no collection that a batch's transfer would look into. Those of a batch
    are arrays, as each tensor that a loading process sends needs an open file.
    """

    def __init__(self, parameters: Sequence[Mapping[str, Tensor | np.ndarray]]) -> None:
        self._parameters = parameters

    @property
    def parameters(self) -> list[dict[str, Tensor]]:
        """As Kornia takes them."""
        return [{name: torch.as_tensor(value) for name, value in each.items()} for each in self._parameters]

    @classmethod
    def join(cls, drawn: Sequence[Self]) -> Self:
        """Parameters of a batch, from those of its images."""
        batch = []
        for of_images in zip(*(each.parameters for each in drawn), strict=True):
            names = of_images[0].keys() - {_SHAPE}
            joined = {name: torch.cat([part[name] for part in of_images]).numpy() for name in names}
            _, *of_image = of_images[0][_SHAPE].tolist()
            batch.append({**joined, _SHAPE: np.array([len(drawn), *of_image])})
        return cls(batch)


def split_parameters(batch: Any) -> tuple[Any, DrawnParameters | None]:
    """A batch as it is when it is augmented, and what was drawn for that."""
    if isinstance(batch, list) and batch and isinstance(batch[-1], DrawnParameters):
        return batch[:-1], batch[-1]
    return batch, None
