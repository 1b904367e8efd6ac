"""Text embeddings in one portable file, for machines without internet."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tmkd_lightning.utils.files import atomic_write, sha256_of


def write_embeddings(path: str | Path, prompts: Sequence[str], embeddings: Tensor, identity: str) -> None:
    """Writes embeddings for `EmbeddingFile`, atomically.

    Args:
        path: ``.npz`` file to write; its folder is made if missing.
        prompts: the texts, N of them.
        embeddings: of the texts, ``(N, E)``.
        identity: of the encoder that made them.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "texts.npz"
        >>> write_embeddings(path, ["a cat"], torch.ones(1, 4), identity="by hand")
        >>> EmbeddingFile(path).encode(["a cat"]).tolist()
        [[0.5, 0.5, 0.5, 0.5]]
    """
    texts, vectors = np.array(list(prompts), dtype=np.str_), embeddings.detach().float().numpy()
    with atomic_write(Path(path).expanduser()) as file:
        np.savez(file, prompts=texts, embeddings=vectors, encoder=np.array(identity))


class EmbeddingFile:
    """Reads prompts' embeddings from a file, as ``tmkd embed`` writes it.

    A file keyed by bare class names serves too: with ``PromptEmbeddings(templates="{class}")`` every view reads the
    embedding of the class name, so the fusion has no words to tell the views apart by.

    Args:
        path: ``.npz`` file with an array of texts and an array of embeddings.
        prompts: name of the array of texts, ``(N,)``.
        embeddings: name of the array of embeddings, ``(N, E)``; they are L2-normalised when read.

    Raises:
        ValueError: by `encode`, if an array or a prompt is missing, or an embedding is zero or not finite.
    """

    def __init__(self, path: str | Path, prompts: str = "prompts", embeddings: str = "embeddings") -> None:
        self.path = Path(path).expanduser()
        self.prompts = prompts
        self.embeddings = embeddings
        if not self.path.is_file():
            raise FileNotFoundError(f"no file of text embeddings at {self.path}; `tmkd embed` makes one")

    def identity(self) -> str:
        """Names the file by the hash of its content."""
        return f"file-{sha256_of(self.path)}-{self.prompts}-{self.embeddings}"

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Reads the embeddings of prompts; see `TextEncoder`."""
        texts, vectors = self._read()
        row = {text: index for index, text in enumerate(texts)}
        if len(row) < len(texts):
            raise ValueError(f"{self.path} holds several embeddings for one text: keep one for each")
        missing = [prompt for prompt in prompts if prompt not in row]
        if missing:
            raise ValueError(
                f"{self.path} has no embedding for {missing[0]!r} (and {len(missing) - 1} more) but for {len(texts)} "
                f"other texts, the first {texts[0] if texts else None!r}. Make it for these classes and templates with "
                "`tmkd embed`; if it is keyed by class names, use PromptEmbeddings(templates='{class}')"
            )
        return torch.nn.functional.normalize(vectors[[row[prompt] for prompt in prompts]], dim=1)

    def _read(self) -> tuple[list[str], Tensor]:
        try:
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                names = arrays.files
                texts, vectors = (arrays[name] if name in names else None for name in (self.prompts, self.embeddings))
        except Exception as error:  # on damaged bytes zipfile, zlib and numpy raise many kinds
            raise ValueError(f"{self.path} is not a readable file of text embeddings: {error}") from error
        if texts is None or vectors is None:
            remedy = "name them with EmbeddingFile(path, prompts=..., embeddings=...)"
            expected = f"{self.prompts!r} and {self.embeddings!r}"
            raise ValueError(f"{self.path} holds the arrays {names}, not {expected}: {remedy}")
        kinds = texts.dtype.kind, vectors.dtype.kind
        if kinds not in (("U", "f"), ("U", "i"), ("U", "u")) or vectors.ndim != 2 or texts.shape != vectors.shape[:1]:
            raise ValueError(
                f"{self.path} holds {self.prompts!r} {texts.shape} of {texts.dtype} and {self.embeddings!r} "
                f"{vectors.shape} of {vectors.dtype}, not texts (N,) and real numbers (N, E): make it with `tmkd embed`"
            )
        with np.errstate(over="ignore"):  # a float64 too large for float32 becomes infinite, which is refused
            numbers = torch.from_numpy(vectors.astype(np.float32))
        wrong = texts[~can_normalize(numbers).numpy()].tolist()
        if wrong:
            raise ValueError(
                f"{self.path}: the embedding of {wrong[0]!r} (and of {len(wrong) - 1} more) is zero or not finite, so "
                "it has no direction: make the file again with `tmkd embed`, or leave these texts out"
            )
        return texts.tolist(), numbers


def can_normalize(embeddings: Tensor) -> Tensor:
    """Mask ``(N,)`` of the rows ``(N, E)`` that have a finite length above 0."""
    length = torch.linalg.vector_norm(embeddings.float(), dim=1)
    return length.isfinite() & (length > 1e-12)
