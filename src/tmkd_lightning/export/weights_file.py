"""Weights alone, for code that has the network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO

import torch
from torch import Tensor

from tmkd_lightning.export.deployable import Deployed


class WeightsFile:
    """The bare network's state dict under its own names, as safetensors, which cannot hold code."""

    suffix = ".safetensors"
    packages: tuple[str, ...] = ("safetensors",)

    def write(self, file: IO[bytes], deployed: Deployed, example: Tensor, metadata: Mapping[str, str]) -> None:
        """Writes a network; see `Format`."""
        from safetensors.torch import save

        tensors = {name: value.clone() for name, value in deployed.network.state_dict().items()}  # none shares memory
        file.write(save(tensors, {"format": "pt", **metadata}))

    def run(self, path: str, deployed: Deployed, image: Tensor) -> Tensor:
        """Loads a file, strictly, into a copy of the network that has lost its own weights; see `Format`."""
        from safetensors.torch import load_file

        other = Deployed(deployed.extractor)
        for value in other.network.state_dict().values():
            value.zero_()
        other.network.load_state_dict(load_file(path))
        with torch.no_grad():
            logits: Tensor = other(image)
        return logits
