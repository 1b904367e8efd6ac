"""Any classification network of torchvision with its ImageNet weights and a head of its own."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchvision.models import get_model

from tmkd_lightning.models.head import head_keys, head_to_keep
from tmkd_lightning.models.imagenet import build_with_weights, check_name, find_weights
from tmkd_lightning.utils.state_dict import alias_submodule, describe_mismatch

_INCEPTIONS = ("googlenet", "inception_v3")
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # their heads beside the head, which return tuples


class Pretrained(nn.Module):
    """A classification network of torchvision, with ImageNet weights and a fresh head for your classes.

    The weights are read when they are needed: by the modules when training starts, otherwise at the first forward.
    They are not read at all if a checkpoint has been loaded before. If K is the weights' own number of classes, 1000,
    their head is kept too. Tensors have torchvision's names in state dicts.

    An Extractor normalises images as the weights expect, which `pretrained_cfg` says as timm's networks do.

    Args:
        name: torchvision's name of the network, as in ``torchvision.models.list_models()``.
        num_classes: K, at least 1; a module told `num_classes` replaces the head.
        weights: torchvision's name of the weights, ``DEFAULT`` for the best there are; None for random ones.
        options: other arguments of torchvision's builder, such as ``{"dropout": 0.5}``. The Inceptions have
            ``aux_logits`` off by default, with which they would return tuples.

    Raises:
        ValueError: an unknown network, unknown weights, no classes, or a network without a linear layer.

    Example:
        >>> network = Pretrained("resnet18", num_classes=5, weights=None)
        >>> list(network.state_dict())[-2:], network.network.fc.out_features
        (['fc.weight', 'fc.bias'], 5)
        >>> Pretrained("resnet18", num_classes=5).pending
        True
    """

    __jit_unused_properties__: ClassVar[list[str]] = ["pending", "pretrained_cfg"]

    def __init__(
        self, name: str, num_classes: int = 1000, weights: str | None = "DEFAULT", options: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        check_name(name)
        if weights is not None:
            find_weights(name, weights)
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.name = name
        self.weights = weights
        self.options = {**_defaults(name, weights), **(options or {})}
        self.network = get_model(name, weights=None, num_classes=num_classes, **self.options)
        if not head_keys(self.network):
            raise ValueError(f"{name} has no linear layer as its head, which distillation needs: choose another")
        self._wish = Wish(weights is not None)
        self.network.register_load_state_dict_pre_hook(self._wish)
        alias_submodule(self, "network", "")

    def _get_name(self) -> str:
        return self.name  # in messages, and where modules are printed

    @property
    def pending(self) -> bool:
        """Whether pretrained weights are still to be read."""
        return self._wish.open

    @property
    def pretrained_cfg(self) -> dict[str, tuple[float, ...]]:
        """Channel ``mean`` and ``std`` that the weights expect; without weights, those of the default ones."""
        transforms = find_weights(self.name, self.weights or "DEFAULT").transforms()
        return {"mean": tuple(transforms.mean), "std": tuple(transforms.std)}

    def load_pretrained(self) -> None:
        """Reads the pretrained weights, if that is still to be done.

        Raises:
            PretrainedWeightsError: they cannot be fetched or read; the message says what would help.
            ValueError: with these options the network is not the one that the weights belong to.
        """
        if self.weights is None or not self.pending:
            return
        weights = find_weights(self.name, self.weights)
        # torchvision drops auxiliary heads by itself and refuses to be told to.
        options = {key: value for key, value in self.options.items() if key != "aux_logits" or value}
        own = self.network.state_dict()
        found = build_with_weights(self.name, weights, options).state_dict()
        found = {key: value for key, value in found.items() if key in own or not key.startswith(_AUXILIARY)}
        found |= head_to_keep(self.network, found)
        problems = describe_mismatch(found, own)
        if problems:
            raise ValueError(
                f"the weights {weights!r} do not fit {self.name} with the options {self.options}: {'; '.join(problems)}"
            )
        self.network.load_state_dict(found)

    def forward(self, image: Tensor) -> Tensor:
        """Classifies normalised images ``(B, 3, H, W)``; returns logits ``(B, K)``."""
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]  # noqa: SIM102
            if self.pending:
                torch.compiler.disable(self.load_pretrained)()  # a compiler would look into the reading of files
        logits: Tensor = self.network(image)
        return logits


def load_pretrained(network: nn.Module) -> None:
    """Reads the pretrained weights of every `Pretrained` in a network that still waits for them.

    Args:
        network: any module.

    Raises:
        PretrainedWeightsError: weights cannot be fetched or read; the message says what would help.
    """
    for module in network.modules():
        if isinstance(module, Pretrained):
            module.load_pretrained()


class Wish:
    """Whether pretrained weights are still wanted: no longer once any have been loaded. A plain object, so that a deep
    copy of the network has one of its own, which a closure would not."""

    def __init__(self, open: bool) -> None:
        self.open = open

    def __call__(self, network: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
        """Looks at what is about to be loaded: all but the head counts, unless it is the network's own put back."""
        head = head_keys(network)
        body = {prefix + key: value for key, value in network.named_parameters() if key not in head}
        fitting = (key in state and state[key].shape == value.shape for key, value in body.items())
        if all(fitting) and any(state[key].data_ptr() != value.data_ptr() for key, value in body.items()):
            self.open = False


def _defaults(name: str, weights: str | None) -> dict[str, Any]:
    """Arguments that torchvision's builders set along with weights, so that the network is the same without them."""
    if name in _INCEPTIONS:
        settings = {"aux_logits": False, "init_weights": False}
        return {**settings, "transform_input": True}
    if name.startswith("vit_") and weights is not None:
        return {"image_size": find_weights(name, weights).meta["min_size"][0]}
    return {}
