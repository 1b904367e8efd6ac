"""The bank is filled with the right rows, from the right names, and from the file the next time."""

import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from tmkd_lightning.callbacks import PromptEmbeddings
from tmkd_lightning.text import EmbeddingFile, HashingTextEncoder, OpenCLIPTextEncoder, write_embeddings
from tmkd_lightning.text.prompts import PromptBank
from tmkd_lightning.views import MultiView, View

NAMES = ["cat", "dog", "fish"]
DIM = 16


class Counting(HashingTextEncoder):
    """Remembers what it was asked to encode."""

    def __init__(self, dim: int = DIM) -> None:
        super().__init__(dim)
        self.calls: list[list[str]] = []

    def encode(self, prompts: Sequence[str]) -> Tensor:
        self.calls.append(list(prompts))
        return super().encode(prompts)


def module(
    views: Sequence[str | View] = ("rgb", "edge", "high_frequency"),
    class_names: list[str] | None = None,
    saved_class_names: list[str] | None = None,
) -> SimpleNamespace:
    """What the callback sees of a module."""
    looks = MultiView(views)
    bank = PromptBank(len(looks), len(NAMES), DIM)
    return SimpleNamespace(prompt_bank=bank, views=looks, class_names=class_names, saved_class_names=saved_class_names)


def trainer(**datamodule: list[str]) -> SimpleNamespace:
    hooks = SimpleNamespace(datamodule=SimpleNamespace(**datamodule) if datamodule else None)
    return SimpleNamespace(_data_connector=SimpleNamespace(_datahook_selector=hooks))


def one(prompt: str) -> Tensor:
    return HashingTextEncoder(DIM).encode([prompt])[0]


def callback(tmp_path: Path, **options: object) -> PromptEmbeddings:
    return PromptEmbeddings(**{"encoder": Counting(), "cache_dir": str(tmp_path / "cache"), **options})


TABLE_1 = {
    "rgb": "a photo of a {}",
    "edge": "an edge enhanced image of a {}",
    "high_frequency": "a high-frequency enhanced image of a {}",
}


@pytest.mark.parametrize(
    "views", [("rgb", "edge", "high_frequency"), ("high_frequency", "rgb"), ("edge",), ("edge", "high_frequency")]
)
def test_every_row_is_the_prompt_of_its_view_and_class(tmp_path: Path, views: tuple[str, ...]) -> None:
    target = module(views)
    callback(tmp_path, class_names=NAMES).setup(trainer(), target, "fit")
    bank = target.prompt_bank
    assert bank.filled
    for label, name in enumerate(NAMES):
        for index, view in enumerate(views):
            torch.testing.assert_close(bank.embeddings[index, label], one(TABLE_1[view].format(name)))
        torch.testing.assert_close(bank.anchors[label], one(f"a photo of a {name}"))  # whatever the views


def test_a_view_of_one_s_own_brings_its_words(tmp_path: Path) -> None:
    target = module(["rgb", View("sketch", lambda image: image, "a sketch of a {class}")])
    callback(tmp_path, class_names=NAMES).setup(trainer(), target, "fit")
    torch.testing.assert_close(target.prompt_bank.embeddings[1, 2], one("a sketch of a fish"))


@pytest.mark.parametrize(
    ("templates", "rgb", "edge", "anchor"),
    [
        ("{class}", "fish", "fish", "fish"),
        ({"edge": "lines of a {class}"}, "a photo of a fish", "lines of a fish", "a photo of a fish"),
        ({"rgb": "my {class}"}, "my fish", "an edge enhanced image of a fish", "my fish"),
    ],
)
def test_templates(tmp_path: Path, templates: dict[str, str] | str, rgb: str, edge: str, anchor: str) -> None:
    target = module(["rgb", "edge"])
    callback(tmp_path, class_names=NAMES, templates=templates).setup(trainer(), target, "fit")
    torch.testing.assert_close(target.prompt_bank.embeddings[:, 2], torch.stack([one(rgb), one(edge)]))
    torch.testing.assert_close(target.prompt_bank.anchors[2], one(anchor))


