"""Copies of networks look at images; the networks themselves notice nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from helpers.tiny import Net, make_images
from tmkd_lightning import Extractor
from tmkd_lightning.figures import NothingToShowError, Observer, look

NAMES = ["red", "green", "blue"]


def batches(count: int = 12, size: int = 5):
    images = make_images(count)
    for start in range(0, count, size):
        part = images[start : start + size]
        yield torch.stack([image for image, _ in part]) / 255, torch.tensor([label for _, label in part])


def test_outputs_are_those_of_the_network_in_evaluation_mode() -> None:
    network = Net().train()
    image, label = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    seen = look({"net": Extractor(network)}, batches(), NAMES, examples=2)
    reference = Extractor(copy.deepcopy(network).eval())(image)
    assert seen.label.equal(label)
    torch.testing.assert_close(seen.outputs["net"].logits, reference.logits.detach())
    torch.testing.assert_close(seen.outputs["net"].embedding, reference.embedding.detach())
    assert seen.outputs["net"].feature_map is None  # of all images they would be large
    torch.testing.assert_close(seen.example_outputs["net"].feature_map, reference.feature_map[:2].detach())
    assert seen.example.equal(image[:2])


def test_the_network_is_left_as_it_is() -> None:
    network = Net().train()
    extractor = Extractor(network, keep_map=False)
    extractor(torch.rand(4, 3, 8, 8))
    before = copy.deepcopy(network.state_dict())
    hooks = [len(module._forward_hooks) for module in network.modules()]
    look({"net": extractor}, batches(), NAMES)
    assert all(module.training for module in network.modules())
    assert all(value.equal(before[key]) for key, value in network.state_dict().items())
    assert [len(module._forward_hooks) for module in network.modules()] == hooks
    assert (extractor.keep_map, extractor.map_name) == (False, None)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_examples_are_the_first_of_each_class() -> None:
    image = torch.rand(7, 3, 8, 8)
    label = torch.tensor([2, 2, 1, 2, 0, 1, 0])
    parts = [(image[:3], label[:3]), (image[3:], label[3:])]
    assert look({}, parts, NAMES, examples=2).example_label.tolist() == [2, 1]
    seen = look({}, parts, NAMES, examples=9)
    assert seen.example_label.tolist() == [2, 1, 0]
    assert seen.example.equal(image[[0, 2, 4]])


def test_no_images() -> None:
    with pytest.raises(NothingToShowError, match="no images"):
        look({"net": Extractor(Net())}, [], NAMES)


def test_other_classes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"teacher \(Net\) has 4 classes, but there are 3"):
        Observer({"student": Extractor(Net()), "teacher": Extractor(Net(num_classes=4))}, NAMES)


def test_what_is_not_finite_is_refused() -> None:
    network = Net()
    nn.init.constant_(network.fc.bias, float("nan"))
    extractor = Extractor(Net())
    extractor(torch.rand(4, 3, 8, 8))  # confirmed while it was well
    extractor.network.fc.bias = network.fc.bias
    with pytest.raises(ValueError, match="net gives logits that are not finite"):
        look({"net": extractor}, batches(), NAMES)


def test_a_compiled_network_is_looked_at_without_its_compiler() -> None:
    network = Net()

    def refuse(*args, **kwargs):
        raise AssertionError("compiled code was called")

    network._compiled_call_impl = refuse  # what nn.Module.compile sets
    assert look({"net": Extractor(network)}, batches(), NAMES).label.tolist() == [0, 1, 2] * 4


def test_examples_below_one() -> None:
    with pytest.raises(ValueError, match="examples must be at least 1"):
        Observer({}, NAMES, examples=0)
