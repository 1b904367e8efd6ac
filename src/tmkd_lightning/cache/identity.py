"""What a teacher's outputs follow from, beside the images: its weights, its views, and how they are computed."""

from __future__ import annotations

import hashlib
import re
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tmkd_lightning.extract import Extractor
from tmkd_lightning.views import MultiView, View

_SIDE = 64  # of the picture that views are shown


def teacher_identity(teacher: Extractor, checkpoint: str | None) -> dict[str, Any]:
    """Says what decides a teacher's outputs.

    Args:
        teacher: the network, with the weights it has; if they are yet to come from a checkpoint, its file counts.
        checkpoint: path of that file, or None.

    Returns:
        Plain values, digests among them.

    Raises:
        OSError: the file cannot be read.
    """
    return {
        "name": teacher.name,
        "network": _digest(repr(teacher.network)),
        "weights": _of_weights(teacher) if checkpoint is None else _of_file(Path(checkpoint)),
        "head": teacher.head_name,
        "feature_map": teacher.named_map,
        "mean": teacher.mean.flatten().tolist(),
        "std": teacher.std.flatten().tolist(),
    }


def views_identity(views: MultiView) -> list[list[str]]:
    """Says what decides the views: their order, names, functions and numbers, and what they make of a picture.

    Args:
        views: as the teacher sees them.

    Returns:
        For each view its name, its function, and a digest of what it makes of the picture.
    """
    picture = _picture()
    return [[view.name, _described(view), _of_pixels(view(picture))] for view in views.views]


def _picture() -> torch.Tensor:
    """Waves of every length in three colours: edges of all directions and strengths."""
    row, column = torch.meshgrid(torch.arange(_SIDE), torch.arange(_SIDE), indexing="ij")
    waves = [torch.sin(row * column / 40 + row * a / 7 + column * b / 5) for a, b in ((1, 0), (0, 1), (1, 1))]
    return torch.stack(waves)[None] / 2 + 0.5


def _described(view: View) -> str:
    function = view.function
    words: list[object] = [function]
    if isinstance(function, partial):
        words = [function.func, *function.args, *sorted(function.keywords.items())]
    return re.sub(r" at 0x[0-9a-f]+", "", " ".join(map(repr, words)))


def _of_pixels(image: torch.Tensor) -> str:
    return _digest(image.mul(255).round().byte().numpy().tobytes())  # rounded: machines differ in the last digit


def _of_weights(teacher: Extractor) -> str:
    digest = hashlib.sha256()
    for name, tensor in teacher.network.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _of_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()
