"""What happens around training: text embeddings before it, a look at the teacher at its start, records of it."""

from tmkd_lightning.callbacks.prompt_embeddings import PromptEmbeddings
from tmkd_lightning.callbacks.run_record import RunRecord
from tmkd_lightning.callbacks.student_artifact import StudentArtifact
from tmkd_lightning.callbacks.teacher_check import TeacherCheck

__all__ = ["PromptEmbeddings", "RunRecord", "StudentArtifact", "TeacherCheck"]
