"""Lightning callbacks: text embeddings, the teacher's cache and accuracy, figures and records of runs."""

from tmkd_lightning.callbacks.class_names_check import ClassNamesCheck
from tmkd_lightning.callbacks.figures import Figures
from tmkd_lightning.callbacks.progress_lines import ProgressLines
from tmkd_lightning.callbacks.prompt_embeddings import PromptEmbeddings
from tmkd_lightning.callbacks.run_record import RunRecord
from tmkd_lightning.callbacks.student_artifact import StudentArtifact
from tmkd_lightning.callbacks.teacher_accuracy import TeacherAccuracyCheck
from tmkd_lightning.callbacks.teacher_cache import TeacherCache
from tmkd_lightning.lightning_compat.plateau import PlateauStep
from tmkd_lightning.lightning_compat.rng_state import StepSeeds

__all__ = [
    "ClassNamesCheck",
    "Figures",
    "PlateauStep",
    "ProgressLines",
    "PromptEmbeddings",
    "RunRecord",
    "StepSeeds",
    "StudentArtifact",
    "TeacherAccuracyCheck",
    "TeacherCache",
]
