"""The output of a classifier on a batch: logits, embedding, feature maps and head weight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

TensorPart = Literal["logits", "embedding", "feature_map", "head_weight"]
Part = Literal["logits", "embedding", "feature_map", "head_weight", "maps"]

_WHAT: dict[str, str] = {
    "embedding": "the input of the network's linear head",
    "feature_map": "a 4-D map whose spatial mean is the head's input, which transformers do not have and "
    "Extractor(keep_map=False) leaves out; a Distiller gets it only if it names 'feature_map' in reads",
    "head_weight": "the weight of the network's linear head",
    "maps": "the last map of each resolution; a Distiller gets them only if it names 'maps' in reads",
}


class MissingPartError(ValueError):
    """An `Output` lacks a part that its network cannot give."""


@dataclass(frozen=True)
class Output:
    """Logits of a batch, with the parts of the network that lead to them.

    Args:
        logits: class scores before the softmax, ``(B, K)``.
        embedding: input of the head, ``(B, D)``.
        feature_map: map whose spatial mean is the embedding, ``(B, D, h, w)``, or None where the network has none.
        head_weight: weight of the head, ``(K, D)``.
        maps: last map of each resolution, ``(B, C, h, w)`` each, the largest first; of a ViT the tokens of some blocks,
            as maps. Empty where nothing reads them.

    Example:
        >>> weight = torch.tensor([[1.0, 2.0]])
        >>> output = Output(torch.zeros(1, 1), feature_map=torch.ones(1, 2, 3, 3), head_weight=weight)
        >>> output.cam[0, 0, 0].tolist()
        [3.0, 3.0, 3.0]
    """

    logits: Tensor
    embedding: Tensor | None = None
    feature_map: Tensor | None = None
    head_weight: Tensor | None = None
    maps: tuple[Tensor, ...] = ()

    def require(self, part: TensorPart) -> Tensor:
        """Returns a part, or raises a `MissingPartError` if this output does not have it."""
        value: Tensor | None = getattr(self, part)
        if value is None:
            raise MissingPartError(f"this output has no {part} ({_WHAT[part]})")
        return value

    def require_maps(self) -> tuple[Tensor, ...]:
        """Returns the maps, or raises a `MissingPartError` if this output has none."""
        if not self.maps:
            raise MissingPartError(f"this output has no maps ({_WHAT['maps']})")
        return self.maps

    @property
    def cam(self) -> Tensor:
        """Class activation maps ``head_weight · feature_map``, without the bias, ``(B, K, h, w)``.

        Source: Zhou et al. 2016, Eq. 2.
        """
        weight, maps = self.require("head_weight"), self.require("feature_map")
        dtype = torch.promote_types(weight.dtype, maps.dtype)  # a fused map is float32, whatever the teacher runs in
        return torch.einsum("kd,bdhw->bkhw", weight.to(dtype), maps.to(dtype))

    def map(self, function: Callable[[Tensor], Tensor]) -> Output:
        """Applies a function to logits, embedding and maps, whose first dimension is the batch.

        Example:
            >>> Output(torch.zeros(4, 3)).map(lambda part: part[:2]).logits.shape
            torch.Size([2, 3])
        """
        embedding = None if self.embedding is None else function(self.embedding)
        feature_map = None if self.feature_map is None else function(self.feature_map)
        maps = tuple(map(function, self.maps))
        return Output(function(self.logits), embedding, feature_map, self.head_weight, maps)

    def to(self, device: torch.device) -> Output:
        """Moves all parts to a device; those that are there stay."""
        moved = self.map(lambda part: part.to(device))
        return replace(moved, head_weight=None if self.head_weight is None else self.head_weight.to(device))

    @classmethod
    def cat(cls, outputs: Sequence[Output]) -> Output:
        """Concatenates the outputs of one network on consecutive pieces of a batch, which have the same parts.

        Example:
            >>> Output.cat([Output(torch.zeros(2, 5)), Output(torch.ones(1, 5))]).logits[:, 0].tolist()
            [0.0, 0.0, 1.0]
        """
        embeddings = [one.embedding for one in outputs if one.embedding is not None]
        maps = [one.feature_map for one in outputs if one.feature_map is not None]
        return cls(
            torch.cat([one.logits for one in outputs]),
            torch.cat(embeddings) if embeddings else None,
            torch.cat(maps) if maps else None,
            outputs[0].head_weight,
            tuple(map(torch.cat, zip(*(one.maps for one in outputs), strict=True))),
        )
