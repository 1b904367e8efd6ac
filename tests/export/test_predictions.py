"""Answers of networks in one pass: what is kept of them, against values by hand and scikit-learn."""

import pytest
import torch
from sklearn.metrics import confusion_matrix, recall_score
from torch import Tensor

from tmkd_lightning import Output
from tmkd_lightning.export.predictions import PredictionCollector, Predictions


def by_pixel(images: Tensor, checked: bool) -> Output:
    """The probabilities of three classes are the colours of the first pixel."""
    return Output(images[:, :, 0, 0].log())


def images_of(*probabilities: tuple[float, float, float]) -> Tensor:
    return torch.tensor(probabilities)[:, :, None, None].expand(-1, -1, 4, 4)


def opposite(images: Tensor, checked: bool) -> Output:
    """The first and the last class swapped."""
    return Output(by_pixel(images.flip(1), checked).logits)


def collected(*batches: tuple[Tensor, list[int]], mistakes: int = 3, examples: int = 0) -> Predictions:
    collector = PredictionCollector(mistakes, examples)
    collector.start({"student": by_pixel, "teacher": opposite}, num_classes=3)
    for images, labels in batches:
        collector.update(images, torch.tensor(labels))
    found = collector.compute()
    assert found is not None
    return found


FIRST = images_of((0.7, 0.2, 0.1), (0.1, 0.8, 0.1), (0.0, 0.1, 0.9)), [1, 1, 0]
SECOND = images_of((0.6, 0.3, 0.1), (0.7, 0.0, 0.3), (0.2, 0.75, 0.05)), [1, 2, 0]


def test_the_most_confident_mistakes_of_all_batches_come_first() -> None:
    """Of two with one probability the earlier one; right answers are none, however certain."""
    found = collected(FIRST, SECOND, mistakes=4)
    assert [one.index for one in found.mistakes] == [2, 5, 0, 4]
    assert [one.opinions["student"].answer for one in found.mistakes] == [2, 1, 0, 0]
    assert [one.truth for one in found.mistakes] == [0, 0, 1, 2]
    assert [one.opinions["student"].probability for one in found.mistakes] == pytest.approx([0.9, 0.75, 0.7, 0.7])
    assert [one.index for one in collected(FIRST, SECOND, mistakes=3).mistakes] == [2, 5, 0]
    assert [one.index for one in collected(SECOND, FIRST, mistakes=2).mistakes] == [5, 2]
    assert collected(FIRST, SECOND, mistakes=0).mistakes == []


def test_each_mistake_has_its_image_and_all_opinions_of_it() -> None:
    worst = collected(FIRST, SECOND).mistakes[0]
    assert (worst.image.dtype, worst.image.shape) == (torch.uint8, (3, 4, 4))
    assert worst.image[:, 0, 0].tolist() == [0, 26, 230]  # 255 times 0, 0.1 and 0.9
    student, teacher = worst.opinions["student"], worst.opinions["teacher"]
    assert (student.answer, teacher.answer) == (2, 0)
    assert (student.probability, student.of_truth) == pytest.approx((0.9, 0.0))
    assert (teacher.probability, teacher.of_truth) == pytest.approx((0.9, 0.9))


def test_memory_is_that_of_few_images() -> None:
    """Of 600 images, all wrong, the 3 most confident are kept, and no view into a batch."""
    batches = [(torch.rand(30, 3, 4, 4) / 3 + 0.1, [0] * 30) for _ in range(20)]
    for images, _ in batches:
        images[:, 2] += 0.5
    found = collected(*batches, examples=2)
    assert len(found.mistakes) == 3
    assert all(one.image.untyped_storage().nbytes() == 3 * 4 * 4 for one in found.mistakes)
    confidence = torch.cat([by_pixel(images, True).logits.softmax(1)[:, 2] for images, _ in batches])
    assert [one.index for one in found.mistakes] == confidence.argsort(descending=True)[:3].tolist()
    assert found.example_labels.tolist() == [0]
    assert found.example_images.equal(batches[0][0][:1])


def test_confusions_and_metrics_are_those_of_scikit_learn() -> None:
    torch.manual_seed(1)
    batches = [(torch.rand(40, 3, 2, 2) + 0.01, torch.randint(3, (40,)).tolist()) for _ in range(3)]
    collector = PredictionCollector()
    collector.start({"student": by_pixel}, num_classes=3)
    for images, labels in batches:
        collector.update(images, torch.tensor(labels))
    found = collector.compute()
    truths = [label for _, labels in batches for label in labels]
    answers = torch.cat([images[:, :, 0, 0].argmax(1) for images, _ in batches])
    expected = confusion_matrix(truths, answers)
    assert found.confusion_matrix("student", 3).tolist() == expected.tolist()
    pairs = sorted(((expected[t, a], -t, -a) for t in range(3) for a in range(3) if t != a), reverse=True)
    assert [(one.images, -one.truth, -one.answer) for one in found.confusions("student", most=4)] == pairs[:4]
    assert found.confusions("student", 1)[0].share == pairs[0][0] / expected[-pairs[0][1]].sum()
    metrics = collector.metrics()["student"]
    assert metrics["top1"] == pytest.approx(1 - found.wrong("student").float().mean().item())
    assert metrics["recall"] == pytest.approx(recall_score(truths, answers, average="macro"))


def test_labels_that_are_distributions_count_as_their_likeliest_class() -> None:
    collector = PredictionCollector(mistakes=2)
    collector.start({"student": by_pixel}, num_classes=3)
    collector.update(images_of((0.7, 0.2, 0.1), (0.1, 0.8, 0.1)), torch.tensor([[0.6, 0.4, 0], [0.3, 0.3, 0.4]]))
    found = collector.compute()
    assert found.truths.tolist() == [0, 2]
    assert [(one.index, one.truth) for one in found.mistakes] == [(1, 2)]
    assert collector.metrics()["student"]["top1"] == pytest.approx((0.6 + 0.3) / 2)  # by their shares


def test_nothing_seen_and_nothing_wrong() -> None:
    collector = PredictionCollector(mistakes=2)
    collector.start({"student": by_pixel}, num_classes=3)
    assert (collector.count, collector.compute()) == (None, None)
    found = collected((images_of((0.7, 0.2, 0.1)), [0]))
    assert (found.mistakes, found.confusions("student", 5)) == ([], [])
    with pytest.raises(ValueError, match="mistakes must be a whole number, at least 0, got -1"):
        PredictionCollector(mistakes=-1)
