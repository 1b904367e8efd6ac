"""torchvision's classification networks with ImageNet weights, read late and safely, and a head of your own."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlparse

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_model, get_model_weights, list_models

from tmkd_lightning.models.loading import head_keys, mismatched_head
from tmkd_lightning.utils.messages import short
from tmkd_lightning.utils.progress import on_terminal
from tmkd_lightning.utils.state_dict import alias_submodule, describe_mismatch


class PretrainedWeightsError(RuntimeError):
    """Pretrained weights cannot be fetched or read; the message says what would help."""


class DeferredNetwork(nn.Module):
    """A network whose weights are read when they are needed, and not at all if a state dict was loaded before."""

    _deferred: "_DeferredWeights"

    @property
    def pending(self) -> bool:
        """Whether pretrained weights are still to be read."""
        return self._deferred.pending

    @pending.setter
    def pending(self, value: bool) -> None:
        self._deferred.pending = value

    def load_pretrained(self) -> None:
        """Reads the pretrained weights, if that is still to be done."""
        raise NotImplementedError

    def _defer_weights(self, network: nn.Module, pending: bool = True) -> None:
        """Has state dicts that `network` loads stand in for the pretrained weights."""
        self._deferred = _DeferredWeights(pending)
        network.register_load_state_dict_pre_hook(self._deferred)


class Pretrained(DeferredNetwork):
    """A classification network of torchvision, with ImageNet weights and a fresh head for your classes.

    The weights are read when they are needed: by the modules when training starts, otherwise at the first forward, and
    not at all if a checkpoint has been loaded before. If K is the weights' own number of classes, 1000, their head is
    read too. Tensors have torchvision's names in state dicts. An Extractor normalises images as the weights expect.

    Args:
        name: torchvision's name of the network, as in ``torchvision.models.list_models()``.
        num_classes: K, at least 1; the `num_classes` of a module replaces the head.
        weights: torchvision's name of the weights, ``DEFAULT`` for the best there are; None for random ones.
        options: other arguments of torchvision's builder, such as ``{"dropout": 0.5}``. The Inceptions have
            ``aux_logits`` off by default, with which they would return tuples.

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
        known = list_models(module=torchvision.models)
        if name not in known:
            similar = difflib.get_close_matches(name, known) or known
            raise ValueError(f"torchvision has no classification network {name!r}: choose from {similar}")
        if weights is not None:
            _find_weights(name, weights)
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.name, self.weights = name, weights
        self.options = {**_default_options(name, weights), **(options or {})}
        self.network = get_model(name, weights=None, num_classes=num_classes, **self.options)
        if not head_keys(self.network):
            raise ValueError(f"{name} has no linear layer as its head, which distillation needs: choose another")
        self._defer_weights(self.network, pending=weights is not None)
        alias_submodule(self, "network", "")

    def _get_name(self) -> str:
        return self.name  # in messages, and where modules are printed

    @property
    def pretrained_cfg(self) -> dict[str, tuple[float, ...]]:
        """Channel ``mean`` and ``std`` that the weights expect; without weights, those of the default ones."""
        transforms = _find_weights(self.name, self.weights or "DEFAULT").transforms()
        return {"mean": tuple(transforms.mean), "std": tuple(transforms.std)}

    def load_pretrained(self) -> None:
        """Reads the pretrained weights, if that is still to be done."""
        if self.weights is None or not self.pending:
            return
        weights = _find_weights(self.name, self.weights)
        # torchvision drops auxiliary heads by itself and refuses to be told to.
        options = {key: value for key, value in self.options.items() if key != "aux_logits" or value}
        own = self.network.state_dict()
        found = _build_with_weights(self.name, weights, options).state_dict()
        auxiliary = ("aux1.", "aux2.", "AuxLogits.")  # heads beside the head, with which the Inceptions return tuples
        cut = tuple(f"{name}." for name, part in self.network.named_modules() if isinstance(part, nn.Identity) and name)
        found = {key: value for key, value in found.items() if key in own or not key.startswith((*auxiliary, *cut))}
        found |= mismatched_head(self.network, found)
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
                torch.compiler.disable(self.load_pretrained)()  # a compiler would trace the reading of files
        return self.network(image)


