"""Text encoders, prompts and class names."""

from tmkd_lightning.text.embedding_file import EmbeddingFile, write_embeddings
from tmkd_lightning.text.encoder import HashingTextEncoder, TextEncoder
from tmkd_lightning.text.openclip import OpenCLIPTextEncoder

__all__ = ["EmbeddingFile", "HashingTextEncoder", "OpenCLIPTextEncoder", "TextEncoder", "write_embeddings"]
