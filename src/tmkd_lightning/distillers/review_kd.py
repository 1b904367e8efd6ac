"""ReviewKD: deeper maps of the student, fused into shallower ones, learn from the teacher's (Chen et al. 2021)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tmkd_lightning.distillers.maps import RegressingDistiller
from tmkd_lightning.feature_extraction.output import Output, Part
from tmkd_lightning.feature_extraction.spec import MapShape, Spec
from tmkd_lightning.losses.hcl import hcl
from tmkd_lightning.utils.validation import check_count, check_term, check_weight


class ReviewKD(RegressingDistiller):
    """Hierarchical context loss of several pairs of maps; each of the student's is fused with all deeper ones first.

    From the deepest on, an attention-based fusion brings a map to common channels, adds what it has reviewed so far,
    weighed for each pixel, and predicts the teacher's map of that depth. The embeddings are the deepest pair, as maps
    of one pixel.

    Args:
        weight: factor of the loss, at least 0.
        last: number of the last maps to compare; None for as many as both networks have.
        width: channels in which maps are fused; None for 64, or 512 where one of the teacher's maps has more than 512.
        name: name of the term in logs.

    Source: Chen et al. 2021, Eq. 5 and Fig. 3; their weights are 0.6 to 8 for different pairs, with a warm-up of 20
    epochs (`WarmUp`), and their teacher's maps those before the activation.

    Example:
        >>> from tmkd_lightning.feature_extraction.spec import Spec
        >>> method = ReviewKD()
        >>> method.build(student=Spec(3, 4, maps=((2, 8, 8),)), teacher=Spec(3, 6, maps=((5, 8, 8),)))
        >>> student = Output(torch.zeros(2, 3), torch.rand(2, 4), maps=(torch.rand(2, 2, 8, 8),))
        >>> teacher = Output(torch.zeros(2, 3), torch.rand(2, 6), maps=(torch.rand(2, 5, 8, 8),))
        >>> method(student, teacher, torch.zeros(2))["review_kd"].item() > 0
        True
    """

    reads: frozenset[Part] = frozenset({"maps", "embedding"})
    min_batch = 2  # embeddings of one image have no statistics for the BatchNorm

    def __init__(
        self, weight: float = 1.0, last: int | None = None, width: int | None = None, name: str = "review_kd"
    ) -> None:
        super().__init__()
        self.weight = check_weight("weight", weight)
        self.last = None if last is None else check_count("last", last)
        self.width = None if width is None else check_count("width", width)
        self.name = check_term(name)

    def shapes(self, student: Spec, teacher: Spec) -> list[tuple[MapShape, MapShape]]:
        """Those of the maps, and of the embeddings as maps."""
        if student.embedding_dim is None or teacher.embedding_dim is None:
            raise ValueError(f"{self.method_name} reads embeddings, which one of the two networks does not have")
        return [*super().shapes(student, teacher), ((student.embedding_dim, 1, 1), (teacher.embedding_dim, 1, 1))]

    def make_layers(self, pairs: list[tuple[MapShape, MapShape]]) -> nn.Module:
        """Makes a fusion for each pair."""
        width = self.width or (512 if max(teacher[0] for _, teacher in pairs) > 512 else 64)
        return nn.ModuleList(
            AttentionFusion(student[0], width, teacher[0], fuses=place < len(pairs) - 1)
            for place, (student, teacher) in enumerate(pairs)
        )

    def forward(self, student: Output, teacher: Output, label: Tensor) -> dict[str, Tensor]:
        """Computes the term ``review_kd``; see `Distiller`."""
        if len(student.logits) < self.min_batch:
            return {self.name: self.zero(student)}
        pairs = self.map_pairs(student, teacher)
        pairs.append((student.require("embedding")[..., None, None], teacher.require("embedding")[..., None, None]))
        losses, reviewed = [], None
        for fusion, (own, target) in reversed(list(zip(self.each_regressor(), pairs, strict=True))):
            predicted, reviewed = fusion(own, reviewed, target.shape[2:])
            losses.append(hcl(predicted, target))
        return {self.name: self.weight * torch.stack(losses).sum()}


class AttentionFusion(nn.Module):
    """Fuses a map of the student with the deeper ones, and predicts one of the teacher's (ABF).

    Args:
        channels: of the student's map.
        width: in which maps are fused.
        wanted: channels of the teacher's map.
        fuses: whether there are deeper maps.

    Source: Chen et al. 2021, Fig. 3a, and their code.
    """

    def __init__(self, channels: int, width: int, wanted: int, fuses: bool) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width))
        self.conv2 = nn.Sequential(nn.Conv2d(width, wanted, 3, padding=1, bias=False), nn.BatchNorm2d(wanted))
        self.attention = nn.Conv2d(2 * width, 2, 1) if fuses else None
        for layer in (*self.conv1, *self.conv2):
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_uniform_(layer.weight, a=1)

    def forward(self, own: Tensor, deeper: Tensor | None, size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The predicted map ``(B, D, H, W)`` of the given size, and what the next fusion is to be given."""
        fused = self.conv1(own)
        if self.attention is not None and deeper is not None:
            deeper = nearest(deeper, fused.shape[2:])
            shares = self.attention(torch.cat([fused, deeper], dim=1)).sigmoid()
            fused = fused * shares[:, :1] + deeper * shares[:, 1:]
        fused = nearest(fused, size)
        return self.conv2(fused), fused


def nearest(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Resizes maps ``(B, C, h, w)`` by the nearest pixel."""
    return maps if maps.shape[2:] == size else F.interpolate(maps, tuple(size), mode="nearest")
