"""What a teacher's outputs follow from, beside the images: its weights, its views, and how they are computed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.models.pretrained import _DeferredWeights
from tmkd_lightning.teacher.cache.errors import CacheError
from tmkd_lightning.utils.contents import digest_of_contents
from tmkd_lightning.utils.files import sha256_of
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
        "network": _of_code(teacher),
        "weights": _of_weights(teacher) if checkpoint is None else sha256_of(Path(checkpoint)),
        "head": teacher.named_head,
        "feature_map": teacher.named_map,
        "mean": teacher.mean.flatten().tolist(),
        "std": teacher.std.flatten().tolist(),
    }


def views_identity(views: MultiView) -> list[list[str]]:
    """Says what decides the views: their order, names, functions and numbers, and what they make of a picture.

    Args:
        views: as the teacher sees them.

    Returns:
        For each view its name, a digest of its function, and one of what it makes of the picture.

    Raises:
        CacheError: a view draws random numbers, which would not come again.
    """
    known = {view.name: view for view in views.views}
    seen = {name: _of_view(view) for name, view in known.items()}  # first: what a view imports as it runs is there then
    return [[name, digest_of_contents(view.function, f"view {name!r}"), seen[name]] for name, view in known.items()]


def _of_view(view: View) -> str:
    picture = _picture()
    with torch.random.fork_rng(devices=[]):
        seen = [_of_pixels(view(picture)) for _ in range(2)]
    if seen[0] != seen[1]:
        raise CacheError(
            f"view {view.name!r} makes another image each time: what a teacher says of it cannot be kept; leave "
            "TeacherCache or the view out"
        )
    return seen[0]


def _picture() -> Tensor:
    """Waves of every length in three colours: edges of all directions and strengths."""
    row, column = torch.meshgrid(torch.arange(_SIDE), torch.arange(_SIDE), indexing="ij")
    waves = [torch.sin(row * column / 40 + row * a / 7 + column * b / 5) for a, b in ((1, 0), (0, 1), (1, 1))]
    return torch.stack(waves)[None] / 2 + 0.5


def _of_pixels(image: Tensor) -> str:
    return _digest(image.mul(255).round().byte().numpy().tobytes())  # rounded: machines differ in the last digit


def _of_code(teacher: Extractor) -> str:
    """Of layers with one set of weights, what they compute may differ: by what they hold, their code, or a hook.

    Whether weights are still to be loaded makes no difference; our own code is known by the format of the cache.
    """
    state = teacher.network.state_dict(keep_vars=True).values()  # counts as weights, or comes from the checkpoint
    known = {id(tensor) for tensor in state if isinstance(tensor, Tensor)}
    return digest_of_contents(
        (type(teacher), teacher.network),
        "the teacher",
        skip=lambda part: part is Extractor or id(part) in known or isinstance(part, _DeferredWeights),
        modes=False,
    )


def _of_weights(teacher: Extractor) -> str:
    digest = hashlib.sha256()
    for name, tensor in teacher.network.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()


def _digest(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()
