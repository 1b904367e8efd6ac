"""Float32 or better, whatever comes in."""

import platform
import warnings

import pytest
import torch
from torch import Tensor

from tmkd_lightning import ClassifierModule
from tmkd_lightning.utils.precision import at_least_float32, in_full_precision

WIDENED = [
    (torch.float16, torch.float32),
    (torch.bfloat16, torch.float32),
    (torch.float32, torch.float32),
    (torch.float64, torch.float64),
    (torch.int64, torch.int64),
]


@pytest.mark.parametrize(("given", "widened"), WIDENED)
def test_at_least_float32(given: torch.dtype, widened: torch.dtype) -> None:
    assert at_least_float32(torch.ones(2, dtype=given)).dtype == widened


@in_full_precision
def product(one: Tensor, other: Tensor, factor: float = 1.0) -> Tensor:
    """Multiplies."""
    return factor * (one @ other)


@pytest.mark.parametrize(("given", "widened"), WIDENED[:4])
def test_function_sees_wide_tensors(given: torch.dtype, widened: torch.dtype) -> None:
    eye = torch.eye(2, dtype=given)
    for result in (product(eye, eye), product(eye, other=eye), product(one=eye, other=eye, factor=1.0)):
        assert result.dtype == widened


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_autocast_is_off_inside_and_on_again_after(half: torch.dtype) -> None:
    one = torch.tensor([[1.0, 2.0**-6]])
    with torch.autocast("cpu", half):
        assert product(one, one.T).item() == 1 + 2.0**-12  # 1 in either half precision
        assert (one @ one.T).dtype == half


def test_gradient_comes_back_in_the_type_of_the_input() -> None:
    one = torch.ones(1, 2, dtype=torch.bfloat16, requires_grad=True)
    product(one, torch.full((2, 1), 3.0), factor=2.0).sum().backward()
    assert one.grad.dtype == torch.bfloat16
    assert one.grad.tolist() == [[6.0, 6.0]]


def test_the_function_keeps_its_name_and_words() -> None:
    assert (product.__name__, product.__doc__) == ("product", "Multiplies.")


@pytest.mark.parametrize(
    ("precision", "has", "told"),
    [("bf16-mixed", (), True), ("bf16-true", (), True), ("32-true", (), False)]
    + [("bf16-mixed", (one,), False) for one in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")],
)
def test_bfloat16_on_a_cpu_without_it_is_spoken_of_once(net, fit, monkeypatch, precision, has, told) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name in has)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(ClassifierModule(net()), precision=precision, max_epochs=2)
    said = [str(one.message) for one in caught if "bfloat16" in str(one.message)]
    assert len(said) == told
    assert all(f"so precision={precision} is several times slower than 32-true" in one for one in said)
