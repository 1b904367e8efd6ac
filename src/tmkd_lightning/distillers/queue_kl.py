"""Queue distillation: matches similarities to a queue of the teacher's embeddings; needs neither labels nor logits."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tmkd_lightning.distillers.base import ProjectingDistiller
from tmkd_lightning.feature_extraction.output import Output
from tmkd_lightning.losses.queue_kl import queue_kl
from tmkd_lightning.utils.distributed import gather_batches
from tmkd_lightning.utils.validation import check_count, check_positive, check_term, check_weight


class QueueKL(ProjectingDistiller):
    """KL divergence of the student's similarities to a queue of the teacher's embeddings from the teacher's own.

    The queue holds the teacher's L2-normalised embeddings of the last images, first in, first out, and begins with
    random directions; a batch enters it after its loss. It is saved in checkpoints, so resuming is exact. On several
    devices the embeddings of all enter one queue, the same on each, in the order of the processes; batches must be
    equally large on all of them.

    Args:
        queue_size: number of embeddings in the queue; checkpoints hold ``4 * queue_size * D`` bytes of them, D wide.
        temperature: of the student's similarities, above 0.
        teacher_temperature: of the teacher's similarities, above 0.
        weight: factor of the loss, at least 0.
        name: name of the term in logs.

    Attributes:
        queue: the embeddings, ``(queue_size, D)`` of the teacher's width D.
        position: row that the next embedding overwrites, the oldest.

    Source: LightlyTrain's ``distillationv1``, with its projector, queue size and temperature. There each process has a
    queue of its own, which begins with zeros, and a batch enters it before its loss.

    Example:
        >>> from tmkd_lightning.feature_extraction.spec import Spec
        >>> distiller = QueueKL(queue_size=16)
        >>> distiller.build(student=Spec(3, embedding_dim=4), teacher=Spec(3, embedding_dim=8))
        >>> student, teacher = (Output(torch.zeros(2, 3), torch.rand(2, dim)) for dim in (4, 8))
        >>> distiller(student, teacher, torch.tensor([0, 1]))["queue_kl"].item() > 0
        True
        >>> distiller.position.item()
        2
    """

    reads_logits = False
    queue: Tensor
    position: Tensor

    def __init__(
        self,
        queue_size: int = 8192,
        temperature: float = 0.07,
        teacher_temperature: float = 0.07,
        weight: float = 1.0,
        name: str = "queue_kl",
    ) -> None:
        super().__init__()
        self.queue_size = check_count("queue_size", queue_size)
        self.temperature = check_positive("temperature", temperature)
        self.teacher_temperature = check_positive("teacher_temperature", teacher_temperature)
        self.weight = check_weight("weight", weight)
        self.name = check_term(name)

    def make_layers(self, student_dim: int, teacher_dim: int) -> None:
        """Makes projector and queue."""
        self.projector = nn.Linear(student_dim, teacher_dim)
        self.register_buffer("queue", F.normalize(torch.randn(self.queue_size, teacher_dim)))
        self.register_buffer("position", torch.zeros((), dtype=torch.long))

    def forward(self, student: Output, teacher: Output, label: Tensor) -> dict[str, Tensor]:
        """Computes the term ``queue_kl``, and puts the teacher's embeddings into the queue; see `Distiller`."""
        projected, target = self.projector(student.require("embedding")), teacher.require("embedding")
        queue = self.queue.clone()  # the backward pass needs it as it is now
        loss = queue_kl(projected, target, queue, self.temperature, self.teacher_temperature)
        self._enqueue(target)
        return {self.name: self.weight * loss}

    @torch.no_grad()
    def _enqueue(self, embeddings: Tensor) -> None:
        """Overwrites the oldest rows; on the device alone, as waiting for it would cost more."""
        wide = torch.promote_types(embeddings.dtype, torch.float32)
        (rows,) = gather_batches(F.normalize(embeddings.to(wide)).to(self.queue.dtype))
        self.position += max(0, len(rows) - self.queue_size)  # as if the ones left out had been overwritten
        rows = rows[-self.queue_size :]
        places = (self.position + torch.arange(len(rows), device=rows.device)) % self.queue_size
        self.queue.index_copy_(0, places, rows)
        self.position.add_(len(rows)).remainder_(self.queue_size)
