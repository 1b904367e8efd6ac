"""The bank is filled with the right rows, from the right names, and from the file the next time."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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


@pytest.fixture
def filled(tmp_path) -> Callable[..., tuple[PromptBank, list[list[str]]]]:
    """Sets a callback up for a module, and gives its bank and what was encoded."""

    def run(target: SimpleNamespace | None = None, stage: str = "fit", where: Any = None, **options: Any) -> Any:
        options = {"encoder": Counting(), "class_names": NAMES, "cache_dir": str(tmp_path / "cache"), **options}
        target = target or module()
        PromptEmbeddings(**options).setup(where or trainer(), target, stage)
        return target.prompt_bank, getattr(options["encoder"], "calls", [])

    return run


def trainer(**datamodule: list[str]) -> SimpleNamespace:
    hooks = SimpleNamespace(datamodule=SimpleNamespace(**datamodule) if datamodule else None)
    return SimpleNamespace(_data_connector=SimpleNamespace(_datahook_selector=hooks))


def one(prompt: str) -> Tensor:
    return HashingTextEncoder(DIM).encode([prompt])[0]


TABLE_1 = {
    "rgb": "a photo of a {}",
    "edge": "an edge enhanced image of a {}",
    "high_frequency": "a high-frequency enhanced image of a {}",
}


@pytest.mark.parametrize(
    "views", [("rgb", "edge", "high_frequency"), ("high_frequency", "rgb"), ("edge",), ("edge", "high_frequency")]
)
def test_every_row_is_the_prompt_of_its_view_and_class(filled, views: tuple[str, ...]) -> None:
    bank, _ = filled(module(views))
    assert bank.filled
    for label, name in enumerate(NAMES):
        for index, view in enumerate(views):
            torch.testing.assert_close(bank.embeddings[index, label], one(TABLE_1[view].format(name)))
        torch.testing.assert_close(bank.anchors[label], one(f"a photo of a {name}"))  # whatever the views


def test_a_view_of_one_s_own_brings_its_words(filled) -> None:
    bank, _ = filled(module(["rgb", View("sketch", lambda image: image, "a sketch of a {class}")]))
    torch.testing.assert_close(bank.embeddings[1, 2], one("a sketch of a fish"))


@pytest.mark.parametrize(
    ("templates", "rgb", "edge", "anchor"),
    [
        ("{class}", "fish", "fish", "fish"),
        ({"edge": "lines of a {class}"}, "a photo of a fish", "lines of a fish", "a photo of a fish"),
        ({"rgb": "my {class}"}, "my fish", "an edge enhanced image of a fish", "my fish"),
    ],
)
def test_templates(filled, templates: dict[str, str] | str, rgb: str, edge: str, anchor: str) -> None:
    bank, _ = filled(module(["rgb", "edge"]), templates=templates)
    torch.testing.assert_close(bank.embeddings[:, 2], torch.stack([one(rgb), one(edge)]))
    torch.testing.assert_close(bank.anchors[2], one(anchor))


def test_a_file_keyed_by_class_names(filled, tmp_path: Path) -> None:
    path = tmp_path / "names.npz"
    vectors = torch.nn.functional.normalize(torch.randn(4, DIM), dim=1)
    write_embeddings(path, ["fish", "bird", "cat", "dog"], vectors, "by hand")
    with pytest.raises(ValueError, match=r"no embedding for 'a photo of a cat'.*templates='{class}'"):
        filled(encoder=EmbeddingFile(path))
    bank, _ = filled(encoder=EmbeddingFile(path), templates="{class}")
    expected = vectors[[2, 3, 0]]
    torch.testing.assert_close(bank.anchors, expected)
    torch.testing.assert_close(bank.embeddings, expected.expand(3, 3, DIM))


# Class names


def test_where_names_come_from(filled) -> None:
    """The first of them that is there; they need not be strings."""
    sources = ["argument", "module", "phrases", "names", "saved"]
    for first, chosen in enumerate(sources):
        names = {source: [f"{source} {name}" for name in NAMES] for source in sources[first:]}
        data = {"class_phrases": names.get("phrases"), "class_names": names.get("names")}
        target = module(class_names=names.get("module"), saved_class_names=names.get("saved"))
        bank, _ = filled(target, where=trainer(**data), class_names=names.get("argument"))
        torch.testing.assert_close(bank.anchors[1], one(f"a photo of a {chosen} dog"))
    torch.testing.assert_close(filled(class_names=[1, 2, 3])[0].anchors[2], one("a photo of a 3"))


@pytest.mark.parametrize("where", [trainer(), trainer(batch_size=3)])
def test_no_names_anywhere(filled, where: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match=r"no class names.*TMKDModule\(class_names=\.\.\.\).*datamodule"):
        filled(where=where, class_names=None)


@pytest.mark.parametrize(
    ("names", "message"),
    [(NAMES[:2], "2 class names for"), (["cat", "dog", "cat"], "'cat' stands for several"), (["", "a", "b"], "empty")],
)
def test_names_that_do_not_fit(filled, names: list[str], message: str) -> None:
    target = module()
    with pytest.raises(ValueError, match=message):
        filled(target, class_names=names)
    assert not target.prompt_bank.filled


# Whether anything is to be done


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_only_training_reads_the_bank(filled, stage: str) -> None:
    bank, calls = filled(stage=stage, class_names=None)  # nor does it ask for names
    assert not bank.filled
    assert calls == []


@pytest.mark.parametrize(("teacher", "told"), [(None, False), ("a network", True)])
def test_a_module_that_reads_no_texts_asks_no_encoder_and_says_so(filled, caplog, teacher: Any, told: bool) -> None:
    """But for a classifier alone, which may share its callbacks with students."""
    without = SimpleNamespace(prompt_bank=None, teacher=teacher)
    with caplog.at_level("INFO"):
        assert filled(without, class_names=None)[1] == []
    assert ("no texts are encoded, as neither text_weight nor a fusion reads any" in caplog.text) == told


def test_a_full_bank_is_filled_anew(filled) -> None:
    target = module()
    target.prompt_bank.fill(torch.ones(3, 3, DIM), torch.ones(3, DIM))  # by another encoder, for an earlier run
    assert not filled(target)[0].embeddings.equal(torch.ones(3, 3, DIM))


def test_another_width_names_the_argument(filled) -> None:
    with pytest.raises(ValueError, match=r"TMKDModule\(text_dim=512\)"):
        filled(encoder=HashingTextEncoder())


# The file


def test_each_prompt_is_encoded_once_and_not_in_the_next_run(filled) -> None:
    """The anchors' prompts are those of the RGB view."""
    (first, (prompts,)), (second, calls) = filled(), filled()
    assert sorted(prompts) == sorted(template.format(name) for template in TABLE_1.values() for name in NAMES)
    assert calls == []
    torch.testing.assert_close(second.embeddings, first.embeddings)
    torch.testing.assert_close(second.anchors, first.anchors)


