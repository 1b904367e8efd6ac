"""Compiled networks: the same numbers and keys as eager ones, in one graph each."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from tmkd_lightning import Extractor
from tmkd_lightning.taps import compile_with_taps


def run(extractor: Extractor, image: Tensor) -> dict[str, Tensor]:
    """All that a step reads off a network, and the gradients that it sends back."""
    output = extractor(image)
    (output.logits.square().sum() + output.cam.square().sum() + output.embedding.sum()).backward()
    gradients = {name: parameter.grad for name, parameter in extractor.network.named_parameters()}
    state = {f"after {name}": value.clone() for name, value in extractor.network.named_buffers()}
    return {"logits": output.logits, "embedding": output.embedding, "map": output.feature_map, **gradients, **state}


@pytest.mark.parametrize("training", [False, True])
def test_compiled_equals_eager(net, training: bool) -> None:
    """Up to 1e-4 of each tensor's largest value: a compiler adds up in another order."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    eager = Extractor(net()).train(training)
    image = torch.rand(4, 3, 8, 8)
    eager.confirm(image)
    compiled = copy.deepcopy(eager)
    compile_with_taps(compiled.network)
    expected, seen = run(eager, image), run(compiled, image)
    for name, value in expected.items():
        torch.testing.assert_close(seen[name], value, rtol=0, atol=1e-4 * max(1.0, value.abs().max().item()), msg=name)
    assert list(compiled.state_dict()) == list(eager.state_dict())
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not torch._dynamo.utils.counters["graph_break"]
