"""CLIP's text tower, through open_clip."""

import hashlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from tmkd_lightning.utils.files import sha256_of


class TextWeightsError(RuntimeError):
    """The weights or the tokenizer of a text encoder cannot be loaded."""


class OpenCLIPTextEncoder:
    """Encodes prompts with CLIP, whose weights are in memory only during `encode`.

    Args:
        model_name: open_clip's name of the architecture. OpenAI's weights need a ``-quickgelu`` one.
        pretrained: open_clip's tag of the weights (downloaded once, then cached), a weights file, or a folder with
            ``open_clip_config.json``, weights and, if the config names a ``hf_tokenizer_name``, the tokenizer's files
            (then `model_name` is ignored and nothing is downloaded).
        cache_dir: folder of downloaded weights, by default the Hugging Face cache.
        batch_size: prompts in one forward.

    Raises:
        ValueError: an unknown model or tag, or one of another activation than the architecture's (by `encode`).
        TextWeightsError: weights or tokenizer cannot be downloaded or read (by `encode`).

    Source: CLIP ViT-B/32 as in the paper.

    Example:
        >>> OpenCLIPTextEncoder().identity()
        'open_clip-ViT-B-32-quickgelu-openai'
    """

    def __init__(
        self,
        model_name: str = "ViT-B-32-quickgelu",
        pretrained: str = "openai",
        cache_dir: str | None = None,
        batch_size: int = 256,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1 prompt, got {batch_size}")
        self.model_name = model_name
        self.pretrained = os.path.expanduser(pretrained)
        self.cache_dir = None if cache_dir is None else os.path.expanduser(cache_dir)
        self.batch_size = batch_size

    def identity(self) -> str:
        """Names architecture and weights; local weights by the hash of their content."""
        path = Path(self.pretrained)
        if path.is_dir():
            return f"open_clip-folder-{_digest(sorted(p for p in path.iterdir() if p.is_file()))}"
        return f"open_clip-{self.model_name}-{_digest([path]) if path.is_file() else self.pretrained}"

    @torch.no_grad()  # not inference_mode: the embeddings are used in training
    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Encodes prompts; see `TextEncoder`."""
        import open_clip  # slow, and only needed where embeddings are not cached

        folder = Path(self.pretrained).is_dir()
        name = f"local-dir:{self.pretrained}" if folder else self.model_name
        if not Path(self.pretrained).exists():
            _check_tag(name, self.pretrained)
        options = {"pretrained": None if folder else self.pretrained, "require_pretrained": True}
        try:
            with warnings.catch_warnings():  # open_clip warns of activations, which it cannot know of local files
                warnings.filterwarnings("ignore", module="open_clip")
                tokens = open_clip.get_tokenizer(name, cache_dir=self.cache_dir)(list(prompts))
                model = open_clip.create_model(name, cache_dir=self.cache_dir, **options).eval()
        except Exception as error:  # open_clip, the hub and transformers raise many kinds
            raise TextWeightsError(f"CLIP {name} could not be loaded. {self._remedy()}. Cause: {error}") from error
        batches = [model.encode_text(batch, normalize=True) for batch in tokens.split(self.batch_size)]
        return torch.cat(batches).float()

    def _remedy(self) -> str:
        if Path(self.pretrained).exists():
            return (
                f"{self.pretrained} must be a weights file, or a folder with open_clip_config.json, the weights and "
                "all files of the tokenizer; a tokenizer of the Hugging Face hub needs `pip install transformers`"
            )
        from huggingface_hub.constants import HF_HUB_CACHE
        from open_clip import get_pretrained_cfg

        repository = (get_pretrained_cfg(self.model_name, self.pretrained) or {}).get("hf_hub", "").rstrip("/")
        cached = Path(self.cache_dir or HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
        return (
            f"Without a network, copy {cached} from a machine that has it, pass a local file or folder as "
            "OpenCLIPTextEncoder(pretrained=...), or make the embeddings elsewhere with `tmkd embed` and use "
            "EmbeddingFile. HashingTextEncoder serves to try things out; its texts have no visual meaning"
        )


def _check_tag(model_name: str, tag: str) -> None:
    """Refuses an unknown model or tag, and weights of another activation than the model's."""
    import open_clip

    config = open_clip.get_model_config(model_name)
    if config is None:
        raise ValueError(f"open_clip knows no model {model_name!r}; `open_clip.list_models()` gives them")
    weights = open_clip.get_pretrained_cfg(model_name, tag)
    if not weights:
        known = open_clip.list_pretrained_tags_by_model(model_name)
        raise ValueError(f"{tag!r} is neither a file, a folder nor a tag of {model_name!r}, which has {known}")
    if weights.get("quick_gelu", False) != config.get("quick_gelu", False):
        fitting = model_name.removesuffix("-quickgelu") if config.get("quick_gelu") else f"{model_name}-quickgelu"
        raise ValueError(
            f"weights {tag!r} and architecture {model_name!r} differ in their activation, which gives wrong "
            f"embeddings without failing: use model_name={fitting!r}"
        )


def _digest(paths: Sequence[Path]) -> str:
    total = hashlib.sha256()
    for path in paths:
        total.update(path.name.encode() + bytes.fromhex(sha256_of(path)))
    return total.hexdigest()[:32]
