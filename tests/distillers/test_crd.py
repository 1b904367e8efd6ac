"""CRD: the official values, its banks, what is drawn, and that runs resume exactly."""

from __future__ import annotations

import copy
import math
from collections import Counter
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from helpers.golden_values import HALVES, fill
from helpers.methods import built
from helpers.tiny import sgd, tmkd_module
from tmkd_lightning import TMKDModule
from tmkd_lightning.data import DigitsDataModule
from tmkd_lightning.distillers import CRD
from tmkd_lightning.distillers import crd as file
from tmkd_lightning.feature_extraction.output import Output
from tmkd_lightning.feature_extraction.spec import Spec
from tmkd_lightning.losses import crd
from tmkd_lightning.models import WideResNet

PLAIN = {"views": ["rgb"], "feature_weight": 0, "logit_weight": 0, "text_weight": 0}


def outputs(*embeddings: Tensor) -> list[Output]:
    return [Output(torch.zeros(len(one), 3), one) for one in embeddings]


GOLDEN = [  # dims, width, images, temperature, phases of embeddings, of layers, of banks; scale of banks, rows, values
    (
        ((3, 6), (3, 8)), 4, 20, 0.07, ((0.2, 0.9), (2.2, 2.9)), (0.3, 0.4, 0.5, 0.6), (0.7, 0.8), (0.5**0.5, 0.5**0.5),
        [[1, 2, 4, 6, 8, 10], [4, 5, 7, 9, 11, 13], [7, 8, 10, 12, 14, 16]],
        (7.314009574516721, 22.90571439770997),
    ),
    (
        ((5, 4), (5, 4)), 8, 17, 0.1, ((1.1, 1.8), (3.1, 3.8)), (1.2, 1.3, 1.4, 1.5), (1.6, 1.7), (0.5, 0.5),
        [[1, 2, 4, 6], [4, 5, 7, 9], [7, 8, 10, 12], [10, 11, 13, 15], [13, 14, 16, 1]],
        (6.9046383474674355, 19.858027504967414),
    ),
    (
        ((1, 3), (1, 9)), 6, 8, 0.5, ((0.4, 1.1), (2.4, 3.1)), (0.5, 0.6, 0.7, 0.8), (0.9, 1.0), (3**-0.5, 3**-0.5),
        [[1, 2, 4, 6, 0, 2, 4, 6]],
        (5.834239015387688, 6.601466306727681),
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("shapes", "width", "images", "temperature", "batches", "layers", "banks", "scales", "rows", "values"), GOLDEN
)
def test_official_values(shapes, width, images, temperature, batches, layers, banks, scales, rows, values) -> None:
    """Two batches: Z stays that of the first, and the banks have moved after it."""
    method = CRD(width=width, temperature=temperature, weight=2.0)
    method.build(*(Spec(3, shape[1], training_images=images) for shape in shapes))
    method = method.double()
    rows = torch.tensor(rows)
    method.draw = lambda label: rows[:, 1:]
    with torch.no_grad():
        for layer, phases in ((method.student_embedding, layers[:2]), (method.teacher_embedding, layers[2:])):
            layer.weight.copy_(fill(tuple(layer.weight.shape), phases[0], 0.5))
            layer.bias.copy_(fill((width,), phases[1], 0.1))
        for bank, phase, scale in zip((method.student_bank, method.teacher_bank), banks, scales, strict=True):
            bank.copy_(fill((images, width), phase, scale))
    for phases, value in zip(batches, values, strict=True):
        method.set_index(rows[:, 0])
        pair = outputs(*(fill(shape, phase, 1) for shape, phase in zip(shapes, phases, strict=True)))
        assert method(*pair, torch.zeros(len(rows)).long())["crd"].item() == pytest.approx(2 * value, rel=1e-9)


def test_z_is_found_again_after_a_checkpoint_of_before_the_first_batch() -> None:
    """As the LearningRateFinder and the BatchSizeFinder load one after their trial steps."""
    method = CRD(width=4, negatives=8)
    method.build(Spec(3, 6, training_images=12), Spec(3, 8, training_images=12))
    start = copy.deepcopy(method.state_dict())
    found = []
    for _ in range(2):
        method.load_state_dict(start)
        method.classes.copy_(torch.arange(12) % 3)
        torch.manual_seed(0)
        method.set_index(torch.arange(5))
        found.append(method(*outputs(torch.randn(5, 6), torch.randn(5, 8)), torch.arange(5) % 3)["crd"].item())
    assert math.isfinite(found[0])
    assert found[0] == found[1]


def slow(scores: Tensor, images: int) -> float:
    total = 0.0
    for row in scores.exp().tolist():
        noise = (len(row) - 1) / images
        total -= math.log(row[0] / (row[0] + noise + 1e-7))
        total -= sum(math.log(noise / (one + noise + 1e-7)) for one in row[1:])
    return total / len(scores)


def test_the_loss_by_a_loop() -> None:
    student, teacher = fill((3, 6), 0.2, 3), fill((3, 6), 1.4, 2)
    assert crd(student, teacher, 20).item() == pytest.approx(slow(student, 20) + slow(teacher, 20), rel=1e-9)
    extreme = torch.tensor([[-200.0, 300.0]])  # probabilities that float32 does not hold
    assert crd(extreme, extreme, 4).item() == pytest.approx(1000, rel=1e-5)  # log 4 twice, which cancels
    with pytest.raises(ValueError, match=r"student \(3, 6\) and teacher \(3, 5\) must have one shape"):
        crd(student, teacher[:, :5], 20)


def test_negatives_are_drawn_evenly_from_other_classes() -> None:
    method = built(CRD(negatives=6000), 4, 6)
    method.classes.copy_(torch.tensor([0, 1, 2, 1] + 16 * [-1]))
    rows = method.draw(torch.tensor([1, 0, 5]))
    for row, own in zip(rows.tolist(), ({1, 3}, {0}, set()), strict=True):
        counts = Counter(row)
        assert set(counts) == set(range(20)) - own
        assert max(counts.values()) < 1.4 * min(counts.values())
    method.classes.fill_(1)
    assert method.draw(torch.tensor([1])).max() < 20  # nothing else to draw


def test_rows_move_after_the_loss() -> None:
    method = built(CRD(negatives=5, momentum=0.25), 4, 6)
    before = copy.deepcopy(method)
    embeddings = torch.randn(3, 4), torch.randn(3, 6)
    method.set_index(torch.tensor([7, 2, 7]))
    method(*outputs(*embeddings), torch.tensor([0, 1, 2]))["crd"].backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in method.parameters())
    for bank, layer, embedding in (
        ("student_bank", "student_embedding", embeddings[0]),
        ("teacher_bank", "teacher_embedding", embeddings[1]),
    ):
        old, new = getattr(before, bank), getattr(method, bank)
        unit = F.normalize(getattr(method, layer)(embedding))
        for row, place in ((7, 2), (2, 1)):  # of an image that is there twice, the last
            torch.testing.assert_close(new[row], F.normalize(0.25 * old[row] + 0.75 * unit[place], dim=0))
        others = [row for row in range(20) if row not in (2, 7)]
        assert new[others].equal(old[others])
    assert method.classes[[7, 2, 0]].tolist() == [2, 1, -1]


