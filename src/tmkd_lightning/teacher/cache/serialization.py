"""From a teacher's output to what is kept of it, and back."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tmkd_lightning.feature_extraction.output import Output, Part
from tmkd_lightning.teacher.frozen import FrozenTeacher
from tmkd_lightning.utils.precision import at_least_float32

PIXELS = "pixels"
"""Kind of the checksums of the images that outputs belong to."""

EMBEDDING = "embedding"
"""Kind of the heads' inputs."""

LOGITS = "logits"
"""Kind of the logits of a teacher that has no head to compute them from its embedding."""

_PARTS: dict[str, Part] = {EMBEDDING: "embedding", LOGITS: "logits"}


def kinds(has_head: bool, reads_map: bool, map_size: int | None, dtype: str) -> dict[str, str]:
    """Names what is kept, and in which type.

    Args:
        has_head: whether the teacher has embeddings, from which its head gives the logits.
        reads_map: whether maps are.
        map_size: side in pixels that maps are pooled to, None for the size that they have.
        dtype: of the teacher's values.

    Returns:
        Types by kind.

    Example:
        >>> kinds(True, True, 2, "float16")
        {'pixels': 'uint32', 'embedding': 'float16', 'map_2x2': 'float16'}
    """
    maps = {"map" if map_size is None else f"map_{map_size}x{map_size}": dtype} if reads_map else {}
    return {PIXELS: "uint32", EMBEDDING if has_head else LOGITS: dtype, **maps}


def parts(output: Output, views: int, types: Mapping[str, str]) -> dict[str, Tensor]:
    """Takes what is kept out of an output.

    Args:
        output: of ``V * B`` rows, in the order of views.
        views: V.
        types: as `kinds` gives them.

    Returns:
        By kind ``(B, V, ...)``, in their types; without the pixels.
    """
    found = {}
    for kind, dtype in types.items():
        if kind != PIXELS:
            part = output.require(_PARTS.get(kind, "feature_map"))
            found[kind] = part.unflatten(0, (views, -1)).transpose(0, 1).to(getattr(torch, dtype))
    return found


def output_of(kept: Mapping[str, Tensor], teacher: FrozenTeacher, image: Tensor, views: int) -> Output:
    """Makes the output again.

    Args:
        kept: what `parts` gave.
        teacher: whose output it is; only its head computes.
        image: the batch that it belongs to, ``(B, 3, H, W)``.
        views: V.

    Returns:
        Output of ``V * B`` rows, in the order of views.
    """
    dtype = teacher.extractor.weight_dtype
    rows = {kind: part.transpose(0, 1).flatten(0, 1).to(dtype) for kind, part in kept.items()}
    if LOGITS in rows:
        return Output(rows[LOGITS])
    maps = [rows[kind] for kind in rows if kind != EMBEDDING]
    return teacher.from_embedding(rows[EMBEDDING], maps[0] if maps else None, image, views)


def checksums(image: Tensor) -> np.ndarray:
    """Tells images apart, to 8 bits a value.

    Args:
        image: ``(B, 3, H, W)`` in [0, 1].

    Returns:
        One checksum an image, ``(B, 1)``.
    """
    bits = image.mul(255).round().clamp(0, 255).byte().cpu().contiguous().numpy()
    return np.array([[zlib.crc32(one.data)] for one in bits], np.uint32)


def head_tensors(teacher: FrozenTeacher) -> dict[str, np.ndarray]:
    """A teacher's head by name, for NumPy, which knows no bfloat16."""
    state: dict[str, Any] = teacher.extractor.head.state_dict()
    return {name: at_least_float32(value).cpu().numpy() for name, value in state.items()}