def test_a_file_keyed_by_class_names(tmp_path: Path) -> None:
    path = tmp_path / "names.npz"
    vectors = torch.nn.functional.normalize(torch.randn(4, DIM), dim=1)
    write_embeddings(path, ["fish", "bird", "cat", "dog"], vectors, "by hand")
    target = module()
    options = {"encoder": EmbeddingFile(path), "class_names": NAMES}
    with pytest.raises(ValueError, match=r"no embedding for 'a photo of a cat'.*templates='{class}'"):
        callback(tmp_path, **options).setup(trainer(), target, "fit")
    callback(tmp_path, **options, templates="{class}").setup(trainer(), target, "fit")
    expected = vectors[[2, 3, 0]]
    torch.testing.assert_close(target.prompt_bank.anchors, expected)
    torch.testing.assert_close(target.prompt_bank.embeddings, expected.expand(3, 3, DIM))


def test_each_prompt_is_encoded_once(tmp_path: Path) -> None:
    """The anchors' prompts are those of the RGB view."""
    fill = callback(tmp_path, class_names=NAMES)
    fill.setup(trainer(), module(), "fit")
    (prompts,) = fill.encoder.calls
    assert sorted(prompts) == sorted(template.format(name) for template in TABLE_1.values() for name in NAMES)


# Class names


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ({"argument", "module", "phrases", "names", "saved"}, "argument"),
        ({"module", "phrases", "names", "saved"}, "module"),
        ({"phrases", "names", "saved"}, "phrases"),
        ({"names", "saved"}, "names"),
        ({"saved"}, "saved"),
    ],
)
def test_where_names_come_from(tmp_path: Path, given: set[str], chosen: str) -> None:
    names = {source: [f"{source} {name}" for name in NAMES] if source in given else None for source in given}
    data = {"class_phrases": names.get("phrases"), "class_names": names.get("names")}
    target = module(class_names=names.get("module"), saved_class_names=names.get("saved"))
    callback(tmp_path, class_names=names.get("argument")).setup(trainer(**data), target, "fit")
    torch.testing.assert_close(target.prompt_bank.anchors[1], one(f"a photo of a {chosen} dog"))


@pytest.mark.parametrize("where", [trainer(), trainer(batch_size=3)])
def test_no_names_anywhere(tmp_path: Path, where: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match=r"no class names.*TMKDModule\(class_names=\.\.\.\).*datamodule"):
        callback(tmp_path).setup(where, module(), "fit")


@pytest.mark.parametrize(
    ("names", "message"),
    [(NAMES[:2], "2 class names for"), (["cat", "dog", "cat"], "'cat' stands for several"), (["", "a", "b"], "empty")],
)
def test_names_that_do_not_fit(tmp_path: Path, names: list[str], message: str) -> None:
    target = module()
    with pytest.raises(ValueError, match=message):
        callback(tmp_path, class_names=names).setup(trainer(), target, "fit")
    assert not target.prompt_bank.filled


def test_names_need_not_be_strings(tmp_path: Path) -> None:
    target = module()
    callback(tmp_path, class_names=[1, 2, 3]).setup(trainer(), target, "fit")
    torch.testing.assert_close(target.prompt_bank.anchors[2], one("a photo of a 3"))


# Whether anything is to be done


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_only_training_reads_the_bank(tmp_path: Path, stage: str) -> None:
    target, fill = module(), callback(tmp_path)  # nor does it ask for names
    fill.setup(trainer(), target, stage)
    assert not target.prompt_bank.filled
    assert fill.encoder.calls == []


def test_nothing_to_fill(tmp_path: Path) -> None:
    fill = callback(tmp_path)
    fill.setup(trainer(), SimpleNamespace(prompt_bank=None, views=MultiView(), class_names=None), "fit")
    assert fill.encoder.calls == []


def test_a_full_bank_is_filled_anew(tmp_path: Path) -> None:
    target = module()
    target.prompt_bank.fill(torch.ones(3, 3, DIM), torch.ones(3, DIM))  # by another encoder, for an earlier run
    callback(tmp_path, class_names=NAMES).setup(trainer(), target, "fit")
    assert not target.prompt_bank.embeddings.equal(torch.ones(3, 3, DIM))


def test_another_width_names_the_argument(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"TMKDModule\(text_dim=512\)"):
        callback(tmp_path, encoder=HashingTextEncoder(), class_names=NAMES).setup(trainer(), module(), "fit")


# The file


def test_the_next_run_does_not_encode(tmp_path: Path) -> None:
    first, second = module(), module()
    callback(tmp_path, class_names=NAMES).setup(trainer(), first, "fit")
    again = callback(tmp_path, class_names=NAMES)
    again.setup(trainer(), second, "fit")
    assert again.encoder.calls == []
    torch.testing.assert_close(second.prompt_bank.embeddings, first.prompt_bank.embeddings)
    torch.testing.assert_close(second.prompt_bank.anchors, first.prompt_bank.anchors)


