"""CLIP's text tower, through open_clip."""

import hashlib
import json
import os
import socket
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from torch import Tensor

from tmkd_lightning.utils.files import sha256_of

_SECONDS = 10  # that a server may take to answer, as in huggingface_hub


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

        name = source_name(self.model_name, self.pretrained)
        if not Path(self.pretrained).exists():
            check_tag(self.model_name, self.pretrained)
        try:
            tokens = open_clip.get_tokenizer(name, cache_dir=self.cache_dir)(list(prompts))
            model = load_clip(self.model_name, self.pretrained, self.cache_dir)
        except Exception as error:  # open_clip, the hub and transformers raise many kinds
            raise TextWeightsError(f"CLIP {name} could not be loaded. {self._remedy()}. Cause: {error}") from error
        batches = [model.encode_text(batch, normalize=True) for batch in tokens.split(self.batch_size)]
        return torch.cat(batches).float()

    def _remedy(self) -> str:
        remedy = weights_remedy(self.model_name, self.pretrained, self.cache_dir)
        if Path(self.pretrained).exists():
            return remedy
        return (
            f"{remedy} as OpenCLIPTextEncoder(pretrained=...), or make the embeddings elsewhere with `tmkd embed` and "
            "use EmbeddingFile. HashingTextEncoder serves to try things out; its texts have no visual meaning"
        )


def source_name(model_name: str, pretrained: str) -> str:
    """What open_clip calls the source of the architecture: a local folder, else the model's name."""
    return f"local-dir:{pretrained}" if Path(pretrained).is_dir() else model_name


def load_clip(model_name: str, pretrained: str, cache_dir: str | None) -> Any:
    """Loads a whole CLIP in evaluation mode; open_clip, the hub and the disk raise many kinds of errors."""
    import open_clip

    tag = None if Path(pretrained).is_dir() else pretrained
    if not Path(pretrained).exists():
        _check_reachable(model_name, pretrained, cache_dir)
    with warnings.catch_warnings():  # open_clip warns of activations, which it cannot know of local files
        warnings.filterwarnings("ignore", module="open_clip")
        options = {"pretrained": tag, "require_pretrained": True, "cache_dir": cache_dir}
        return open_clip.create_model(source_name(model_name, pretrained), **options).eval()


def clip_config(model_name: str, pretrained: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Architecture and preprocessing of a CLIP as open_clip has them, without its weights."""
    import open_clip
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    path = Path(pretrained, "open_clip_config.json")
    if Path(pretrained).is_dir():
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
            model, own = config["model_cfg"], config.get("preprocess_cfg")
        except (OSError, ValueError, TypeError, LookupError) as error:
            raise ValueError(f"{path} is not the config of an open_clip model ({error!r})") from error
    else:
        model, own = _model_config(model_name), open_clip.get_pretrained_cfg(model_name, pretrained)
    return model, merge_preprocess_dict(PreprocessCfg(), own or {})


def weights_remedy(model_name: str, pretrained: str, cache_dir: str | None) -> str:
    """What helps if a CLIP cannot be loaded."""
    if Path(pretrained).exists():
        return (
            f"{pretrained} must be a weights file, or a folder with open_clip_config.json, the weights and "
            "all files of the tokenizer; a tokenizer of the Hugging Face hub needs `pip install transformers`"
        )
    cached = _cached(model_name, pretrained, cache_dir)
    return f"Without a network, copy {cached} from a machine that has it, pass a local file or folder"


def _cached(model_name: str, pretrained: str, cache_dir: str | None) -> Path:
    """The folder of the Hugging Face cache in which the weights lie, once they are there."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from open_clip import get_pretrained_cfg

    repository = (get_pretrained_cfg(model_name, pretrained) or {}).get("hf_hub", "").rstrip("/")
    return Path(cache_dir or HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"


def _check_reachable(model_name: str, pretrained: str, cache_dir: str | None) -> None:
    """Raises an OSError if the weights are not here and their server is not either, which the hub tries for minutes."""
    from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE

    server = urlsplit(ENDPOINT)
    if HF_HUB_OFFLINE or getproxies() or any(_cached(model_name, pretrained, cache_dir).glob("snapshots/*")):
        return
    try:
        socket.create_connection((server.hostname, server.port or 443), timeout=_SECONDS).close()
    except OSError as error:
        raise OSError(f"{server.hostname} cannot be reached ({error})") from error


def check_tag(model_name: str, tag: str) -> None:
    """Refuses an unknown model or tag, and weights of another activation than the model's."""
    import open_clip

    config = _model_config(model_name)
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


def _model_config(model_name: str) -> dict[str, Any]:
    import open_clip

    config: dict[str, Any] | None = open_clip.get_model_config(model_name)
    if config is None:
        raise ValueError(f"open_clip knows no model {model_name!r}; `open_clip.list_models()` gives them")
    return config


def _digest(paths: Sequence[Path]) -> str:
    total = hashlib.sha256()
    for path in paths:
        total.update(path.name.encode() + bytes.fromhex(sha256_of(path)))
    return total.hexdigest()[:32]
