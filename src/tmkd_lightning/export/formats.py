"""What a file format must be able to do, so that what was written can be run and compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Protocol

from torch import Tensor

from tmkd_lightning.export.deployable import Deployed


class Format(Protocol):
    """Writes a network to a file and runs such files.

    Attributes:
        suffix: how names of such files end.
        packages: what must be installed to write and run them.
    """

    suffix: str
    packages: tuple[str, ...]

    def write(self, file: IO[bytes], deployed: Deployed, example: Tensor, metadata: Mapping[str, str]) -> None:
        """Writes a network.

        Args:
            file: open for writing.
            deployed: the network with its normalisation.
            example: two images as the file shall take them, ``(2, 3, H, W)``.
            metadata: what to say of it.
        """

    def run(self, path: str, deployed: Deployed, image: Tensor) -> Tensor:
        """Runs a file as somebody else would.

        Args:
            path: file to run.
            deployed: the network that was written, to be left as it is.
            image: images of another number than the example, of its type.

        Returns:
            Logits ``(B, K)``.
        """
