"""CLIP's text tower, through open_clip."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tmkd_lightning.utils.files import sha256_of

if TYPE_CHECKING:  # open_clip is slow to import and only needed where prompts are encoded anew
    from open_clip import CLIP

log = logging.getLogger(__name__)

_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")  # one of them makes a tokenizer of the hub


class TextWeightsError(RuntimeError):
    """The weights of a text encoder cannot be had; the message says what would help."""


class OpenCLIPTextEncoder:
    """Embeds prompts with CLIP. The network is loaded for a call and dropped after it.

    Args:
        model_name: open_clip's name of the architecture. OpenAI's weights need a ``-quickgelu`` one.
        pretrained: open_clip's tag of the weights (fetched once, then cached), a weights file, or a folder with
            ``open_clip_config.json`` and weights (then `model_name` is not used), and the files of its tokenizer where
            the config names one of the hub. Nothing is fetched then.
        cache_dir: where fetched weights are kept, by default the hub's own cache.
        batch_size: prompts in one forward.

    Raises:
        ValueError: an unknown model, an unknown tag, or weights and architecture of different activations.
        TextWeightsError: weights or tokenizer cannot be fetched or read (raised by `encode`).

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
        """Names architecture and weights; local weights by their content."""
        path = Path(self.pretrained)
        if path.is_dir():
            return f"open_clip-folder-{_digest(sorted(p for p in path.iterdir() if p.is_file()))}"
        weights = _digest([path]) if path.is_file() else self.pretrained
        return f"open_clip-{self.model_name}-{weights}"

    @torch.no_grad()  # not inference_mode: the embeddings are used in training
    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Encodes prompts; see `TextEncoder`."""
        local = Path(self.pretrained).is_dir()
        name = f"local-dir:{self.pretrained}" if local else self.model_name
        options = {"local_files_only": True} if local and _needs_tokenizer(Path(self.pretrained)) else {}
        model = self._load(name)
        tokens = self._tokens(name, options, prompts)
        pieces = [model.encode_text(piece, normalize=True) for piece in tokens.split(self.batch_size)]
        return torch.cat(pieces).float()

    def _load(self, name: str) -> CLIP:
        import open_clip

        pretrained = None if name.startswith("local-dir:") else self.pretrained
        if pretrained is not None and not Path(pretrained).is_file():
            _check_tag(name, pretrained)
            log.info("loading CLIP %s (%s); the first time, its weights are fetched", name, pretrained)
        try:
            with _without_its_warnings():
                model = open_clip.create_model(
                    name,
                    pretrained=pretrained,
                    cache_dir=self.cache_dir,
                    require_pretrained=True,
                )
        except Exception as error:  # open_clip wraps what the hub and the files raise in ways of its own
            raise TextWeightsError(self._help(error)) from error
        return model.eval()

    def _tokens(self, name: str, options: dict[str, bool], prompts: Sequence[str]) -> Tensor:
        import open_clip

        try:
            tokens: Tensor = open_clip.get_tokenizer(name, cache_dir=self.cache_dir, **options)(list(prompts))
            return tokens
        except Exception as error:  # transformers' and the hub's own
            place = "fetched: without a network, pass a folder that holds it with the weights as pretrained"
            if options:
                place = f"read from the folder {self.pretrained}: copy all files of its tokenizer there"
            raise TextWeightsError(f"the tokenizer of CLIP {name} could not be {place} ({error})") from error

    def _help(self, error: Exception) -> str:
        if Path(self.pretrained).exists():
            return f"CLIP weights in {self.pretrained} could not be loaded: {error}"
        return (
            f"CLIP weights {self.model_name!r} ({self.pretrained!r}) could not be fetched, and {_cached_as(self)} is "
            "not there. Any of these helps: copy it from a machine that has it; pass a local file or folder as "
            "OpenCLIPTextEncoder(pretrained=...); make the embeddings where there is internet with `tmkd embed` and "
            "use EmbeddingFile; or, to try things without meaning in the text, use HashingTextEncoder. "
            f"What went wrong: {error}"
        )


def _needs_tokenizer(folder: Path) -> bool:
    """Whether the config names a tokenizer of the hub, whose files then must be there, so that nothing is fetched."""
    config: Any = {}
    with suppress(OSError, ValueError):  # open_clip says what is wrong with it
        config = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))
    try:
        name = config["model_cfg"]["text_cfg"]["hf_tokenizer_name"]
    except (KeyError, TypeError):
        return False
    if name and not any(path for pattern in _VOCABULARIES for path in folder.glob(pattern)):
        raise TextWeightsError(
            f"the folder {folder} holds no tokenizer, and its open_clip_config.json needs that of {name}: copy "
            "tokenizer.json, tokenizer_config.json and special_tokens_map.json from there into the folder"
        )
    if name and find_spec("transformers") is None:
        raise TextWeightsError(
            f"the tokenizer in the folder {folder}, that of {name}, needs the package transformers: "
            "pip install transformers"
        )
    return bool(name)


def _check_tag(model_name: str, tag: str) -> None:
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


def _cached_as(encoder: OpenCLIPTextEncoder) -> str:
    """Where the weights would be if they had been fetched before."""
    import open_clip
    from huggingface_hub.constants import HF_HUB_CACHE

    weights = open_clip.get_pretrained_cfg(encoder.model_name, encoder.pretrained) or {}
    repository = weights.get("hf_hub", "").rstrip("/")
    if repository:
        return f"the folder {Path(encoder.cache_dir or HF_HUB_CACHE) / ('models--' + repository.replace('/', '--'))}"
    folder = encoder.cache_dir or os.path.expanduser(
        "~/.cache/clip"
    )  # as open_clip has it, also where there is no home
    return f"the file {Path(folder) / Path(weights.get('url', '')).name}"


@contextmanager
def _without_its_warnings() -> Iterator[None]:
    """open_clip warns of activations for local files, which it cannot know either."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="open_clip")
        yield


def _digest(paths: Sequence[Path]) -> str:
    total = hashlib.sha256()
    for path in paths:
        total.update(path.name.encode() + bytes.fromhex(sha256_of(path)))
    return total.hexdigest()[:32]
