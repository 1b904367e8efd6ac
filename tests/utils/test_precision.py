"""Float32 or better, whatever comes in."""

import platform
import warnings

import pytest
import torch

from tmkd_lightning import ClassifierModule
from tmkd_lightning.utils.precision import at_least_float32


def test_at_least_float32() -> None:
    for given in (torch.float16, torch.bfloat16, torch.float32):
        assert at_least_float32(torch.ones(2, dtype=given)).dtype == torch.float32
    for given in (torch.float64, torch.int64):
        assert at_least_float32(torch.ones(2, dtype=given)).dtype == given


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
