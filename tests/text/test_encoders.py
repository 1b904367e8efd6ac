"""Text teachers: the stand-in, embeddings from a file, and CLIP from local weights in open_clip's own formats."""

import gc
import importlib.machinery
import json
import pickle
import sys
import types
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from helpers.fake_datasets import Trap
from tmkd_lightning.text import (
    EmbeddingFile,
    HashingTextEncoder,
    OpenCLIPTextEncoder,
    TextEncoder,
    openclip,
    write_embeddings,
)
from tmkd_lightning.text.openclip import TextWeightsError

PROMPTS = ["a photo of a cat", "an edge enhanced image of a dog", "a photo of a {fish}"]


def assert_unit_rows(embeddings: Tensor, shape: tuple[int, int]) -> None:
    assert (embeddings.shape, embeddings.dtype) == (shape, torch.float32)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(shape[0]))


# The stand-in


@pytest.mark.parametrize(("encoder", "dim"), [(HashingTextEncoder(), 512), (HashingTextEncoder(64), 64)])
def test_hashing(encoder: HashingTextEncoder, dim: int) -> None:
    embeddings = encoder.encode(PROMPTS)
    assert_unit_rows(embeddings, (3, dim))
    assert embeddings.equal(HashingTextEncoder(dim).encode(PROMPTS))
    assert embeddings[1].equal(encoder.encode(PROMPTS[1:2])[0])  # of the prompt alone, not of its company
    assert str(dim) in encoder.identity()


def test_hashing_is_the_same_on_every_machine() -> None:
    """Counts that another machine found, too; Python's own hash would differ in every process."""
    row = HashingTextEncoder(8).encode(["a photo of a cat"])[0]
    torch.testing.assert_close(row * 34**0.5, torch.tensor([-1.0, -2.0, -1.0, 4.0, 0.0, -2.0, 2.0, 2.0]))


@pytest.mark.parametrize(
    ("text", "near", "far"),
    [("black tern", "black terns", "red fox"), ("a photo of a cat", "a photo of a bat", "edges of a dog")],
)
def test_hashing_puts_like_spellings_together(text: str, near: str, far: str) -> None:
    one, two, three = HashingTextEncoder().encode([text, near, far])
    assert one @ two > 0.5 > one @ three


def test_hashing_needs_a_width() -> None:
    with pytest.raises(ValueError, match="dim must be at least 1, got 0"):
        HashingTextEncoder(0)


# A file of embeddings


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "texts.npz"
    write_embeddings(path, PROMPTS, HashingTextEncoder(16).encode(PROMPTS), "hashing")
    return path


def test_file_round_trip(file: Path) -> None:
    embeddings = HashingTextEncoder(16).encode(PROMPTS)
    encoder = EmbeddingFile(str(file))
    torch.testing.assert_close(encoder.encode(PROMPTS), embeddings)
    torch.testing.assert_close(encoder.encode([PROMPTS[2], PROMPTS[0], PROMPTS[2]]), embeddings[[2, 0, 2]])
    with np.load(file) as content:
        assert str(content["encoder"]) == "hashing"


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_files_of_others(tmp_path: Path, save: Callable[..., None], dtype: type) -> None:
    """Other names, any float type, not normalised."""
    save(tmp_path / "clip.npz", names=np.array(["cat", "dog"]), vectors=np.array([[3, 4], [0, 2]], dtype=dtype))
    encoder = EmbeddingFile(tmp_path / "clip.npz", prompts="names", embeddings="vectors")
    torch.testing.assert_close(encoder.encode(["dog", "cat"]), torch.tensor([[0.0, 1.0], [0.6, 0.8]]))


def test_file_with_other_arrays_names_them(tmp_path: Path) -> None:
    np.savez(tmp_path / "clip.npz", names=np.array(["cat"]), vectors=np.ones((1, 2)))
    with pytest.raises(ValueError, match=r"holds the arrays \['names', 'vectors'\], not 'prompts' and 'embeddings'"):
        EmbeddingFile(tmp_path / "clip.npz").encode(["cat"])


