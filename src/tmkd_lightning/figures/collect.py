"""What networks say of the same images: the material of every figure but the curves."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.feature_extraction.output import Output
from tmkd_lightning.figures.drawing import NothingToShowError


@dataclass(frozen=True)
class Seen:
    """Images, and what networks said of them; all on the CPU, in float32.

    Args:
        label: of all images, ``(N,)``, in 0..K-1.
        outputs: by the network's name, logits ``(N, K)`` and embeddings ``(N, D)`` of all images, without maps.
        example: some of the images, ``(R, 3, H, W)`` in [0, 1].
        example_label: their labels, ``(R,)``.
        example_outputs: by the network's name, of the examples, with maps where the network has some.
        class_names: K names.
    """

    label: Tensor
    outputs: dict[str, Output]
    example: Tensor
    example_label: Tensor
    example_outputs: dict[str, Output]
    class_names: list[str]


def look(
    networks: Mapping[str, Extractor],
    batches: Iterable[tuple[Tensor, Tensor]],
    class_names: Sequence[str],
    examples: int = 4,
) -> Seen:
    """Shows images to networks.

    Args:
        networks: by the name that figures give them; the first is the one that figures are about.
        batches: images ``(B, 3, H, W)`` in [0, 1] and labels ``(B,)``.
        class_names: K names.
        examples: how many images to keep, the first of each class that comes; at most K.

    Returns:
        What was seen.

    Raises:
        NothingToShowError: there are no images.
        ValueError: a network has other classes, or gives values that are not finite.

    Example:
        >>> from torchvision.models import resnet18
        >>> batches = [(torch.rand(5, 3, 32, 32), torch.tensor([1, 1, 0, 2, 0]))]
        >>> seen = look({"student": Extractor(resnet18(num_classes=3))}, batches, ["a", "b", "c"], examples=2)
        >>> seen.example_label.tolist(), seen.outputs["student"].embedding.shape
        ([1, 0], torch.Size([5, 512]))
    """
    observer = Observer(networks, class_names, examples)
    for image, label in batches:
        observer.see(image, label)
    return observer.seen()


class Observer:
    """Shows images to copies of networks: modes, statistics, hooks and maps of the networks themselves stay.

    Args:
        networks: as in `look`.
        class_names: as in `look`.
        examples: as in `look`.

    Raises:
        ValueError: a network has other classes, or `examples` is below 1.
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
        self.class_names = list(class_names)
        self.examples = examples
        self._networks = {name: _copy(network) for name, network in networks.items()}
        self._outputs: dict[str, list[Output]] = {name: [] for name in networks}
        self._labels: list[Tensor] = []
        self._chosen: dict[int, Tensor] = {}

    @torch.no_grad()
    def see(self, image: Tensor, label: Tensor) -> None:
        """Shows a batch to all networks, where the batch is.

        Args:
            image: ``(B, 3, H, W)`` in [0, 1].
            label: ``(B,)``, in 0..K-1.
        """
        for name, network in self._networks.items():
            self._outputs[name].append(_kept(network.to(image.device)(image), name))
        self._labels.append(label.cpu())
        for one, its in zip(image, label.tolist(), strict=True):
            if len(self._chosen) < self.examples:
                self._chosen.setdefault(its, one)

    @torch.no_grad()
    def seen(self) -> Seen:
        """Gives what was seen, and looks once more at the examples, with maps.

        Raises:
            NothingToShowError: there were no images.
        """
        if not self._chosen:
            raise NothingToShowError("there are no images to look at")
        example = torch.stack(list(self._chosen.values()))
        for network in self._networks.values():
            network.keep_map = True
        return Seen(
            label=torch.cat(self._labels),
            outputs={name: Output.cat(pieces) for name, pieces in self._outputs.items()},
            example=example.float().cpu(),
            example_label=torch.tensor(list(self._chosen)),
            example_outputs={name: _kept(network(example), name) for name, network in self._networks.items()},
            class_names=self.class_names,
        )


def _copy(network: Extractor) -> Extractor:
    twin = copy.deepcopy(network).eval().requires_grad_(False)
    twin.keep_map = False  # for all images: only examples are shown with their maps
    return twin


def _kept(output: Output, name: str) -> Output:
    if not output.logits.isfinite().all():
        raise ValueError(f"{name} gives logits that are not finite: was its training stopped by an error?")
    weight = None if output.head_weight is None else output.head_weight.float().cpu()
    rows = output.map(lambda part: part.float().cpu())
    return Output(rows.logits, rows.embedding, rows.feature_map, weight)
