"""Conversion between a teacher's output and the arrays that are stored of it."""

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from tmkd_lightning.feature_extraction.output import Output, TensorPart
from tmkd_lightning.teacher.frozen import FrozenTeacher

PIXELS = "pixels"  # names of arrays: checksums of the images
EMBEDDING = "embedding"  # inputs of the head, which computes the logits again
LOGITS = "logits"  # of a teacher without a head, or whose head does not give them
_MAPS = "maps_"  # and the name of the layer
_PARTS: dict[str, TensorPart] = {EMBEDDING: "embedding", LOGITS: "logits"}


def array_dtypes(
    has_head: bool,
    reads_map: bool,
    map_size: int | None,
    dtype: str,
    logits_of_head: bool = True,
    maps: Sequence[str] = (),
) -> dict[str, str]:
    """Dtypes by name of the arrays to store.

    The feature map is pooled to `map_size` pixels a side, None for no pooling; `maps` names the layers of the others.
    """
    feature_map = {"map" if map_size is None else f"map_{map_size}x{map_size}": dtype} if reads_map else {}
    embeddings = {EMBEDDING: dtype} if has_head else {}
    logits = {} if has_head and logits_of_head else {LOGITS: dtype}
    others = {f"{_MAPS}{layer}": dtype for layer in maps}
    return {PIXELS: "uint32", **embeddings, **logits, **feature_map, **others}


def to_arrays(output: Output, views: int, dtypes: Mapping[str, str]) -> dict[str, Tensor]:
    """Takes ``(B, V, ...)`` by array name, without the pixels, from an output of ``V * B`` rows, view by view."""
    maps = [name for name in dtypes if name.startswith(_MAPS)]
    parts = {name: output.require(_PARTS.get(name, "feature_map")) for name in dtypes if name not in (PIXELS, *maps)}
    parts |= zip(maps, output.maps, strict=True)
    return {
        name: part.unflatten(0, (views, -1)).transpose(0, 1).to(getattr(torch, dtypes[name]))
        for name, part in parts.items()
    }


def from_arrays(arrays: Mapping[str, Tensor], teacher: FrozenTeacher, image: Tensor, views: int) -> Output:
    """Inverts `to_arrays`; if logits are not stored, the teacher's head runs. `image` is the batch ``(B, 3, H, W)``."""
    dtype = teacher.extractor.weight_dtype
    rows = {name: part.transpose(0, 1).flatten(0, 1).to(dtype) for name, part in arrays.items()}
    maps = tuple(rows.pop(name) for name in list(rows) if name.startswith(_MAPS))
    feature_map = next((rows[name] for name in rows if name not in (EMBEDDING, LOGITS)), None)
    if EMBEDDING not in rows:
        return Output(rows[LOGITS], maps=maps)
    if LOGITS not in rows:
        return teacher.from_embedding(rows[EMBEDDING], feature_map, image, views, maps)
    head = teacher.extractor.head
    return Output(rows[LOGITS], rows[EMBEDDING], feature_map, head.weight, maps).to(image.device)


def image_checksums(image: Tensor) -> np.ndarray:
    """CRC-32 of each image ``(B, 3, H, W)`` in [0, 1], rounded to 8 bits; ``(B, 1)``."""
    bits = image.mul(255).round().clamp(0, 255).byte().cpu().contiguous().numpy()
    return np.array([[zlib.crc32(one.data)] for one in bits], np.uint32)
