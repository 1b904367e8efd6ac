"""``tmkd predict --images``: predictions of the student of a checkpoint for the images in a folder."""

import sys
from pathlib import Path

from lightning.pytorch import LightningDataModule

from tmkd_lightning.data import ImageDataModule, ImageFolderDataModule
from tmkd_lightning.export.predict import predict_folder
from tmkd_lightning.modules.loading import load_datamodule, load_student
from tmkd_lightning.utils.files import is_stream
from tmkd_lightning.utils.messages import printable


def predict(
    checkpoint: str,
    images: str,
    output: str,
    top: int = 1,
    all_classes: bool = False,
    batch_size: int = 32,
    num_workers: int = 2,
    image_size: int | None = None,
    class_names: list[str] | None = None,
    device: str | None = None,
) -> None:
    """Classifies every image in a folder with the student of a checkpoint, and writes a CSV file.

    Args:
        checkpoint: file that ``tmkd fit`` wrote; neither the teacher's nor any other is needed.
        images: folder of image files, at any depth.
        output: CSV file to write: file, class, probability.
        top: number of classes in a line, the likeliest first.
        all_classes: whether to write the probability of every class too.
        batch_size: images at once.
        num_workers: processes that load.
        image_size: side in pixels to which images are resized and cropped as ImageFolderDataModule does; by default
            they are prepared as the run's own datamodule did for validation.
        class_names: other names for the classes, in the order of the labels; by default those of the run.
        device: where to compute, such as cpu or cuda; by default a GPU if there is one.
    """
    restored = load_student(checkpoint)
    config, remedy = restored.data or {}, "pass --image_size, and images are resized and cropped to it"
    if image_size is not None:
        data: LightningDataModule = ImageFolderDataModule(images, image_size=image_size)
    elif "_class_path" in config:
        data = load_datamodule(config, checkpoint, remedy)
    else:
        raise ValueError(f"{checkpoint} does not say how its images were prepared: {remedy}")
    if not isinstance(data, ImageDataModule):
        raise ValueError(f"{config['_class_path']} does not say how its images are prepared: {remedy}")
    names = restored.names(class_names)
    count, unreadable = predict_folder(
        restored.extractor,
        images,
        output,
        transform=data.eval_transform,
        class_names=names,
        normalized_with=restored.normalized_with if image_size is None else None,
        top=top,
        all_classes=all_classes,
        batch_size=batch_size,
        num_workers=num_workers,
        device=device,
    )
    for problem in unreadable:
        print(f"LEFT OUT: {printable(problem)}", file=sys.stderr)
    left_out = f", {len(unreadable)} left out that cannot be read" if unreadable else ""
    by_number = "" if names else "; classes are called by number: pass --class_names"
    stream = sys.stderr if is_stream(Path(output).expanduser()) else sys.stdout  # which may be the output
    print(f"{printable(output)}: {count} images{left_out}{by_number}", file=stream)
    print(f"  prepared as {type(data).__name__} does for validation, {data.image_size} pixels", file=stream)