class Other(Counting):
    def identity(self) -> str:
        return "other"


@pytest.mark.parametrize(
    "change",
    [
        {"class_names": ["cat", "dog", "bird"]},
        {"templates": "{class}"},
        {"class_names": NAMES[::-1]},
        {"encoder": Other()},
    ],
    ids=["a name", "templates", "order", "encoder"],
)
def test_other_prompts_and_encoders_have_another_file(filled, tmp_path: Path, change: dict[str, object]) -> None:
    filled()
    assert len(filled(**change)[1]) == 1
    assert len(os.listdir(tmp_path / "cache")) == 2


@pytest.mark.parametrize("damage", ["empty", "half", "other prompts", "nan"])
def test_a_damaged_file_is_made_anew(filled, tmp_path: Path, damage: str) -> None:
    _, (prompts,) = filled()
    (path,) = (tmp_path / "cache").iterdir()
    if damage == "other prompts":
        write_embeddings(path, ["a cat"], torch.ones(1, DIM), "hashing")
    elif damage == "nan":
        write_embeddings(path, prompts, torch.full((len(prompts), DIM), torch.nan), "hashing")
    else:
        os.truncate(path, path.stat().st_size // 2 if damage == "half" else 0)
    with pytest.warns(UserWarning, match=f"cached text embeddings {path} cannot be used and are made anew"):
        bank, calls = filled()
    assert len(calls) == 1
    torch.testing.assert_close(bank.anchors[0], one("a photo of a cat"))
    assert filled()[1] == []  # the file is whole again


def test_a_cache_that_cannot_be_written_only_warns(filled, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder can be made below this")
    with pytest.warns(UserWarning, match="could not be cached, so the next run encodes them anew"):
        bank, _ = filled(cache_dir=str(tmp_path / "file" / "cache"))
    torch.testing.assert_close(bank.anchors[0], one("a photo of a cat"))


def test_where_the_file_is_kept(filled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    filled(cache_dir=None)
    assert [path.suffix for path in (tmp_path / "xdg" / "tmkd_lightning").iterdir()] == [".npz"]
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    filled(cache_dir=None)
    assert len(os.listdir(tmp_path / "home" / ".cache" / "tmkd_lightning")) == 1


@pytest.mark.parametrize("encoder", ["openai", object(), lambda prompts: prompts])
def test_not_an_encoder(encoder: object) -> None:
    assert isinstance(PromptEmbeddings().encoder, OpenCLIPTextEncoder)
    with pytest.raises(TypeError, match="encoder must be a TextEncoder"):
        PromptEmbeddings(encoder)


@pytest.mark.parametrize(
    "wrong", [torch.ones(2, DIM), torch.ones(9), torch.full((9, DIM), torch.nan), torch.zeros(9, DIM)]
)
def test_what_an_encoder_gives_is_checked_before_it_is_kept(filled, tmp_path: Path, wrong: torch.Tensor) -> None:
    encoder = Other()
    encoder.encode = lambda prompts: wrong
    with pytest.raises(ValueError, match=r"Other\.encode must give 9 finite rows"):
        filled(encoder=encoder)
    assert not list(tmp_path.rglob("*.npz"))
