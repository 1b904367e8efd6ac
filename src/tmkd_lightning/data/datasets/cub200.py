"""CUB-200-2011: 200 species of birds."""

from __future__ import annotations

import re
from pathlib import Path

from tmkd_lightning.data.datasets.listed import ListedImages, look_up, read_table
from tmkd_lightning.data.download import Archive


class CUB200(ListedImages):
    """Caltech-UCSD Birds-200-2011: 5,994 training and 5,794 test images of 200 species.

    The images are those of ``CUB_200_2011/images.txt``; other files, and further lines of the other lists, are ignored.
    A part of the dataset works as well, if its lists agree.

    Takes the arguments of `ListedImages`; `root` holds ``CUB_200_2011``.

    Source: Wah et al., The Caltech-UCSD Birds-200-2011 Dataset, 2011; https://data.caltech.edu/records/65de6-vp158.
    """

    archives = (
        Archive(
            name="CUB_200_2011.tgz",
            url="https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1",
            md5="97eceeb196236b17998738112f37df78",
            holds=("CUB_200_2011",),
        ),
    )

    def read(self) -> tuple[list[str], list[tuple[Path, int]]]:
        """Joins the lists by image number; see `ListedImages`."""
        folder = self.root / "CUB_200_2011"
        classes = read_table(folder / "classes.txt")
        labels_file, splits_file = folder / "image_class_labels.txt", folder / "train_test_split.txt"
        labels, splits = read_table(labels_file), read_table(splits_file)
        label_of = {number: label for label, number in enumerate(classes)}
        files = []
        for number, name in read_table(folder / "images.txt").items():
            label = look_up(labels, number, labels_file, label_of)
            if look_up(splits, number, splits_file, {"0": False, "1": True}) == (self.split == "train"):
                files.append((folder / "images" / name, label))
        return [re.sub(r"^\d+\.", "", name).replace("_", " ") for name in classes.values()], files