def test_two_processes_have_the_banks_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = built(CRD(negatives=8), 4, 6)
    one, sides, label = copy.deepcopy(whole), (torch.randn(4, 4), torch.randn(4, 6)), torch.tensor([0, 1, 2, 0])
    index = torch.tensor([3, 1, 4, 8])
    drawn = whole.draw(label)
    whole.draw, one.draw = (lambda _: drawn), (lambda _: drawn[:2])
    other = copy.deepcopy(one)
    other.draw = lambda _: drawn[2:]
    sent: list[Tensor] = []

    def step(method: CRD, part: slice) -> None:
        method.set_index(index[part])
        method(*outputs(*(side[part] for side in sides)), label[part])

    step(whole, slice(None))
    monkeypatch.setattr(file, "gather_batches", lambda *parts: [sent.append(parts), *parts][1:])
    step(other, slice(2, 4))  # what the second process sends
    monkeypatch.setattr(
        file,
        "gather_batches",
        lambda *parts: [torch.cat([part, row]) for part, row in zip(parts, sent.pop(0), strict=True)],
    )
    step(one, slice(2))
    for name, value in whole.named_buffers():
        torch.testing.assert_close(dict(one.named_buffers())[name], value)


@pytest.mark.parametrize("half", HALVES)
def test_half_precision_compares_in_single(half: torch.dtype) -> None:
    method = built(CRD(negatives=8), 4, 6)
    with torch.autocast("cpu", half):
        term = method(*outputs(torch.randn(2, 4), torch.randn(2, 6)), torch.tensor([0, 1]))["crd"]
    assert term.dtype == method.student_bank.dtype == torch.float32
    assert term.isfinite()


