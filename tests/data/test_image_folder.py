"""Folders of images as people have them, with all that is wrong with them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tmkd_lightning.data import DataError, ImageFolderDataModule

COLOURS = {"ant": (250, 10, 10), "bee_eater": (10, 250, 10), "cat": (10, 10, 250)}


def write(path: Path, colour: tuple[int, ...], side: tuple[int, int] = (12, 10), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", side, colour).convert(mode).save(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes of ten training images, each class in its colour."""
    for name, colour in COLOURS.items():
        for index in range(10):
            write(tmp_path / "images" / "train" / name / f"{index}.png", colour)
    return tmp_path / "images"


def module(root: Path, **options: object) -> ImageFolderDataModule:
    return ImageFolderDataModule(str(root), **{"batch_size": 4, "num_workers": 0, "image_size": 8, **options})


def files(data: ImageFolderDataModule, split: str) -> list[tuple[str, int]]:
    return [(path.relative_to(data.root).as_posix(), label) for path, label in data.samples(split).files]


def colour_of(image: Tensor) -> list[int]:
    return [round(value) for value in image.float().mean((-2, -1)).tolist()]


# Splits


def test_a_part_of_every_class_is_held_out(root: Path) -> None:
    train, val = (files(module(root, val_fraction=0.2), split) for split in ("train", "val"))
    assert [sum(label == wanted for _, label in train) for wanted in range(3)] == [8, 8, 8]
    assert [sum(label == wanted for _, label in val) for wanted in range(3)] == [2, 2, 2]
    assert len(dict(train + val)) == 30


def test_one_seed_one_split(root: Path) -> None:
    splits = [files(module(root, seed=seed), "val") for seed in (0, 0, 1, 2)]
    assert splits[0] == splits[1]
    assert len({tuple(split) for split in splits}) > 1


def test_the_seed_of_the_split_is_not_the_machine_s(root: Path) -> None:
    torch.manual_seed(1)
    first = files(module(root), "val")
    torch.manual_seed(2)
    assert files(module(root), "val") == first


def test_a_folder_for_validation_is_used_whole(root: Path) -> None:
    for name in ("cat", "ant"):  # not every class need be there
        write(root / "val" / name / "x.png", COLOURS[name])
    data = module(root)
    assert len(files(data, "train")) == 30
    assert files(data, "val") == [("val/ant/x.png", 0), ("val/cat/x.png", 2)]


def test_test_split_has_the_labels_of_train(root: Path) -> None:
    write(root / "test" / "cat" / "x.png", COLOURS["cat"])
    data = module(root)
    assert files(data, "test") == [("test/cat/x.png", 2)]
    data.setup("test")
    ((image, label),) = data.test_dataloader()
    assert (colour_of(image[0]), label.tolist()) == ([10, 10, 250], [2])


def test_class_names(root: Path) -> None:
    data = module(root)
    assert data.class_names == ["ant", "bee eater", "cat"]
    assert data.class_phrases == data.class_names
    assert data.num_classes == 3


def test_labels_belong_to_the_images(root: Path) -> None:
    data = module(root)
    data.setup("fit")
    for loader in (data.train_dataloader(), data.val_dataloader()):
        for image, label in loader:
            assert (image.shape[1:], image.dtype) == ((3, 8, 8), torch.uint8)
            expected = [list(list(COLOURS.values())[y]) for y in label.tolist()]
            assert [colour_of(one) for one in image] == expected


# What is in the folders


def test_junk_is_ignored(root: Path) -> None:
    before = files(module(root), "train")
    for name in ("train/.DS_Store", "train/ant/.DS_Store", "train/ant/Thumbs.db", "train/ant/notes.txt", "readme.md"):
        (root / name).write_bytes(b"junk")
    (root / "train" / "labels.csv").write_text("ant,0")
    (root / "train" / ".ipynb_checkpoints").mkdir()
    (root / "train" / "ant" / "folder.png").mkdir()
    assert files(module(root), "train") == before
    assert module(root).class_names == ["ant", "bee eater", "cat"]


