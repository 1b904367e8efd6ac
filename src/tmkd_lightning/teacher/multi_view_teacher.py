"""The teacher of TMKD: several views of each image, one frozen network, one fused output."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.feature_extraction.output import Output
from tmkd_lightning.teacher.frozen import FrozenTeacher
from tmkd_lightning.teacher.fusion import WeightNet, fuse
from tmkd_lightning.text.prompts import PromptBank
from tmkd_lightning.views import MultiView


class MultiViewTeacher(nn.Module):
    """Runs a frozen network on several views of each image and fuses its outputs.

    Args:
        frozen: the network.
        views: what it sees of each image.
        weight_net: weighs the views by the prompts of each class; None for equal weights.
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
        """Fuses the outputs of all views of images ``(B, 3, H, W)`` in [0, 1], weighed by the classes ``(B,)``."""
        outputs = self.forward_views(images) if self.cache is None else self.cache(self, images)
        if self.num_views == 1:
            return outputs
        weights = self.view_weights(labels)
        self.mean_weights = dict(zip(self.view_names, weights.detach().mean(0), strict=True))
        return fuse(outputs, weights)

    def forward_views(self, images: Tensor) -> Output:
        """Runs the network on all views of images ``(B, 3, H, W)``: ``V * B`` rows in the order of views."""
        return self.frozen(self.views(images).flatten(0, 1), views=self.num_views, checked=True)

    def view_weights(self, labels: Tensor) -> Tensor:
        """Weights ``(B, V)`` of the views for the class of each image, each row summing to 1 (Eq. 3 and 4)."""
        if self.weight_net is None or self.prompt_bank is None:
            return torch.full((len(labels), self.num_views), 1 / self.num_views, device=labels.device)
        if len(labels) < len(self.prompt_bank.anchors):  # fewer images than classes
            return self.weight_net(self.prompt_bank.concat_views(labels))
        weights = self.weight_net(self.prompt_bank.concat_views())
        return weights[labels]
