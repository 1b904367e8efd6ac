"""Prompt templates of views (Table 1), and the bank of the prompts' embeddings."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

TEMPLATES = {
    "rgb": "a photo of a {class}",
    "edge": "an edge enhanced image of a {class}",
    "high_frequency": "a high-frequency enhanced image of a {class}",
}
"""Prompt template of each built-in view (Table 1); that of ``rgb`` also makes the anchors of Eq. 10."""


def check_template(template: str) -> None:
    """Refuses a template without ``{class}``."""
    if "{class}" not in template:
        raise ValueError(f"prompt template {template!r} has no {{class}}: nothing would tell the classes apart")


def prompts_of(template: str, names: Sequence[str]) -> list[str]:
    """Fills a template with each class name; other braces stay as they are, in the names too."""
    check_template(template)
    return [template.replace("{class}", name) for name in names]


def view_templates(views: Mapping[str, str], replacement: Mapping[str, str] | str | None) -> dict[str, str]:
    """Templates by view name: a replacement by view name or for all views, else the view's own."""
    if isinstance(replacement, str):
        replacement = dict.fromkeys(views, replacement)
    chosen = {**views, **(replacement or {})}
    unknown = sorted(chosen.keys() - views.keys())
    if unknown:
        raise ValueError(f"templates name the view {unknown[0]!r}, but the views are {list(views)}")
    return chosen


class PromptBank(nn.Module):
    """Text embeddings of every class in every view, and of every class's anchor.

    They follow from the class names and the text encoder, so checkpoints leave them out.

    Args:
        views: number of views V.
        num_classes: number of classes K.
        text_dim: width E of the text embeddings.

    Attributes:
        embeddings: of the views' prompts, ``(V, K, E)``.
        anchors: of the prompts "a photo of a {class}" of Eq. 10, ``(K, E)``.
        filled: whether `fill` was called.

    Example:
        >>> bank = PromptBank(views=2, num_classes=3, text_dim=4)
        >>> bank.fill(torch.ones(2, 3, 4), torch.zeros(3, 4))
        >>> bank.concat_views().shape
        torch.Size([3, 8])
    """

    embeddings: Tensor
    anchors: Tensor

    def __init__(self, views: int, num_classes: int, text_dim: int) -> None:
        super().__init__()
        self.filled = False
        self.register_buffer("embeddings", torch.zeros(views, num_classes, text_dim), persistent=False)
        self.register_buffer("anchors", torch.zeros(num_classes, text_dim), persistent=False)

    def fill(self, embeddings: Tensor, anchors: Tensor) -> None:
        """Copies embeddings ``(V, K, E)`` and anchors ``(K, E)`` into the bank; other shapes are a ValueError."""
        expected = tuple(self.embeddings.shape), tuple(self.anchors.shape)
        given = tuple(embeddings.shape), tuple(anchors.shape)
        if given != expected:
            raise ValueError(
                f"text embeddings of shapes {given[0]} (views, classes, width) and {given[1]} (classes, width) do not "
                f"fit {expected[0]} and {expected[1]}; another width needs TMKDModule(text_dim={given[1][-1]})"
            )
        self.embeddings.copy_(embeddings)
        self.anchors.copy_(anchors)
        self.filled = True

    def resize(self, num_classes: int) -> None:
        """Changes the number of classes, which empties the bank."""
        views, classes, width = self.embeddings.shape
        if num_classes != classes:
            self.embeddings = self.embeddings.new_zeros(views, num_classes, width)
            self.anchors = self.anchors.new_zeros(num_classes, width)
            self.filled = False

    def concat_views(self, label: Tensor | None = None) -> Tensor:
        """Concatenates the views' embeddings: ``(B, V * E)`` of the classes `label` ``(B,)``, or ``(K, V * E)``."""
        embeddings = self.embeddings if label is None else self.embeddings[:, label]
        return embeddings.transpose(0, 1).flatten(1)
