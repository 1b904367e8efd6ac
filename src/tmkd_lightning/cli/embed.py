"""``tmkd embed``: writes text embeddings to one file, for machines without internet."""

from pathlib import Path

from tmkd_lightning.data import ImageDataModule
from tmkd_lightning.text import OpenCLIPTextEncoder, TextEncoder, write_embeddings
from tmkd_lightning.text.class_names import check_class_names
from tmkd_lightning.text.prompts import TEMPLATES, prompts_of, view_templates
from tmkd_lightning.utils.messages import printable


def embed(
    output: str,
    class_names: list[str] | None = None,
    class_names_file: str | None = None,
    data: ImageDataModule | None = None,
    encoder: TextEncoder | None = None,
    templates: dict[str, str] | None = None,
) -> None:
    """Encodes the prompts of every class and view and writes them to a file that EmbeddingFile reads.

    Args:
        output: file to make, ``.npz``.
        class_names: names or phrases of the classes; or give `class_names_file` or `data`.
        class_names_file: text file with one name a line.
        data: datamodule whose classes to use, by class_path.
        encoder: text teacher, by default OpenCLIPTextEncoder (CLIP ViT-B/32, OpenAI's weights).
        templates: further or other prompt templates by view name, each with {class} in it.
    """
    if sum(source is not None for source in (class_names, class_names_file, data)) != 1:
        raise ValueError("give the classes once: by class_names, class_names_file or data")
    names = (class_names or []) if data is None else data.class_phrases
    if class_names_file is not None:
        lines = Path(class_names_file).expanduser().read_text().splitlines()
        names = [line.strip() for line in lines if line.strip()]
    check_class_names(names, num_classes=None)
    encoder = OpenCLIPTextEncoder() if encoder is None else encoder
    chosen = view_templates({**TEMPLATES, **(templates or {})}, replacement=None)
    prompts = list(dict.fromkeys(prompt for template in chosen.values() for prompt in prompts_of(template, names)))
    write_embeddings(output, prompts, encoder.encode(prompts), encoder.identity())
    print(printable(f"{output}: {len(prompts)} prompts of {len(names)} classes in the views {', '.join(chosen)}"))