def test_images_at_any_depth_and_of_any_suffix(tmp_path: Path) -> None:
    names = ["a.JPG", "b.jpeg", "deep/c.png", "deep/er/d.bmp", "e.webp"]
    for name in names:
        write(tmp_path / "train" / "ant" / name, (1, 2, 3))
        write(tmp_path / "val" / "ant" / name, (1, 2, 3))
    assert sorted(files(module(tmp_path), "train")) == sorted((f"train/ant/{name}", 0) for name in names)


@pytest.mark.parametrize(
    ("name", "mode", "colour", "tolerance"),
    [
        ("x.png", "RGB", [200, 100, 50], 0),
        ("x.png", "L", [124, 124, 124], 1),  # 0.299 R + 0.587 G + 0.114 B
        ("x.png", "RGBA", [200, 100, 50], 0),
        ("x.png", "LA", [124, 124, 124], 1),
        ("x.png", "P", [200, 100, 50], 3),
        ("x.jpg", "CMYK", [200, 100, 50], 3),
        ("x.jpg", "L", [124, 124, 124], 1),
        ("x.tiff", "CMYK", [200, 100, 50], 3),
    ],
)
def test_colour_modes(root: Path, name: str, mode: str, colour: list[int], tolerance: int) -> None:
    path = write(root / "val" / "ant" / name, (200, 100, 50), mode=mode)
    with Image.open(path) as image:
        assert image.mode == mode
    data = module(root)
    assert data.samples("val")[0][0].mode == "RGB"  # what a transform of one's own is given
    data.setup("validate")
    ((image, _),) = data.val_dataloader()
    assert image.shape == (1, 3, 8, 8)
    assert np.abs(np.array(colour_of(image[0])) - colour).max() <= tolerance


def test_black_and_white_images(root: Path) -> None:
    write(root / "val" / "ant" / "x.png", (255, 255, 255), mode="1")
    data = module(root)
    data.setup("validate")
    ((image, _),) = data.val_dataloader()
    assert image.equal(torch.full((1, 3, 8, 8), 255, dtype=torch.uint8))


@pytest.mark.parametrize("side", [(300, 7), (7, 300), (1, 1), (8, 8)])
def test_images_of_any_shape(root: Path, side: tuple[int, int]) -> None:
    write(root / "val" / "ant" / "x.png", (9, 99, 199), side=side)
    write(root / "train" / "ant" / "x.png", (9, 99, 199), side=side)
    data = module(root)
    data.setup("fit")
    assert colour_of(next(iter(data.val_dataloader()))[0][0]) == [9, 99, 199]
    assert {tuple(image.shape[1:]) for image, _ in data.train_dataloader()} == {(3, 8, 8)}


def test_evaluation_looks_at_the_middle(root: Path) -> None:
    """224 of 256 pixels, and in proportion: at 28 px the image is resized to 32 and cut by 2 on each side."""
    frame = np.zeros((32, 32, 3), dtype=np.uint8)
    frame[2:30, 2:30] = np.random.default_rng(0).integers(1, 255, (28, 28, 3))
    (root / "val" / "ant").mkdir(parents=True)
    Image.fromarray(frame).save(root / "val" / "ant" / "x.png")
    data = module(root, image_size=28)
    data.setup("validate")
    ((image, _),) = data.val_dataloader()
    np.testing.assert_array_equal(image[0].permute(1, 2, 0).numpy(), frame[2:30, 2:30])


# What is wrong with the folders


