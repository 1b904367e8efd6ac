"""Loss of embeddings by their similarities to a queue of other images' embeddings."""

import torch
from torch import Tensor
from torch.nn import functional as F


def queue_kl(
    student: Tensor, teacher: Tensor, queue: Tensor, temperature: float, teacher_temperature: float | None = None
) -> Tensor:
    """KL divergence of the student's similarities to a queue from the teacher's, both softmaxed over the queue.

    ``1 / B · Σ q_t (log q_t − log q_s)``, where ``q = softmax(cos(embedding, queue) / T)``. Invariant to the scale of
    either embedding. Gradients flow into the first two arguments.

    Args:
        student: projected embedding, ``(B, D)``.
        teacher: embedding of the same images, ``(B, D)``; the target.
        queue: the teacher's embeddings of other images, ``(Q, D)``, rows of length 1.
        temperature: T of the student, above 0.
        teacher_temperature: T of the teacher, above 0; None for the student's.

    Returns:
        Scalar, at least 0.

    Raises:
        ValueError: for other shapes or temperatures.

    Source: LightlyTrain's ``distillationv1``, whose cross-entropy has the same gradients for the student; there T is
    0.07 on both sides.

    Example:
        >>> student, teacher = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
        >>> queue_kl(student, teacher, torch.eye(2), temperature=1.0).item()
        0.46211...
    """
    if student.shape != teacher.shape:
        raise ValueError(f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} must have one shape")
    if queue.ndim != 2 or queue.shape[1] != teacher.shape[1] or len(queue) == 0:
        raise ValueError(f"queue must be (Q, {teacher.shape[1]}), as wide as the teacher, got {tuple(queue.shape)}")
    teacher_temperature = temperature if teacher_temperature is None else teacher_temperature
    if not (temperature > 0 and teacher_temperature > 0):
        raise ValueError(f"temperature must be above 0, got {temperature} and {teacher_temperature} (the teacher's)")
    dtype = torch.promote_types(torch.result_type(student, teacher), torch.float32)
    with torch.autocast(student.device.type, enabled=False):
        columns = queue.to(dtype).T
        predicted = F.log_softmax(F.normalize(student.to(dtype)) @ columns / temperature, dim=1)
        target = F.log_softmax(F.normalize(teacher.to(dtype)) @ columns / teacher_temperature, dim=1)
    return F.kl_div(predicted, target, reduction="batchmean", log_target=True)
