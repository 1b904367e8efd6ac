"""The teacher of TMKD: several views of each image, one frozen network, one fused output."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.feature_extraction.output import Output
from tmkd_lightning.teacher.frozen import FrozenTeacher
from tmkd_lightning.teacher.fusion import WeightNet, fuse
from tmkd_lightning.text.prompts import PromptBank
from tmkd_lightning.utils.labels import complete
from tmkd_lightning.views import MultiView


class MultiViewTeacher(nn.Module):
    """Runs a frozen network on several views of each image and fuses its outputs.

    Args:
        frozen: the network.
        views: what it sees of each image.
        weight_net: weighs the views by the prompts of each class, and by image if made so; None for equal weights.
        prompt_bank: embeddings of those prompts; needed with a `weight_net`.

    Attributes:
        cache: reads the outputs of all views of a batch from a `TeacherCache`, or fills it; None to compute them.
        mean_weights: weight of each view in the last batch, by the view's name.

    Source: Fig. 2, Eq. 3 to 5.

    Example:
        >>> from torchvision.models import resnet18
        >>> teacher = MultiViewTeacher(FrozenTeacher(Extractor(resnet18(num_classes=5))), MultiView(["rgb", "edge"]))
        >>> teacher(torch.rand(2, 3, 32, 32), torch.tensor([0, 4])).logits.shape
        torch.Size([2, 5])
        >>> teacher.mean_weights["edge"].item()
        0.5
    """

    def __init__(
        self,
        frozen: FrozenTeacher,
        views: MultiView,
        weight_net: WeightNet | None = None,
        prompt_bank: PromptBank | None = None,
    ) -> None:
        super().__init__()
        self.frozen, self.views = frozen, views
        self.num_views, self.view_names = len(views), views.names
        self.weight_net, self.prompt_bank = weight_net, prompt_bank
        self.cache: Callable[[MultiViewTeacher, Tensor], Output] | None = None
        self.mean_weights: dict[str, Tensor] = {}

    @property
    def extractor(self) -> Extractor:
        """The frozen network as a source of outputs."""
        return self.frozen.extractor

    def forward(self, images: Tensor, labels: Tensor) -> Output:
        """Fuses the outputs of all views of images ``(B, 3, H, W)`` in [0, 1], weighed by their labels."""
        return self.fuse(self.read_or_forward(images), labels)

    def read_or_forward(self, images: Tensor) -> Output:
        """The outputs of all views of images ``(B, 3, H, W)``, ``V * B`` rows: from the cache where there is one."""
        return self.forward_views(images) if self.cache is None else self.cache(self, images)

    def fuse(self, outputs: Output, labels: Tensor) -> Output:
        """Averages the outputs ``V * B`` of all views, weighed by labels ``(B,)`` or ``(B, K)`` (Eq. 5)."""
        if self.num_views == 1:
            return outputs
        weights = self.view_weights(labels)
        if self.weight_net is not None and self.weight_net.by_image:
            weights = self.weight_net.reweigh(weights, outputs.logits, labels)
        self.mean_weights = dict(zip(self.view_names, weights.detach().mean(0), strict=True))
        return fuse(outputs, weights)

    def complete(self, labels: Tensor, outputs: Output) -> Tensor:
        """Fills in what labels ``(B, K)`` lack with the network's answer to the RGB view, of `outputs` ``V * B``."""
        if labels.ndim == 1 or "rgb" not in self.view_names:
            return labels
        start = self.view_names.index("rgb") * len(labels)
        return complete(labels, outputs.logits[start : start + len(labels)])

    def pick(self, outputs: Output, views: Tensor) -> Output:
        """The output of one view for each image, of ``V * B``; `views` ``(B,)`` are their indices, on the host."""
        rows = views * len(views) + torch.arange(len(views))
        rows = rows.to(outputs.logits.device, non_blocking=True)
        return outputs.map(lambda part: part[rows])

    def forward_views(self, images: Tensor) -> Output:
        """Runs the network on all views of images ``(B, 3, H, W)``: ``V * B`` rows in the order of views."""
        return self.frozen(self.views(images).flatten(0, 1), views=self.num_views, checked=True)

    def view_weights(self, labels: Tensor) -> Tensor:
        """Weights ``(B, V)`` of the views by class, for labels ``(B,)`` or ``(B, K)``; rows sum to 1 (Eq. 3 and 4)."""
        if self.weight_net is None or self.prompt_bank is None:
            return torch.full((len(labels), self.num_views), 1 / self.num_views, device=labels.device)
        fewer_images = len(labels) < len(self.prompt_bank.anchors)  # than classes
        if labels.ndim == 1 and fewer_images:
            return self.weight_net(self.prompt_bank.concat_views(labels))
        of_class = self.weight_net(self.prompt_bank.concat_views())
        if labels.ndim == 1:
            return of_class[labels]
        with torch.autocast(labels.device.type, enabled=False):
            if not fewer_images:
                return labels.to(of_class.dtype) @ of_class
            share, main = labels.max(dim=1)  # the main class apart, so that a one-hot row rounds like its class
            rest = labels.scatter(1, main.unsqueeze(1), 0.0).to(of_class.dtype) @ of_class
        return share.unsqueeze(1) * self.weight_net(self.prompt_bank.concat_views(main)) + rest