@pytest.mark.parametrize("workers", [0, 1])
def test_a_truncated_image_is_named(root: Path, workers: int) -> None:
    path = root / "val" / "ant" / "broken.jpg"
    path.parent.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:1000])
    data = module(root, num_workers=workers)
    data.setup("validate")
    with pytest.raises(DataError, match=f"{path} cannot be read as an image .*: replace or remove it"):
        list(data.val_dataloader())


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, b"\xff\xd8\xff\xe0"])
def test_a_file_that_is_no_image_is_named(root: Path, content: bytes) -> None:
    path = write(root / "val" / "ant" / "broken.png", (1, 2, 3))
    path.write_bytes(content)
    data = module(root)
    data.setup("validate")
    with pytest.raises(DataError, match=f"{path} cannot be read as an image"):
        list(data.val_dataloader())


def test_no_train_folder(tmp_path: Path) -> None:
    for use in (
        lambda data: data.class_names,
        lambda data: data.prepare_data(),
        lambda data: data.setup("fit"),
    ):
        with pytest.raises(DataError, match=rf"no folder {tmp_path}/train: .* {tmp_path}/train/<class>/"):
            use(module(tmp_path))


def test_train_without_classes(tmp_path: Path) -> None:
    write(tmp_path / "train" / "x.png", (1, 2, 3))
    with pytest.raises(DataError, match=f"{tmp_path}/train holds no folders"):
        module(tmp_path).prepare_data()


def test_an_empty_class_is_named(root: Path) -> None:
    (root / "train" / "dog").mkdir()
    (root / "train" / "dog" / "notes.txt").write_text("soon")
    with pytest.raises(DataError, match=r"train/dog holds no image \(\.jpg, "):
        module(root).prepare_data()


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_class_that_train_lacks_is_named(root: Path, split: str) -> None:
    write(root / split / "ant" / "x.png", (1, 2, 3))
    write(root / split / "dog" / "x.png", (1, 2, 3))
    with pytest.raises(DataError, match=f"{split}/dog is a class that .*train lacks"):
        module(root).prepare_data()


@pytest.mark.parametrize("split", ["val", "test"])
def test_an_empty_split_is_named(root: Path, split: str) -> None:
    (root / split / "ant").mkdir(parents=True)
    with pytest.raises(DataError, match=f"{root}/{split}/ant holds no image"):
        module(root).prepare_data()


def test_no_test_folder_matters_only_for_testing(root: Path) -> None:
    data = module(root)
    data.prepare_data()
    data.setup("fit")
    for stage in ("test", "predict"):
        with pytest.raises(DataError, match=f"no folder {root}/test"):
            data.setup(stage)


def test_too_little_to_train_on(tmp_path: Path) -> None:
    write(tmp_path / "train" / "ant" / "x.png", (1, 2, 3))
    write(tmp_path / "val" / "ant" / "x.png", (1, 2, 3))
    data = module(tmp_path)
    data.setup("fit")
    with pytest.raises(DataError, match=r"the training split holds 1 image\(s\)"):
        data.train_dataloader()


def test_a_single_image_cannot_be_split(root: Path) -> None:
    write(root / "train" / "dog" / "x.png", (1, 2, 3))
    with pytest.raises(DataError, match="one image: it cannot be split"):
        module(root).setup("fit")


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_wrong_fraction(root: Path, fraction: float) -> None:
    with pytest.raises(ValueError, match="val_fraction must be above 0 and below 1"):
        module(root, val_fraction=fraction)


@pytest.mark.parametrize("batch_size", [0, 1])
def test_wrong_batch_size(root: Path, batch_size: int) -> None:
    with pytest.raises(ValueError, match=f"batch_size must be a whole number, at least 2, got {batch_size}"):
        module(root, batch_size=batch_size)


# Batches


@pytest.mark.parametrize(
    ("batch_size", "sizes"), [(4, [4] * 7 + [2]), (29, [29]), (7, [7, 7, 7, 7, 2]), (5, [5] * 6), (64, [30])]
)
def test_last_batch_of_training(root: Path, batch_size: int, sizes: list[int]) -> None:
    """Of 30 images; one left over is dropped, two are not."""
    write(root / "val" / "ant" / "x.png", (1, 2, 3))
    data = module(root, batch_size=batch_size)
    data.setup("fit")
    assert [len(label) for _, label in data.train_dataloader()] == sizes