def test_missing_prompt_is_named(file: Path) -> None:
    with pytest.raises(ValueError, match=r"no embedding for 'a cat' \(and 1 more\).*3 other.*'a photo of a cat'.*tmkd"):
        EmbeddingFile(file).encode([PROMPTS[0], "a cat", "a dog"])


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file of text embeddings at .*\.npz; `tmkd embed` makes one"):
        EmbeddingFile(tmp_path / "texts.npz")


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "one bit"])
def test_damaged_file(file: Path, damage: str) -> None:
    content = bytearray(file.read_bytes())
    if damage == "one bit":
        content[content.index("cat".encode("utf-32-le"))] ^= 1  # a letter of a prompt
    file.write_bytes({"empty": b"", "text": b"hello", "cut": content[: len(content) // 2]}.get(damage, content))
    with pytest.raises(ValueError, match=r"texts\.npz is not a readable file of text embeddings"):
        EmbeddingFile(file).encode(PROMPTS)


@pytest.mark.parametrize(
    ("prompts", "embeddings", "message"),
    [
        (["a", "b"], np.array([["x", "y"], ["z", "w"]]), "'embeddings' of <U1, not texts and real numbers: make it"),
        (["a", "b"], np.eye(2, dtype=complex), "'embeddings' of complex128, not texts"),
        (["a", "b"], np.array([["2020-01-01"]] * 2, dtype="M8[D]"), r"'embeddings' of datetime64\[D\], not texts"),
        (["a", "b"], np.zeros((2, 4), dtype=[("x", "f4")]), "not texts and real numbers"),
        ([b"a", b"b"], np.eye(2), r"'prompts' of type \|S1 and .*, not texts"),
        (["a", "b"], np.array([[1.0, 0.0], [np.nan, 1.0]]), r"of 'b' \(and of 0 more\) is zero or not finite"),
        (["a", "b"], np.array([[np.inf, 0.0], [0.0, 1e300]]), r"of 'a' \(and of 1 more\) is zero or not finite"),
        (["a", "b"], np.array([[1.0, 0.0], [0.0, 0.0]]), "of 'b' .* no direction: make the file again"),
        (["a", "a"], np.eye(2), r"holds 'a' \(and 0 more\) more than once.*keep one of each text"),
    ],
    ids=["words", "complex", "dates", "records", "bytes", "nan", "inf", "zero", "twice"],
)
def test_file_with_values_that_are_no_embeddings(tmp_path: Path, prompts: list, embeddings, message: str) -> None:
    np.savez(tmp_path / "texts.npz", prompts=np.array(prompts), embeddings=embeddings)
    with pytest.raises(ValueError, match=rf"{tmp_path}/texts\.npz.*{message}"):
        EmbeddingFile(tmp_path / "texts.npz").encode(["a"])


@pytest.mark.parametrize("array", ["prompts", "embeddings"])
def test_pickled_objects_are_not_run(tmp_path: Path, array: str) -> None:
    objects = np.empty(1, dtype=object)
    objects[0] = Trap(tmp_path / "hacked")
    arrays = {"prompts": np.array(["cat"]), "embeddings": np.ones((1, 2)), array: objects}
    np.savez(tmp_path / "texts.npz", **arrays, allow_pickle=True)
    with pytest.raises(ValueError, match="not a readable file of text embeddings"):
        EmbeddingFile(tmp_path / "texts.npz").encode(["cat"])
    (tmp_path / "texts.npz").write_bytes(pickle.dumps(Trap(tmp_path / "hacked")))
    with pytest.raises(ValueError, match="not a readable file of text embeddings"):
        EmbeddingFile(tmp_path / "texts.npz").encode(["cat"])
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("shape", [(2, 4), (3,), (3, 4, 1)])
def test_file_with_shapes_that_do_not_fit(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.savez(tmp_path / "texts.npz", prompts=np.array(PROMPTS), embeddings=np.ones(shape))
    with pytest.raises(ValueError, match=r"texts of shape \(3,\) do not fit embeddings of \("):
        EmbeddingFile(tmp_path / "texts.npz").encode(PROMPTS)


def test_identity_follows_the_content(file: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved.npz"
    moved.write_bytes(file.read_bytes())
    assert EmbeddingFile(moved).identity() == EmbeddingFile(file).identity()
    write_embeddings(file, PROMPTS, torch.ones(3, 16), "hashing")
    assert EmbeddingFile(moved).identity() != EmbeddingFile(file).identity()
    assert EmbeddingFile(moved, embeddings="other").identity() != EmbeddingFile(moved).identity()


# CLIP, a very small one


TINY = {
    "embed_dim": 6,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}


def tiny_clip(**changes: object) -> open_clip.CLIP:
    torch.manual_seed(0)
    return open_clip.CLIP(**json.loads(json.dumps(TINY | changes))).eval()


def embed(model: open_clip.CLIP, prompts: list[str]) -> Tensor:
    """What the model itself says of each prompt on its own."""
    tokenize = open_clip.SimpleTokenizer(context_length=16)
    with torch.no_grad():
        rows = torch.cat([model.encode_text(tokenize([prompt])) for prompt in prompts])
    return rows / rows.norm(dim=1, keepdim=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As ``open_clip.push_to_hf_hub`` lays it out."""
    path = tmp_path / "clip"
    path.mkdir()
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY, "preprocess_cfg": {}}))
    return path


@pytest.fixture
def tiny_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An architecture that open_clip knows for the length of a test."""
    factory = open_clip.factory
    monkeypatch.setattr(factory, "_MODEL_CONFIG_PATHS", list(factory._MODEL_CONFIG_PATHS))
    monkeypatch.setattr(factory, "_MODEL_CONFIGS", dict(factory._MODEL_CONFIGS))
    (tmp_path / "tiny-clip.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(tmp_path / "tiny-clip.json")
    return "tiny-clip"


@pytest.mark.parametrize("weights", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
@pytest.mark.parametrize("quick_gelu", [False, True])
def test_clip_from_a_folder(folder: Path, weights: str, quick_gelu: bool) -> None:
    config = {"model_cfg": TINY | {"quick_gelu": quick_gelu}, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    model = tiny_clip(quick_gelu=quick_gelu)
    (save_file if weights.endswith("safetensors") else torch.save)(model.state_dict(), folder / weights)
    encoder = OpenCLIPTextEncoder("not used", pretrained=str(folder))
    embeddings = encoder.encode(PROMPTS)
    assert_unit_rows(embeddings, (3, 6))
    torch.testing.assert_close(embeddings, embed(model, PROMPTS))


def test_activations_make_a_difference() -> None:
    """So that the test above can tell them apart."""
    plain, quick = (embed(tiny_clip(quick_gelu=value), PROMPTS) for value in (False, True))
    assert not plain.allclose(quick)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_clip_from_a_file(tmp_path: Path, tiny_name: str, suffix: str) -> None:
    model = tiny_clip()
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save({"state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}}, path)
    else:
        save_file(model.state_dict(), path)
    torch.testing.assert_close(OpenCLIPTextEncoder(tiny_name, str(path)).encode(PROMPTS), embed(model, PROMPTS))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_batches_do_not_change_the_embeddings(folder: Path, batch_size: int) -> None:
    torch.save(tiny_clip().state_dict(), folder / "open_clip_pytorch_model.bin")
    encoder = OpenCLIPTextEncoder(pretrained=str(folder), batch_size=batch_size)
    torch.testing.assert_close(encoder.encode(PROMPTS), embed(tiny_clip(), PROMPTS))


def test_embeddings_can_be_trained_on(folder: Path) -> None:
    """Tensors made under inference_mode could not be saved for backward."""
    torch.save(tiny_clip().state_dict(), folder / "open_clip_pytorch_model.bin")
    embeddings = OpenCLIPTextEncoder(pretrained=str(folder)).encode(PROMPTS)
    assert not embeddings.requires_grad
    layer = torch.nn.Linear(6, 2)
    layer(embeddings).sum().backward()
    torch.testing.assert_close(layer.weight.grad, embeddings.sum(0).expand(2, 6))


def test_clip_is_dropped_after_the_call(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(tiny_clip().state_dict(), folder / "open_clip_pytorch_model.bin")
    models = []
    create_model = open_clip.create_model

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
    torch.save(tiny_clip().state_dict(), folder / "open_clip_pytorch_model.bin")
    first = encoder.identity()
    assert first == encoder.identity()
    assert str(tmp_path) not in first  # the same files elsewhere are the same encoder
    torch.save(tiny_clip(quick_gelu=True).logit_scale, folder / "open_clip_pytorch_model.bin")
    assert encoder.identity() != first
    one, other = tmp_path / "weights.pt", tmp_path / "other.pt"
    one.write_bytes(b"1")
    other.write_bytes(b"2")
    names = {OpenCLIPTextEncoder(pretrained=str(path)).identity() for path in (one, other)}
    assert len(names) == 2


@pytest.mark.parametrize("damage", ["no weights", "no config", "other sizes", "cut", "payload"])
def test_local_weights_that_cannot_be_used(folder: Path, tmp_path: Path, damage: str) -> None:
    weights = folder / "open_clip_pytorch_model.bin"
    if damage == "payload":
        torch.save({"state_dict": Trap(tmp_path / "hacked")}, weights)
    elif damage != "no weights":
        torch.save(tiny_clip(embed_dim=4 if damage == "other sizes" else 6).state_dict(), weights)
    if damage == "no config":
        (folder / "open_clip_config.json").unlink()
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(TextWeightsError, match=f"CLIP weights in {folder} could not be loaded"):
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
        ("ViT-L-14", "openai", "differ in their activation.*use model_name='ViT-L-14-quickgelu'"),
        ("ViT-B-32", "openia", r"'openia' is neither a file, a folder nor a tag of 'ViT-B-32', which has \[.*'openai'"),
        ("ViT-B-32", "weights/clip.pt", "'weights/clip.pt' is neither a file, a folder nor a tag"),
        ("ViT-B-33", "openai", r"open_clip knows no model 'ViT-B-33'; `open_clip.list_models\(\)` gives them"),
    ],
)
def test_names_that_are_refused_before_anything_is_fetched(name: str, tag: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OpenCLIPTextEncoder(name, tag).encode(PROMPTS)


@pytest.mark.usefixtures("no_network")
def test_weights_that_cannot_be_fetched(tmp_path: Path) -> None:
    with pytest.raises(TextWeightsError) as caught:
        OpenCLIPTextEncoder(cache_dir=str(tmp_path)).encode(PROMPTS)
    message = str(caught.value)
    for part in ("ViT-B-32-quickgelu", "openai", str(tmp_path), "tmkd embed", "HashingTextEncoder", "no route to host"):
        assert part in message


@pytest.mark.usefixtures("no_network")
def test_the_file_that_would_have_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder in the message is where open_clip looks when there is no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(TextWeightsError) as caught:
        OpenCLIPTextEncoder(cache_dir=str(tmp_path)).encode(PROMPTS)
    named = next(word for word in str(caught.value).split() if word.startswith(str(tmp_path)))
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
    assert OpenCLIPTextEncoder().identity() == "open_clip-ViT-B-32-quickgelu-openai"
    assert "openai" in open_clip.list_pretrained_tags_by_model("ViT-B-32-quickgelu")


def test_wrong_batch_size() -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1 prompt, got 0"):
        OpenCLIPTextEncoder(batch_size=0)


def test_all_are_text_encoders(file: Path) -> None:
    for encoder in (HashingTextEncoder(), EmbeddingFile(file), OpenCLIPTextEncoder()):
        assert isinstance(encoder, TextEncoder)
    assert not isinstance(open_clip, TextEncoder)


def test_any_damaged_byte_is_one_kind_of_error(tmp_path: Path) -> None:
    path = tmp_path / "texts.npz"
    np.savez_compressed(path, prompts=np.array([f"cat {i}" for i in range(9)]), embeddings=np.eye(9, dtype="f"))
    whole = path.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 255
        path.write_bytes(damaged)
        try:
            EmbeddingFile(path).encode(["cat 3"])
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017  # some damage goes unnoticed by any reader


def test_one_text_that_is_no_list(tmp_path: Path) -> None:
    np.savez(tmp_path / "texts.npz", prompts=np.array("cat"), embeddings=np.eye(2))
    with pytest.raises(ValueError, match=r"texts of shape \(\) do not fit"):
        EmbeddingFile(tmp_path / "texts.npz").encode(["cat"])


def test_an_array_alone_is_no_file_of_embeddings(tmp_path: Path) -> None:
    np.save(tmp_path / "texts.npy", np.eye(2))
    with pytest.raises(ValueError, match="not a readable file of text embeddings"):
        EmbeddingFile(tmp_path / "texts.npy").encode(["cat"])


# A folder whose config names a tokenizer of the hub


def with_hub_tokenizer(folder: Path) -> None:
    config = {"model_cfg": TINY | {"text_cfg": TINY["text_cfg"] | {"hf_tokenizer_name": "timm/ViT-B-16-SigLIP"}}}
    (folder / "open_clip_config.json").write_text(json.dumps(config | {"preprocess_cfg": {}}))
    torch.save(tiny_clip().state_dict(), folder / "open_clip_pytorch_model.bin")


@pytest.fixture
def transformers(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """A stand-in for the package, which need not be installed: CLIP's own tokenizer, and what it was asked for."""
    asked: dict[str, object] = {}

    class AutoTokenizer:
        @staticmethod
        def from_pretrained(source: object, **options: object) -> Callable[..., object]:
            asked.update(options, source=source)
            tokenize = open_clip.SimpleTokenizer(context_length=16)
            return lambda texts, **_: types.SimpleNamespace(input_ids=tokenize(texts))

    module = types.ModuleType("transformers")
    module.AutoTokenizer = AutoTokenizer  # type: ignore[attr-defined]
    module.__spec__ = importlib.machinery.ModuleSpec("transformers", None)
    monkeypatch.setitem(sys.modules, "transformers", module)
    return asked


@pytest.mark.parametrize("file", ["tokenizer.json", "vocab.txt", "vocab.json", "spiece.model"])
def test_tokenizer_of_a_folder_is_read_there_and_not_fetched(
    folder: Path, transformers: dict[str, object], file: str
) -> None:
    with_hub_tokenizer(folder)
    (folder / file).write_text("{}")
    embeddings = OpenCLIPTextEncoder(pretrained=str(folder)).encode(PROMPTS)
    torch.testing.assert_close(embeddings, embed(tiny_clip(), PROMPTS))
    assert str(transformers["source"]) == str(folder)
    assert transformers["local_files_only"] is True


def test_folder_without_its_tokenizer(folder: Path, transformers: dict[str, object], monkeypatch) -> None:
    """Found before the weights are loaded, and nothing is asked of the hub."""
    with_hub_tokenizer(folder)
    monkeypatch.setattr(open_clip, "create_model", lambda *_, **__: pytest.fail("the weights were loaded first"))
    message = rf"the folder {folder} holds no tokenizer.*needs that of timm/ViT-B-16-SigLIP: copy tokenizer\.json, "
    with pytest.raises(TextWeightsError, match=message):
        OpenCLIPTextEncoder(pretrained=str(folder)).encode(PROMPTS)
    assert transformers == {}


def test_tokenizer_needs_transformers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_hub_tokenizer(folder)
    (folder / "tokenizer.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setattr(openclip, "find_spec", lambda name: None)
    with pytest.raises(TextWeightsError, match=rf"folder {folder}.*needs the package transformers: pip install trans"):
        OpenCLIPTextEncoder(pretrained=str(folder)).encode(PROMPTS)


def test_damaged_tokenizer(folder: Path, transformers: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(source: object, **options: object) -> None:
        raise OSError("no tokenizer")

    with_hub_tokenizer(folder)
    (folder / "tokenizer.json").write_text("{}")
    monkeypatch.setattr(sys.modules["transformers"].AutoTokenizer, "from_pretrained", damaged)
    with pytest.raises(TextWeightsError, match=rf"could not be read from the folder {folder}.*\(no tokenizer\)"):
        OpenCLIPTextEncoder(pretrained=str(folder)).encode(PROMPTS)


def test_tokenizer_of_a_name_that_cannot_be_fetched(
    tmp_path: Path, tiny_name: str, transformers: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(source: object, **options: object) -> None:
        raise OSError("no network")

    torch.save(tiny_clip().state_dict(), tmp_path / "weights.pt")
    open_clip.factory._MODEL_CONFIGS[tiny_name]["text_cfg"]["hf_tokenizer_name"] = "timm/tiny"
    monkeypatch.setattr(sys.modules["transformers"].AutoTokenizer, "from_pretrained", offline)
    with pytest.raises(TextWeightsError, match=r"of CLIP tiny-clip could not be fetched.*a folder that holds"):
        OpenCLIPTextEncoder(tiny_name, str(tmp_path / "weights.pt")).encode(PROMPTS)
