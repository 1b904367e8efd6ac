"""Text-guided fusion: class prompts, and the teacher's answers, decide how much each view counts (Eq. 3 to 5)."""

import torch
from torch import Tensor, nn

from tmkd_lightning.feature_extraction.output import Output


class WeightNet(nn.Module):
    """Turns the prompt embeddings of a class into weights of the views.

    Args:
        text_dim: width E of the text embeddings.
        views: number of views V.
        hidden: width of the hidden layer.
        by_image: whether `reweigh` makes weights of a class into weights of an image.

    Source: Eq. 3 and 4; hidden 256 is our choice, the paper does not say. Weights by image are ours.

    Example:
        >>> weights = WeightNet(text_dim=8, views=3)(torch.zeros(5, 24))
        >>> weights.shape, weights.sum(1).allclose(torch.ones(5))
        (torch.Size([5, 3]), True)
    """

    def __init__(self, text_dim: int, views: int, hidden: int = 256, by_image: bool = False) -> None:
        super().__init__()
        self.hidden = nn.Linear(views * text_dim, hidden)
        self.output = nn.Linear(hidden, views)
        self.by_image = by_image
        if by_image:
            self.evidence = nn.Linear(2, 1, bias=False)
            nn.init.zeros_(self.evidence.weight)  # starts as the weights of the class

    def forward(self, rows: Tensor) -> Tensor:
        """Weights ``(K, V)`` of the views, each row summing to 1, from each class's prompts ``(K, V * E)``."""
        scores = self.output(self.hidden(rows).relu())
        return scores.softmax(dim=1, dtype=torch.promote_types(scores.dtype, torch.float32))

    def reweigh(self, weights: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """Weights ``(B, V)`` of the views by image: those of its class, and what the teacher says of each view.

        A view's score is the logarithm of its weight, plus learnt multiples of the teacher's log-probability of the
        label and of its negative entropy.

        Args:
            weights: of each image's class, ``(B, V)``.
            logits: of V views of B images, in the order of views, ``(V * B, K)``.
            labels: classes ``(B,)`` or distributions over them ``(B, K)``.
        """
        with torch.autocast(logits.device.type, enabled=False):
            log_p = logits.to(weights.dtype).log_softmax(1).unflatten(0, weights.T.shape)
            if labels.ndim == 1:
                of_label = log_p.gather(2, labels.expand(len(log_p), -1).unsqueeze(2)).squeeze(2)
            else:
                of_label = (labels.to(log_p.dtype) * log_p).sum(2)
            evidence = torch.stack([of_label, (log_p.exp() * log_p).sum(2)], dim=2)
            learnt = (evidence @ self.evidence.weight.to(evidence.dtype).T).squeeze(2)
            scores = weights.clamp_min(torch.finfo(weights.dtype).tiny).log() + learnt.T
            return scores.softmax(1)


def fuse(output: Output, weights: Tensor) -> Output:
    """Averages the teacher's output over the views, with weights for each image.

    The weights sum to 1 and the head is affine, so fused logits and CAM are those of the fused embedding and map.

    Args:
        output: of V views of B images, in the order of views, ``V * B`` rows.
        weights: of the views for each image, ``(B, V)``, each row summing to 1; gradients flow into them.

    Source: Eq. 5.

    Example:
        >>> two_views_of_one_image = Output(torch.tensor([[0.0], [4.0]]))
        >>> fuse(two_views_of_one_image, torch.tensor([[0.25, 0.75]])).logits.item()
        3.0
    """
    batch, views = weights.shape
    if len(output.logits) != views * batch:
        raise ValueError(f"{len(output.logits)} rows are not {views} views of {batch} images")

    def mean_over_views(part: Tensor) -> Tensor:
        per_view = part.unflatten(0, (views, batch))
        return (weights.T.reshape(views, batch, *[1] * (part.ndim - 1)) * per_view).sum(0)

    return output.map(mean_over_views)