def test_last_batch_of_evaluation_may_hold_one(root: Path) -> None:
    for index in range(5):
        write(root / "val" / "ant" / f"{index}.png", (1, 2, 3))
    data = module(root)
    data.setup("fit")
    assert [len(label) for _, label in data.val_dataloader()] == [4, 1]


def test_augmentation_does_not_depend_on_workers(root: Path) -> None:
    for path in root.rglob("*.png"):  # so that crops differ
        noise = np.random.default_rng(int(path.stem)).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    runs = []
    for workers in (0, 2):
        data = module(root, num_workers=workers)
        data.setup("fit")
        loader = data.train_dataloader()
        loader.sampler.set_epoch(1)
        runs.append([image for image, _ in loader])
    assert all(one.equal(other) for one, other in zip(*runs, strict=True))


def test_transforms_of_one_s_own(root: Path) -> None:
    def brightness(image: Image.Image) -> Tensor:
        return torch.full((3, 2, 2), image.getpixel((0, 0))[0], dtype=torch.uint8)

    data = module(root, train_transform=brightness, eval_transform=lambda image: brightness(image) // 2)
    data.setup("fit")
    assert {value for image, _ in data.train_dataloader() for value in image.unique().tolist()} == {250, 10}
    assert {value for image, _ in data.val_dataloader() for value in image.unique().tolist()} == {125, 5}


@pytest.mark.parametrize(("one", "other"), [("a_b", "a b"), ("a_b", "a__b"), ("a b", "a b ")])
def test_folders_that_would_give_classes_one_name_are_named(root: Path, one: str, other: str) -> None:
    fill(root / "train", f"{one}/0.png", f"{other}/0.png", f"{one}/1.png", f"{other}/1.png")
    first, second = sorted((one, other))
    with pytest.raises(DataError, match=f"classes {first!r} and {second!r} would both be called 'a b'"):
        module(root).setup("fit")


def test_letters_may_be_told_apart_by_their_case(root: Path) -> None:
    fill(root / "train", *(f"{name}/{index}.png" for name in "aA" for index in range(2)))
    data = module(root)
    data.prepare_data()
    data.setup("fit")
    assert data.class_names[:2] == ["A", "a"]


def test_a_folder_that_moved_away_after_setup_is_named(root: Path) -> None:
    data = module(root)
    data.setup("fit")
    shutil.rmtree(root / "train" / "cat")
    with pytest.raises(DataError, match=r"train/cat/\d\.png cannot be read"):
        list(data.train_dataloader())


def fill(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / name)


@pytest.mark.parametrize("hidden", ["._0.png", ".ipynb_checkpoints/0-checkpoint.png"])
def test_hidden_files_inside_a_class_are_no_images(tmp_path: Path, hidden: str) -> None:
    fill(tmp_path, "train/ant/0.png", "train/ant/1.png", "train/ant/2.png", f"train/ant/{hidden}")
    data = ImageFolderDataModule(str(tmp_path))
    assert len(data.samples("train")) + len(data.samples("val")) == 3


def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 16).reshape(4, 4)
    for index in range(2):
        path = tmp_path / f"train/ant/{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(ramp.astype(np.uint16)).save(path)
    image, _ = ImageFolderDataModule(str(tmp_path)).samples("train")[0]
    np.testing.assert_allclose(np.asarray(image)[..., 0], ramp / 257, atol=1)


def test_a_class_too_small_to_split_is_called_by_its_folder(tmp_path: Path) -> None:
    fill(tmp_path, "train/ant/0.png", "train/ant/1.png", "train/cat/0.png")
    with pytest.raises(DataError, match="class 'cat' has one image"):
        ImageFolderDataModule(str(tmp_path)).setup("fit")
