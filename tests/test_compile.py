"""Compiled networks: the same numbers and keys as eager ones, in one graph each."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from tmkd_lightning import Extractor


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
    compiled.compile_network()
    expected, seen = run(eager, image), run(compiled, image)
    for name, value in expected.items():
        torch.testing.assert_close(seen[name], value, rtol=0, atol=1e-4 * max(1.0, value.abs().max().item()), msg=name)
    assert list(compiled.state_dict()) == list(eager.state_dict())
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.parametrize("compiled_by", ["torch.compile", "network.compile", "of an owner who has used it already"])
def test_a_network_that_its_owner_has_compiled(net, compiled_by: str) -> None:
    """Its parts are read off the compiled code, of which earlier runs know no hooks; none is left in the end."""
    torch._dynamo.reset()
    torch._dynamo.config.skip_nnmodule_hook_guards = True  # torch's default
    network, image = net().eval(), torch.rand(4, 3, 8, 8)
    expected = run(Extractor(copy.deepcopy(network)), image)
    if compiled_by == "torch.compile":
        network = torch.compile(network, backend="eager")
    else:
        network.compile(backend="eager")
    if compiled_by.startswith("of an owner"):
        for _ in range(2):
            network(image)
    extractor = Extractor(network)
    for _ in range(2):
        extractor.zero_grad()
        seen = run(extractor, image)
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    seen = {name.replace("_orig_mod.", ""): value for name, value in seen.items()}
    assert seen.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(seen[name], value, msg=name)
    extractor.remove_hooks()
    assert not any(module._forward_hooks for module in network.modules())
    assert extractor(image).embedding.equal(seen["embedding"])


def test_the_whole_of_a_module_that_its_owner_has_compiled(net) -> None:
    torch._dynamo.reset()
    extractor, image = Extractor(net()).eval(), torch.rand(4, 3, 8, 8)
    expected = copy.deepcopy(extractor)(image)
    compiled = torch.compile(lambda image: extractor(image), backend="eager")
    for _ in range(3):
        output = compiled(image)
        assert output.embedding.equal(expected.embedding)
        assert output.feature_map.equal(expected.feature_map)
