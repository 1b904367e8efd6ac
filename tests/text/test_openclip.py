"""CLIP from small local weights in open_clip's own formats, and errors where weights cannot be loaded."""

import gc
import importlib.machinery
import json
import sys
import types
import weakref
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from helpers.fake_datasets import Trap
from helpers.tiny_clip import TINY, known_to_open_clip, tiny_clip, write_config
from tmkd_lightning.text import OpenCLIPTextEncoder, TextEncoder
from tmkd_lightning.text.openclip import TextWeightsError

BIN = "open_clip_pytorch_model.bin"
PROMPTS = ["a photo of a cat", "an edge enhanced image of a dog", "a photo of a {fish}"]


def embed(model: open_clip.CLIP, prompts: list[str]) -> Tensor:
    """What the model itself says of each prompt on its own."""
    tokenize = open_clip.SimpleTokenizer(context_length=16)
    with torch.no_grad():
        rows = torch.cat([model.encode_text(tokenize([prompt])) for prompt in prompts])
    return rows / rows.norm(dim=1, keepdim=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As ``open_clip.push_to_hf_hub`` lays it out."""
    path = write_config(tmp_path / "clip")
    torch.save(tiny_clip().state_dict(), path / BIN)
    return path


@pytest.mark.parametrize(("weights", "quick_gelu"), [("open_clip_model.safetensors", False), (BIN, True)])
def test_clip_from_a_folder(folder: Path, weights: str, quick_gelu: bool) -> None:
    config = {"model_cfg": TINY | {"quick_gelu": quick_gelu}, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    (folder / BIN).unlink()
    model = tiny_clip(quick_gelu=quick_gelu)
    (save_file if weights.endswith("safetensors") else torch.save)(model.state_dict(), folder / weights)
    encoder = OpenCLIPTextEncoder("not used", pretrained=str(folder))
    embeddings = encoder.encode(PROMPTS)
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings, embed(model, PROMPTS))
    assert not embeddings.allclose(embed(tiny_clip(quick_gelu=not quick_gelu), PROMPTS))


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_clip_from_a_file(tmp_path: Path, suffix: str) -> None:
    model = tiny_clip()
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save({"state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}}, path)
    else:
        save_file(model.state_dict(), path)
    with known_to_open_clip(tmp_path) as name:
        torch.testing.assert_close(OpenCLIPTextEncoder(name, str(path)).encode(PROMPTS), embed(model, PROMPTS))


@pytest.mark.parametrize("batch_size", [1, 2])
def test_batches_and_training(folder: Path, batch_size: int) -> None:
    """Tensors made under inference_mode could not be saved for backward."""
    embeddings = OpenCLIPTextEncoder(pretrained=str(folder), batch_size=batch_size).encode(PROMPTS)
    torch.testing.assert_close(embeddings, embed(tiny_clip(), PROMPTS))
    assert not embeddings.requires_grad
    layer = torch.nn.Linear(6, 2)
    layer(embeddings).sum().backward()
    torch.testing.assert_close(layer.weight.grad, embeddings.sum(0).expand(2, 6))


def test_clip_is_dropped_after_the_call(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models, create_model = [], open_clip.create_model

    def create(*args: object, **options: object) -> open_clip.CLIP:
        model = create_model(*args, **options)
        models.append(weakref.ref(model))
        return model

    monkeypatch.setattr(open_clip, "create_model", create)
    encoder = OpenCLIPTextEncoder(pretrained=str(folder))
    encoder.encode(PROMPTS)
    gc.collect()
    assert [model() for model in models] == [None]


def test_identity_of_clip(folder: Path, tmp_path: Path) -> None:
    assert OpenCLIPTextEncoder("ViT-L-14", "tag").identity() == "open_clip-ViT-L-14-tag"
    encoder = OpenCLIPTextEncoder(pretrained=str(folder))
    first = encoder.identity()
    assert first == encoder.identity()
    assert str(tmp_path) not in first  # the same files elsewhere are the same encoder
    torch.save(tiny_clip(quick_gelu=True).logit_scale, folder / BIN)
    assert encoder.identity() != first
    names = set()
    for content in ("1", "2"):
        path = tmp_path / f"{content}.pt"
        path.write_text(content)
        names.add(OpenCLIPTextEncoder(pretrained=str(path)).identity())
    assert len(names) == 2


@pytest.mark.parametrize("damage", ["no weights", "no config", "other sizes", "cut", "payload"])
def test_local_weights_that_cannot_be_used(folder: Path, tmp_path: Path, damage: str) -> None:
    weights = folder / BIN
    match damage:
        case "no weights":
            weights.unlink()
        case "no config":
            (folder / "open_clip_config.json").unlink()
        case "other sizes":
            torch.save(tiny_clip(embed_dim=4).state_dict(), weights)
        case "cut":
            weights.write_bytes(weights.read_bytes()[:1000])
        case "payload":
            torch.save({"state_dict": Trap(tmp_path / "hacked")}, weights)
    message = f"CLIP local-dir:{folder} could not be loaded. {folder} must be a weights file"
    with pytest.raises(TextWeightsError, match=message):
        OpenCLIPTextEncoder(pretrained=str(folder)).encode(PROMPTS)
    assert not (tmp_path / "hacked").exists()


# Weights that would have to be fetched: nothing here may try to


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def create_model(*args: object, **options: object) -> None:
        raise RuntimeError("Failed to download weights for tag: no route to host")

    monkeypatch.setattr(open_clip, "create_model", create_model)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("name", "tag", "message"),
    [
        ("ViT-B-32", "openai", "differ in their activation.*use model_name='ViT-B-32-quickgelu'"),
        ("ViT-B-32", "openia", r"'openia' is neither a file, a folder nor a tag of 'ViT-B-32', which has \[.*'openai'"),
        ("ViT-B-32", "weights/clip.pt", "'weights/clip.pt' is neither a file, a folder nor a tag"),
        ("ViT-B-33", "openai", r"open_clip knows no model 'ViT-B-33'; `open_clip.list_models\(\)` gives them"),
    ],
)
def test_names_that_are_refused_before_anything_is_fetched(name: str, tag: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OpenCLIPTextEncoder(name, tag).encode(PROMPTS)


@pytest.mark.usefixtures("no_network")
def test_weights_that_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder in the message is where open_clip looks when there is no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(TextWeightsError) as caught:
        OpenCLIPTextEncoder(cache_dir=str(tmp_path)).encode(PROMPTS)
    message = str(caught.value)
    for part in ("ViT-B-32-quickgelu", "openai", str(tmp_path), "tmkd embed", "HashingTextEncoder", "no route to host"):
        assert part in message
    named = next(word for word in message.split() if word.startswith(str(tmp_path)))
    revision = "0" * 40
    path = Path(named) / "snapshots" / revision / "open_clip_model.safetensors"  # as the hub lays such a folder out
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    refs = Path(named) / "refs"
    refs.mkdir(exist_ok=True)
    (refs / "main").write_text(revision)
    weights = open_clip.get_pretrained_cfg("ViT-B-32-quickgelu", "openai")
    assert Path(open_clip.download_pretrained(weights, cache_dir=str(tmp_path))) == path


def test_default_clip_is_the_papers() -> None:
    assert isinstance(OpenCLIPTextEncoder(), TextEncoder)
    assert OpenCLIPTextEncoder().identity() == "open_clip-ViT-B-32-quickgelu-openai"
    assert "openai" in open_clip.list_pretrained_tags_by_model("ViT-B-32-quickgelu")
    with pytest.raises(ValueError, match="batch_size must be at least 1 prompt, got 0"):
        OpenCLIPTextEncoder(batch_size=0)


# A folder whose config names a tokenizer of the hub


@pytest.fixture
def transformers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """A stand-in for the package, which need not be installed: CLIP's own tokenizer, and what it was asked for."""
    config = {"model_cfg": TINY | {"text_cfg": TINY["text_cfg"] | {"hf_tokenizer_name": "timm/ViT-B-16-SigLIP"}}}
    (folder / "open_clip_config.json").write_text(json.dumps(config | {"preprocess_cfg": {}}))
    asked: dict[str, object] = {}

    class AutoTokenizer:
        @staticmethod
        def from_pretrained(source: object, **options: object) -> Callable[..., object]:
            asked.update(options, source=source)
            tokenize = open_clip.SimpleTokenizer(context_length=16)
            tokenizer = lambda texts, **_: types.SimpleNamespace(input_ids=tokenize(texts))  # noqa: E731
            tokenizer.batch_encode_plus = tokenizer  # type: ignore[attr-defined]  # what open_clip 3.0 calls
            return tokenizer

    module = types.ModuleType("transformers")
    module.AutoTokenizer = AutoTokenizer  # type: ignore[attr-defined]
    module.__spec__ = importlib.machinery.ModuleSpec("transformers", None)
    monkeypatch.setitem(sys.modules, "transformers", module)
    return asked


def test_tokenizer_is_read_from_the_folder(folder: Path, transformers: dict[str, object]) -> None:
    torch.testing.assert_close(OpenCLIPTextEncoder(pretrained=str(folder)).encode(PROMPTS), embed(tiny_clip(), PROMPTS))
    assert str(transformers["source"]) == str(folder)


@pytest.mark.parametrize("installed", [False, True])
def test_tokenizer_that_cannot_be_loaded(
    folder: Path, transformers: dict[str, object], monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    """Found before the weights are loaded."""

    def missing(source: object, **options: object) -> None:
        raise OSError(f"no tokenizer in {source}")

    monkeypatch.setattr(open_clip, "create_model", lambda *_, **__: pytest.fail("the weights were loaded first"))
    monkeypatch.setattr(sys.modules["transformers"].AutoTokenizer, "from_pretrained", missing)
    if not installed:
        monkeypatch.setitem(sys.modules, "transformers", None)
    reason = f"no tokenizer in {folder}" if installed else "transformers"
    with pytest.raises(TextWeightsError, match=rf"all files of the tokenizer; .*pip install transformers.*{reason}"):
        OpenCLIPTextEncoder(pretrained=str(folder)).encode(PROMPTS)


def test_a_server_out_of_reach_is_not_asked_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are in the cache are left to the hub, as is a network behind a proxy."""
    asked = []

    def refuse(address: tuple[str, int], timeout: float) -> None:
        asked.append(address)
        raise OSError("no route")

    def load(*args: object, **options: object) -> None:
        raise RuntimeError("the hub was asked")

    monkeypatch.setattr("socket.create_connection", refuse)
    monkeypatch.setattr(open_clip, "create_model", load)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "https://mirror.example")
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    encoder = OpenCLIPTextEncoder(cache_dir=str(tmp_path))
    with pytest.raises(TextWeightsError, match=r"Cause: mirror\.example cannot be reached \(no route\)$"):
        encoder.encode(PROMPTS)
    assert asked == [("mirror.example", 443)]
    (tmp_path / "models--timm--vit_base_patch32_clip_224.openai/snapshots/1").mkdir(parents=True)
    with pytest.raises(TextWeightsError, match=r"Cause: the hub was asked$"):
        encoder.encode(PROMPTS)
    (tmp_path / "models--timm--vit_base_patch32_clip_224.openai").rename(tmp_path / "gone")
    monkeypatch.setenv("https_proxy", "http://proxy.example")
    with pytest.raises(TextWeightsError, match=r"Cause: the hub was asked$"):
        encoder.encode(PROMPTS)
    assert len(asked) == 1