def load_pretrained(network: nn.Module) -> None:
    """Reads the weights of every `Pretrained` or `ZeroShotCLIP` in a network that still waits for them."""
    for module in network.modules():
        if isinstance(module, DeferredNetwork):
            module.load_pretrained()


def without_weights(config: Any) -> Any:
    """A config of networks, at any depth, for the same layers without reading torchvision's or timm's weights."""
    if isinstance(config, list):
        return [without_weights(part) for part in config]
    if not isinstance(config, Mapping):
        return config
    config = {name: without_weights(part) for name, part in config.items()}
    builder, arguments = str(config.get("class_path")), config.get("init_args", {})
    if builder.startswith("timm."):
        unread = {"pretrained": False, "checkpoint_path": None}
        return {**config, "init_args": {name: unread.get(name, value) for name, value in arguments.items()}}
    package, _, name = builder.rpartition(".")
    known = package == "torchvision.models" and name in list_models(torchvision.models)
    if not known or not arguments.get("weights"):
        return config
    options = {**arguments, **config.get("dict_kwargs", {})}
    weights = str(options.pop("weights")).rpartition(".")[2]
    settings = {"name": name, "num_classes": options.pop("num_classes", 1000), "weights": weights}
    settings["options"] = {key: value for key, value in options.items() if key != "progress"}
    return {"class_path": "tmkd_lightning.models.Pretrained", "init_args": settings}


class _DeferredWeights:
    """Whether pretrained weights are pending; an object, not a closure, so that a deep copy has its own."""

    def __init__(self, pending: bool) -> None:
        self.pending = pending

    def __call__(self, network: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
        """Checks what is about to be loaded: all but the head counts, unless it is the network's own put back."""
        head = head_keys(network)
        body = {prefix + key: value for key, value in network.named_parameters() if key not in head}
        fitting = all(key in state and state[key].shape == value.shape for key, value in body.items())
        if fitting and any(state[key].data_ptr() != value.data_ptr() for key, value in body.items()):
            self.pending = False


def _find_weights(name: str, weights: str) -> WeightsEnum:
    known = get_model_weights(name).__members__
    if weights not in known:
        raise ValueError(f"{name} has no weights {weights!r}: choose from {list(known)}, or None (in YAML, null)")
    return known[weights]


def _default_options(name: str, weights: str | None) -> dict[str, Any]:
    """Arguments that torchvision's builders set along with weights, so that the network is the same without them."""
    if name in ("googlenet", "inception_v3"):
        return {"aux_logits": False, "init_weights": False, "transform_input": True}
    if name.startswith("vit_") and weights is not None:
        return {"image_size": _find_weights(name, weights).meta["min_size"][0]}
    return {}


def _build_with_weights(name: str, weights: WeightsEnum, options: dict[str, Any]) -> nn.Module:
    """Lets torchvision build its own network with its weights, once the file has proved to be safe."""
    path = Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(weights.url).path).name)
    try:
        # torchvision unpickles what is in the file. It may: this reads plain tensors or fails.
        weights.get_state_dict(progress=on_terminal(), check_hash=True, weights_only=True, map_location="cpu")
    except Exception as error:  # the hub raises whatever sockets, disks and unpicklers come to
        if path.is_file():
            raise PretrainedWeightsError(
                f"{path}, the weights {weights!r}, cannot be read safely (weights_only=True): delete the file, and it "
                f"is fetched anew from {weights.url}. What went wrong: {error}"
            ) from error
        raise PretrainedWeightsError(
            f"the weights {weights!r} could not be fetched from {weights.url}, and the file {path} is not there: fetch "
            "it elsewhere and copy it there under exactly that name, set TORCH_HOME to a folder that has it under "
            f"hub/checkpoints, or use random weights with weights=None. What went wrong: {error}"
        ) from error
    try:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            return get_model(name, weights=weights, **options)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit {name} with the options {options}: {short(error)}") from error
