"""What happens around training: text embeddings before it, a look at the teacher at its start, figures at its end."""

from tmkd_lightning.callbacks.figures import Figures
from tmkd_lightning.callbacks.prompt_embeddings import PromptEmbeddings
from tmkd_lightning.callbacks.teacher_cache import TeacherCache
from tmkd_lightning.callbacks.teacher_check import TeacherCheck

__all__ = ["Figures", "PromptEmbeddings", "TeacherCache", "TeacherCheck"]
