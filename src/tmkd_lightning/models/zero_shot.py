"""CLIP as a classifier of any classes: its image tower, and a head made of its embeddings of their names."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from tmkd_lightning.models.pretrained import DeferredNetwork, PretrainedWeightsError
from tmkd_lightning.text.class_names import check_class_names
from tmkd_lightning.text.embedding_cache import cached_embeddings, default_cache_dir
from tmkd_lightning.text.openclip import OpenCLIPTextEncoder, check_tag, clip_config, load_clip, weights_remedy
from tmkd_lightning.text.prompts import check_template, prompts_of
from tmkd_lightning.utils.images import channel_statistics
from tmkd_lightning.utils.precision import at_least_float32


class ZeroShotCLIP(DeferredNetwork):
    """Classifies images by the cosine between CLIP's embeddings of the image and of each class's name.

    The logits are ``s · cos``, with the factor ``s`` that CLIP learned (100 for OpenAI's). They come from a linear head
    whose rows are the text embeddings times ``s``; its input, the normalised image embedding, is what methods read as
    the embedding. The weights, and the text embeddings from the cache of `PromptEmbeddings`, are read when they are
    needed: by the modules when training starts, otherwise at the first forward.

    An Extractor normalises images as CLIP expects. Images of another size than CLIP's are resized as open_clip's own
    preprocessing does it, antialiased, and of oblong ones the centre is taken where that does so.

    Args:
        model_name: open_clip's name of the architecture. OpenAI's weights need a ``-quickgelu`` one.
        pretrained: open_clip's tag of the weights, a weights file, or a folder, as in `OpenCLIPTextEncoder`.
        class_names: words for the classes, in the order of the labels; None for those of the module, else the
            datamodule's `class_phrases` or `class_names`, which are asked for when training starts.
        templates: sentences with ``{class}`` or ``{}`` in place of the class; the embeddings of several are averaged.
        cache_dir: folder of downloaded weights, by default the Hugging Face cache.

    Raises:
        ValueError: an unknown model or tag, one of another activation than the architecture's, or an image tower that
            does not give one vector for an image; a template without its place for the class.
        PretrainedWeightsError: the weights cannot be downloaded or read (when they are needed).

    Source: Radford et al. 2021, Sec. 3.1; the template is theirs, and so is averaging normalised embeddings.

    Example:
        >>> network = ZeroShotCLIP("RN50-quickgelu", "openai", class_names=["cat", "dog"])
        >>> network.head, network.image_size, network.pending
        (Linear(in_features=1024, out_features=2, bias=False), 224, True)
        >>> network.prompts(["cat"])
        ['a photo of a cat.']
    """

    black: Tensor
    white: Tensor

    def __init__(
        self,
        model_name: str = "ViT-B-32-quickgelu",
        pretrained: str = "openai",
        class_names: Sequence[str] | None = None,
        templates: Sequence[str] = ("a photo of a {class}.",),
        cache_dir: str | None = None,
    ) -> None:
        super().__init__()
        self.class_names = None if class_names is None else check_class_names(class_names, None)
        self.templates = [one.replace("{}", "{class}") for one in _sentences(templates)]
        for template in self.templates:
            check_template(template)
        self.encoder = OpenCLIPTextEncoder(model_name, pretrained, cache_dir)
        tower, width, self.image_size, preprocessing = _image_tower(self.encoder.model_name, self.encoder.pretrained)
        self.visual = tower
        self.head = nn.Linear(width, 1 if self.class_names is None else len(self.class_names), bias=False)

        self.image_mean, self.image_std = tuple(preprocessing["mean"]), tuple(preprocessing["std"])
        mean, std = channel_statistics(self.image_mean, self.image_std)
        self.register_buffer("black", -mean / std, persistent=False)
        self.register_buffer("white", (1 - mean) / std, persistent=False)
        self.squash = preprocessing["resize_mode"] == "squash"
        bilinear = preprocessing["interpolation"] == "bilinear"  # open_clip takes any other word for bicubic
        self.interpolation = InterpolationMode.BILINEAR if bilinear else InterpolationMode.BICUBIC

        self.words = self.class_names  # that the rows of the head stand for
        self.scale: float | None = None  # of the weights that were read; None if a state dict brought others
        self._defer_weights(self)

    def prompts(self, names: Sequence[str]) -> list[str]:
        """The prompts of all classes for the first template, then for the second, and so on."""
        return [prompt for template in self.templates for prompt in prompts_of(template, names)]

    def set_class_names(self, names: Sequence[object]) -> None:
        """Has the rows of the head stand for other names, as many as it has; a head from a state dict stays."""
        words = check_class_names(names, self.head.out_features)
        changed, self.words = words != self.words, words
        if changed and self.scale is not None:
            self._fill_head(self.scale)

    def load_pretrained(self) -> None:
        """Reads weights and text embeddings, if that is still to be done."""
        if not self.pending:
            return
        if self.words is None:
            raise ValueError(
                "ZeroShotCLIP has no class names to make its head of: pass ZeroShotCLIP(class_names=...), or train "
                "with TMKDModule(class_names=...), or on a datamodule with a class_names property"
            )
        encoder = self.encoder
        arguments = encoder.model_name, encoder.pretrained, encoder.cache_dir
        if not Path(encoder.pretrained).exists():
            check_tag(encoder.model_name, encoder.pretrained)
        rank_zero_info(f"Loading CLIP {encoder.model_name}, which is fetched if it is not here")
        try:
            clip = load_clip(*arguments)
        except Exception as error:  # open_clip and the hub raise many kinds
            there = Path(encoder.pretrained).exists()
            remedy = weights_remedy(*arguments) + ("" if there else " as ZeroShotCLIP(pretrained=...)")
            name = f"CLIP {encoder.model_name} with the weights {encoder.pretrained}"
            raise PretrainedWeightsError(f"{name} could not be loaded. {remedy}. Cause: {error}") from error
        self.visual.load_state_dict(clip.visual.state_dict())
        self.scale = float(clip.logit_scale.detach().exp())
        del clip  # the encoder may load it again
        self._fill_head(self.scale)
        self.pending = False

    def forward(self, image: Tensor) -> Tensor:
        """Classifies normalised images ``(B, 3, H, W)``; returns logits ``(B, K)``."""
        if self.pending:
            torch.compiler.disable(self.load_pretrained)()  # a compiler would trace the reading of files
        features = at_least_float32(self.visual(self.resize(image)))
        return self.head(F.normalize(features, dim=-1).to(self.head.weight.dtype))

    def resize(self, image: Tensor) -> Tensor:
        """Brings normalised images ``(B, 3, H, W)`` to CLIP's size as its preprocessing does."""
        height, width, side = *image.shape[-2:], self.image_size
        if height == width == side:
            return image
        size = [side, side] if self.squash or height == width else [side]  # one number is for the shorter side
        wide = at_least_float32(image)  # in half precision, CPUs do not resize
        resized = transforms.resize(wide, size, self.interpolation, antialias=True)
        cropped = transforms.center_crop(resized, [side, side])
        return cropped.clamp(self.black, self.white).to(image.dtype)  # bicubic weights overshoot, 8-bit images cannot

    @torch.no_grad()
    def _fill_head(self, scale: float) -> None:
        """The normalised mean over the templates of normalised embeddings, times the factor."""
        names = self.words or []
        embeddings = cached_embeddings(self.encoder, self.prompts(names), default_cache_dir())
        mean = embeddings.unflatten(0, (len(self.templates), len(names))).mean(0)
        self.head.weight.copy_(scale * F.normalize(mean, dim=-1))


def needs_class_names(network: nn.Module) -> bool:
    """Whether a network holds a `ZeroShotCLIP` that was given no class names."""
    return any(isinstance(part, ZeroShotCLIP) and part.class_names is None for part in network.modules())


def _sentences(templates: Sequence[str]) -> list[str]:
    sentences = [templates] if isinstance(templates, str) else list(templates)
    if not sentences:
        raise ValueError("templates must hold at least one sentence, as in 'a photo of a {class}.'")
    return sentences


def _image_tower(model_name: str, pretrained: str) -> tuple[nn.Module, int, int, dict[str, Any]]:
    """The image tower with random weights, width of its embeddings, side of its images, and how they are prepared."""
    from open_clip.model import _build_vision_tower  # create_model would also build the text tower, and log

    if Path(pretrained).name == pretrained and not Path(pretrained).suffix and not Path(pretrained).exists():
        check_tag(model_name, pretrained)  # a path may be that of another machine, where it was trained
    config, preprocessing = clip_config(model_name, pretrained)
    refusal = (
        f"{model_name} cannot be a ZeroShotCLIP, which takes image towers that give one vector for a square image "
        "without a border (no CoCa): choose another of `open_clip.list_models()`"
    )
    if "multimodal_cfg" in config or preprocessing["resize_mode"] == "longest":
        raise ValueError(refusal)
    width, vision = config["embed_dim"], {**config["vision_cfg"], "timm_model_pretrained": False}
    tower = _build_vision_tower(width, vision, config.get("quick_gelu", False))
    size = tower.image_size if isinstance(tower.image_size, (tuple, list)) else (tower.image_size,) * 2
    if size[0] != size[1] or getattr(tower, "output_tokens", False):
        raise ValueError(refusal)
    return tower, width, int(size[0]), preprocessing
