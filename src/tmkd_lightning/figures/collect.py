"""Collects the outputs of networks on the same images: the data of all figures but the curves."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.feature_extraction.output import Output
from tmkd_lightning.figures.drawing import NothingToPlotError
from tmkd_lightning.utils.labels import main_class


@dataclass(frozen=True)
class CollectedOutputs:
    """Outputs of networks on the same images, on the CPU in float32.

    Args:
        labels: of all images, ``(N,)``, in 0..K-1.
        outputs: by network, logits ``(N, K)`` and embeddings ``(N, D)`` of all images, without maps.
        example_images: some of the images, ``(R, 3, H, W)`` in [0, 1].
        example_labels: their labels, ``(R,)``.
        example_outputs: by network, outputs of the examples, with maps where the network has some.
        class_names: K names.
    """

    labels: Tensor
    outputs: dict[str, Output]
    example_images: Tensor
    example_labels: Tensor
    example_outputs: dict[str, Output]
    class_names: list[str]


class OutputCollector:
    """Runs copies of networks on batches and collects the outputs; the networks themselves stay as they are.

    Args:
        networks: by the name that figures give them; the first is the one that figures are about.
        class_names: K names.
        examples: number of example images, the first of each class that comes; at least 1.

    Example:
        >>> from torchvision.models import resnet18
        >>> collector = OutputCollector({"student": Extractor(resnet18(num_classes=3))}, ["a", "b", "c"], examples=2)
        >>> collector.update(torch.rand(5, 3, 32, 32), torch.tensor([1, 1, 0, 2, 0]))
        >>> collector.compute().example_labels.tolist()
        [1, 0]
    """

    def __init__(self, networks: Mapping[str, Extractor], class_names: Sequence[str], examples: int = 4) -> None:
        if examples < 1:
            raise ValueError(f"examples must be at least 1, got {examples}")
        for name, network in networks.items():
            if network.num_classes != len(class_names):
                raise ValueError(
                    f"{name} ({network.name}) has {network.num_classes} classes, but there are {len(class_names)}: "
                    "figures compare networks of the same classes"
                )
        self.class_names, self.examples = list(class_names), examples
        copies = {name: copy.deepcopy(network) for name, network in networks.items()}
        self._networks = {name: network.eval().requires_grad_(False) for name, network in copies.items()}
        self._outputs: dict[str, list[Output]] = {name: [] for name in networks}
        self._labels: list[Tensor] = []
        self._examples: dict[int, Tensor] = {}

    def update(self, images: Tensor, labels: Tensor) -> None:
        """Adds images ``(B, 3, H, W)`` in [0, 1], on the device to compute on, and labels ``(B,)`` or ``(B, K)``."""
        labels = main_class(labels)
        for name, outputs in self._outputs.items():
            outputs.append(self._run(name, images, keep_map=False))
        self._labels.append(labels.cpu())
        for image, label in zip(images, labels.tolist(), strict=True):
            if len(self._examples) < self.examples:
                self._examples.setdefault(label, image)

    def compute(self) -> CollectedOutputs:
        """Joins the batches, and runs the networks on the examples once more for maps."""
        if not self._examples:
            raise NothingToPlotError("there are no images to draw")
        images = torch.stack(list(self._examples.values()))
        return CollectedOutputs(
            labels=torch.cat(self._labels),
            outputs={name: Output.cat(pieces) for name, pieces in self._outputs.items()},
            example_images=images.float().cpu(),
            example_labels=torch.tensor(list(self._examples)),
            example_outputs={name: self._run(name, images, keep_map=True) for name in self._networks},
            class_names=self.class_names,
        )

    @torch.no_grad()
    def _run(self, name: str, images: Tensor, keep_map: bool) -> Output:
        network = self._networks[name].to(images.device)
        network.keep_map = keep_map
        output: Output = network(images).map(lambda part: part.float().cpu())
        if not output.logits.isfinite().all():
            raise ValueError(f"{name} gives logits that are not finite: was its training stopped by an error?")
        return replace(output, head_weight=None if output.head_weight is None else output.head_weight.float().cpu())
