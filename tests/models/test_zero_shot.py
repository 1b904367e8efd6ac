"""A zero-shot CLIP is open_clip's own: its preprocessing, its two towers, its softmax; and a linear head."""

from __future__ import annotations

import copy
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from helpers.tiny import Net, tmkd_module
from helpers.tiny_clip import known_to_open_clip, tiny_clip, write_clip
from tmkd_lightning import Extractor
from tmkd_lightning.models import PretrainedWeightsError, ZeroShotCLIP
from tmkd_lightning.text import OpenCLIPTextEncoder
from tmkd_lightning.text.openclip import clip_config

NAMES = ["cat", "dog", "fish", "emu"]
SQUASH = {"mean": [0.5, 0.4, 0.3], "std": [0.5, 0.25, 0.2], "resize_mode": "squash", "interpolation": "bilinear"}
SIZES = {"CLIP's": (32, 32), "smaller": (20, 20), "larger": (75, 75), "wide": (48, 90), "high": (64, 41)}


TOKENIZE = open_clip.SimpleTokenizer(context_length=16)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cache(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared))


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(write_clip(tmp_path / "clip"))


def photo(height: int, width: int) -> Image.Image:
    """Edges at which bicubic weights overshoot, a gradient, and noise."""
    pixels = np.random.default_rng(0).integers(0, 60, (height, width, 3))
    pixels[:, : width // 2, 0] += 190
    pixels[: height // 3, :, 1] = 255
    pixels[..., 2] += np.linspace(0, 190, width).astype(int)
    return Image.fromarray(pixels.astype(np.uint8))


def by_open_clip(folder: str, image: Image.Image, template: str = "a photo of a {}.") -> torch.Tensor:
    """Its own preprocessing on PIL images, its two towers and logits, as in its README."""
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokens = TOKENIZE([template.format(name) for name in NAMES])
    with torch.no_grad():
        features = model.eval().encode_image(preprocess(image)[None], normalize=True)
        return model.logit_scale.exp() * features @ model.encode_text(tokens, normalize=True).T


@pytest.mark.parametrize("preprocessing", [{}, SQUASH], ids=["CLIP", "SigLIP"])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_probabilities_are_those_of_open_clip(tmp_path: Path, size: tuple[int, int], preprocessing: dict) -> None:
    """PIL rounds and clips to 8 bits after the rows and after the columns, here once: up to 4.3 levels apart, or 1."""
    folder, image = str(write_clip(tmp_path / "clip", preprocessing)), photo(*size)
    network = Extractor(ZeroShotCLIP(pretrained=folder, class_names=NAMES)).eval()
    pixels = transforms.pil_to_tensor(image)[None]
    _, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    with torch.no_grad():
        prepared, probabilities = network.network.resize(network.normalize(pixels)), network(pixels).logits.softmax(1)
    levels = ((prepared - preprocess(image)) * network.std * 255).abs()
    resized, bicubic = size != (32, 32), not preprocessing
    assert levels.max() < ((5 if bicubic else 1.01) if resized else 1e-3)
    assert levels.mean() < 0.35
    tolerance = 3e-4 if resized else 1e-5
    torch.testing.assert_close(probabilities, by_open_clip(folder, image).softmax(1), atol=tolerance, rtol=0)


def test_head_and_embedding_are_found(folder: str) -> None:
    network = Extractor(ZeroShotCLIP(pretrained=folder, class_names=NAMES), keep_map=False)
    assert (network.head_name, network.num_classes, network.embedding_dim) == ("head", 4, 6)
    with torch.no_grad():
        output = network(torch.rand(3, 3, 32, 32))
    torch.testing.assert_close(output.embedding.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(output.logits, output.embedding @ output.head_weight.T)
    scale = tiny_clip().logit_scale.exp()
    texts = OpenCLIPTextEncoder(pretrained=folder).encode([f"a photo of a {name}." for name in NAMES])
    torch.testing.assert_close(output.head_weight, scale * texts)


@pytest.mark.parametrize("preprocessing", [{}, SQUASH])
def test_statistics_and_size_are_its_own(tmp_path: Path, preprocessing: dict) -> None:
    network = ZeroShotCLIP(pretrained=str(write_clip(tmp_path / "clip", preprocessing)), class_names=NAMES)
    mean, std = preprocessing.get("mean", open_clip.OPENAI_DATASET_MEAN), preprocessing.get("std")
    extractor = Extractor(network)
    assert extractor.mean.flatten().tolist() == pytest.approx(mean)
    assert extractor.std.flatten().tolist() == pytest.approx(std or open_clip.OPENAI_DATASET_STD)
    assert extractor.statistics_source == "from ZeroShotCLIP"
    assert network.image_size == 32
    assert network.pending  # nothing was read for all this


def test_a_tag_says_how_images_are_prepared() -> None:
    model, preprocessing = clip_config("ViT-B-16-SigLIP", "webli")
    assert (model["embed_dim"], preprocessing["mean"], preprocessing["resize_mode"]) == (768, (0.5, 0.5, 0.5), "squash")


def test_several_templates_are_averaged(folder: str) -> None:
    """Normalised, averaged, normalised again, as open_clip's own build_zero_shot_classifier does."""
    templates = ["a photo of a {}.", "a drawing of the {class}", "{}"]
    network = ZeroShotCLIP(pretrained=folder, class_names=NAMES, templates=templates)
    network.load_pretrained()
    own = [template.replace("{class}", "{}") for template in templates]
    expected = open_clip.build_zero_shot_classifier(tiny_clip(), TOKENIZE, NAMES, own).T
    torch.testing.assert_close(network.head.weight.detach(), tiny_clip().logit_scale.detach().exp() * expected)


def test_texts_come_from_the_cache_of_prompts(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = ZeroShotCLIP(pretrained=folder, class_names=NAMES)
    first.load_pretrained()
    assert len(list(tmp_path.glob("tmkd_lightning/prompts-*.npz"))) == 1
    monkeypatch.setattr(OpenCLIPTextEncoder, "encode", lambda *_: pytest.fail("the texts were encoded again"))
    second = ZeroShotCLIP(pretrained=folder, class_names=NAMES)
    second.load_pretrained()
    assert second.head.weight.equal(first.head.weight)


def test_weights_file(tmp_path: Path) -> None:
    torch.save(tiny_clip().state_dict(), tmp_path / "clip.pt")
    images = torch.rand(2, 3, 32, 32)
    with known_to_open_clip(tmp_path) as name, torch.no_grad():
        logits = ZeroShotCLIP(name, str(tmp_path / "clip.pt"), NAMES).eval()(images)
    with torch.no_grad():
        folder = str(write_clip(tmp_path / "clip"))
        torch.testing.assert_close(ZeroShotCLIP(pretrained=folder, class_names=NAMES).eval()(images), logits)


def test_a_state_dict_stands_in_for_the_weights(folder: str) -> None:
    """As in a checkpoint of a CLIP that was trained on: neither its tower nor its head is read anew."""
    tuned = ZeroShotCLIP(pretrained=folder, class_names=NAMES)
    state = {key: torch.randn_like(value) for key, value in tuned.state_dict().items()}
    tuned.load_state_dict(copy.deepcopy(state))
    assert not tuned.pending
    tuned.set_class_names(["a", "b", "c", "d"])
    tuned.load_pretrained()
    assert all(value.equal(state[key]) for key, value in tuned.state_dict().items())


def test_other_names_make_another_head(folder: str) -> None:
    network = ZeroShotCLIP(pretrained=folder, class_names=NAMES)
    network.load_pretrained()
    before = network.head.weight.clone()
    network.set_class_names(NAMES[::-1])
    torch.testing.assert_close(network.head.weight, before.flip(0))


def test_other_precisions(folder: str) -> None:
    images = torch.rand(2, 3, 40, 40)
    network = Extractor(ZeroShotCLIP(pretrained=folder, class_names=NAMES)).eval()
    with torch.no_grad():
        expected = network(images).logits
        torch.testing.assert_close(copy.deepcopy(network).double()(images.double()).logits.float(), expected)
        coarse = copy.deepcopy(network).bfloat16()(images).logits
    assert coarse.dtype == torch.bfloat16
    torch.testing.assert_close(coarse.float().softmax(1), expected.softmax(1), atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_name": "ViT-B-32"}, "differ in their activation.*use model_name='ViT-B-32-quickgelu'"),
        ({"pretrained": "openia"}, "'openia' is neither a file, a folder nor a tag of 'ViT-B-32-quickgelu'"),
        ({"model_name": "coca_ViT-B-32", "pretrained": "laion2b_s13b_b90k"}, "coca_ViT-B-32 cannot be a ZeroShotCLIP"),
        ({"class_names": ["cat", "cat"]}, "class names must differ, but 'cat'"),
        ({"templates": ["a photo"]}, r"prompt template 'a photo' has no {class}"),
        ({"templates": []}, "templates must hold at least one sentence"),
    ],
)
def test_what_is_refused_at_once(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ZeroShotCLIP(**options)


def test_what_is_refused_when_weights_are_needed(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"ZeroShotCLIP has no class names .*: pass ZeroShotCLIP\(class_names=...\)"):
        ZeroShotCLIP(pretrained=folder)(torch.rand(1, 3, 32, 32))
    with pytest.raises(ValueError, match="3 class names for a network of 4 classes"):
        ZeroShotCLIP(pretrained=folder, class_names=NAMES).set_class_names(NAMES[:3])
    Path(folder, "open_clip_pytorch_model.bin").write_bytes(b"cut")
    with pytest.raises(PretrainedWeightsError, match=f"{folder} could not be loaded. {folder} must be a weights file"):
        ZeroShotCLIP(pretrained=folder, class_names=NAMES).load_pretrained()

    def no_route(*args: object, **options: object) -> None:
        raise RuntimeError("no route to host")

    monkeypatch.setattr(open_clip, "create_model", no_route)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # its server is not asked for first
    small = ZeroShotCLIP("RN50-quickgelu", class_names=NAMES, cache_dir=str(tmp_path))
    remedy = rf"copy {tmp_path}/models--\S+ from .*pass a local .* as ZeroShotCLIP\(pretrained=...\).*no route to host"
    with pytest.raises(PretrainedWeightsError, match=remedy):
        small.load_pretrained()


def test_another_number_of_names_than_classes(folder: str) -> None:
    clip = ZeroShotCLIP("not used", folder, class_names=NAMES)
    message = (
        r"teacher ZeroShotCLIP has 4 class names, but student Net has 3 classes: give ZeroShotCLIP\(class_names=\.\.\."
    )
    with pytest.raises(ValueError, match=message):
        tmkd_module(clip, Net(), feature_weight=0, text_weight=0, fusion="mean")
