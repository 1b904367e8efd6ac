"""Compiled networks: the same numbers and keys as eager ones, in one graph each."""

import copy

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from helpers.tiny import tmkd_module
from tmkd_lightning import Extractor, TMKDModule
from tmkd_lightning.distillers import KD
from tmkd_lightning.export import export_student
from tmkd_lightning.models import load_weights


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
    compiled.compile_network(whole=True)
    expected, seen = run(eager, image), run(compiled, image)
    for name, value in expected.items():
        torch.testing.assert_close(seen[name], value, rtol=0, atol=1e-4 * max(1.0, value.abs().max().item()), msg=name)
    assert list(compiled.state_dict()) == list(eager.state_dict())
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.parametrize("used_before", [False, True])
def test_a_network_that_its_owner_has_compiled(net, used_before: bool) -> None:
    """Its parts are read off the compiled code, of which earlier runs know no hooks; none is left in the end."""
    torch._dynamo.reset()
    torch._dynamo.config.skip_nnmodule_hook_guards = True  # torch's default
    network, image = net().eval(), torch.rand(4, 3, 8, 8)
    expected = run(Extractor(copy.deepcopy(network)), image)
    network.compile(backend="eager")
    for _ in range(2 * used_before):
        network(image)
    extractor = Extractor(network)
    for _ in range(2):
        extractor.zero_grad()
        seen = run(extractor, image)
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
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


# Wrapped by torch.compile


@pytest.fixture
def compiled(monkeypatch) -> list[nn.Module]:
    """What modules have compiled; a compiler itself would take its time."""
    seen: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda network: seen.append(network))
    return seen


def in_part(network: nn.Module) -> nn.Module:
    network.conv = torch.compile(network.conv, backend="eager")
    return network


def whole(network: nn.Module) -> nn.Module:
    return torch.compile(in_part(network), backend="eager")


@pytest.mark.parametrize("wrap", [in_part, whole])
@pytest.mark.filterwarnings("ignore:Net was in evaluation mode")
def test_checkpoints_of_compiled_networks_have_bare_names(net, fit, compiled, tmp_path, wrap) -> None:
    student, teacher = net(), net(16)
    module = tmkd_module(wrap(teacher), wrap(student), distiller=KD(), views=["rgb"], feature_weight=0, text_weight=0)
    assert module.student is student
    assert module.teacher.extractor.network is teacher
    trainer = fit(module, max_epochs=1)
    parts = [student.conv, teacher.conv]
    assert compiled == ([student, parts[0], teacher, parts[1]] if wrap is whole else parts)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert [key.removeprefix("student.") for key in saved if key.startswith("student.")] == list(net().state_dict())
    assert not any("_orig_mod" in key for key in saved)
    image = torch.rand(2, 3, 8, 8)
    expected = module.eval()(image)
    for other in (net(), wrap(net())):
        options = {"teacher": net(16), "student": other, "distiller": KD(), "weights_only": True}
        again = TMKDModule.load_from_checkpoint(tmp_path / "last.ckpt", **options)
        torch.testing.assert_close(again.eval()(image), expected)
        fit(again, max_epochs=2, ckpt_path=tmp_path / "last.ckpt")
    export_student(module, tmp_path / "student.safetensors", format="state_dict", image_size=8)
    assert sorted(load_file(tmp_path / "student.safetensors")) == sorted(net().state_dict())
    load_weights(net(), tmp_path / "student.safetensors")


def test_a_compiled_network_is_found_out_like_any_other(net) -> None:
    plain, image = net().eval(), torch.rand(4, 3, 8, 8)
    expected = Extractor(copy.deepcopy(plain))(image)
    extractor = Extractor(whole(plain)).eval()
    found = extractor(image)
    assert (extractor.head_name, extractor.map_name, extractor.name) == ("fc", "relu", "Net")
    assert found.feature_map.equal(expected.feature_map)
    assert found.embedding.equal(expected.embedding)
