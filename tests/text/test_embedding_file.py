"""Embeddings from a file, of ours and of others, whole and damaged."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.fake_datasets import Trap
from tmkd_lightning.text import EmbeddingFile, HashingTextEncoder, TextEncoder, write_embeddings

PROMPTS = ["a photo of a cat", "an edge enhanced image of a dog", "a photo of a {fish}"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "texts.npz"
    write_embeddings(path, PROMPTS, HashingTextEncoder(16).encode(PROMPTS), "hashing")
    return path


def test_file_round_trip(file: Path) -> None:
    embeddings = HashingTextEncoder(16).encode(PROMPTS)
    encoder = EmbeddingFile(str(file))
    assert isinstance(encoder, TextEncoder)
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
    with pytest.raises(ValueError, match=r"holds the arrays \['names', 'vectors'\], not 'prompts' and 'embeddings'"):
        EmbeddingFile(tmp_path / "clip.npz").encode(["cat"])


def test_what_is_missing_is_named(file: Path) -> None:
    with pytest.raises(ValueError, match=r"no embedding for 'a cat' \(and 1 more\).*3 other.*'a photo of a cat'.*tmkd"):
        EmbeddingFile(file).encode([PROMPTS[0], "a cat", "a dog"])
    with pytest.raises(FileNotFoundError, match=r"no file of text embeddings at .*\.npz; `tmkd embed` makes one"):
        EmbeddingFile(file.with_name("other.npz"))


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "one bit", "an array"])
def test_damaged_file(file: Path, damage: str) -> None:
    content = bytearray(file.read_bytes())
    if damage == "one bit":
        content[content.index("cat".encode("utf-32-le"))] ^= 1  # a letter of a prompt
    file.write_bytes({"empty": b"", "text": b"hello", "cut": content[: len(content) // 2]}.get(damage, content))
    if damage == "an array":
        with file.open("wb") as stream:
            np.save(stream, np.eye(2))
    with pytest.raises(ValueError, match=r"texts\.npz is not a readable file of text embeddings"):
        EmbeddingFile(file).encode(PROMPTS)


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


@pytest.mark.parametrize(
    ("prompts", "embeddings", "message"),
    [
        (
            ["a", "b"],
            np.full((2, 2), "x"),
            r"'embeddings' \(2, 2\) of <U1, not texts \(N,\) and real numbers \(N, E\): mak",
        ),
        (["a", "b"], np.eye(2, dtype=complex), r"'embeddings' \(2, 2\) of complex128, not texts"),
        (["a", "b"], np.array([["2020-01-01"]] * 2, dtype="M8[D]"), r"of datetime64\[D\], not texts"),
        (["a", "b"], np.zeros((2, 4), dtype=[("x", "f4")]), "not texts"),
        ([b"a", b"b"], np.eye(2), r"'prompts' \(2,\) of \|S1 and .*, not texts"),
        (["a", "b"], np.array([[1.0, 0.0], [np.nan, 1.0]]), r"of 'b' \(and of 0 more\) is zero or not finite"),
        (["a", "b"], np.array([[np.inf, 0.0], [0.0, 1e300]]), r"of 'a' \(and of 1 more\) is zero or not finite"),
        (["a", "b"], np.array([[1.0, 0.0], [0.0, 0.0]]), "of 'b' .* no direction: make the file again"),
        (["a", "b"], np.ones((3, 4)), r"'prompts' \(2,\) of <U1 and 'embeddings' \(3, 4\) of float64, not texts"),
        (["a", "b"], np.ones((2, 4, 1)), r"'embeddings' \(2, 4, 1\) of float64, not texts"),
        ("a", np.eye(2), r"'prompts' \(\) of <U1"),
        (["a", "a"], np.eye(2), "several embeddings for one text"),
    ],
)
def test_file_with_values_that_are_no_embeddings(tmp_path: Path, prompts: object, embeddings, message: str) -> None:
    np.savez(tmp_path / "texts.npz", prompts=np.array(prompts), embeddings=embeddings)
    with pytest.raises(ValueError, match=rf"{tmp_path}/texts\.npz.*{message}"):
        EmbeddingFile(tmp_path / "texts.npz").encode(["a"])


@pytest.mark.parametrize("array", ["prompts", "embeddings", None])
def test_pickled_objects_are_not_run(tmp_path: Path, array: str | None) -> None:
    path, trap = tmp_path / "texts.npz", Trap(tmp_path / "hacked")
    objects = np.array([trap], dtype=object)
    np.savez(path, **{"prompts": np.array(["cat"]), "embeddings": np.ones((1, 2)), array or "other": objects})
    if array is None:
        path.write_bytes(pickle.dumps(trap))
    with pytest.raises(ValueError, match="not a readable file of text embeddings"):
        EmbeddingFile(path).encode(["cat"])
    assert not (tmp_path / "hacked").exists()


def test_identity_follows_the_content(file: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved.npz"
    moved.write_bytes(file.read_bytes())
    assert EmbeddingFile(moved).identity() == EmbeddingFile(file).identity()
    write_embeddings(file, PROMPTS, torch.ones(3, 16), "hashing")
    assert EmbeddingFile(moved).identity() != EmbeddingFile(file).identity()
    assert EmbeddingFile(moved, embeddings="other").identity() != EmbeddingFile(moved).identity()
