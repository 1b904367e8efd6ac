"""What the students see of each crop, resized to their size and made once: it is the same in every run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tmkd_lightning.feature_extraction.image_size import Size, resize
from tmkd_lightning.teacher.cache.array_file import ArrayFile
from tmkd_lightning.utils.fingerprint import fingerprint
from tmkd_lightning.views import RandomView, View


class StoredViews(RandomView):
    """Does what a RandomView does, at the student's size; views that are the same each time are read from files.

    Args:
        shown: what it takes the place of.
        size: height and width in pixels, of the student.
        folder: for a file of each view, named by what decides its content.
        images: the training images ``(N, 3, H, W)``, of which the first say which they are.
    """

    def __init__(self, shown: RandomView, size: Size, folder: Path, images: np.ndarray) -> None:
        super().__init__(shown.views.views, shown.shares.tolist())
        self.size, self.files = size, {}
        for view in filter(_repeats, self.views.views):
            key = fingerprint((size, view.function, images[:64].tobytes()), view.name)[:16]
            file = folder / f"{view.name}_{key}.npy"
            self.files[view.name] = ArrayFile.create(file, len(images), (3, *size), "float32")
        self.rows = np.empty(0, np.int64)  # of the training images in the next batch

    @torch.no_grad()
    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Shows the images ``(B, 3, H, W)`` of `rows`; returns them resized, and the index ``(B,)`` of each view."""
        drawn = torch.zeros(len(image), dtype=torch.long)
        if len(self.views) > 1:
            drawn = torch.multinomial(self.shares, len(image), replacement=True)
        seen = torch.empty(len(image), 3, *self.size)
        for index, view in enumerate(self.views.views):
            chosen = (drawn == index).nonzero().flatten()
            if len(chosen):
                seen[chosen] = self._show(view, image, chosen)
        return seen, drawn

    def _show(self, view: View, image: Tensor, chosen: Tensor) -> Tensor:
        """The chosen images in one view; makes those that were not yet made, together."""
        if view.name not in self.files:
            return resize(view(image[chosen]), self.size)
        file, rows = self.files[view.name], self.rows[chosen.numpy()]
        found = [file.read(rows[i : i + 1]) for i in range(len(rows))]
        missing = [i for i, values in enumerate(found) if values is None]
        if missing:
            made = resize(view(image[chosen[missing]]), self.size).numpy()
            file.write(rows[missing], made)
            for i, values in zip(missing, made, strict=True):
                found[i] = values[None]
        return torch.from_numpy(np.concatenate(found))


def _repeats(view: View) -> bool:
    """Whether a view draws no random numbers: of sixteen images, none comes out as something else."""
    image = torch.linspace(0, 1, 3 * 32 * 32).reshape(1, 3, 32, 32).repeat(16, 1, 1, 1)
    with torch.random.fork_rng(devices=[]):
        return torch.equal(view(image), view(image))
