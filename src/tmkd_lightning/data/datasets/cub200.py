"""CUB-200-2011: 200 species of birds."""

import re
from pathlib import Path

from tmkd_lightning.data.datasets.listed import ListedImages, read_table
from tmkd_lightning.data.download import Archive

_URL = "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1"


class CUB200(ListedImages):
    """Caltech-UCSD Birds-200-2011: 5,994 training and 5,794 test images of 200 species.

    The images are those of ``CUB_200_2011/images.txt``; other files, and further lines of the other lists, are ignored.
    A part of the dataset works as well, if its lists agree.

    Takes the arguments of `ListedImages`; `root` holds ``CUB_200_2011``.

    Source: Wah et al., The Caltech-UCSD Birds-200-2011 Dataset, 2011; https://data.caltech.edu/records/65de6-vp158.
    """

    archives = (Archive("CUB_200_2011.tgz", _URL, md5="97eceeb196236b17998738112f37df78", holds=("CUB_200_2011",)),)

    def read(self) -> tuple[list[str], list[tuple[Path, int]]]:
        """Joins the lists by image number."""
        folder = self.root / "CUB_200_2011"
        names = ("classes", "images", "image_class_labels", "train_test_split")
        classes, images, labels, splits = (read_table(folder / f"{name}.txt") for name in names)
        label_of = {number: label for label, number in enumerate(classes)}
        is_train = {"0": False, "1": True}
        files = [
            (folder / "images" / name, label_of[labels[number]])
            for number, name in images.items()
            if is_train[splits[number]] == (self.split == "train")
        ]
        return [re.sub(r"^\d+\.", "", name).replace("_", " ") for name in classes.values()], files
