"""Which weights of a teacher are split over processes, in a group of one; two are in test_sharded_teacher.py."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy
from lightning.pytorch.strategies.xla import XLAStrategy
from torch import nn
from torch.distributed.tensor import DTensor
from torch.torch_version import TorchVersion

from helpers.tiny import Net, sgd, tmkd_module
from integration.sharded_teacher import ALONE, Block, Blocks
from tmkd_lightning import Ensemble, Extractor, TMKDModule
from tmkd_lightning.distillers import KD
from tmkd_lightning.modules.validation import check_sharding
from tmkd_lightning.teacher.frozen import FrozenTeacher
from tmkd_lightning.teacher.sharding import blocks

pytestmark = pytest.mark.skipif(
    torch.__version__ < "2.7", reason="torch splits some of a network's weights from 2.7 on"
)


@pytest.fixture
def group() -> Iterator[None]:
    """A process group of this process alone."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def split_names(network: nn.Module) -> list[str]:
    return [name for name, part in network.named_parameters() if isinstance(part, DTensor)]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_weights_of_blocks_are_split_and_answers_stay(group, dtype) -> None:
    """Biases, norms, stem and head are whole, and CAMs read the head beside the network."""
    network, images = Blocks(), torch.rand(3, 3, 8, 8)
    teacher = FrozenTeacher(Extractor(network), dtype=dtype)
    expected = teacher(images)
    teacher.extractor.network.to(memory_format=torch.channels_last)  # as modules do
    teacher.shard(torch.device("cpu"))
    parts = [f"{place}.{index}" for place in ("list", "sequence") for index in (0, 1)]
    names = [f"{part}.{layer}.weight" for part in parts for layer in ("wide", "narrow")]
    assert split_names(network) == names
    for _ in range(2):
        found = teacher(images)
        for part in ("logits", "embedding", "feature_map", "head_weight"):
            torch.testing.assert_close(found.require(part), expected.require(part), rtol=1e-6, atol=1e-6)
        assert split_names(network) == names  # what was gathered is freed again
    assert type(found.head_weight) is nn.Parameter
    teacher.to(torch.float64 if dtype is None else torch.float32)
    assert teacher.extractor.weight_dtype == (dtype or torch.float64)


def test_members_of_an_ensemble_are_split_each(group) -> None:
    members, images = [Blocks(), Blocks()], torch.rand(3, 3, 8, 8)
    teacher = FrozenTeacher(Ensemble(members))
    expected = teacher(images).logits
    teacher.shard(torch.device("cpu"))
    assert [len(split_names(each)) for each in members] == [8, 8]
    torch.testing.assert_close(teacher(images).logits, expected)


def test_blocks_are_the_outermost_that_are_not_large() -> None:
    """A large one, here a stage, is what is left of it once its own blocks are taken."""
    stage = nn.Module()
    stage.inner, stage.down = nn.ModuleList([Block(), Block()]), nn.Linear(5, 5)
    network = nn.Sequential(nn.ModuleDict({"stage": stage}), nn.ReLU(), nn.Sequential(Block(), nn.Linear(5, 3)))
    head = network[2][1]
    sizes = [sum(part.numel() for part in each.parameters()) for each in (stage.inner[0], stage)]
    first, second, last = *stage.inner, network[2][0]
    assert list(blocks(network, head, large=sizes[1])) == [stage, last]
    assert list(blocks(network, head, large=sizes[1] - 1)) == [first, second, stage, last]
    assert list(blocks(network, None, large=sizes[1])) == [stage, last, head]
    wrapped = nn.Sequential(nn.Sequential(*network[:2], network[2][0]), head)  # the head in no block
    assert list(blocks(wrapped, head, large=sizes[1])) == [stage, last]


def test_one_process_keeps_the_whole_teacher_and_says_so(fit, loader, caplog) -> None:
    students = []
    for sharded in (False, True):
        torch.manual_seed(0)
        module = tmkd_module(Blocks(), Net(), distiller=KD(), optimizer=sgd, teacher_sharded=sharded, **ALONE)
        with caplog.at_level("INFO"):  # another test may have asked for less
            fit(module, train=loader(), max_epochs=1)
        students.append(module.student.state_dict())
        assert split_names(module.teacher) == []
        assert ("teacher_sharded=True has no effect in one process" in caplog.text) == sharded
    assert all(value.equal(students[1][key]) for key, value in students[0].items())


def test_what_does_not_go_together(group, monkeypatch) -> None:
    def build(**options) -> TMKDModule:
        return tmkd_module(Blocks(), Net(), distiller=KD(), teacher_sharded=True, **options, **ALONE)

    for name, value in (("teacher_device", "cpu"), ("compile", True)):
        with pytest.raises(ValueError, match=f"^{name} does not go with teacher_sharded=True: leave one of the two"):
            build(**{name: value})
    module = build()
    for kind in (FSDPStrategy, DeepSpeedStrategy, XLAStrategy):  # the last two are DDPStrategies
        module.trainer = SimpleNamespace(world_size=2, strategy=object.__new__(kind), callbacks=[])
        with pytest.raises(ValueError, match=f"teacher_sharded=True goes with strategy='ddp', got {kind.__name__}: "):
            check_sharding(module)
    whole, compiled = Extractor(Net(16)), Extractor(Blocks())
    compiled.compiled = [""]  # as where torch.compile(network) was passed
    nothing = Extractor(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), num_classes=3)
    without = "but teacher {} has none with weights"
    reasons = {nothing: without.format("Sequential"), whole: without.format("Net"), compiled: "compiled networks"}
    for network, reason in reasons.items():
        with pytest.raises(ValueError, match=f"teacher_sharded=True .*{reason}"):
            FrozenTeacher(network).shard(torch.device("cpu"))
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.6.1"))
    with pytest.raises(RuntimeError, match=r"teacher_sharded=True needs torch 2\.7 or newer, and this is 2\.6\.1"):
        build()
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.10.0"))
    build()