@pytest.mark.parametrize(
    "change", [{"class_names": ["cat", "dog", "bird"]}, {"templates": "{class}"}, {"class_names": NAMES[::-1]}]
)
def test_other_prompts_have_another_file(tmp_path: Path, change: dict[str, object]) -> None:
    callback(tmp_path, class_names=NAMES).setup(trainer(), module(), "fit")
    other = callback(tmp_path, **{"class_names": NAMES, **change})
    other.setup(trainer(), module(), "fit")
    assert len(other.encoder.calls) == 1
    assert len(os.listdir(tmp_path / "cache")) == 2


def test_another_encoder_has_another_file(tmp_path: Path) -> None:
    class Other(Counting):
        def identity(self) -> str:
            return "other"

    callback(tmp_path, class_names=NAMES).setup(trainer(), module(), "fit")
    other = callback(tmp_path, class_names=NAMES, encoder=Other())
    other.setup(trainer(), module(), "fit")
    assert len(other.encoder.calls) == 1


@pytest.mark.parametrize("damage", ["empty", "half", "other prompts", "nan"])
def test_a_damaged_file_is_made_anew(tmp_path: Path, damage: str) -> None:
    callback(tmp_path, class_names=NAMES).setup(trainer(), module(), "fit")
    (path,) = (tmp_path / "cache").iterdir()
    whole = path.read_bytes()
    if damage == "other prompts":
        write_embeddings(path, ["a cat"], torch.ones(1, DIM), "hashing")
    elif damage == "nan":
        with np.load(path) as file:
            prompts = file["prompts"].tolist()
        write_embeddings(path, prompts, torch.full((len(prompts), DIM), torch.nan), "hashing")
    else:
        path.write_bytes(whole[: len(whole) // 2] if damage == "half" else b"")
    target, again = module(), callback(tmp_path, class_names=NAMES)
    with pytest.warns(UserWarning, match=f"cached text embeddings {path} cannot be used and are made anew"):
        again.setup(trainer(), target, "fit")
    assert len(again.encoder.calls) == 1
    torch.testing.assert_close(target.prompt_bank.anchors[0], one("a photo of a cat"))
    last = callback(tmp_path, class_names=NAMES)
    last.setup(trainer(), module(), "fit")
    assert last.encoder.calls == []  # the file is whole again


def test_a_cache_that_cannot_be_written_only_warns(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder can be made below this")
    target = module()
    fill = callback(tmp_path, class_names=NAMES, cache_dir=str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match="could not be cached, so the next run encodes them anew"):
        fill.setup(trainer(), target, "fit")
    torch.testing.assert_close(target.prompt_bank.anchors[0], one("a photo of a cat"))


def test_where_the_file_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    PromptEmbeddings(Counting(), class_names=NAMES).setup(trainer(), module(), "fit")
    assert [path.suffix for path in (tmp_path / "xdg" / "tmkd_lightning").iterdir()] == [".npz"]
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    PromptEmbeddings(Counting(), class_names=NAMES).setup(trainer(), module(), "fit")
    assert len(os.listdir(tmp_path / "home" / ".cache" / "tmkd_lightning")) == 1


def test_default_encoder_is_clip() -> None:
    assert isinstance(PromptEmbeddings().encoder, OpenCLIPTextEncoder)


@pytest.mark.parametrize("encoder", ["openai", object(), lambda prompts: prompts])
def test_not_an_encoder(encoder: object) -> None:
    with pytest.raises(TypeError, match="encoder must be a TextEncoder"):
        PromptEmbeddings(encoder)


@pytest.mark.parametrize(
    "wrong", [torch.ones(2, DIM), torch.ones(9), torch.full((9, DIM), torch.nan), torch.zeros(9, DIM)]
)
def test_what_an_encoder_gives_is_checked_before_it_is_kept(tmp_path: Path, wrong: torch.Tensor) -> None:
    class Broken:
        def identity(self) -> str:
            return "broken"

        def encode(self, prompts: list[str]) -> torch.Tensor:
            return wrong

    with pytest.raises(ValueError, match=r"Broken\.encode must give 9 finite rows"):
        callback(tmp_path, encoder=Broken(), class_names=NAMES).setup(trainer(), module(), "fit")
    assert not list(tmp_path.rglob("*.npz"))