def test_layers_in_half_precision() -> None:
    """As with ``precision="bf16-true"``, beside a teacher whose views are fused in float32; and a teacher in half."""
    torch.manual_seed(0)
    label, (student, teacher) = torch.tensor([0, 1]), outputs(torch.randn(2, 4), torch.randn(2, 6))
    method = built(CRD(negatives=8), 4, 6)
    torch.manual_seed(1)  # the same negatives
    expected = copy.deepcopy(method)(student, teacher, label)["crd"]
    torch.manual_seed(1)
    term = copy.deepcopy(method).bfloat16()(student.map(Tensor.bfloat16), teacher, label)["crd"]
    assert term.dtype == torch.float32
    assert term.item() == pytest.approx(expected.item(), rel=0.02)
    torch.manual_seed(1)
    term = method(student, teacher.map(Tensor.bfloat16), label)["crd"]
    assert term.item() == pytest.approx(expected.item(), rel=0.02)


def make(seed: int) -> TMKDModule:
    torch.manual_seed(1)
    teacher, student = (WideResNet(10, width, num_classes=10) for width in (2, 1))
    torch.manual_seed(seed)
    constant = partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda epoch: 1.0)
    options = {"distiller": CRD(negatives=16, width=8), "optimizer": sgd, "lr_scheduler": constant}
    return tmkd_module(teacher, student, **options, **PLAIN)


def digits(**options) -> DigitsDataModule:
    return DigitsDataModule(train_samples=40, batch_size=12, image_size=8, num_workers=0, **options)


def test_resuming_is_exact_and_banks_are_loaded(fit, tmp_path) -> None:
    """From places that come with the batches, whether augmentation repeats or not."""
    whole, first, second = make(2), make(2), make(3)
    options = {"limit_val_batches": 0}
    fit(whole, datamodule=digits(), max_epochs=2, **options)
    trainer = fit(first, datamodule=digits(), max_epochs=1, **options)
    method = first.distiller.parts[0]
    assert len(method.classes) == trainer.datamodule.training_images == 40
    labels = torch.tensor([trainer.datamodule._datasets["train"][place][1] for place in range(40)])
    seen = method.classes >= 0
    assert seen.sum() >= 36
    assert method.classes[seen].equal(labels[seen])
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    fit(second, datamodule=digits(), max_epochs=2, ckpt_path=tmp_path / "one.ckpt", **options)
    states = whole.state_dict(), second.state_dict()
    assert "distiller.distillers.0.student_bank" in states[0]
    assert all(value.equal(states[1][key]) for key, value in states[0].items())
    apart = make(4)  # without data
    apart.load_state_dict(torch.load(tmp_path / "one.ckpt", weights_only=True)["state_dict"])
    assert apart.distiller.parts[0].student_bank.equal(method.student_bank)
    replicas = make(2)
    fit(replicas, datamodule=digits(augmentation_replicas=2), max_epochs=2, **options)
    assert len(replicas.distiller.parts[0].classes) == 40


def test_what_crd_must_know(fit, loader) -> None:
    module = make(2)
    with pytest.raises(ValueError, match="CRD must know how many training images there are, and which ones a batch"):
        fit(module)
    method = CRD()
    with pytest.raises(RuntimeError, match="CRD has no layers yet"):
        method(*outputs(torch.randn(2, 4), torch.randn(2, 6)), torch.tensor([0, 1]))
    method.build(Spec(3, 4), Spec(3, 6))
    with pytest.raises(RuntimeError, match="CRD must know which of how many training images a batch holds"):
        method(*outputs(torch.randn(2, 4), torch.randn(2, 6)), torch.tensor([0, 1]))
    method.build(*(Spec(3, dim, training_images=9) for dim in (4, 6)))
    with pytest.raises(ValueError, match="CRD remembers 9 training images, but the data have 8"):
        method.build(*(Spec(3, dim, training_images=8) for dim in (4, 6)))
    with pytest.raises(ValueError, match=r"CRD was built for embeddings \(4, 6\) wide, .* they are \(5, 6\)"):
        method.build(Spec(3, 5), Spec(3, 6))
    with pytest.raises(ValueError, match="CRD reads embeddings, which one of the two networks does not have"):
        method.build(Spec(3), Spec(3, 6))
