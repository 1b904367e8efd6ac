"""Stanford Dogs: 120 breeds."""

from pathlib import Path

from tmkd_lightning.data.datasets.listed import ListedImages
from tmkd_lightning.data.download import Archive
from tmkd_lightning.data.errors import DataError

_URL = "http://vision.stanford.edu/aditya86/ImageNetDogs"  # has no https; the md5 protects


class StanfordDogs(ListedImages):
    """Stanford Dogs: 12,000 training images, a hundred a class, and 8,580 test images of 120 breeds.

    The images are from ImageNet: a network pretrained there has seen the test images. A part of the
    dataset works as well, if its lists agree.

    Takes the arguments of `ListedImages`; `root` holds ``Images``, ``train_list.mat`` and ``test_list.mat``.

    Source: Khosla et al., Novel Dataset for Fine-Grained Image Categorization, FGVC 2011;
    http://vision.stanford.edu/aditya86/ImageNetDogs.
    """

    archives = (
        Archive(
            "lists.tar", f"{_URL}/lists.tar", "edbb9f16854ec66506b5f09b583e0656", ("train_list.mat", "test_list.mat")
        ),
        Archive("images.tar", f"{_URL}/images.tar", "1bb1f2a596ae7057f99d7d75860002ef", ("Images",)),
    )

    def read(self) -> tuple[list[str], list[tuple[Path, int]]]:
        """Reads the lists of both splits, as one may lack a class."""
        lists = {split: _read_list(self.root / f"{split}_list.mat") for split in ("train", "test")}
        folder_of = {number: name.split("/")[0] for name, number in lists["train"] + lists["test"]}
        label_of = {number: label for label, number in enumerate(sorted(folder_of))}
        classes = [folder_of[number].split("-", 1)[1].replace("_", " ") for number in label_of]
        return classes, [(self.root / "Images" / name, label_of[number]) for name, number in lists[self.split]]


def _read_list(path: Path) -> list[tuple[str, int]]:
    """Image names with their folder, and class numbers."""
    from scipy.io import loadmat  # slow to import

    try:
        content = loadmat(path, variable_names=["file_list", "labels"])
        names = [str(row[0][0]) for row in content["file_list"]]
        return list(zip(names, map(int, content["labels"].ravel()), strict=True))
    except Exception as error:  # on damaged files, scipy raises errors of any kind
        raise DataError(f"{path} cannot be read as a list of images ({error!r}): unpack lists.tar again") from error
