"""Inputs of the golden values, and checks that every loss must pass."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

Loss = Callable[[Tensor, Tensor], Tensor]

HALVES = [torch.float16, torch.bfloat16]


def fill(shape: tuple[int, ...], phase: float, scale: float) -> Tensor:
    """The inputs that the golden values were computed from."""
    count = torch.arange(math.prod(shape), dtype=torch.float64)
    return (scale * torch.sin(0.37 * count + phase)).reshape(shape)


def gradients(
    loss: Loss, student: Tensor, teacher: Tensor, half: torch.dtype | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss and its gradients; with `half`, both inputs come from linear layers under that autocast."""
    student, teacher = (value.detach().clone().requires_grad_() for value in (student, teacher))
    if half is None:
        value = loss(student, teacher)
    else:
        with torch.autocast("cpu", half):
            value = loss(*(F.linear(each, torch.eye(each.shape[-1])) for each in (student, teacher)))
    value.backward()
    return value.detach(), student.grad, teacher.grad


def check_gradients(loss: Loss, student: Tensor, teacher: Tensor) -> None:
    """Both sides against finite differences in float64: fusion learns through the teacher's."""
    assert torch.autograd.gradcheck(loss, (student.clone().requires_grad_(), teacher.clone().requires_grad_()))
    assert all(gradient.abs().sum() > 0 for gradient in gradients(loss, student, teacher)[1:])


def check_autocast(loss: Loss, student: Tensor, teacher: Tensor, half: torch.dtype) -> None:
    """Half-precision inputs cost no precision beyond their own rounding."""
    exact = gradients(loss, student.to(half).double(), teacher.to(half).double())
    value, *found = gradients(loss, student.float(), teacher.float(), half)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), exact[0], rtol=1e-5, atol=0)  # half precision misses this by far
    for gradient, expected in zip(found, exact[1:], strict=True):
        error = (gradient - expected).abs().max() / expected.abs().max()
        assert error < 1e-2, error  # the layer's gradient is rounded to half precision


def check_moderate(loss: Loss, student: Tensor, teacher: Tensor, limit: float = 100.0) -> None:
    """Loss and gradients neither overflow nor explode, in float32 and under autocast."""
    for half in (None, *HALVES):
        for value in gradients(loss, student.float(), teacher.float(), half):
            assert value.abs().max() < limit, (half, value)  # false for NaN, too


def check_nothing(loss: Loss, student: Tensor, teacher: Tensor) -> None:
    """Loss and gradients are exactly 0, in float32 and under autocast."""
    for half in (None, *HALVES):
        for value in gradients(loss, student.float(), teacher.float(), half):
            assert value.equal(torch.zeros_like(value)), (half, value)


class Operations(TorchDispatchMode):
    """Notes the names of all operations, and the most elements that one of them gave."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        self.names.add(func.name())
        for result in results if isinstance(results, (tuple, list)) else (results,):
            self.elements = max(self.elements, result.numel() if isinstance(result, Tensor) else 0)
        return results
