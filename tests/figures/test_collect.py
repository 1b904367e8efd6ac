"""Copies of networks are run on images; the networks themselves stay as they are."""

import copy

import pytest
import torch
from torch import nn

from helpers.tiny import Net, make_images
from tmkd_lightning import Extractor
from tmkd_lightning.figures import CollectedOutputs, NothingToPlotError, OutputCollector

NAMES = ["red", "green", "blue"]


def batches():
    """Twelve images, five at a time."""
    images = make_images(12)
    for part in (images[:5], images[5:10], images[10:]):
        yield torch.stack([image for image, _ in part]) / 255, torch.tensor([label for _, label in part])


def collect(networks, parts, **options) -> CollectedOutputs:
    collector = OutputCollector(networks, NAMES, **options)
    for image, label in parts:
        collector.update(image, label)
    return collector.compute()


def test_outputs_are_those_of_the_network_in_evaluation_mode() -> None:
    network = Net().train()
    images, labels = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    collected = collect({"net": Extractor(network)}, batches(), examples=2)
    reference = Extractor(copy.deepcopy(network).eval())(images)
    assert collected.labels.equal(labels)
    torch.testing.assert_close(collected.outputs["net"].logits, reference.logits.detach())
    torch.testing.assert_close(collected.outputs["net"].embedding, reference.embedding.detach())
    assert collected.outputs["net"].feature_map is None  # of all images they would be large
    torch.testing.assert_close(collected.example_outputs["net"].feature_map, reference.feature_map[:2].detach())
    assert collected.example_images.equal(images[:2])
    assert not collected.example_outputs["net"].cam.requires_grad


def test_the_network_is_left_as_it_is() -> None:
    network = Net().train()
    extractor = Extractor(network, keep_map=False)
    extractor(torch.rand(4, 3, 8, 8))
    before = copy.deepcopy(network.state_dict())
    hooks = [len(module._forward_hooks) for module in network.modules()]
    collect({"net": extractor}, batches())
    assert all(module.training for module in network.modules())
    assert all(value.equal(before[key]) for key, value in network.state_dict().items())
    assert [len(module._forward_hooks) for module in network.modules()] == hooks
    assert (extractor.keep_map, extractor.map_name) == (False, None)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_examples_are_the_first_of_each_class() -> None:
    images = torch.rand(7, 3, 8, 8)
    labels = torch.tensor([2, 2, 1, 2, 0, 1, 0])
    parts = [(images[:3], labels[:3]), (images[3:], labels[3:])]
    assert collect({}, parts, examples=2).example_labels.tolist() == [2, 1]
    collected = collect({}, parts, examples=9)
    assert collected.example_labels.tolist() == [2, 1, 0]
    assert collected.example_images.equal(images[[0, 2, 4]])


def test_what_cannot_be_collected() -> None:
    with pytest.raises(NothingToPlotError, match="no images"):
        collect({"net": Extractor(Net())}, [])
    with pytest.raises(ValueError, match=r"teacher \(Net\) has 4 classes, but there are 3"):
        OutputCollector({"student": Extractor(Net()), "teacher": Extractor(Net(num_classes=4))}, NAMES)
    with pytest.raises(ValueError, match="examples must be at least 1"):
        OutputCollector({}, NAMES, examples=0)


def test_logits_that_are_not_finite() -> None:
    extractor = Extractor(Net())
    extractor(torch.rand(4, 3, 8, 8))  # confirmed while they were
    nn.init.constant_(extractor.network.fc.bias, float("nan"))
    with pytest.raises(ValueError, match="net gives logits that are not finite"):
        collect({"net": extractor}, batches())


def test_a_compiled_network_is_run_without_its_compiler() -> None:
    network = Net()

    def refuse(*args, **kwargs):
        raise AssertionError("compiled code was called")

    network._compiled_call_impl = refuse  # what nn.Module.compile sets
    assert collect({"net": Extractor(network)}, batches()).labels.tolist() == [0, 1, 2] * 4
