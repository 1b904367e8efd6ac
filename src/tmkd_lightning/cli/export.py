"""``tmkd export``: exports the student of a checkpoint to one file."""

import sys

from tmkd_lightning.export.student import FormatName, Input, export_student
from tmkd_lightning.modules.loading import load_student
from tmkd_lightning.utils.messages import printable


def export(
    checkpoint: str,
    output: str,
    format: FormatName = "onnx",
    input: Input = "float",
    image_size: int | None = None,
    class_names: list[str] | None = None,
) -> None:
    """Writes the student of a checkpoint to a file that opens without this library, and verifies it by running it.

    Args:
        checkpoint: file that ``tmkd fit`` wrote; neither the teacher's nor any other is needed.
        output: file to write, ``.onnx``, ``.pt2`` or ``.safetensors`` as the format has it.
        format: onnx, torch_export or state_dict.
        input: type of the images that the file takes, float in [0, 1] or uint8.
        image_size: side of the images in pixels, by default that of the run's data; another one is warned of.
        class_names: other names for the classes, in the order of the labels; by default those of the run.
    """
    restored = load_student(checkpoint)
    size = restored.image_size if image_size is None else image_size
    if size is None:
        raise ValueError(f"{checkpoint} does not say how large its images were: pass --image_size")
    if restored.image_size not in (None, size):
        print(f"WARNING: images of the run were {restored.image_size} pixels, not {size}", file=sys.stderr)
    names = restored.names(class_names)
    print(f"Writing {printable(output)} as {format}, and running it", file=sys.stderr)
    written = export_student(restored.extractor, output, format=format, input=input, image_size=size, class_names=names)
    print(f"{printable(output)}: {printable(written['network'])} as {format}, checked against the module")
    print(f"  input    {written['input']}, (batch, 3, {size}, {size})")
    print(f"  classes  {restored.extractor.num_classes}" + ("" if names else ", called by number: pass --class_names"))
