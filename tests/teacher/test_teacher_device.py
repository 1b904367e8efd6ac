"""A teacher on a device of its own stays there: images go to it, and its answers come back."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.tiny import Net, sgd, tmkd_module
from tmkd_lightning import Extractor, TMKDModule
from tmkd_lightning.distillers import CATKD, KD
from tmkd_lightning.teacher.frozen import FrozenTeacher

PARTS = ("logits", "embedding", "feature_map", "head_weight")


def module_with(device: str | None, **options: Any) -> TMKDModule:
    options = {"views": ["rgb"], "feature_weight": 0, "text_weight": 0, "optimizer": sgd, **options}
    return tmkd_module(Net(16), Net(), distiller=KD(), teacher_device=device, **options)


@pytest.mark.parametrize("device", [None, "cpu"])
def test_moving_the_module_does_not_move_a_teacher_that_was_put(device: str | None) -> None:
    module = module_with(device)
    weight = module.teacher.extractor.network.fc.weight.clone()
    module.to("meta")  # a device that keeps no values
    places = {part.device.type for part in [*module.teacher.parameters(), *module.teacher.frozen.buffers()]}
    assert places == {"meta" if device is None else "cpu"}
    assert {part.device.type for part in module.student.parameters()} == {"meta"}
    if device is not None:
        assert module.teacher.extractor.network.fc.weight.equal(weight)
    assert not any(part.requires_grad for part in module.teacher.frozen.parameters())


def test_its_precision_may_still_be_changed() -> None:
    module = module_with("cpu")
    module.to(torch.bfloat16)
    assert module.teacher.extractor.weight_dtype == torch.bfloat16
    module.to("meta", torch.float64)
    weight = module.teacher.extractor.head.weight
    assert (weight.device.type, weight.dtype) == ("cpu", torch.float64)


class Spy(nn.Module):
    """Notes where its images are."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.seen = Net(), []

    def forward(self, image: Tensor) -> Tensor:
        self.seen.append(image.device.type)
        return self.net(image)


def test_images_go_to_the_teacher_and_answers_come_back() -> None:
    """Put on meta, it computes shapes alone; a teacher that stays there shows where each tensor goes."""
    spy = Spy()
    extractor = Extractor(spy)
    extractor.confirm(torch.rand(2, 3, 8, 8))
    spy.seen.clear()
    moved: list[str] = []

    class Image(Tensor):
        def to(self, *args: Any, **kwargs: Any) -> Any:
            moved.append(str(args[0]))
            return super().to(*args, **kwargs)

    teacher = FrozenTeacher(extractor, device="meta")
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):  # on the way back
        teacher(torch.rand(2, 3, 8, 8).as_subclass(Image), checked=True)
    assert (moved[0], spy.seen) == ("meta", ["meta"])


def test_a_pinned_teacher_trains_a_student_as_any_other(fit: Any, loader: Any) -> None:
    teacher, student, students = Net(16), Net(), []
    for device in (None, "cpu"):
        module = tmkd_module(
            copy.deepcopy(teacher), copy.deepcopy(student), distiller=CATKD(), views=["rgb", "edge"], fusion="mean",
            feature_weight=0, text_weight=0, optimizer=sgd, teacher_device=device,
        )  # fmt: skip
        fit(module, train=loader(), val=loader(), max_epochs=1)
        students.append(module.student.state_dict())
    assert all(value.equal(students[1][key]) for key, value in students[0].items())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("devices", [("cuda:0", "cpu"), ("cpu", "cuda:0")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_devices(devices: tuple[str, str], dtype: torch.dtype) -> None:
    """Images on the first, the teacher on the second: the same answers as on the CPU, where the images are."""
    network, image = Net(16).eval().to(dtype), torch.rand(6, 3, 8, 8)
    expected = FrozenTeacher(Extractor(copy.deepcopy(network), image_size=12))(image)
    teacher = FrozenTeacher(Extractor(network, image_size=12), device=devices[1]).to(devices[0])
    found = teacher(image.to(devices[0]))
    again = teacher.from_embedding(found.embedding, found.feature_map, image.to(devices[0]), 1)
    for part in PARTS:
        for output in (found, again):
            assert output.require(part).device == torch.device(devices[0])
            torch.testing.assert_close(output.require(part).cpu(), expected.require(part), rtol=2e-2, atol=2e-2)
    assert {part.device for part in teacher.parameters()} == {torch.device(devices[1])}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("teacher_device", ["cpu", "cuda:0"])
def test_training_beside_a_teacher_elsewhere(fit: Any, loader: Any, teacher_device: str) -> None:
    module = module_with(teacher_device)
    fit(module, train=loader(), val=loader(), max_epochs=1, accelerator="gpu", devices=1)
    assert {str(part.device) for part in module.teacher.frozen.parameters()} == {teacher_device}


def test_a_device_that_is_none_or_not_here() -> None:
    with pytest.raises(ValueError, match="teacher_device must be a device such as cpu, cuda or cuda:1, got 'cudda'"):
        module_with("cudda")
    with pytest.raises(ValueError, match=r"teacher_device='cuda:99' cannot be used here: choose from \['cpu'"):
        module_with("cuda:99")
